"""What the documents say is run, and what is generated is up to date."""

from __future__ import annotations

import re
import runpy
import threading
import time
from http.server import HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

import banditroute
from banditroute.config import load
from banditroute.core.settings import parse_shared
from banditroute.core.types import RouteQuery
from banditroute.server import Server, ServerSettings
from banditroute.wiring import open_engine

ROOT = Path(__file__).resolve().parent.parent
WEBHOOKS = (ROOT / "docs" / "howto" / "webhooks.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_readme_client_example_runs_against_a_real_server(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = [block for block in blocks("python") if "Client(" in block]
    engine = open_engine(load(ROOT / "examples" / "banditroute.yaml"), store="memory:", threaded=True)
    server = Server(engine, listen="127.0.0.1:0", settings=ServerSettings(drain_s=0.0, grace_s=1.0))
    server.start()
    try:
        assert engine.wait_ready(30)
        exec(compile(code.replace("127.0.0.1:50051", f"127.0.0.1:{server.port}"), "README.md", "exec"), {})
        engine.route(RouteQuery("summarise"), min_state_position=engine.info().log_position, timeout_s=30)
        assert engine.category("summarise").feedback_count == 20
    finally:
        server.stop()
    assert "gpt-4o" in capsys.readouterr().out


def test_readme_client_example_has_about_twenty_lines() -> None:
    (code,) = [block for block in blocks("python") if "Client(" in block]
    assert len(code.splitlines()) <= 20


def test_readme_library_example_runs() -> None:
    (code,) = [block for block in blocks("python") if "Router.from_config" in block]
    exec(compile(code, "README.md", "exec"), {})


def test_readme_configuration_is_valid(tmp_path: Path) -> None:
    (text,) = blocks("yaml")
    (tmp_path / "priors.yaml").write_text("summarise: {gpt-4o: {quality: 0.9, effective_sample_size: 20}}\n")
    (tmp_path / "banditroute.yaml").write_text(text)
    config = load(tmp_path / "banditroute.yaml")
    assert list(config.shared["categories"]) == ["summarise"]


def test_example_configuration_is_valid() -> None:
    from banditroute.config import resolved

    settings = parse_shared(resolved(load(ROOT / "examples" / "banditroute.yaml").shared, {}))
    assert "summarise" in settings.categories


@pytest.mark.parametrize("name", ["configuration.md", "scenarios.md"])
def test_references_are_up_to_date(name: str) -> None:
    made = runpy.run_path(str(ROOT / "tools" / "reference.py"))["pages"]()[name]
    page = (ROOT / "docs" / "reference" / name).read_text(encoding="utf-8")
    assert page == made, "run `python tools/reference.py`"


def test_every_field_says_what_it_does() -> None:
    made = runpy.run_path(str(ROOT / "tools" / "reference.py"))
    for _, model in made["SECTIONS"] + made["SCENARIO_SECTIONS"]:
        assert model.__doc__
        assert [name for name, field in model.model_fields.items() if not field.description] == []


def howto_blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", WEBHOOKS, flags=re.DOTALL)


def test_the_webhook_receiver_takes_what_a_server_sends_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    Path("hook.secret").write_text("0123456789abcdef\n")
    (code,) = howto_blocks("python")
    receiver: dict[str, Any] = {"__name__": "receiver"}
    exec(compile(code, "webhooks.md", "exec"), receiver)
    header = re.findall("X-Banditroute-Signature: (.*)", WEBHOOKS)[0]
    for body, told, now, good in (
        (b'{"kind":"config"}', header, 1_700_000_299.0, True),
        (b'{"kind":"config"}', header, 1_700_000_301.0, False),
        (b'{"kind":"other"}', header, 1_700_000_000.0, False),
        (b'{"kind":"config"}', header.replace("t=17", "t=18"), 1_800_000_000.0, False),
        (b'{"kind":"config"}', "nonsense", 1_700_000_000.0, False),
    ):
        assert receiver["verified"](body, told, now) is good

    server = HTTPServer(("127.0.0.1", 0), receiver["Handler"])
    serving = threading.Thread(target=server.serve_forever, args=(0.01,))
    serving.start()
    (written,) = howto_blocks("yaml")
    (hook,) = yaml.safe_load(written)["webhooks"]
    hook["url"] = f"http://127.0.0.1:{server.server_port}"
    config = {"models": {"a": {}, "b": {}}, "categories": {"chat": {"models": ["a", "b"]}}, "webhooks": [hook]}
    engine = open_engine(load(config), store="memory:", threaded=True)
    try:
        assert engine.wait_ready(30)
        engine.set_weights("chat", {"cost_weight": 3.0}, reason="budget", actor="ada")
        end = time.monotonic() + 30
        while not receiver["seen"]:
            assert time.monotonic() < end
            time.sleep(0.01)
    finally:
        engine.close()
        server.shutdown()
        serving.join()
        server.server_close()
    assert [key.partition("-")[2] for key in receiver["seen"]] == ["1-2-0"]
    assert "ada set cost_weight from 0.1 to 3.0 in category chat." in capsys.readouterr().out


def test_links_between_documents_lead_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("simulations/*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_package_says_that_it_is_typed() -> None:
    assert (Path(banditroute.__file__).parent / "py.typed").is_file()


def test_public_names() -> None:
    assert banditroute.__all__ == sorted(banditroute.__all__)
    public = {name for name in dir(banditroute) if not name.startswith("_")} - _submodules()
    assert public | {"__version__"} == set(banditroute.__all__)
    for name in set(banditroute.__all__) - {"__version__"}:
        assert getattr(banditroute, name).__doc__, f"{name} has no docstring"
    with pytest.raises(AttributeError, match="'banditroute' has no attribute 'Ruoter'"):
        banditroute.Ruoter  # type: ignore[attr-defined]  # noqa: B018


def _submodules() -> set[str]:
    folder = Path(banditroute.__file__).parent
    return {path.stem for path in folder.glob("*.py")} | {path.name for path in folder.iterdir() if path.is_dir()}

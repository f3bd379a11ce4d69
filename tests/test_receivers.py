"""The configuration's webhooks: what is wrong is said, with its place, and nothing secret with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from banditroute.config import load
from banditroute.core.errors import ConfigError
from banditroute.receivers import Receiver, read_receivers
from banditroute.wiring import open_engine

URL = "https://ops.example.com/banditroute"
SECRET = "5ecret" * 5


def config(*hooks: Any) -> dict[str, Any]:
    return {"store": "memory:", "models": {"a": {}}, "categories": {"chat": {"models": ["a"]}}, "webhooks": list(hooks)}


def hook(**changes: Any) -> dict[str, Any]:
    return {"url": URL, "secret_env": "HOOK_SECRET", **changes}


def refused(*hooks: Any) -> list[tuple[str, str]]:
    with pytest.raises(ConfigError) as caught:
        load(config(*hooks))
    assert SECRET not in str(caught.value)
    return [(problem.path, problem.description) for problem in caught.value.problems]


def test_good_ones_are_local_and_not_shared() -> None:
    found = load(config(hook(events=["operator"]), hook(url="http://localhost:9000/x?token=1", name="night")))
    assert "webhooks" not in found.shared
    first, second = found.local.webhooks
    assert (first.label, first.shown_url, first.events) == ("ops.example.com", URL, ["operator"])
    assert (second.label, second.shown_url, second.events) == ("night", "http://localhost:9000/x", None)


@pytest.mark.parametrize(
    "url",
    [
        f"https://user:{SECRET}@host/",
        f"ftp://host/{SECRET}",
        f"{SECRET}.example.com/hook",
        f"https:///{SECRET}",
        f"https://host:99999/{SECRET}",
        f"https://host/ {SECRET}",
        f"https://[host/{SECRET}",
        f"https://hôst/{SECRET}",
        f"https://host/{SECRET * 100}",
    ],
)
def test_urls_that_cannot_be(url: str) -> None:
    ((path, _),) = refused(hook(url=url))
    assert path == "webhooks.0.url"


def test_what_else_is_wrong() -> None:
    found = refused(
        {"url": URL},
        hook(name="both", secret_file="x"),
        hook(name="\n"),
        hook(name="twice"),
        hook(name="twice"),
    )
    assert [path for path, _ in found] == ["webhooks.0", "webhooks.1", "webhooks.2.name", "webhooks.4"]
    assert "secret_file or secret_env" in found[0][1]
    assert "'twice' is there twice" in found[3][1]
    assert [path for path, _ in refused(hook(), hook())] == ["webhooks.1"]
    assert [path for path, _ in refused(hook(secret=SECRET))] == ["webhooks.0.secret"]
    assert [path for path, _ in refused(hook(events=[]))] == ["webhooks.0.events"]
    assert refused(*[hook(name=str(i)) for i in range(17)]) == [("webhooks", "are 17, of at most 16")]


def test_secrets_from_file_and_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    (tmp_path / "hook.secret").write_text(SECRET[::-1] + "\n")
    hooks = load(config(hook(), {"url": URL, "name": "b", "secret_file": "hook.secret", "events": ["config"]})).local.webhooks
    assert read_receivers(hooks, tmp_path) == [
        Receiver("ops.example.com", URL, SECRET.encode(), None),
        Receiver("b", URL, SECRET[::-1].encode(), frozenset({"config"})),
    ]


def test_all_missing_secrets_are_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever puts the secret itself where its place belongs does not find it in a log."""
    monkeypatch.setenv("SHORT", "0123456789abcde")
    monkeypatch.delenv(SECRET, raising=False)
    hooks = (
        hook(secret_env=SECRET),
        hook(name="b", secret_env="SHORT"),
        {"url": URL, "name": "c", "secret_file": SECRET},
    )
    with pytest.raises(ConfigError) as caught:
        read_receivers(load(config(*hooks)).local.webhooks, tmp_path)
    assert [(problem.path, problem.description) for problem in caught.value.problems] == [
        ("webhooks.0.secret_env", "the environment variable is not set"),
        ("webhooks.1.secret_env", "the secret has fewer than 16 bytes: make one with `openssl rand -hex 32`"),
        ("webhooks.2.secret_file", "the file cannot be read: No such file or directory"),
    ]
    assert SECRET not in str(caught.value)


def test_a_server_needs_them_and_the_library_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOOK_SECRET", raising=False)
    found = load(config(hook()))
    with pytest.raises(ConfigError, match=r"webhooks.0.secret_env: the environment variable is not set"):
        open_engine(found, threaded=True)
    open_engine(found, threaded=False).close()

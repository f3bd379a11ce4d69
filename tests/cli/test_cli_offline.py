"""Commands that read a state directory, with a router in this process instead of a server."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from banditroute import Router
from banditroute.core.types import Decision
from cli.conftest import CONFIG, Run, write_config


@pytest.fixture
def lived(tmp_path: Path) -> tuple[Path, Decision]:
    """A configuration whose state directory has a decision with feedback and an operator's change."""
    path = write_config(tmp_path)
    with Router.from_config(path, seed=1) as router:
        decision = router.route("summarise", features={"length": 7.0}, input_tokens=500, labels={"team": "search"})
        router.feedback(decision.id, rating=(4, 1, 5), cost_usd=0.004, latency_s=1.5, source="user")
        router.feedback(decision.id, retried=False, error="timeout", model="cheap" if decision.model == "dear" else "dear")
        router.set_weights("summarise", cost_weight=2.5, reason="budget", actor="ops")
    return path, decision


class TestCheck:
    def test_a_fresh_configuration_resolves(self, run: Run, tmp_path: Path) -> None:
        path = write_config(tmp_path)
        ran = run("check", path, "--json")
        assert ran.code == 0
        assert ran.data["categories"]["classify"]["cost_reference_usd"] == pytest.approx((1000 * 10 + 300 * 10) / 1e6)
        assert ran.data["state"] is None
        assert not (tmp_path / "state").exists()
        shown = run("check", path)
        assert shown.code == 0
        assert "no problems" in shown.out
        assert "$0.0130" in shown.out

    def test_problems_come_with_path_and_line_all_at_once(self, run: Run, tmp_path: Path) -> None:
        path = tmp_path / "bad.yaml"
        path.write_text("models:\n  a: {input_usd_per_mtok: -1}\ncategories:\n  x:\n    models: [a]\n    cost_wait: 3\n")
        ran = run("check", path)
        assert (ran.code, ran.out) == (1, "")
        assert f"{path}:2: models.a.input_usd_per_mtok" in ran.err
        assert f"{path}:6: categories.x.cost_wait" in ran.err
        data = run("check", path, "--json").data
        assert [(p["path"], p["line"]) for p in data["problems"]] == [
            ("models.a.input_usd_per_mtok", 2),
            ("categories.x.cost_wait", 6),
        ]

    @pytest.mark.parametrize(("text", "told"), [("x: [", "is not YAML"), ("", "is not a mapping")])
    def test_what_is_no_configuration(self, run: Run, tmp_path: Path, text: str, told: str) -> None:
        path = tmp_path / "bad.yaml"
        path.write_text(text)
        ran = run("check", path)
        assert ran.code == 1
        assert told in ran.err

    def test_a_missing_file_and_an_unknown_store(self, run: Run, tmp_path: Path) -> None:
        assert "cannot be read" in run("check", tmp_path / "none.yaml").err
        ran = run("check", write_config(tmp_path, store="postgres://user:secret@host/db"))
        assert ran.code == 1
        assert "is no store" in ran.err
        assert "secret" not in ran.err

    def test_hidden_fields_and_differences(self, run: Run, lived: tuple[Path, Decision]) -> None:
        path, _ = lived
        same = run("check", path, "--json").data
        assert same["state"]["in_force"] is True
        assert same["hidden_fields"] == [{"category": "summarise", "field": "cost_weight", "file": 0.3, "in_force": 2.5}]
        changed = {**CONFIG["models"], "dear": {"input_usd_per_mtok": 20.0, "output_usd_per_mtok": 10.0, "tags": ["tools"]}}
        write_config(path.parent, models=changed)
        data = run("check", path, "--json").data
        assert data["state"]["in_force"] is False
        assert {"path": "models.dear.input_usd_per_mtok", "file": 20.0, "in_force": 10.0} in data["differences"]
        shown = run("check", path).out
        assert "differs from what is in force" in shown
        assert "hidden by operators' changes" in shown

    def test_webhooks_without_their_secrets(self, run: Run, tmp_path: Path) -> None:
        secret = "5ecret" * 5
        hooks: list[dict[str, Any]] = [
            {"url": f"https://ops.example.com/hook?token={secret}", "secret_file": "hook.secret", "events": ["operator"]},
            {"url": "http://localhost:9000/", "name": "night", "secret_file": "hook.secret"},
        ]
        path = write_config(tmp_path, webhooks=hooks)
        ran = run("check", path)
        assert ran.code == 1
        assert "webhooks.0.secret_file: the file cannot be read" in ran.err
        assert [p["path"] for p in run("check", path, "--json").data["problems"]] == [
            "webhooks.0.secret_file",
            "webhooks.1.secret_file",
        ]
        (tmp_path / "hook.secret").write_text(secret)
        data = run("check", path, "--json")
        assert data.data["webhooks"] == [
            {"name": "ops.example.com", "url": "https://ops.example.com/hook", "events": ["operator"]},
            {"name": "night", "url": "http://localhost:9000/", "events": None},
        ]
        shown = run("check", path)
        assert "https://ops.example.com/hook" in shown.out
        write_config(tmp_path, webhooks=[{**hooks[0], "url": f"ftp://user:{secret}@host/"}])
        wrong = run("check", path)
        assert wrong.code == 1
        assert f"{path}:" in wrong.err
        assert "webhooks.0.url: must begin with https:// or http://" in wrong.err
        for each in (ran, data, shown, wrong):
            assert secret not in each.out + each.err

    def test_a_state_of_a_newer_format(self, run: Run, lived: tuple[Path, Decision]) -> None:
        import sqlite3

        path, _ = lived
        with sqlite3.connect(path.parent / "state" / "log.db") as db:
            db.execute("PRAGMA user_version = 99")
        db.close()
        ran = run("check", path)
        assert ran.code == 1
        assert "upgrade banditroute" in ran.err


class TestReading:
    def test_categories(self, run: Run, lived: tuple[Path, Decision]) -> None:
        path, decision = lived
        data = run("categories", "--config", path, "--json").data
        assert [category["name"] for category in data] == ["classify", "summarise"]
        summarise = data[1]
        assert summarise["cost_weight"] == 2.5
        assert summarise["overridden_fields"] == ["cost_weight"]
        judged = next(arm for arm in summarise["arms"] if arm["model"] == decision.model)
        assert judged["feedback_count"] == 1
        shown = run("categories", "summarise", "--config", path)
        assert "set by an operator: cost_weight" in shown.out
        assert "classify" not in shown.out
        assert "breaker" not in shown.out

    def test_a_broken_model_is_shown(self, run: Run, tmp_path: Path) -> None:
        path = write_config(tmp_path, breaker={"cooldown_s": 3600, "max_cooldown_s": 3600})
        with Router.from_config(path, seed=1) as router:
            for _ in range(5):
                router.feedback(router.route("classify", allowed_models=["dear"]).id, error="unavailable")
        (found,) = run("categories", "classify", "--config", path, "--json").data
        assert {arm["model"]: arm["breaker_state"] for arm in found["arms"]} == {"dear": "OPEN", "cheap": "CLOSED"}
        assert {arm["model"]: arm["breaker_open_until_time"] is None for arm in found["arms"]} == {"dear": False, "cheap": True}
        shown = run("categories", "classify", "--config", path).out
        assert " breaker" in shown
        assert "open until " in shown
        assert "breaker opened" in run("events", "--config", path).out.replace("_", " ")

    def test_an_unknown_category(self, run: Run, lived: tuple[Path, Decision]) -> None:
        ran = run("categories", "nonsense", "--config", lived[0])
        assert ran.code == 1
        assert "classify, summarise" in ran.err

    def test_nothing_served_yet_and_a_store_in_memory(self, run: Run, tmp_path: Path) -> None:
        ran = run("categories", "--config", write_config(tmp_path))
        assert ran.code == 1
        assert "nothing was served" in ran.err
        ran = run("events", "--config", write_config(tmp_path, store="memory:"))
        assert ran.code == 1
        assert "memory" in ran.err

    def test_events_newest_first(self, run: Run, lived: tuple[Path, Decision]) -> None:
        data = run("events", "--config", lived[0], "--json").data
        assert [line["kind"] for line in data] == ["operator", "config"]
        assert (data[0]["actor"], data[0]["change_reason"]) == ("ops", "budget")
        assert json.loads(data[0]["details_json"])["changes"] == {"cost_weight": 2.5}
        assert len(run("events", "--config", lived[0], "--limit", 1, "--json").data) == 1
        assert "budget" in run("events", "--config", lived[0]).out


class TestExplain:
    def test_with_all_sources(self, run: Run, lived: tuple[Path, Decision]) -> None:
        path, decision = lived
        data = run("explain", decision.id, "--config", path, "--json").data
        assert data["sources"] == ["id", "sink", "log"]
        assert data["model"] == decision.model
        assert data["context"] == {"length": 7.0}
        assert data["request"]["labels"] == {"team": "search"}
        assert {option["model"] for option in data["options"]} == {"dear", "cheap"}
        assert [(s["kind"], s["value"]) for s in data["signals"] if s["model"] == decision.model] == [("rating", 0.75)]
        assert {attempt["error"] for attempt in data["attempts"]} == {"none", "timeout"}
        shown = run("explain", decision.id, "--config", path).out
        assert decision.model in shown
        assert "length = 7" in shown
        assert "failed: timeout" in shown
        assert "not retried" in shown

    def test_from_the_id_alone(self, run: Run, lived: tuple[Path, Decision]) -> None:
        path, decision = lived
        (path.parent / "state" / "decisions.db").unlink()
        data = run("explain", decision.id, "--config", path, "--json").data
        assert data["sources"] == ["id", "log"]
        assert data["options"] == []
        assert data["propensity"] == pytest.approx(decision.propensity)
        assert "no row" in run("explain", decision.id, "--config", path).out

    def test_without_feedback_and_with_exclusions(self, run: Run, tmp_path: Path) -> None:
        path = write_config(tmp_path)
        with Router.from_config(path, seed=2) as router:
            decision = router.route("classify", required_tags=["tools"])
        shown = run("explain", decision.id, "--config", path).out
        assert "the only model that could serve" in shown
        assert "lacks a required tag" in shown
        assert "No feedback so far." in shown

    def test_ids_that_are_not_ours(self, run: Run, lived: tuple[Path, Decision], tmp_path: Path) -> None:
        path, decision = lived
        end = "A" if decision.id[-10] != "A" else "B"
        forged = decision.id[:-10] + end + decision.id[-9:]
        for wrong, told in (("nonsense!", "not base64url"), (forged, "altered")):
            ran = run("explain", wrong, "--config", path)
            assert ran.code == 1
            assert told in ran.err
        other = tmp_path / "other"
        other.mkdir()
        with Router.from_config(write_config(other)) as router:
            foreign = router.route("classify").id
        assert "unknown key" in run("explain", foreign, "--config", path).err

    def test_keys_that_are_gone(self, run: Run, lived: tuple[Path, Decision]) -> None:
        path, decision = lived
        shutil.move(path.parent / "state" / "keys.json", path.parent / "keys.json")
        ran = run("explain", decision.id, "--config", path)
        assert ran.code == 1
        assert "keys.json is gone" in ran.err


class TestUsage:
    @pytest.mark.parametrize(
        "arguments",
        [
            ("set", "x", "--reason", "y"),
            ("set", "x", "--cost-weight", "1", "--clear", "cost_weight", "--reason", "y"),
            ("set", "x", "--clear", "models", "--reason", "y"),
            ("set", "x", "--cost-weight", "1"),
            ("route", "x", "--feature", "length"),
            ("route", "x", "--feature", "length=long"),
            ("route", "x", "--server", "nowhere"),
            ("feedback", "id", "--error", "gremlins"),
            ("categories", "--server", "h:1", "--config", "f"),
            ("events", "--server", "h:1", "--config", "f"),
            ("events", "--follow", "--config", "f"),
            ("events", "--follow", "--server", "nowhere"),
            ("pause", "m"),
            ("pause", "--reason", "y"),
            ("reset", "m", "--reason", "y", "--server", "nowhere"),
            ("demo", "--dataset", "a.csv", "--environment", "b"),
            ("nonsense",),
        ],
    )
    def test_wrong_usage_is_2(self, run: Run, arguments: tuple[str, ...]) -> None:
        ran = run(*arguments)
        assert (ran.code, ran.out) == (2, "")
        assert ran.err

    def test_only_a_server_can_be_followed(self, run: Run) -> None:
        assert "only a server can be followed" in run("events", "--follow", "--config", "f").err

    def test_version_and_help(self, run: Run) -> None:
        assert run("--version").out.startswith("banditroute ")
        assert "demo" in run("--help").out

    def test_no_server(self, run: Run) -> None:
        ran = run("route", "x", "--server", "127.0.0.1:1", "--timeout-s", "0.3")
        assert ran.code == 1
        assert ran.err.startswith("error: ")


class TestPriors:
    def test_of_the_log_and_back_into_a_configuration(self, run: Run, tmp_path: Path) -> None:
        path = write_config(tmp_path)
        with Router.from_config(path, seed=1) as router:
            for _ in range(40):
                decision = router.route("classify")
                good = decision.model == "dear"
                router.feedback(decision.id, eval_score=0.9 if good else 0.2, input_tokens=700, output_tokens=90, cost_usd=0.001)
        out = tmp_path / "priors.yaml"
        found = run("priors", "--config", path, "--out", out, "--json").data
        assert set(found) == {"classify"}
        dear, cheap = found["classify"]["dear"], found["classify"]["cheap"]
        assert 0.8 < dear["quality"] <= 0.9
        assert 0.2 <= cheap["quality"] < 0.5
        assert cheap["effective_sample_size"] < dear["effective_sample_size"] == 25.0
        assert dear["input_tokens"] == pytest.approx(700, rel=0.1)
        shown = run("priors", "--config", path)
        assert shown.code == 0
        assert "priors at position" in shown.out
        # A deployment that starts from them knows at once.
        (tmp_path / "new").mkdir()
        warm = write_config(tmp_path / "new", priors=yaml.safe_load(out.read_text()))
        with Router.from_config(warm, seed=1) as router:
            best = max(router.category("classify").arms, key=lambda arm: arm.utility_mean)
            assert best.model == "dear"

    def test_of_a_log_without_feedback(self, run: Run, tmp_path: Path) -> None:
        path = write_config(tmp_path)
        with Router.from_config(path, seed=1) as router:
            router.route("classify")
        ran = run("priors", "--config", path)
        assert (ran.code, ran.out) == (1, "")
        assert "no arm has had feedback yet" in ran.err

"""Commands against real servers in processes of their own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict

from banditroute.client import AdminClient, Client
from banditroute.demo.process import ServerProcess
from cli.conftest import CONFIG, Run, write_config


def eventually(check: Callable[[], Any], *, within_s: float = 20.0) -> Any:
    """The first true value of `check`."""
    end = time.monotonic() + within_s
    while not (found := check()):
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.02)
    return found


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("served"), CONFIG, arguments=["--reflection"]) as server:
        yield server


class TestCalls:
    def test_route_then_feedback_then_explain(self, run: Run, served: ServerProcess) -> None:
        asked = ("--feature", "length=6.5", "--input-tokens", 400, "--label", "team=search", "--explain")
        decision = run("route", "summarise", "--server", served.router, *asked, "--json").data
        assert decision["model"] in ("dear", "cheap")
        assert {c["model"] for c in decision["candidates"]} == {"dear", "cheap"}
        assert decision["decision_reason"] in ("BEST", "EXPLORATION", "FLOOR")

        told = ("--rating", 4, "--accepted", "--cost-usd", 0.002, "--latency-s", 0.8, "--source", "user")
        answer = run("feedback", decision["decision_id"], "--server", served.router, *told, "--json").data
        assert answer["disposition"] == "APPLIED"
        assert answer["signal_dispositions"] == ["APPLIED", "APPLIED"]
        again = run("feedback", decision["decision_id"], "--server", served.router, *told)
        assert again.out.splitlines()[0].startswith("DUPLICATE, durable at position")

        def explained() -> Any:
            data = run("explain", decision["decision_id"], "--config", served.config_path, "--json").data
            return data if "sink" in data["sources"] else None

        data = eventually(explained)
        assert data["request"]["labels"] == {"team": "search"}
        assert {signal["kind"] for signal in data["signals"]} == {"rating", "accepted"}
        assert data["attempts"][0]["usage"] == {"cost_usd": 0.002, "latency_s": 0.8}

    def test_shown_for_people(self, run: Run, served: ServerProcess) -> None:
        shown = run("route", "classify", "--server", served.router, "--exclude", "dear", "--explain").out
        assert "only eligible" in shown
        assert "no: excluded" in shown

    def test_refusals(self, run: Run, served: ServerProcess) -> None:
        ran = run("route", "nonsense", "--server", served.router)
        assert (ran.code, ran.out) == (1, "")
        assert "\n  " not in ran.err
        assert "NOT_FOUND (UNKNOWN_CATEGORY)" in ran.err
        ran = run("route", "summarise", "--server", served.router, "--feature", "width=1", "--max-cost-usd", -1)
        assert ran.code == 1
        assert ran.err.splitlines()[0] == "error: INVALID_ARGUMENT (INVALID_FIELDS)"
        assert "  features[width]: " in ran.err
        assert ran.err.count("max_cost_usd: ") == 1
        ran = run("route", "classify", "--server", served.admin)
        assert "UNIMPLEMENTED" in ran.err
        assert "is --server the right listener?" in ran.err
        ran = run("route", "classify", "--server", "127.0.0.1:1", "--timeout-s", 1)
        assert "is a server running there?" in ran.err
        ran = run("route", "classify", "--server", served.router, "--tag", "vision")
        assert "NO_ELIGIBLE_MODEL" in ran.err
        ran = run("feedback", "nonsense!", "--server", served.router, "--accepted")
        assert "DECISION_ID_MALFORMED" in ran.err
        decision = run("route", "classify", "--server", served.router, "--json").data["decision_id"]
        ran = run("feedback", decision, "--server", served.router, "--rating", 9, "--eval-score", 2)
        assert ran.code == 1
        assert "signals[" in ran.err
        assert "rating" in ran.err


class TestOperating:
    def test_set_changes_the_very_next_route(self, run: Run, served: ServerProcess) -> None:
        before = run("categories", "classify", "--server", served.admin, "--json").data[0]
        share = {arm["model"]: arm["share"] for arm in before["arms"]}
        answer = run("set", "classify", "--cost-weight", 5, "--reason", "budget", "--server", served.admin, "--json").data
        assert answer["category"]["overridden_fields"] == ["cost_weight"]
        candidates = run("route", "classify", "--server", served.router, "--explain", "--json").data["candidates"]
        assert {c["model"]: c["propensity"] for c in candidates}["cheap"] > share["cheap"]

        event = run("events", "--server", served.admin, "--limit", 1, "--json").data[0]
        assert (event["kind"], event["change_reason"]) == ("operator", "budget")
        assert event["actor"]
        hidden = run("check", served.config_path, "--json").data["hidden_fields"]
        assert [(entry["field"], entry["in_force"]) for entry in hidden] == [("cost_weight", 5.0)]

        run("set", "classify", "--clear", "cost_weight", "--reason", "over", "--actor", "me", "--server", served.admin)
        assert run("check", served.config_path, "--json").data["hidden_fields"] == []
        assert run("events", "--config", served.config_path, "--limit", 1, "--json").data[0]["actor"] == "me"
        shown = run("set", "classify", "--clear", "cost_weight", "--reason", "again", "--server", served.admin)
        assert "Nothing changed" in shown.out

    def test_the_directory_says_what_the_server_says(self, run: Run, served: ServerProcess) -> None:
        def same() -> bool:
            served_now = run("categories", "--server", served.admin, "--json").data
            return bool(served_now == run("categories", "--config", served.config_path, "--json").data)

        assert eventually(same)

    @pytest.mark.parametrize("command", ["pause", "resume", "reset"])
    def test_arms(self, run: Run, served: ServerProcess, command: str) -> None:
        if command == "resume":
            run("resume", "dear", "--reason", "whatever was paused", "--server", served.admin)
            ran = run("resume", "dear", "--reason", "x", "--server", served.admin)
            assert "Nothing changed" in ran.out
            data = run("resume", "dear", "--reason", "x", "--server", served.admin, "--json").data
            assert data["state_position"] is None
            return
        extra = ("--yes",) if command == "reset" else ()
        said = ("--category", "classify", "--reason", "outage", "--actor", "ada", "--server", served.admin)
        data = run(command, "dear", *said, *extra, "--json").data
        assert [category["name"] for category in data["categories"]] == ["classify"]
        lines = run("events", "--server", served.admin, "--limit", 4, "--json").data
        line = next(line for line in lines if line["position"] == data["state_position"] and line["kind"] == "operator")
        assert (line["actor"], line["change_reason"]) == ("ada", "outage")
        assert line["summary"].startswith(f"ada {command}")
        assert json.loads(line["details_json"])["action"] == f"{command}_arm"

    def test_a_reset_says_what_is_lost_and_asks(self, run: Run, served: ServerProcess) -> None:
        def resets() -> int:
            lines = run("events", "--server", served.admin, "--limit", 1000, "--json").data
            return sum("reset_arm" in line["details_json"] and line["kind"] == "operator" for line in lines)

        before = resets()
        asked = ("reset", "cheap", "--reason", "new version", "--server", served.admin)
        ran = run(*asked, stdin="n\n")
        assert ran.code == 1
        assert "classify: what " in ran.err
        assert "summarise: what " in ran.err
        assert "feedbacks taught about cheap" in ran.err
        assert "Forget it for good?" in ran.err
        assert run(*asked).code == 1  # nobody there to ask
        assert resets() == before
        ran = run(*asked, stdin="y\n")
        assert ran.code == 0
        assert "In force since position" in ran.out
        assert resets() == before + 1

    def test_refused_changes_of_arms(self, run: Run, served: ServerProcess) -> None:
        ran = run("pause", "gpt", "--reason", "x", "--server", served.admin)
        assert (ran.code, ran.out) == (1, "")
        assert "UNKNOWN_MODEL" in ran.err
        assert "cheap, dear" in ran.err
        assert "UNKNOWN_CATEGORY" in run("pause", "dear", "--category", "x", "--reason", "x", "--server", served.admin).err
        assert "change_reason" in run("pause", "dear", "--reason", " ", "--server", served.admin).err

    def test_refusals(self, run: Run, served: ServerProcess) -> None:
        ran = run("set", "classify", "--cost-weight", -1, "--reason", "x", "--server", served.admin)
        assert ran.code == 1
        assert "category.cost_weight" in ran.err
        ran = run("categories", "nonsense", "--server", served.admin)
        assert "UNKNOWN_CATEGORY" in ran.err


class TestFollowing:
    def test_over_a_restart_until_ctrl_c(self, run: Run, tmp_path: Path) -> None:
        def set_weight(server: ServerProcess, weight: float) -> int:
            said = ("--cost-weight", weight, "--reason", "budget", "--server", server.admin, "--json")
            return int(run("set", "classify", *said).data["state_position"])

        with ServerProcess(tmp_path, CONFIG) as server:
            positions = [1, set_weight(server, 1)]
            address = server.admin
            command = [sys.executable, "-m", "banditroute", "events", "--follow", "--json", "--server", address]
            following = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            assert following.stdout and following.stderr
            try:
                seen = [json.loads(following.stdout.readline()) for _ in positions]
                positions.append(set_weight(server, 2))
                seen.append(json.loads(following.stdout.readline()))
                assert server.stop() == 0
                assert any(line.startswith("connection lost, trying again: ") for line in following.stderr)
                with ServerProcess(tmp_path, arguments=["--admin-listen", address]) as again:
                    positions += [set_weight(again, 3), set_weight(again, 4)]
                    seen += [json.loads(following.stdout.readline()) for _ in range(2)]
                    following.send_signal(signal.SIGINT)
                    assert following.wait(20) == 0
                assert following.stdout.read() == ""
            finally:
                following.kill()
                following.wait()
                following.stdout.close()
                following.stderr.close()
        assert [line["position"] for line in seen] == positions

    def test_for_people(self, served: ServerProcess) -> None:
        command = [sys.executable, "-m", "banditroute", "events", "--follow", "--limit", "1", "--server", served.admin]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as following:
            assert following.stdout
            try:
                first = following.stdout.readline()
                with AdminClient(served.admin) as admin:
                    admin.update_category("classify", {"cost_weight": 0.25}, reason="spring", actor="ada")
                second = following.stdout.readline()
                following.send_signal(signal.SIGINT)
                assert following.wait(20) == 0
            finally:
                following.kill()
        assert first != second
        assert "operator" in second
        assert second.rstrip().endswith("in category classify. (spring)")

    def test_nobody_there(self, run: Run) -> None:
        ran = run("events", "--follow", "--server", "127.0.0.1:1")
        assert (ran.code, ran.out) == (1, "")
        assert "is a server running there?" in ran.err


def serve(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "banditroute", "serve", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


class TestStarting:
    def test_a_port_in_use(self, served: ServerProcess, tmp_path: Path) -> None:
        ran = serve("--config", write_config(tmp_path), "--listen", served.router, "--admin-listen", "127.0.0.1:0")
        assert (ran.returncode, ran.stdout) == (2, "")
        assert "error: cannot listen on" in ran.stderr
        assert "Traceback" not in ran.stderr

    def test_a_state_directory_in_use(self, served: ServerProcess) -> None:
        ran = serve("--config", served.config_path, "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0")
        assert (ran.returncode, ran.stdout) == (2, "")
        assert f"in use by another process (pid {served.pid})" in ran.stderr
        assert "Traceback" not in ran.stderr

    def test_a_wrong_configuration(self, tmp_path: Path) -> None:
        path = tmp_path / "bad.yaml"
        path.write_text("models: {a: {}}\ncategories:\n  x: {models: [b]}\n")
        ran = serve("--config", path)
        assert ran.returncode == 2
        assert f"{path}:3: categories.x.models.0" in ran.stderr
        assert "Traceback" not in ran.stderr


class TestSignals:
    def test_reload_rotation_and_drain(self, tmp_path: Path) -> None:
        """SIGHUP with a bad and a good file, with new and with broken keys; SIGTERM at the end."""
        with ServerProcess(tmp_path, CONFIG) as server, Client(server.router) as client, AdminClient(server.admin) as admin:
            old = client.route("classify").decision_id
            admin.update_category("classify", {"cost_weight": 0.2}, reason="kept over reloads")

            server.config_path.write_text("models: [")
            self._hang_up(server, "reload refused")
            assert "is not YAML" in server.log_tail()
            assert client.route("classify").model

            keys_path = tmp_path / "state" / "keys.json"
            keys = json.loads(keys_path.read_text())["keys"]
            secret = keys[0]["secret"]
            keys_path.write_text(json.dumps({"keys": [*keys, {"id": "k2", "secret": "short"}]}))
            write_config(tmp_path)
            self._hang_up(server, "reload refused")
            assert secret not in server.log_path.read_text()

            keys_path.write_text(json.dumps({"keys": [{"id": "k2", "secret": "5a" * 32}, *keys]}))
            dear = {"input_usd_per_mtok": 20.0, "output_usd_per_mtok": 20.0, "tags": ["tools"]}
            before, drawn = self._costs(admin), self._propensity(client, "dear")
            write_config(tmp_path, models={**CONFIG["models"], "dear": dear})
            self._hang_up(server, '"reloaded"')
            after = self._costs(admin)
            assert after["dear"] == pytest.approx(2 * before["dear"])
            assert after["cheap"] == pytest.approx(before["cheap"])
            assert self._propensity(client, "dear") < drawn  # the very next Route, with no feedback in between
            assert admin.get_category("classify").overridden_fields == ["cost_weight"]
            assert client.route("classify").decision_id[:6] != old[:6]
            assert client.feedback(old, accepted=True).state_position

            server.signal(signal.SIGTERM)
            assert server.wait(15) == 0

        # The rotated-in key alone is enough from now on.
        keys_path.write_text(json.dumps({"keys": [{"id": "k2", "secret": "5a" * 32}]}))
        with ServerProcess(tmp_path) as server, AdminClient(server.admin) as admin:
            report = MessageToDict(admin.get_category("classify"))
            assert report["feedbackCount"] == "1"
            assert server.stop() == 0

    @staticmethod
    def _hang_up(server: ServerProcess, told: str) -> None:
        count = server.log_path.read_text().count(told)
        server.signal(signal.SIGHUP)
        eventually(lambda: server.log_path.read_text().count(told) > count)

    @staticmethod
    def _propensity(client: Client, model: str) -> float:
        return {c.model: c.propensity for c in client.route("classify", explain=True).candidates}[model]

    @staticmethod
    def _costs(admin: AdminClient) -> dict[str, float]:
        return {arm.model: arm.expected_cost_usd for arm in admin.get_category("classify").arms}

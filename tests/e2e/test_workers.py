"""`serve --workers 2` over real sockets, on SQLite and on Redis: workers share what they learn, die, change and end together."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from redis_servers import binaries, serving

from banditroute.client import AdminClient, Client, RequestFailed, feedback_request, route_request
from banditroute.demo.process import ServerProcess
from banditroute.serving import CAN_PIN
from banditroute.v1 import router_pb2 as pb

CONFIG: dict[str, Any] = {
    "store": "sqlite:///./state",
    "models": {"a": {"input_usd_per_mtok": 1.0}, "b": {"input_usd_per_mtok": 2.0}},
    "categories": {"chat": {"models": ["a", "b"]}},
    "server": {"drain_s": 0.0, "grace_s": 2.0},
}
WORKERS = ("--workers", "2")
REDIS = binaries().get("redis-8")


@pytest.fixture(params=["sqlite", "redis"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, Any]]:
    if request.param == "sqlite":
        yield CONFIG
        return
    if REDIS is None:
        pytest.skip("no redis-8 server is installed here")
    (tmp_path / "shared.json").write_text(json.dumps({"keys": [{"id": "k1", "secret": "ab" * 32}]}))
    with serving(REDIS, tmp_path / "redis", "--appendonly", "yes", "--appendfsync", "always") as server:
        yield {**CONFIG, "store": server.url, "signing_keys_file": "shared.json"}


def eventually(check: Callable[[], Any], *, within_s: float = 60.0) -> Any:
    """The first true value of `check`."""
    end = time.monotonic() + within_s
    while not (found := check()):
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.02)
    return found


def lines(server: ServerProcess, event: str) -> list[dict[str, Any]]:
    """What was logged of an event."""
    told = server.log_path.read_text(encoding="utf-8").splitlines()
    return [line for line in (json.loads(text) for text in told if text.startswith("{")) if line["event"] == event]


def pids(server: ServerProcess) -> dict[int, int]:
    """Worker to process, of those that served last."""
    return {line["worker"]: line["pid"] for line in lines(server, "worker ready")}


def running(tmp_path: Path, config: dict[str, Any] | None, *arguments: str) -> ServerProcess:
    return ServerProcess(tmp_path, config, arguments=[*WORKERS, *arguments], start_timeout_s=120.0)


@contextmanager
def each_worker(server: ServerProcess) -> Iterator[list[AdminClient]]:
    """A connection to each of both: a worker is known by the moment at which its engine began."""
    with ExitStack() as stack:
        found: dict[int, AdminClient] = {}
        for _ in range(200):
            admin = stack.enter_context(AdminClient(server.admin, timeout_s=30.0))
            found[admin.get_server_info().start_time.ToNanoseconds()] = admin
            if len(found) == 2:
                break
        assert len(found) == 2
        yield list(found.values())


def taught(client: Client, count: int) -> list[str]:
    ids = [client.route("chat").decision_id for _ in range(count)]
    for decision_id in ids:
        client.feedback(decision_id, eval_score=0.5)
    return ids


def prices(admin: AdminClient) -> dict[str, float]:
    return {arm.model: arm.expected_cost_usd for arm in admin.get_category("chat").arms}


def configurations(admin: AdminClient) -> int:
    return [line.kind for line in admin.list_events(limit=100)].count("config")


def test_workers_share_what_they_learn_and_change_and_end_together(tmp_path: Path, config: dict[str, Any]) -> None:
    on_sqlite = config["store"].startswith("sqlite")
    with running(tmp_path, config) as server, Client(server.router, channels=8, timeout_s=30.0) as client:
        assert pids(server).keys() == {1, 2}
        ids = taught(client, 40)
        with each_worker(server) as admins:
            eventually(lambda: {admin.get_category("chat").feedback_count for admin in admins} == {40})
            assert [configurations(admin) for admin in admins] == [1, 1]
            assert {client.feedback(each, eval_score=0.5).disposition for each in ids} == {pb.DISPOSITION_DUPLICATE}
            position = admins[0].update_category("chat", {"cost_weight": 0.7}, reason="dear").state_position
            for _ in range(16):
                assert client.route("chat", min_state_position=position).state_position >= position
            assert {admin.get_category("chat").cost_weight for admin in admins} == {0.7}

            before = prices(admins[0])
            server.config_path.write_text("models: [")
            server.signal(signal.SIGHUP)
            eventually(lambda: lines(server, "reload refused; the old configuration stays"))
            changed = {**config, "models": {"a": {"input_usd_per_mtok": 3.0}, "b": {"input_usd_per_mtok": 2.0}}}
            server.config_path.write_text(yaml.safe_dump(changed))
            server.signal(signal.SIGHUP)
            eventually(lambda: len(lines(server, "reloaded")) == 2)
            for admin in admins:
                assert prices(admin)["a"] == (pytest.approx(3 * before["a"]) if on_sqlite else before["a"])
                assert prices(admin)["b"] == before["b"]
                assert configurations(admin) == (2 if on_sqlite else 1)
        assert len(lines(server, "reload refused; the old configuration stays")) == 1
        assert server.stop(60.0) == 0
        assert {line["pid"] for line in lines(server, "stopped") if line["logger"] == "banditroute.server"} == set(
            pids(server).values()
        )


@pytest.mark.skipif(not CAN_PIN, reason="this system cannot keep a process on one core")
@pytest.mark.parametrize("workers", [1, 2])
def test_pinned_workers_keep_to_a_core_each(tmp_path: Path, workers: int) -> None:
    cores = sorted(os.sched_getaffinity(0))
    arguments = ["--workers", str(workers), "--pin"]
    with ServerProcess(tmp_path, CONFIG, arguments=arguments, start_timeout_s=120.0) as server:
        served_by = [pids(server)[number] for number in range(1, workers + 1)] if workers > 1 else [server.pid]
        for number, pid in enumerate(served_by):
            threads = [int(each.name) for each in Path(f"/proc/{pid}/task").iterdir()]
            found = {frozenset(os.sched_getaffinity(thread)) for thread in threads}
            assert found == {frozenset({cores[number % len(cores)]})}
            assert len(threads) > 3


def test_a_worker_that_is_killed_is_replaced_and_nothing_acknowledged_is_lost(tmp_path: Path, config: dict[str, Any]) -> None:
    with running(tmp_path, config) as server, Client(server.router, channels=8, timeout_s=60.0) as client:
        batch = [route_request("chat")] * 100
        ids = [result.response.decision_id for _ in range(6) for result in client.batch_route(batch).results]
        acknowledged: list[str] = []
        some = threading.Event()

        def work(mine: list[str]) -> None:
            for decision_id in mine:
                try:
                    client.feedback(decision_id, eval_score=0.5)
                except RequestFailed:  # its worker died with it
                    continue
                acknowledged.append(decision_id)
                if len(acknowledged) >= 100:
                    some.set()

        killed = pids(server)[2]
        with ThreadPoolExecutor(8) as pool:
            working = [pool.submit(work, ids[i::8]) for i in range(8)]
            assert some.wait(60.0)
            subprocess.run(["kill", "-9", str(killed)], check=True)
            for future in working:
                future.result(120.0)
        assert len(acknowledged) > 100
        eventually(lambda: pids(server)[2] != killed)
        assert [line["cause"] for line in lines(server, "worker ended")] == ["signal SIGKILL"]
        with each_worker(server):
            taught(client, 10)
        again = client.batch_feedback(feedback_request(each, eval_score=0.5) for each in acknowledged[:100]).results
        assert {result.response.disposition for result in again} == {pb.DISPOSITION_DUPLICATE}
        known = {client.feedback(each, eval_score=0.5).disposition for each in acknowledged[100:]}
        assert known == {pb.DISPOSITION_DUPLICATE}
        assert server.stop(60.0) == 0


def test_workers_end_with_their_supervisor(tmp_path: Path, config: dict[str, Any]) -> None:
    with running(tmp_path, config) as server:
        server.signal(signal.SIGKILL)
        assert server.wait(60.0) == -signal.SIGKILL
        host, port = server.router.split(":")

        def gone() -> bool:
            with socket.socket() as one:
                return one.connect_ex((host, int(port))) != 0

        eventually(gone)
        eventually(lambda: len([line for line in lines(server, "stopped") if "pid" in line]) == 2)
    if config is CONFIG:  # and one process may have the directory for itself

        def opened() -> int:
            with ServerProcess(tmp_path, CONFIG, start_timeout_s=120.0) as alone:
                return alone.pid

        assert opened()


def serve(tmp_path: Path, config: dict[str, Any], *arguments: str) -> tuple[int, str]:
    """How a service that does not start ends, and what it says."""
    path = tmp_path / "banditroute.yaml"
    path.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "banditroute", "serve", "--config", str(path), "--listen", "127.0.0.1:0"]
    command += ["--admin-listen", "127.0.0.1:0", *WORKERS, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == ""
    return done.returncode, done.stderr


def test_what_is_wrong_at_the_start_is_said_once(tmp_path: Path) -> None:
    code, said = serve(tmp_path, {**CONFIG, "store": "memory:"})
    assert (code, said.count("\n")) == (2, 1)
    assert "--workers needs a store that processes can share" in said
    code, said = serve(tmp_path, {**CONFIG, "models": {}})
    assert code == 2
    assert said.count("error:") == 1
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, said = serve(tmp_path, CONFIG, "--listen", f"127.0.0.1:{taken.getsockname()[1]}")
    assert code == 2
    assert "cannot listen on" in said


def test_the_first_workers_error_is_said_once(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, CONFIG, start_timeout_s=120.0) as alone:
        assert alone.stop(60.0) == 0
    (tmp_path / "state" / "keys.json").unlink()
    code, said = serve(tmp_path, CONFIG)
    assert code == 2
    assert said.count("restore it from a backup") == 1

"""`kill -9` in the middle of 10,000 feedbacks: what was acknowledged is there once, nothing is there twice."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from banditroute.client import Client, RequestFailed, feedback_request, route_request
from banditroute.core.fold import FOLD_VERSION, learn
from banditroute.core.settings import canonical_json
from banditroute.core.state import INITIAL
from banditroute.core.types import Event, EventKind
from banditroute.demo.process import ServerProcess
from banditroute.log.base import chained
from banditroute.log.checkpoint import encode
from banditroute.log.sqlite import SqliteLog
from banditroute.v1 import router_pb2 as pb
from e2e.kill_worker import CONFIG, EACH, THREADS

ALL = THREADS * EACH
KILL_AFTER = 3000
assert ALL == 10_000


def read_whole(directory: Path) -> list[Event]:
    """All events of the log, whose chain holds and which fold."""
    log = SqliteLog(directory, time.time)
    try:
        events = list(log.read(0, 10**6))
        previous, state = b"", INITIAL
        for position, event in enumerate(events, 1):
            raw = canonical_json(event.body).encode()
            previous = chained(previous, position=position, append_time_us=event.append_time_us, kind=event.kind, body=raw)
            assert (event.position, event.chain) == (position, previous)
            state, skipped = learn(state, event)
            assert not skipped
        assert log.tip() == (len(events), previous)
        checkpoint = log.newest_checkpoint(oldest=FOLD_VERSION, newest=FOLD_VERSION)
        if checkpoint is not None and checkpoint.position == len(events):
            assert checkpoint.body == encode(state)
        return events
    finally:
        log.close()


def decisions(events: list[Event]) -> Counter[str]:
    return Counter(event.body["decision"]["id"] for event in events if event.kind == EventKind.FEEDBACK)


def assert_ordinals_are_dense(events: list[Event]) -> None:
    ordinals = [event.body["after"]["ordinal"] for event in events if event.kind == EventKind.FEEDBACK]
    assert ordinals == list(range(1, len(ordinals) + 1))


def test_an_embedded_router(tmp_path: Path) -> None:
    worker = Path(__file__).with_name("kill_worker.py")
    command = [sys.executable, str(worker), f"sqlite:///{tmp_path / 'state'}"]
    acknowledged: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:  # to the end: what was said before the kill counts
            acknowledged.append(line.strip())
            if len(acknowledged) == KILL_AFTER:
                process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert KILL_AFTER <= len(acknowledged) < ALL
    assert len(set(acknowledged)) == len(acknowledged)

    events = read_whole(tmp_path / "state")
    found = decisions(events)
    assert set(found.values()) == {1}
    assert found.keys() >= set(acknowledged)
    assert len(found) <= len(acknowledged) + THREADS  # at most one per thread was written and not yet told
    assert_ordinals_are_dense(events)


@pytest.fixture
def config() -> dict[str, object]:
    return {**CONFIG, "store": "sqlite:///./state", "decision_sink": {"enabled": False}, "server": {"drain_s": 0.0}}


def test_a_server(tmp_path: Path, config: dict[str, object]) -> None:
    acknowledged: set[str] = set()
    enough = threading.Event()
    refused: list[RequestFailed] = []

    with ServerProcess(tmp_path, config) as server, Client(server.router, channels=4, max_attempts=1, timeout_s=30.0) as client:
        batch = [route_request("chat")] * 100
        ids = [result.response.decision_id for _ in range(ALL // 100) for result in client.batch_route(batch).results]
        assert len(set(ids)) == ALL

        def work(mine: list[str]) -> None:
            for decision_id in mine:
                try:
                    answer = client.feedback(decision_id, eval_score=0.5)
                except RequestFailed as error:
                    refused.append(error)
                    return
                assert answer.disposition == pb.DISPOSITION_APPLIED
                acknowledged.add(decision_id)
                if len(acknowledged) >= KILL_AFTER:
                    enough.set()

        with ThreadPoolExecutor(THREADS) as pool:
            working = [pool.submit(work, ids[i::THREADS]) for i in range(THREADS)]
            assert enough.wait(120.0)
            server.signal(signal.SIGKILL)
            for future in working:
                future.result(60.0)
        assert server.wait(60.0) == -signal.SIGKILL
    assert len(refused) == THREADS
    assert KILL_AFTER <= len(acknowledged) < ALL

    with ServerProcess(tmp_path) as server, Client(server.router, timeout_s=30.0) as client:
        said: dict[str, int] = {}
        for start in range(0, ALL, 100):
            part = ids[start : start + 100]
            results = client.batch_feedback(feedback_request(each, eval_score=0.5) for each in part).results
            said.update(zip(part, (result.response.disposition for result in results), strict=True))
        assert {said[each] for each in acknowledged} == {pb.DISPOSITION_DUPLICATE}
        assert set(said.values()) == {pb.DISPOSITION_APPLIED, pb.DISPOSITION_DUPLICATE}
        assert server.stop() == 0
    events = read_whole(tmp_path / "state")
    found = decisions(events)
    assert len(found) == ALL
    assert set(found.values()) == {1}
    assert_ordinals_are_dense(events)

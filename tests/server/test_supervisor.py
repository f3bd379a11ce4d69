"""The supervisor alone: its workers here are a few lines of Python, which do what files in a folder say."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from banditroute.server import supervisor

WORKER = """
import pathlib, pickle, sys
number, folder = sys.argv[1], pathlib.Path(sys.argv[2])
pipe = open(0, "rb", closefd=False)
order = pickle.load(pipe)
(folder / ("told-" + number)).write_text(repr(order))
if (folder / ("broken-" + number)).exists():
    sys.exit(7)
print("ready", flush=True)
try:
    while True:
        with (folder / ("told-" + number)).open("a") as file:
            file.write(" " + repr(pickle.load(pipe)))
except EOFError:
    (folder / ("over-" + number)).touch()
    if (folder / "hang").exists():
        import time
        time.sleep(600)
"""
SERVICE = """
import pathlib, sys
from banditroute import logs
from banditroute.core.errors import StoreUnavailable
from banditroute.server.supervisor import Supervisor, WorkersFailed
worker, folder = sys.argv[1], pathlib.Path(sys.argv[2])
logs.configure(json=True)
def reload():
    if (folder / "bad").exists():
        raise StoreUnavailable("bad")
    return "changed"
supervisor = Supervisor(
    3,
    command=lambda number: [sys.executable, "-S", "-c", worker, str(number), str(folder)],
    first_order=lambda number, joins: (number, joins),
    reload=reload,
    inherited=[],
    drain_s=0.0,
)
try:
    supervisor.run(lambda: print("all ready", flush=True))
except WorkersFailed as error:
    print(error, flush=True)
    sys.exit(error.exit_code)
"""


@contextmanager
def service(folder: Path) -> Iterator[subprocess.Popen[str]]:
    with (folder / "log").open("w") as log:
        command = [sys.executable, "-c", SERVICE, WORKER, str(folder)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def logged(folder: Path, event: str) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (folder / "log").read_text().splitlines()]
    return [line for line in lines if line["event"] == event]


def eventually(check: Callable[[], object]) -> None:
    end = time.monotonic() + 60.0
    while not check():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.01)


def told(folder: Path) -> list[str]:
    return [(folder / f"told-{number}").read_text() for number in (1, 2, 3)]


def pid_of(folder: Path, number: int) -> int:
    pid = [line["pid"] for line in logged(folder, "worker ready") if line["worker"] == number][-1]
    assert isinstance(pid, int)
    return pid


def test_the_first_starts_alone_all_are_told_and_drained_together(tmp_path: Path) -> None:
    with service(tmp_path) as process:
        assert said(process) == "all ready"
        assert told(tmp_path) == ["(1, False)", "(2, True)", "(3, True)"]
        assert [line["worker"] for line in logged(tmp_path, "worker started")] == [1, 2, 3]
        first_ready = logged(tmp_path, "worker ready")[0]
        assert first_ready["worker"] == 1
        assert first_ready["timestamp"] <= logged(tmp_path, "worker started")[1]["timestamp"]  # type: ignore[operator]
        (tmp_path / "bad").touch()
        process.send_signal(signal.SIGHUP)
        eventually(lambda: len(logged(tmp_path, "reload refused; the old configuration stays")) == 1)
        (tmp_path / "bad").unlink()
        process.send_signal(signal.SIGHUP)
        eventually(lambda: all(text.endswith(" 'changed'") for text in told(tmp_path)))
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert logged(tmp_path, "worker ended") == []


def test_a_worker_that_ends_is_replaced(tmp_path: Path) -> None:
    with service(tmp_path) as process:
        assert said(process) == "all ready"
        killed = pid_of(tmp_path, 1)
        subprocess.run(["kill", "-9", str(killed)], check=True)
        eventually(lambda: pid_of(tmp_path, 1) != killed)
        assert told(tmp_path)[0] == "(1, True)"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert said(process) == ""  # that all are ready is said once


def test_one_that_keeps_failing_ends_all(tmp_path: Path) -> None:
    with service(tmp_path) as process:
        assert said(process) == "all ready"
        (tmp_path / "broken-2").touch()
        subprocess.run(["kill", "-9", str(pid_of(tmp_path, 2))], check=True)
        assert re.match(
            f"worker 2 ended {supervisor.MOST_FAILURES} times in a row .* exit code 7: the service stops", said(process)
        )
        assert process.wait(60) == 1
        causes = [(line["cause"], line["failures_in_a_row"]) for line in logged(tmp_path, "worker ended")]
        assert causes == [("signal SIGKILL", 1), *(("exit code 7", i) for i in range(2, supervisor.MOST_FAILURES + 1))]


def test_a_first_worker_that_cannot_start_is_not_tried_again(tmp_path: Path) -> None:
    (tmp_path / "broken-1").touch()
    with service(tmp_path) as process:
        assert said(process) == "the first worker ended before it served: exit code 7"
        assert process.wait(60) == 7
        assert len(logged(tmp_path, "worker started")) == 1


@pytest.mark.parametrize("again", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_does_not_wait_for_the_drain(tmp_path: Path, again: signal.Signals) -> None:
    (tmp_path / "hang").touch()
    with service(tmp_path) as process:
        assert said(process) == "all ready"
        process.send_signal(signal.SIGTERM)
        eventually(lambda: logged(tmp_path, "draining"))
        process.send_signal(again)
        assert process.wait(60) == 0
        assert len(logged(tmp_path, "workers did not drain in time; ending them")) == 1


def test_workers_hear_that_their_supervisor_is_gone(tmp_path: Path) -> None:
    with service(tmp_path) as process:
        assert said(process) == "all ready"
        process.kill()
        eventually(lambda: len(list(tmp_path.glob("over-*"))) == 3)

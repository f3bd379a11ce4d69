"""The demo from start to end: serve, play, show, sum up, explain one decision, stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from rich.console import Console
from rich.live import Live

from banditroute.client import AdminClient, RequestFailed
from banditroute.config import load
from banditroute.demo.play import Players
from banditroute.demo.process import ServerFailed, ServerProcess
from banditroute.demo.scenario import COST_WEIGHT, Scenario, make_scenario
from banditroute.demo.screen import Frame, progress_line, result
from banditroute.demo.summary import Summary, summarise
from banditroute.demo.tally import Tally
from banditroute.lab.source import Source

REFRESH_S = 0.5
LINE_S = 5.0
EXPLAIN_TIMEOUT_S = 30.0


class Report(NamedTuple):
    """What a demo found. `explained` is `banditroute explain` of one of its decisions, as JSON data."""

    summary: Summary
    explained: dict[str, Any]
    interrupted: bool

    def to_json(self, scenario: str) -> dict[str, Any]:
        return {
            "source": scenario,
            "interrupted": self.interrupted,
            "summary": self.summary.to_json(),
            "explained": self.explained,
        }


def run_demo(
    source: Source, *, seconds: float, requests: int, threads: int, out: Console | None, seed: int | None = None
) -> Report | None:
    """Plays `source` against a server of its own for at most so many seconds and requests.

    Args:
        out: where to show it; None: nowhere.
        seed: of the requests; the server draws as it likes.

    Returns:
        The report; None where it was interrupted (Ctrl-C) before any request was served.

    Raises:
        ServerFailed: the server did not start, or died; says its last log lines.
        ConfigError: the source's names are none that a configuration allows.
    """
    scenario = make_scenario(source)
    load(scenario.config)
    with _terminable(), tempfile.TemporaryDirectory(prefix="banditroute-demo-") as folder:
        try:
            return _run(scenario, Path(folder), seconds=seconds, requests=requests, threads=threads, out=out, seed=seed)
        except KeyboardInterrupt:
            return None


def _run(
    scenario: Scenario, folder: Path, *, seconds: float, requests: int, threads: int, out: Console | None, seed: int | None
) -> Report | None:
    with ServerProcess(folder, scenario.config) as server:
        if out is not None:
            out.print(
                f"A real server on a fresh store, pid {server.pid}, listens at {server.router}.", style="dim", highlight=False
            )
        players = Players(scenario, server.router, threads=threads, seconds=seconds, requests=requests, seed=seed)
        started, interrupted = time.monotonic(), False
        try:
            players.start()
            _watch(players, scenario, server, seconds=seconds, requests=requests, out=out)
        except KeyboardInterrupt:
            interrupted = True
        finally:
            players.stop()
        if players.failure is not None:
            raise ServerFailed(f"a call failed: {players.failure}\n{server.log_tail()}")
        if not players.played:
            if interrupted:
                return None
            raise ServerFailed(f"no request was served within {seconds:g} s: give it more\n{server.log_tail()}")
        spent = players.played[-1].time - started
        summary = summarise(players.played, scenario.source, cost_weight=COST_WEIGHT, seconds=spent)
        if out is not None:
            out.print()
            out.print(result(summary, name=scenario.source.name))
        explained = {} if interrupted else _explain(server, players.example, out)
    return Report(summary, explained, interrupted)


def _watch(
    players: Players, scenario: Scenario, server: ServerProcess, *, seconds: float, requests: int, out: Console | None
) -> None:
    """Shows how it goes until the players end."""
    if out is None:
        players.wait(seconds + EXPLAIN_TIMEOUT_S)
        return
    tally, started, line_due = Tally(scenario.source, cost_weight=COST_WEIGHT), time.monotonic(), LINE_S
    with AdminClient(server.admin) as admin, Live(console=out, auto_refresh=False, transient=False) as live:
        ended = False
        while not ended:
            ended = players.wait(REFRESH_S)
            tally.take(players.played)
            elapsed = time.monotonic() - started
            if out.is_terminal:
                done = 1.0 if ended else max(elapsed / seconds, tally.count / requests)
                try:
                    categories = admin.list_categories()
                except RequestFailed:
                    return  # the players see it too, and say why
                live.update(Frame(scenario, tally, categories, elapsed_s=elapsed, share_done=done), refresh=True)
            elif elapsed >= line_due or ended:
                out.print(progress_line(tally, elapsed_s=elapsed), markup=False)
                line_due += LINE_S


def _explain(server: ServerProcess, decision_id: str, out: Console | None) -> dict[str, Any]:
    """Asks `banditroute explain` about one decision, while the server runs."""
    command = [sys.executable, "-m", "banditroute", "explain", decision_id, "--config", str(server.config_path), "--json"]
    # The sink writes in batches: its row may take a moment.
    end = time.monotonic() + EXPLAIN_TIMEOUT_S
    while True:
        done = subprocess.run(command, capture_output=True, timeout=EXPLAIN_TIMEOUT_S, check=False)
        if done.returncode:
            raise ServerFailed(f"explain failed: {done.stderr.decode(errors='replace')}")
        found: dict[str, Any] = json.loads(done.stdout)
        if "sink" in found["sources"] or time.monotonic() > end:
            break
    if out is not None:
        out.print()
        out.print("Why that model? One decision, from its id:", style="bold", highlight=False)
        out.print(f"$ banditroute explain {decision_id[:24]}... --config banditroute.yaml", style="cyan", highlight=False)
        out.file.flush()
        environment = {**os.environ, "COLUMNS": str(out.width), **({"FORCE_COLOR": "1"} if out.is_terminal else {})}
        told = subprocess.run(command[:-1], capture_output=True, timeout=EXPLAIN_TIMEOUT_S, check=False, env=environment)
        out.file.write(told.stdout.decode(errors="replace"))
    return found


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM and SIGHUP end the demo as Ctrl-C does, so that its server ends too."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""The demo from start to end: serve, play both acts, show, sum up, explain one decision, stop."""

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

from banditroute.client import RequestFailed
from banditroute.config import load
from banditroute.demo.decline import Decline, DeclineReport
from banditroute.demo.decline_screen import DeclineFrame, decline_line, decline_result
from banditroute.demo.play import Players
from banditroute.demo.process import ServerFailed, ServerProcess
from banditroute.demo.scenario import COST_WEIGHT, Scenario, make_scenario
from banditroute.demo.screen import Frame, progress_line, result
from banditroute.demo.summary import Summary, summarise
from banditroute.demo.tally import Tally
from banditroute.demo.watching import Watcher
from banditroute.lab.source import Source

REFRESH_S = 0.5
REFRESH_DECLINE_S = 0.25
LINE_S = 5.0
FIRST_ACT = 0.4
"""Of the time there is, the most that act one takes where act two follows."""
EXPLAIN_TIMEOUT_S = 30.0


class Report(NamedTuple):
    """What a demo found. `explained` is `banditroute explain` of one of its decisions, as JSON data; `decline` is act two."""

    summary: Summary
    decline: DeclineReport | None
    explained: dict[str, Any]
    interrupted: bool

    def to_json(self, scenario: str) -> dict[str, Any]:
        return {
            "source": scenario,
            "interrupted": self.interrupted,
            "summary": self.summary.to_json(),
            "decline": self.decline and self.decline.to_json(),
            "explained": self.explained,
        }


class Limits(NamedTuple):
    """Act one ends after so many `requests`; both acts together after so many `seconds`."""

    seconds: float
    requests: int
    acts: int


def run_demo(
    source: Source,
    *,
    seconds: float,
    requests: int,
    acts: int,
    threads: int,
    out: Console | None,
    seed: int | None = None,
) -> Report | None:
    """Plays `source` against a server of its own: act one, for at most so many requests; then, with two `acts`, a model gets
    worse and recovers. Both together take at most so many seconds.

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
    if len(source.models) < 2:  # nobody could take over
        acts = 1
    limits = Limits(seconds, requests, acts)
    with _terminable(), tempfile.TemporaryDirectory(prefix="banditroute-demo-") as folder:
        try:
            return _run(scenario, Path(folder), limits, threads=threads, out=out, seed=seed)
        except KeyboardInterrupt:
            return None


def _run(
    scenario: Scenario, folder: Path, limits: Limits, *, threads: int, out: Console | None, seed: int | None
) -> Report | None:
    with ServerProcess(folder, scenario.config) as server:
        if out is not None:
            out.print(
                f"A real server on a fresh store, pid {server.pid}, listens at {server.router}.", style="dim", highlight=False
            )
        players, watcher = Players(scenario, server.router, threads=threads, seed=seed), Watcher(server.admin)
        decline: Decline | None = None
        started, interrupted = time.monotonic(), False
        try:
            players.start()
            _watch(players, scenario, watcher, limits, out=out)
            if limits.acts > 1 and players.played and players.failure is None:
                decline = Decline(scenario, players, watcher, watched=out is not None and out.is_terminal)
                _watch_decline(decline, started + limits.seconds, out=out)
        except KeyboardInterrupt:
            interrupted = True
        except RequestFailed as error:
            players.failure = players.failure or error
        finally:
            players.stop()
            watcher.stop()
        if players.failure is not None:
            raise ServerFailed(f"a call failed: {players.failure}\n{server.log_tail()}")
        first = players.played[: decline.begin] if decline else players.played
        if not first:
            if interrupted:
                return None
            raise ServerFailed(f"no request was served within {limits.seconds:g} s: give it more\n{server.log_tail()}")
        summary = summarise(first, scenario.source, cost_weight=COST_WEIGHT, seconds=first[-1].time - started)
        declined = decline.report() if decline else None
        if out is not None:
            out.print()
            out.print(result(summary, name=scenario.source.name, more=decline_result(declined) if declined else ()))
        explained = {} if interrupted else _explain(server, players.example, out)
    return Report(summary, declined, explained, interrupted)


def _watch(players: Players, scenario: Scenario, watcher: Watcher, limits: Limits, *, out: Console | None) -> None:
    """Shows act one until it ends."""
    tally, started, line_due = Tally(scenario.source, cost_weight=COST_WEIGHT), time.monotonic(), LINE_S
    seconds, requests = limits.seconds * (FIRST_ACT if limits.acts > 1 else 1.0), limits.requests
    with _live(out) as live:
        ended = False
        while not ended:
            failed = players.wait(REFRESH_S)
            tally.take(players.played)
            elapsed = time.monotonic() - started
            done = max(elapsed / seconds, tally.count / requests)
            ended = failed or done >= 1.0
            if out is None:
                continue
            if live is not None and not failed:
                frame = Frame(scenario, tally, watcher.categories(), elapsed_s=elapsed, share_done=min(1.0, done))
                live.update(frame, refresh=True)
            elif live is None and (elapsed >= line_due or ended):
                out.print(progress_line(tally, elapsed_s=elapsed), markup=False)
                line_due += LINE_S


def _watch_decline(decline: Decline, until: float, *, out: Console | None) -> None:
    """Shows act two until it ends."""
    line_due, told = LINE_S, 0
    with _live(out) as live:
        ended = False
        while not ended:
            failed = decline.players.wait(REFRESH_DECLINE_S)
            ended = failed or decline.advance() or time.monotonic() >= until
            if live is not None and not failed:
                live.update(DeclineFrame(decline, decline.watcher.categories()), refresh=True)
            elif live is None and out is not None:
                for each in decline.happenings[told:]:
                    out.print(f"{each.seconds:5.1f} s  {each.text}", markup=False)
                told = len(decline.happenings)
                if decline.seconds >= line_due:
                    out.print(decline_line(decline), markup=False)
                    line_due += LINE_S


@contextmanager
def _live(out: Console | None) -> Iterator[Live | None]:
    """A picture that is drawn again and again; None where there is no terminal."""
    if out is None or not out.is_terminal:
        yield None
        return
    with Live(console=out, auto_refresh=False, transient=False) as live:
        yield live


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

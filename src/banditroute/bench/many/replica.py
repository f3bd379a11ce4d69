"""A replica as a process of its own, a real server that also answers questions:
``python -m banditroute.bench.many.replica CONFIG HOST:PORT``.

One JSON document per line: a question on standard input, its answer on standard output. `Replica` asks.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from banditroute import logs
from banditroute.bench.many.setups import decision_query, report
from banditroute.config import load
from banditroute.core.errors import StoreError
from banditroute.engine import Engine
from banditroute.log.checkpoint import encode
from banditroute.server import Server, ServerSettings
from banditroute.wiring import open_engine

READY_TIMEOUT_S = 120.0


class Replica:
    """Starts a replica and asks it. One question at a time; see the functions below for what there is to ask."""

    def __init__(self, config: Path, log: Path) -> None:
        self._config, self._log = config, log
        self._asking = threading.Lock()
        self.router = ""
        self.start()

    def start(self) -> None:
        """Starts the process, anew after `kill`; on the port that it had. `await_ready` waits for it."""
        command = [sys.executable, "-m", "banditroute.bench.many.replica", str(self._config), self.router or "127.0.0.1:0"]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)

    def await_ready(self) -> None:
        """Returns when it serves.

        Raises:
            RuntimeError: it did not come up.
        """
        self.router = str(self._answer())

    def ask(self, question: str, *arguments: Any) -> Any:
        """What the function `question` answers.

        Raises:
            RuntimeError: the process is gone.
        """
        with self._asking:
            assert self.process.stdin is not None
            self.process.stdin.write(json.dumps([question, *arguments]) + "\n")
            self.process.stdin.flush()
            return self._answer()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the replica is gone:\n{self._log.read_text(encoding='utf-8')[-2000:]}")
        return json.loads(line)

    def kill(self) -> None:
        """As `kill -9` does it. Idempotent."""
        self.process.kill()
        self.process.wait()
        for end in (self.process.stdin, self.process.stdout):
            if end is not None:
                end.close()


# --- in the process ---


def state(engine: Engine) -> Mapping[str, Any]:
    """What it has learned, and how it is."""
    held = engine.snapshot.state
    info = engine.info()
    return {
        "position": held.position,
        "digest": hashlib.sha256(encode(held)).hexdigest(),
        "feedbacks": held.feedback_count,
        "rewinds": info.rewind_count,
        "divergences": info.divergence_count,
        "well": all(engine.health().values()),
    }


def decide(engine: Engine, count: int) -> list[str]:
    """The ids of so many decisions."""
    return [engine.route(decision_query(number)).id for number in range(count)]


def learn(engine: Engine, items: Sequence[tuple[str, float, float]]) -> list[tuple[str, int]]:
    """Submits feedback (decision, score, when it was observed), all at once; disposition and position of each."""
    futures = [engine.submit(report(*item)) for item in items]
    return [(receipt.disposition.name, receipt.state_position) for receipt in (future.result() for future in futures)]


def tell(engine: Engine, ids: Sequence[str], pause_s: float) -> list[tuple[int, float]]:
    """Submits one feedback after the other; the position of each, and when it was submitted."""
    told = []
    for decision_id in ids:
        time.sleep(pause_s)
        began = time.monotonic()
        told.append((engine.submit(report(decision_id, 0.5, time.time())).result().state_position, began))
    return told


def see(engine: Engine, first: int, last: int) -> list[tuple[int, float]]:
    """When a decision was first made on the state of each position."""
    seen: list[tuple[int, float]] = []
    for position in range(first, last + 1):
        made = engine.route(decision_query(position), min_state_position=position, timeout_s=60.0)
        now = time.monotonic()
        while position <= made.state_position and len(seen) <= made.state_position - first:
            seen.append((first + len(seen), now))
    return seen


QUESTIONS: Mapping[str, Callable[..., Any]] = {f.__name__: f for f in (state, decide, learn, tell, see)}


def main(config: str, listen: str) -> None:
    logs.configure(json=True)
    engine = open_engine(load(Path(config)), threaded=True)
    server = Server(engine, listen=listen, settings=ServerSettings(drain_s=0.0, grace_s=0.5))
    server.start()
    if not engine.wait_ready(READY_TIMEOUT_S):
        raise SystemExit("not ready in time")
    print(json.dumps(f"127.0.0.1:{server.port}"), flush=True)
    for line in sys.stdin:
        question, *arguments = json.loads(line)
        try:
            answer = QUESTIONS[question](engine, *arguments)
        except StoreError as error:
            answer = {"failed": str(error)}
        print(json.dumps(answer), flush=True)
    server.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])

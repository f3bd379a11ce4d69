"""Keeps workers running: processes that serve one port and one log together.

Each worker has a pipe on which it is told what to serve with, and later what to change to; its end is the order to drain. So
workers also end when the supervisor is gone, however that happened. A worker says on its standard output when it serves.
"""

from __future__ import annotations

import heapq
import pickle
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from banditroute import logs
from banditroute.core.errors import BanditrouteError
from banditroute.server.lifecycle import handling

READY = b"ready\n"
SETTLED_S = 10.0
"""A worker that ends within so many seconds of being ready has failed, as has one that never was."""
MOST_FAILURES = 5
"""Failures of one worker in a row that end the service."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
KILL_AFTER_S = 15.0
"""Seconds beyond the drain for a worker to save its state."""
LOOK_S = 0.5

log = logs.logger("banditroute.workers")


class WorkersFailed(BanditrouteError):
    """The service ends: the first worker did not come up, or one keeps failing. `exit_code` is what the process ends with."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Worker:
    """One process; puts itself into `events` when it is ready and when it is over."""

    def __init__(self, number: int, command: Sequence[str], inherited: Sequence[int], events: queue.SimpleQueue[Any]) -> None:
        self.number = number
        self.ready_at: float | None = None
        self._events = events
        self._orders: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        # A process group of its own: Ctrl-C in the terminal is for the supervisor, who then drains all.
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=inherited, process_group=0
        )
        self.pid = self._process.pid
        for task in (self._watch, self._send):  # a worker that hangs must not hang its supervisor
            threading.Thread(target=task, name=f"banditroute-worker-{number}", daemon=True).start()

    def tell(self, what: object) -> None:
        """Sends it to the worker; one that is over does not mind."""
        self._orders.put(pickle.dumps(what))

    def drain(self) -> None:
        """Has the worker stop serving, and end. Idempotent."""
        self._orders.put(None)

    def kill(self) -> None:
        self._process.kill()

    @property
    def end(self) -> str:
        """How it ended."""
        code = self._process.returncode
        return f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"

    @property
    def exit_code(self) -> int:
        return max(1, self._process.returncode)

    def _watch(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line == READY:
                self.ready_at = time.monotonic()
                self._events.put(_Ready(self))
        self._process.stdout.close()
        self._process.wait()
        self._orders.put(None)
        self._events.put(_Ended(self))

    def _send(self) -> None:
        pipe = self._process.stdin
        assert pipe is not None
        try:
            while (order := self._orders.get()) is not None:
                pipe.write(order)
                pipe.flush()
            pipe.close()
        except OSError:
            log.debug("a worker ended before it was told", worker=self.number, pid=self.pid)


class _Ready(NamedTuple):
    worker: Worker


class _Ended(NamedTuple):
    worker: Worker


class Supervisor:
    """Runs `count` workers.

    Args:
        command: starts a worker, given its number from 1 on.
        first_order: what a worker is told first; `joins`: others serve already, or did.
        reload: gives what all are told at SIGHUP; raises BanditrouteError where nothing is to change.
        inherited: open files that workers hold on to.
        drain_s: how long a worker may drain.
    """

    def __init__(
        self,
        count: int,
        *,
        command: Callable[[int], Sequence[str]],
        first_order: Callable[[int, bool], object],
        reload: Callable[[], object],
        inherited: Sequence[int],
        drain_s: float,
    ) -> None:
        self._count = count
        self._command, self._first_order, self._reload = command, first_order, reload
        self._inherited, self._drain_s = inherited, drain_s
        self._events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._workers: dict[int, Worker] = {}
        self._due: list[tuple[float, int]] = []
        self._failures = dict.fromkeys(range(1, count + 1), 0)
        self._serving = False
        self._awaited = set(self._failures)

    def run(self, ready: Callable[[], object]) -> None:
        """Serves until SIGTERM or SIGINT, then drains all; a second one does not wait for them. Only in the main thread.

        The first worker starts alone: what is wrong with the configuration is told once, and what the others find (keys, the
        configuration in the log) is made once. `ready` is called when all serve.

        Raises:
            WorkersFailed: all are drained then, too.
        """
        with handling(self._events, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)):
            self._start(1)
            try:
                self._serve(ready)
            finally:
                self._drain()

    def _start(self, number: int) -> None:
        worker = Worker(number, self._command(number), self._inherited, self._events)
        worker.tell(self._first_order(number, self._serving))
        self._workers[number] = worker
        log.info("worker started", worker=number, pid=worker.pid)

    def _serve(self, ready: Callable[[], object]) -> None:
        while True:
            match self._next():
                case _Ready(worker):
                    self._is_ready(worker, ready)
                case _Ended(worker):
                    self._has_ended(worker)
                case signal.SIGHUP:
                    self._reload_all()
                case int(number):
                    log.info("draining", signal=signal.Signals(number).name)
                    return

    def _next(self) -> Any:
        """The next event; starts the workers that are due meanwhile."""
        while True:
            now = time.monotonic()
            while self._due and self._due[0][0] <= now:
                self._start(heapq.heappop(self._due)[1])
            # Not for good: a signal that lands on another thread is handled only when this one wakes.
            pause = min(LOOK_S, self._due[0][0] - now) if self._due else LOOK_S
            try:
                return self._events.get(timeout=pause)
            except queue.Empty:
                continue

    def _is_ready(self, worker: Worker, ready: Callable[[], object]) -> None:
        log.info("worker ready", worker=worker.number, pid=worker.pid)
        if not self._serving:
            self._serving = True
            for number in range(2, self._count + 1):
                self._start(number)
        if worker.number in self._awaited:
            self._awaited.discard(worker.number)
            if not self._awaited:
                ready()

    def _has_ended(self, worker: Worker) -> None:
        number = worker.number
        del self._workers[number]
        if not self._serving:
            raise WorkersFailed(f"the first worker ended before it served: {worker.end}", worker.exit_code)
        settled = worker.ready_at is not None and time.monotonic() - worker.ready_at >= SETTLED_S
        failures = self._failures[number] = 0 if settled else self._failures[number] + 1
        log.error("worker ended", worker=number, pid=worker.pid, cause=worker.end, failures_in_a_row=failures)
        if failures >= MOST_FAILURES:
            raise WorkersFailed(
                f"worker {number} ended {failures} times in a row before it had served for {SETTLED_S:g} s, the last time with "
                f"{worker.end}: the service stops",
                1,
            )
        pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0**failures) if failures else 0.0
        heapq.heappush(self._due, (time.monotonic() + pause_s, number))

    def _reload_all(self) -> None:
        try:
            order = self._reload()
        except BanditrouteError as error:  # a bad file must not stop good workers
            log.critical("reload refused; the old configuration stays", cause=str(error))
        except Exception:
            log.exception("reload failed; the old configuration stays")
        else:
            for worker in self._workers.values():
                worker.tell(order)

    def _drain(self) -> None:
        for worker in self._workers.values():
            worker.drain()
        until = time.monotonic() + self._drain_s + KILL_AFTER_S
        while self._workers:
            try:
                event = self._events.get(timeout=min(LOOK_S, max(0.0, until - time.monotonic())))
            except queue.Empty:
                event = None
            if isinstance(event, _Ended):
                del self._workers[event.worker.number]
            elif event in (signal.SIGTERM, signal.SIGINT) or time.monotonic() >= until:
                log.error("workers did not drain in time; ending them", workers=sorted(self._workers))
                for worker in self._workers.values():
                    worker.kill()
                until = float("inf")
        log.info("stopped")

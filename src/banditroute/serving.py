"""What a single server and a worker have in common."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from banditroute import logs
from banditroute.config import Config
from banditroute.engine import Engine
from banditroute.tokens import TokenSigner
from banditroute.wiring import held_keys

READY_POLL_S = 0.05
AT_ONCE = ("signing_keys_file",)
"""Of the local part, what takes effect at a reload."""

log = logs.logger("banditroute.serve")


class Start(NamedTuple):
    """What a worker serves with.

    `joins`: others serve already, so it takes the log's configuration for its own and listens only when it is ready; the
    first one listens at once, as a single server does, and puts the configuration in force.
    """

    config: Config
    listen: str
    admin_listen: str
    reflection: bool
    joins: bool
    json_logs: bool
    pin: bool = False


_THREADS = Path("/proc/self/task")
CAN_PIN = hasattr(os, "sched_setaffinity") and _THREADS.is_dir()


def pin(number: int) -> None:
    """Keeps this process on one of the cores that it may use, the `number`-th: threads that take turns in one interpreter lose
    much of their time where each of them wakes on another core. Only where CAN_PIN."""
    cores = sorted(os.sched_getaffinity(0))
    for thread in _THREADS.iterdir():  # those that are started later do as the one that starts them
        with suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread.name), {cores[number % len(cores)]})


def when_ready(engine: Engine, closing: threading.Event, tell: Callable[[], object]) -> None:
    """Calls `tell` in a thread once the engine is ready; not where `closing` comes first."""

    def watch() -> None:
        while not engine.wait_ready(0.0):
            if closing.wait(READY_POLL_S):
                return
        tell()

    threading.Thread(target=watch, name="banditroute-announce", daemon=True).start()


def running(fresh: Config, started_with: Config) -> Config:
    """A configuration as a process that runs can take it: where it keeps its state does not change."""
    local = started_with.local._replace(**{name: getattr(fresh.local, name) for name in AT_ONCE})
    return fresh._replace(local=local)


def warn_of_waiting(fresh: Config, started_with: Config) -> None:
    """Says which settings only the next start takes."""
    before, now = started_with.local._asdict(), fresh.local._asdict()
    waiting = sorted(field for field, value in now.items() if value != before[field] and field not in AT_ONCE)
    if waiting:
        log.warning("these settings take effect at the next start", fields=waiting)


def adopt(engine: Engine, fresh: Config, started_with: Config) -> None:
    """Takes over keys and shared configuration.

    Raises:
        ConfigError, StoreError: nothing has changed then.
    """
    keys = held_keys(running(fresh, started_with).local)
    signer = TokenSigner(keys, engine.info().log_id) if keys else engine.signer
    held = engine.signer
    engine.replace_signer(signer)
    try:
        engine.reload(fresh.shared)
    except BaseException:
        engine.signer = held
        raise

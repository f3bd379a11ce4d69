"""`banditroute serve --workers N`: the supervisor's side. It reads the configuration for all, and owns the state directory."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

from banditroute.config import Config, load
from banditroute.core.errors import ConfigError, ConfigProblem
from banditroute.log.ownership import Ownership
from banditroute.server.ports import HeldPort
from banditroute.server.supervisor import Supervisor
from banditroute.serving import Start, running, warn_of_waiting
from banditroute.wiring import held_keys, state_directory, store_of

NO_WORKERS = "--workers needs a store that processes can share: sqlite:///FOLDER or redis://HOST:PORT/DB, not memory:"


def run_workers(
    path: Path, *, count: int, listen: str, admin_listen: str, reflection: bool, pin: bool, ready: Callable[[str, str], object]
) -> None:
    """Serves with `count` processes until SIGTERM or SIGINT; `ready` is told both addresses when all of them serve.

    Raises:
        ConfigError, StoreInUse, StoreUnavailable, ListenFailed: nothing was started.
        WorkersFailed: all have ended.
    """
    held = load(path)
    if store_of(held.local).kind == "memory":
        raise ConfigError(held.source, [ConfigProblem("store", None, NO_WORKERS)])
    directory = state_directory(held.local)
    current = held

    def first_order(_: int, joins: bool) -> Start:
        return Start(current, router.address, admin.address, reflection, joins, not sys.stderr.isatty(), pin)

    def reload() -> Config:
        nonlocal current
        fresh = load(path)
        warn_of_waiting(fresh, held)
        found = running(fresh, held)
        held_keys(found.local)  # what is wrong with them is told once
        current = found
        return current

    with ExitStack() as stack:
        inherited = []
        if directory is not None:  # until the last worker is gone, should this process end before them
            inherited.append(stack.enter_context(closing(Ownership(directory))).handle)
        router = stack.enter_context(closing(HeldPort(listen)))
        admin = stack.enter_context(closing(HeldPort(admin_listen)))
        supervisor = Supervisor(
            count,
            command=lambda number: [sys.executable, "-m", "banditroute.worker", str(number)],
            first_order=first_order,
            reload=reload,
            inherited=inherited,
            drain_s=held.local.server.drain_s + held.local.server.grace_s,
        )
        supervisor.run(lambda: ready(router.address, admin.address))

"""What a state directory holds, read without owning it: works while a server runs on it and when none does."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from banditroute.config import Config
from banditroute.core.errors import StoreUnavailable
from banditroute.core.fold import FOLD_VERSION, learn
from banditroute.core.state import INITIAL, State
from banditroute.log.checkpoint import decode
from banditroute.log.sqlite import LOG_FILE, SqliteLog
from banditroute.wiring import state_directory

READ_LIMIT = 4096


class Stored(NamedTuple):
    """A log, open for reading, and the state that it folds to."""

    directory: Path
    log: SqliteLog
    state: State


def has_state(config: Config) -> bool:
    """Whether anything was ever kept in the configuration's state directory.

    Raises:
        ConfigError: the store's URL is of no known kind.
    """
    directory = state_directory(config.local)
    return directory is not None and (directory / LOG_FILE).exists()


@contextmanager
def stored(config: Config) -> Iterator[Stored]:
    """The configuration's state directory, read-only.

    Raises:
        ConfigError: the store's URL is of no known kind.
        StoreUnavailable: there is nothing to read, or it is a store in memory.
        StoreTooNew, FoldHalted: made by a newer banditroute.
    """
    directory = state_directory(config.local)
    if directory is None:
        raise StoreUnavailable("a store in memory can be read only by its own process: use sqlite:///FOLDER, or ask the server")
    log = SqliteLog(directory, time.time, read_only=True)
    try:
        yield Stored(directory, log, _folded(log))
    finally:
        log.close()


def _folded(log: SqliteLog) -> State:
    checkpoint = log.newest_checkpoint(FOLD_VERSION)
    state = INITIAL if checkpoint is None else decode(checkpoint.body)
    while events := log.read(state.position, READ_LIMIT):
        for event in events:
            state, _ = learn(state, event)
    return state

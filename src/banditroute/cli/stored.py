"""What a state directory holds, read without owning it: works while a server runs on it and when none does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from banditroute.config import Config
from banditroute.core.fold import learn
from banditroute.core.state import INITIAL, State
from banditroute.log.base import EventLog
from banditroute.log.checkpoint import newest_state
from banditroute.log.sink import SinkReader
from banditroute.log.sqlite import LOG_FILE
from banditroute.wiring import open_log, sink_reader, state_directory, store_of

READ_LIMIT = 4096


class Stored(NamedTuple):
    """A log, open for reading, the state that it folds to, and the decision sink; None where there is none for such a store."""

    log: EventLog
    state: State
    sink: SinkReader | None


def has_state(config: Config) -> bool:
    """Whether anything was ever kept in the configuration's state directory.

    Raises:
        ConfigError: the store's URL is of no known kind.
    """
    kind = store_of(config.local).kind
    directory = state_directory(config.local)
    return kind == "redis" or (directory is not None and (directory / LOG_FILE).exists())


@contextmanager
def stored(config: Config) -> Iterator[Stored]:
    """The configuration's state directory, read-only.

    Raises:
        ConfigError: the store's URL is of no known kind.
        StoreUnavailable: there is nothing to read, or it is a store in memory.
        StoreTooNew, FoldHalted: made by a newer banditroute.
    """
    log = open_log(config.local, read_only=True)
    try:
        yield Stored(log, _folded(log), sink_reader(config.local, log))
    finally:
        log.close()


def _folded(log: EventLog) -> State:
    state = newest_state(log) or INITIAL
    while events := log.read(state.position, READ_LIMIT):
        for event in events:
            state, _ = learn(state, event)
    return state

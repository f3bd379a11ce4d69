"""What a state directory holds, read without owning it: works while a server runs on it and when none does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from banditroute.config import Config
from banditroute.core.errors import StoreEmpty
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
    """Whether anything may have been kept in the configuration's store.

    Raises:
        ConfigError: the store's URL is of no known kind.
    """
    kind = store_of(config.local).kind
    directory = state_directory(config.local)
    return kind == "redis" or (directory is not None and (directory / LOG_FILE).exists())


def state_in_store(config: Config) -> State | None:
    """The state in the configuration's store; None where nothing was ever kept there, or it is in memory. Raises as `stored`."""
    if not has_state(config):
        return None
    try:
        with stored(config) as found:
            return found.state
    except StoreEmpty:
        return None


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
        yield Stored(log, folded(log), sink_reader(config.local, log))
    finally:
        log.close()


def folded(log: EventLog) -> State:
    """The state at the end of a log.

    Raises:
        FoldHalted: it has events of a newer version.
        StoreError
    """
    state = newest_state(log) or INITIAL
    while events := log.read(state.position, READ_LIMIT):
        for event in events:
            state, _ = learn(state, event)
    return state

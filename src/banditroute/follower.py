"""Follows the log: folds what is durable into the next state and publishes it.

Either a thread of its own does so (`threaded`, in the server), or `catch_up` is called (in process).
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from banditroute import logs
from banditroute.core.errors import (
    ConfigReplaced,
    EventsTrimmed,
    EventsVanished,
    FoldHalted,
    StaleState,
    StoreClosed,
    StoreError,
    StoreUnavailable,
)
from banditroute.core.fold import learn
from banditroute.core.sights import Columns
from banditroute.core.state import INITIAL, State
from banditroute.core.types import Event, EventKind, Transition
from banditroute.journal import JournalTail, tell
from banditroute.log.base import JOURNALLED, Checkpoint, EventLog
from banditroute.log.checkpoint import checkpoint_of, newest_state, state_of
from banditroute.snapshot import Snapshot

READ_LIMIT = 512
SLICE_S = 0.001
IDLE_WAIT_S = 0.1
LONGEST_PAUSE_S = 2.0

log = logs.logger("banditroute.engine")


class Follower:
    """Holds the published snapshot; readers take it by one attribute access.

    Args:
        tail: told what is folded and noted in the journal.
        begin: called once when the log is folded for the first time, before `ready`.
        checkpoint_every: events between two saved states.
        retention: events kept behind the newest checkpoint.
        stale: a checkpoint to serve from for as long as the log cannot be read at the start.
        keep: is given every checkpoint that is saved.
    """

    def __init__(
        self,
        event_log: EventLog,
        tail: JournalTail,
        *,
        begin: Callable[[], object],
        checkpoint_every: int,
        retention: int,
        threaded: bool,
        stale: Checkpoint | None = None,
        keep: Callable[[Checkpoint], object] = lambda checkpoint: None,
    ) -> None:
        self._log, self._tail = event_log, tail
        self._stale, self._keep = stale, keep
        self._first = begin
        self._checkpoint_every, self._retention = checkpoint_every, retention
        self.snapshot = Snapshot(INITIAL, None)
        self._columns = Columns()
        self.ready = False
        self.store_ok = True
        self.rewind_count = self.divergence_count = 0
        self._folding = threading.Lock()
        self._progress = threading.Condition()
        self._halted: FoldHalted | None = None
        self._failed: BaseException | None = None
        self._stop = threading.Event()
        self._checkpointed = 0
        self._thread = threading.Thread(target=self._follow, name="banditroute-fold", daemon=True) if threaded else None

    def start(self) -> None:
        """Folds the log: before this returns, or in the thread.

        Raises (not threaded):
            FoldHalted, StoreError.
        """
        if self._thread is not None:
            self._thread.start()
        else:
            self._begin()

    # --- folding ---

    def _begin(self) -> None:
        """From the newest checkpoint to the end of the log."""
        state = newest_state(self._log)
        if state is not None and state.position > self.snapshot.state.position:
            self._restart(state)
        self.catch_up()
        self._first()
        self._tail.begin()  # before anybody may change anything
        with self._progress:
            self.ready = True
            self._progress.notify_all()

    def _restart(self, state: State) -> None:
        """Goes on from `state`, whatever was folded before."""
        self._columns = Columns()
        self._checkpointed = state.position
        with self._progress:
            self.snapshot = Snapshot(state, None)
            self._progress.notify_all()
        self._tail.settle(state.position, grew=True)

    def _serve_stale(self) -> None:
        """Publishes what this process knew the last time, once."""
        checkpoint, self._stale = self._stale, None
        state = None if checkpoint is None or self.snapshot.state.position else state_of(checkpoint)
        if state is not None:
            self._restart(state)
            log.warning("the log cannot be read; serving from the last checkpoint on this machine", position=state.position)

    def _follow(self) -> None:
        """The folding thread."""
        pause = IDLE_WAIT_S
        try:
            while not self._stop.is_set():
                try:
                    if not self.ready:
                        self._begin()
                        log.info("ready", state_position=self.snapshot.state.position)
                    if self._log.wait(self.snapshot.state.position, IDLE_WAIT_S):
                        self.catch_up()
                    elif not self.store_ok:  # nobody may be sending feedback that would show it
                        self._log.save_checkpoint(checkpoint_of(self.snapshot.state))
                        self.store_ok = True
                except StoreClosed:
                    return
                except StoreError as error:
                    if self.store_ok:
                        log.warning("log cannot be read; trying again", error=str(error))
                    self.store_ok = False
                    self._serve_stale()
                    pause = min(LONGEST_PAUSE_S, 2 * pause)
                    self._stop.wait(pause * random.uniform(0.5, 1.0))  # not all replicas at once
                else:
                    pause = IDLE_WAIT_S
        except FoldHalted as error:
            log.critical("folding stopped; routing goes on from the last state", error=str(error))
        except Exception as error:
            self._failed = error
            log.exception("folding failed; routing goes on from the last state")
        finally:
            with self._progress:
                self._progress.notify_all()

    def catch_up(self) -> None:
        """Folds everything durable that is not folded yet, publishing at least every millisecond.

        Raises:
            FoldHalted: an event is from a newer version.
            StoreError: the log cannot be read.
        """
        with self._folding:
            while True:
                state = self.snapshot.state
                # Up to where all replicas compare their states.
                limit = min(READ_LIMIT, self._checkpoint_every - state.position % self._checkpoint_every)
                try:
                    events = self._log.read(state.position, limit, chain=state.chain)
                except (EventsVanished, EventsTrimmed) as error:
                    self._reload(error)
                    continue
                if not events:
                    return
                self._fold(events)

    def _reload(self, error: EventsVanished | EventsTrimmed) -> None:
        """What was folded is not on the log any more, or what comes next is not: goes on from the newest checkpoint that is.

        Raises:
            EventsTrimmed: there is none to go on from.
        """
        held = self.snapshot.state
        if isinstance(error, EventsVanished):
            self._log.rewound()
            self.rewind_count += 1
        state = newest_state(self._log)
        if isinstance(error, EventsTrimmed) and (state is None or state.position <= held.position):
            raise EventsTrimmed(
                f"{error}; no checkpoint there is of a version that this banditroute knows: start the version that wrote it",
                first_position=error.first_position,
            )
        state = state or self._from_the_start(held)
        log.error("going back to the newest checkpoint on the log", cause=str(error), held=held.position, position=state.position)
        self._restart(state)

    def _from_the_start(self, held: State) -> State:
        """The state with the log's first configuration: nothing can be decided before it, so nothing before it is published.
        Where it is gone too, the one that was in force here is put back, unless another replica has."""
        state, restored = INITIAL, False
        while state.config_position == 0:
            events = self._log.read(state.position, READ_LIMIT, chain=state.chain)
            for event in events:
                state, _ = learn(state, event)
                if state.config_position:
                    break
            if not events:
                if restored or not held.document:
                    break
                body = {"document": held.document, "fingerprint": held.settings.fingerprint, "replaces": 0}
                with suppress(ConfigReplaced):
                    self._log.append(EventKind.CONFIG, body, replaces=0).result()
                restored = True
        return state

    def _fold(self, events: Sequence[Event]) -> None:
        state = self.snapshot.state
        transitions: list[Transition] = []
        grew = False
        until = time.perf_counter() + SLICE_S
        try:
            for event in events:
                state, found = learn(state, event, self._columns)
                transitions.extend(found)
                grew = grew or bool(found) or event.kind in JOURNALLED
                if not transitions and time.perf_counter() > until:
                    self._publish(state, grew=grew)
                    grew, until = False, time.perf_counter() + SLICE_S
        except FoldHalted as error:
            self._halted = error
            raise
        finally:
            if transitions:  # before the state that has seen them: folded again, they are the same
                tell(self._log.record_transitions(transitions))
            self._publish(state, grew=grew)
        if state.position % self._checkpoint_every == 0 and state.position > self._checkpointed:
            self._try_checkpoint(state)

    def fold(self, event: Event) -> None:
        """Folds one event that its log hands over as it is appended: for a single thread, which neither reads nor waits."""
        state, transitions = learn(self.snapshot.state, event, self._columns)
        if transitions:
            tell(self._log.record_transitions(transitions))
        self.snapshot = Snapshot(state, self.snapshot)

    def _publish(self, state: State, *, grew: bool) -> None:
        with self._progress:
            self.snapshot = Snapshot(state, self.snapshot)
            self._progress.notify_all()
        self._tail.settle(state.position, grew=grew)

    def _try_checkpoint(self, state: State) -> None:
        """A checkpoint saves time at the next start; folding does not depend on it."""
        try:
            self._checkpoint(state)
        except StoreUnavailable as error:
            self.store_ok = False
            self._checkpointed = state.position  # not at every slice from now on
            log.warning("no checkpoint was saved", error=str(error))

    def _checkpoint(self, state: State) -> None:
        checkpoint = checkpoint_of(state)
        digest = self._log.save_checkpoint(checkpoint)
        self._checkpointed = state.position
        if digest not in (None, checkpoint.digest):
            self._diverged(state)
            return
        self._keep(checkpoint)
        self._log.trim(state.position - self._retention)
        self._log.purge_records()

    def _diverged(self, held: State) -> None:
        """Another replica folded the same events to another state, and saved its own first: that is the one that counts."""
        self.divergence_count += 1
        state = newest_state(self._log)
        log.error("this state differs from the one that was saved for its position; taking that one", position=held.position)
        if state is not None:
            self._restart(state)

    # --- waiting ---

    def reach(self, position: int, timeout_s: float) -> Snapshot:
        """The snapshot once it has folded `position`; in process, and in the folding thread, folds it now.

        Raises:
            StaleState: not within `timeout_s`.
            FoldHalted, StoreError.
        """
        if self._thread is None or self._thread is threading.current_thread():
            self.catch_up()
        with self._progress:
            self._progress.wait_for(lambda: self.snapshot.state.position >= position or self._stop.is_set(), timeout_s)
            snapshot = self.snapshot
        if snapshot.state.position < position:
            at = snapshot.state.position
            raise StaleState(f"the state is at position {at}, not yet at {position}: retry, or ask for less")
        return snapshot

    def wait_ready(self, timeout_s: float) -> bool:
        """Waits until the log is folded for the first time; not for ever where that failed."""
        with self._progress:
            self._progress.wait_for(lambda: self.serving or self._stop.is_set() or bool(self._halted or self._failed), timeout_s)
            return self.serving

    @property
    def serving(self) -> bool:
        """Whether there is a state to decide from: the log's, or the last one known while the log cannot be read."""
        return self.ready or (self.snapshot.state.position > 0 and not self.store_ok)

    def health(self) -> Mapping[str, bool]:
        """Component -> whether it is well."""
        going = not self._stop.is_set()
        return {"log": self.store_ok and going, "fold": self.serving and self._halted is None and self._failed is None and going}

    def close(self) -> None:
        """Stops, and saves a checkpoint if that can be done. Idempotent."""
        if self._stop.is_set():
            return
        self._stop.set()
        with self._progress:
            self._progress.notify_all()
        if self._thread is not None:
            self._thread.join()
        try:
            if self.ready and self._failed is None:
                if self._halted is None:
                    self.catch_up()
                if self.snapshot.state.position > self._checkpointed:
                    self._checkpoint(self.snapshot.state)
        except (StoreError, FoldHalted) as error:
            log.warning("no checkpoint was saved; the next start folds the tail again", error=str(error))

"""Follows the log: folds what is durable into the next state and publishes it.

Either a thread of its own does so (`threaded`, in the server), or `catch_up` is called (in process).
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from banditroute import logs
from banditroute.core.errors import FoldHalted, StaleState, StoreClosed, StoreError, StoreUnavailable
from banditroute.core.fold import FOLD_VERSION, learn
from banditroute.core.sights import Columns
from banditroute.core.state import INITIAL, State
from banditroute.core.types import Event, Transition
from banditroute.journal import JournalTail, tell
from banditroute.log.base import JOURNALLED, EventLog
from banditroute.log.checkpoint import checkpoint_of, decode
from banditroute.snapshot import Snapshot

READ_LIMIT = 512
SLICE_S = 0.001
IDLE_WAIT_S = 0.1

log = logs.logger("banditroute.engine")


class Follower:
    """Holds the published snapshot; readers take it by one attribute access.

    Args:
        tail: told what is folded and noted in the journal.
        begin: called once when the log is folded for the first time, before `ready`.
        checkpoint_every: events between two saved states.
        retention: events kept behind the newest checkpoint.
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
    ) -> None:
        self._log, self._tail = event_log, tail
        self._first = begin
        self._checkpoint_every, self._retention = checkpoint_every, retention
        self.snapshot = Snapshot(INITIAL, None)
        self._columns = Columns()
        self.ready = False
        self.store_ok = True
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
        checkpoint = self._log.newest_checkpoint(FOLD_VERSION)
        if checkpoint is not None and checkpoint.position > self.snapshot.state.position:
            if hashlib.sha256(checkpoint.body).hexdigest() == checkpoint.digest:
                self._publish(decode(checkpoint.body), grew=True)
                self._checkpointed = checkpoint.position
            else:
                log.warning("the newest checkpoint is damaged; folding the log from its start", position=checkpoint.position)
        self.catch_up()
        self._first()
        self._tail.begin()  # before anybody may change anything
        with self._progress:
            self.ready = True
            self._progress.notify_all()

    def _follow(self) -> None:
        """The folding thread."""
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
                    self.store_ok = False
                    log.warning("log cannot be read; trying again", error=str(error))
                    self._stop.wait(IDLE_WAIT_S)
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
                events = self._log.read(self.snapshot.state.position, READ_LIMIT)
                if not events:
                    return
                self._fold(events)

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
        if state.position - self._checkpointed >= self._checkpoint_every:
            self._try_checkpoint(state)

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
        self._log.save_checkpoint(checkpoint_of(state))
        self._checkpointed = state.position
        self._log.trim(state.position - self._retention)
        self._log.purge_records()

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
            self._progress.wait_for(lambda: self.ready or self._stop.is_set() or bool(self._halted or self._failed), timeout_s)
            return self.ready

    def health(self) -> Mapping[str, bool]:
        """Component -> whether it is well."""
        going = not self._stop.is_set()
        return {"log": self.store_ok and going, "fold": self.ready and self._halted is None and self._failed is None and going}

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

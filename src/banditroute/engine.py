"""The engine: decides over an immutable snapshot, and folds the log into the next one.

`route` takes no lock and does no I/O. `submit` writes to the log and returns a future. Either a thread
of the engine's own follows the log (`threaded`, in the server), or `catch_up` is called (in process).
"""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from banditroute import logs
from banditroute._version import __version__
from banditroute.config import resolved
from banditroute.core.errors import (
    ConfigError,
    ConfigProblem,
    EtagMismatch,
    FeedbackWindowOver,
    FieldViolation,
    FoldHalted,
    InvalidRequest,
    StaleState,
    StoreClosed,
    StoreError,
    StoreUnavailable,
    UnknownCategory,
)
from banditroute.core.fold import FOLD_VERSION, INITIAL, MAX_WEIGHT, OVERRIDABLE, State, learn
from banditroute.core.policy import draw, keyed_draw, reason
from banditroute.core.settings import document_fingerprint
from banditroute.core.types import (
    CategoryReport,
    Decision,
    Disposition,
    EngineInfo,
    Event,
    EventKind,
    FeedbackReceipt,
    FeedbackReport,
    JournalRow,
    RouteQuery,
    Transition,
)
from banditroute.core.validate import check_query, check_report
from banditroute.log.base import EventLog, FeedbackAppend
from banditroute.log.checkpoint import checkpoint_of, decode
from banditroute.log.sink import DecisionSink, SinkRow
from banditroute.snapshot import Snapshot
from banditroute.tokens import DecisionToken, TokenSigner, uuid7

READ_LIMIT = 512
SLICE_S = 0.001
IDLE_WAIT_S = 0.5
CONFIG_WAIT_S = 30.0

log_events = logs.logger("banditroute.engine")


class Engine:
    """See the module's text and `wiring.open_engine`.

    Args:
        clock: Unix seconds; the engine reads no other clock for anything that it keeps.
        rng: draws models and makes decision ids.
        shared: the shared configuration to adopt once the log is folded; None takes the log's.
    """

    def __init__(
        self,
        *,
        log: EventLog,
        signer: TokenSigner,
        clock: Callable[[], float],
        rng: random.Random,
        sink: DecisionSink | None,
        shared: Mapping[str, Any] | None,
        checkpoint_every: int,
        log_retention_events: int,
        threaded: bool,
    ) -> None:
        self._log, self._sink = log, sink
        self.signer = signer
        self._clock, self._rng = clock, rng
        self._checkpoint_every, self._retention = checkpoint_every, log_retention_events
        self._start_time = clock()
        self._folding = threading.Lock()
        self._progress = threading.Condition()
        self._reloading = threading.Lock()
        self._store_ok = True
        self._ready = False
        self._halted: FoldHalted | None = None
        self._failed: BaseException | None = None
        self._stop = threading.Event()
        self._snapshot = Snapshot(INITIAL, None)
        self._checkpointed = 0
        self._thread: threading.Thread | None = None
        if threaded:
            self._thread = threading.Thread(target=self._follow, args=(shared,), name="banditroute-fold", daemon=True)
            self._thread.start()
        else:
            self._begin(shared)

    # --- deciding ---

    @property
    def snapshot(self) -> Snapshot:
        """The state that answers are based on now."""
        return self._snapshot

    def route(self, query: RouteQuery, *, min_state_position: int = 0, timeout_s: float | None = None) -> Decision:
        """Chooses a model.

        Args:
            min_state_position: answer from a state that has folded at least this position.
            timeout_s: how long to wait for that; None: not at all.

        Raises:
            InvalidRequest: with every violation.
            UnknownCategory, NoEligibleModel, StaleState.
        """
        snapshot = self._snapshot
        if min_state_position > snapshot.state.position:
            snapshot = self._await_position(min_state_position, timeout_s or 0.0)
        try:
            view = snapshot.view(query.category)
        except UnknownCategory:
            if self._ready:
                raise
            raise StaleState("still starting: the log is not folded yet; try again") from None
        violations = check_query(query, view.settings)
        if violations:
            raise InvalidRequest(violations)
        plan = view.plan(query)
        if query.request_key:
            key = f"{self._log.log_id}\0{query.category}\0{query.request_key}"
            choice = keyed_draw(plan, hashlib.sha256(key.encode()).digest())
        else:
            choice = draw(plan, self._rng.random())
        time_ms = int(self._clock() * 1000.0)
        decision_key = uuid7(time_ms, self._rng.getrandbits(74))
        chosen = plan.eligible[choice]
        why = reason(plan, choice)
        features = query.features
        token = DecisionToken(
            decision_key,
            query.category,
            chosen.model,
            chosen.propensity,
            chosen.quality_mean,
            chosen.expected_cost_usd,
            plan.computed_costs_usd[choice],
            query.input_tokens,
            snapshot.state.position,
            view.schema,
            tuple([features.get(f.name, f.mean) for f in view.settings.features]) if view.settings.features else (),
        )
        if self._sink is not None:
            self._sink.put(SinkRow(decision_key, time_ms, why, query, plan))
        models = plan.models
        return Decision(
            self.signer.sign(token),
            chosen.model,
            models[:choice] + models[choice + 1 :],
            chosen.propensity,
            why,
            chosen.quality_mean,
            chosen.expected_cost_usd,
            snapshot.state.position,
            time_ms * 1e-3 + snapshot.state.settings.feedback_window_us * 1e-6,
            query.category,
            plan,
        )

    def _await_position(self, position: int, timeout_s: float) -> Snapshot:
        with self._progress:
            self._progress.wait_for(lambda: self._snapshot.state.position >= position or self._stop.is_set(), timeout_s)
            snapshot = self._snapshot
        if snapshot.state.position < position:
            at = snapshot.state.position
            raise StaleState(f"the state is at position {at}, not yet at {position}: retry, or ask for less")
        return snapshot

    # --- taking feedback ---

    def submit(self, report: FeedbackReport) -> Future[FeedbackReceipt]:
        """Appends feedback to the log. The future resolves when it is durable.

        Raises:
            MalformedDecisionId, ForgedDecisionId, ForeignDecisionId: the id is not ours.
            FeedbackWindowOver: the decision is too old.
            InvalidRequest: with every violation.
            StoreClosed, StoreUnavailable: nothing was written.
        The future raises StoreError or FeedbackWindowOver.
        """
        if not self._ready:
            raise StoreUnavailable("still starting: the log is not folded yet; try again")
        token = self.signer.verify(report.decision_id)
        state = self._snapshot.state
        expire_us = token.time_ms * 1000 + state.settings.feedback_window_us
        if self._clock() * 1e6 > expire_us:
            days = state.settings.feedback_window_us / 86400e6
            raise FeedbackWindowOver(f"the decision is older than the feedback window of {days:g} days; route again")
        category = state.categories.get(token.category)
        violations = check_report(report, drawn=token.model, known_models=category.cells if category else (token.model,))
        if violations:
            raise InvalidRequest(violations)
        appended = self._log.append_feedback(
            FeedbackAppend(
                key=token.decision,
                decision=_decision_body(token),
                signals=report.signals,
                attempts=report.attempts,
                observe_us=None if report.observe_time is None else int(report.observe_time * 1e6),
                expire_us=expire_us,
            )
        )
        settings = state.settings.categories.get(token.category)
        live = settings.models if settings else ()
        answer: Future[FeedbackReceipt] = Future()
        answer.set_running_or_notify_cancel()  # it is on its way to the disk: too late to cancel

        def settle(done: Future[FeedbackReceipt]) -> None:
            error = done.exception()
            self._store_ok = not isinstance(error, StoreUnavailable)
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(_recorded(done.result(), report, drawn=token.model, live=live))

        appended.add_done_callback(settle)
        return answer

    # --- folding ---

    def _begin(self, shared: Mapping[str, Any] | None) -> None:
        """From the newest checkpoint to the end of the log, then to the configuration given."""
        checkpoint = self._log.newest_checkpoint(FOLD_VERSION)
        if checkpoint is not None and checkpoint.position > self._snapshot.state.position:
            self._publish(decode(checkpoint.body))
            self._checkpointed = checkpoint.position
        self.catch_up()
        if shared is not None:
            self._adopt(shared)
        with self._progress:
            self._ready = True
            self._progress.notify_all()

    def _follow(self, shared: Mapping[str, Any] | None) -> None:
        """The folding thread."""
        try:
            while not self._stop.is_set():
                try:
                    if not self._ready:
                        self._begin(shared)
                        log_events.info("ready", state_position=self._snapshot.state.position)
                    if self._log.wait(self._snapshot.state.position, IDLE_WAIT_S):
                        self.catch_up()
                    elif not self._store_ok:  # nobody may be sending feedback that would show it
                        self._log.save_checkpoint(checkpoint_of(self._snapshot.state))
                        self._store_ok = True
                except StoreClosed:
                    return
                except StoreError as error:
                    self._store_ok = False
                    log_events.warning("log cannot be read; trying again", error=str(error))
                    self._stop.wait(IDLE_WAIT_S)
        except FoldHalted as error:
            log_events.critical("folding stopped; routing goes on from the last state", error=str(error))
        except Exception as error:
            self._failed = error
            log_events.exception("folding failed; routing goes on from the last state")
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
                events = self._log.read(self._snapshot.state.position, READ_LIMIT)
                if not events:
                    return
                self._fold(events)

    def _fold(self, events: Sequence[Event]) -> None:
        state = self._snapshot.state
        transitions: list[Transition] = []
        until = time.perf_counter() + SLICE_S
        try:
            for event in events:
                state, found = learn(state, event)
                transitions.extend(found)
                if not transitions and time.perf_counter() > until:
                    self._publish(state)
                    until = time.perf_counter() + SLICE_S
        except FoldHalted as error:
            self._halted = error
            raise
        finally:
            if transitions:  # before the state that has seen them: folded again, they are the same
                log_events.warning("events were skipped", count=len(transitions), first=transitions[0].body)
                self._log.record_transitions(transitions)
            self._publish(state)
        if state.position - self._checkpointed >= self._checkpoint_every:
            self._try_checkpoint(state)

    def _publish(self, state: State) -> None:
        with self._progress:
            self._snapshot = Snapshot(state, self._snapshot)
            self._progress.notify_all()

    def _try_checkpoint(self, state: State) -> None:
        """A checkpoint saves time at the next start; folding does not depend on it."""
        try:
            self._checkpoint(state)
        except StoreUnavailable as error:
            self._store_ok = False
            self._checkpointed = state.position  # not at every slice from now on
            log_events.warning("no checkpoint was saved", error=str(error))

    def _checkpoint(self, state: State) -> None:
        self._log.save_checkpoint(checkpoint_of(state))
        self._checkpointed = state.position
        self._log.trim(state.position - self._retention)
        self._log.purge_records()

    # --- configuration and operators ---

    def _adopt(self, shared: Mapping[str, Any]) -> int | None:
        held = self._snapshot.state
        document = resolved(shared, held.document)
        fingerprint = document_fingerprint(document)
        if fingerprint == held.settings.fingerprint:
            return None
        body = {"document": document, "fingerprint": fingerprint, "replaces": held.config_position}
        return self._append(EventKind.CONFIG, body)

    def _append(self, kind: EventKind, body: Mapping[str, Any]) -> int:
        """Appends, and waits until the event is folded."""
        position = self._log.append(kind, body).result().position
        if self._thread is None or self._thread is threading.current_thread():
            self.catch_up()
        else:
            self._await_position(position, CONFIG_WAIT_S)
        return position

    def reload(self, shared: Mapping[str, Any]) -> int | None:
        """Adopts a shared configuration; what was learned stays, operator changes stay above it.

        Returns:
            The position of the event, None where nothing changed.

        Raises:
            ConfigError: it cannot be adopted; the old one stays.
            StoreError, StaleState.
        """
        with self._reloading:
            try:
                return self._adopt(shared)
            except (ValueError, KeyError, TypeError) as error:
                raise ConfigError("<reload>", [ConfigProblem("", None, str(error))]) from error

    def set_weights(
        self,
        category: str,
        changes: Mapping[str, float | None],
        *,
        reason: str,
        actor: str,
        etag: str = "",
        validate_only: bool = False,
    ) -> tuple[CategoryReport, int | None]:
        """Sets a category's weights above the configuration file; None clears. The next route sees it.

        Returns:
            The category as it is now, and the change's position; None where nothing changed.

        Raises:
            UnknownCategory, EtagMismatch, StoreError.
            InvalidRequest: with every violation.
        """
        with self._reloading:
            before = self.category(category)
            violations = _check_weights(changes)
            if violations:
                raise InvalidRequest(violations)
            if etag and etag != before.etag:
                raise EtagMismatch(
                    f"category {category!r} was changed since it was read: read it again (etag is now {before.etag})"
                )
            held = self._snapshot.state.overrides.get(category, {})
            changed = {field: value for field, value in changes.items() if held.get(field) != value}
            if validate_only or not changed:
                return before, None
            body = {
                "action": "set_weights",
                "category": category,
                "changes": changed,
                "previous": {field: getattr(before, field) for field in changed},
                "reason": reason,
                "actor": actor,
            }
            position = self._append(EventKind.OPERATOR, body)
            return self.category(category), position

    def replace_signer(self, signer: TokenSigner) -> None:
        """Rotates the signing keys: the new signer's first key signs from now on, all of them verify.

        Raises:
            StoreKeyMismatch: none of its keys is known to the log; the old signer stays.
            StoreError
        """
        self._log.key_checks(signer.key_checks())
        self.signer = signer

    # --- looking ---

    def category(self, name: str) -> CategoryReport:
        """One category with its arms.

        Raises:
            UnknownCategory
        """
        return self._snapshot.report(name)

    def categories(self) -> tuple[CategoryReport, ...]:
        """All categories, by name."""
        snapshot = self._snapshot
        return tuple(snapshot.report(name) for name in sorted(snapshot.state.settings.categories))

    def journal(self, *, before: tuple[int, int, int] | None = None, limit: int = 100) -> list[JournalRow]:
        """Configuration, operator and derived events, newest first, strictly before the key `before`."""
        return list(self._log.journal(before=before, limit=limit))

    def info(self) -> EngineInfo:
        """What runs, and how far it has learned."""
        state = self._snapshot.state
        return EngineInfo(
            version=__version__,
            fold_version=FOLD_VERSION,
            log_id=self._log.log_id,
            epoch=self._log.epoch,
            log_position=self._log.tip().position,
            state_position=state.position,
            start_time=self._start_time,
            skipped_event_count=state.skipped_count,
            dropped_decision_count=self._sink.dropped if self._sink else 0,
            config_fingerprint=state.settings.fingerprint,
        )

    def health(self) -> Mapping[str, bool]:
        """Component -> whether it is well."""
        folding = self._ready and self._halted is None and self._failed is None
        return {"log": self._store_ok and not self._stop.is_set(), "fold": folding and not self._stop.is_set()}

    def wait_ready(self, timeout_s: float) -> bool:
        """Waits until the log is folded and the configuration adopted."""
        with self._progress:
            self._progress.wait_for(lambda: self._ready or self._stop.is_set() or bool(self._halted or self._failed), timeout_s)
            return self._ready

    def close(self) -> None:
        """Stops folding, saves a checkpoint, and lets go of sink and log. Idempotent."""
        if self._stop.is_set():
            return
        self._stop.set()
        with self._progress:
            self._progress.notify_all()
        if self._thread is not None:
            self._thread.join()
        try:
            if self._ready and self._failed is None:
                if self._halted is None:
                    self.catch_up()
                if self._snapshot.state.position > self._checkpointed:
                    self._checkpoint(self._snapshot.state)
        except (StoreError, FoldHalted) as error:
            log_events.warning("no checkpoint was saved; the next start folds the tail again", error=str(error))
        finally:
            if self._sink is not None:
                self._sink.close()
            self._log.close()


def _decision_body(token: DecisionToken) -> dict[str, Any]:
    return {
        "id": token.decision.hex(),
        "category": token.category,
        "model": token.model,
        "propensity": token.propensity,
        "expected_quality": token.expected_quality,
        "expected_cost_usd": token.expected_cost_usd,
        "computed_cost_usd": token.computed_cost_usd,
        "input_tokens": token.input_tokens,
        "state_position": token.state_position,
        "schema": token.schema.hex(),
        "context": list(token.context),
        "flags": token.flags,
    }


def _check_weights(changes: Mapping[str, float | None]) -> list[FieldViolation]:
    found = [] if changes else [FieldViolation("update_mask", f"is empty; name one of {', '.join(OVERRIDABLE)}")]
    for field, value in changes.items():
        if field not in OVERRIDABLE:
            found.append(FieldViolation("update_mask", f"{field!r} cannot be set; {', '.join(OVERRIDABLE)} can"))
        elif value is not None and not 0.0 <= value <= MAX_WEIGHT:
            found.append(FieldViolation(f"category.{field}", f"{value} is no weight: use 0 to {MAX_WEIGHT:g}"))
    return found


def _recorded(receipt: FeedbackReceipt, report: FeedbackReport, *, drawn: str, live: Sequence[str]) -> FeedbackReceipt:
    """The receipt with RECORDED where an arm no longer exists: durable, but nothing is learned from it."""
    named = [*[signal.model for signal in report.signals], *[attempt.model for attempt in report.attempts]]
    if all((model or drawn) in live for model in named):
        return receipt

    def mark(disposition: Disposition, model: str) -> Disposition:
        fresh = disposition in (Disposition.APPLIED, Disposition.CORRECTED)
        return Disposition.RECORDED if fresh and (model or drawn) not in live else disposition

    signals = tuple(mark(d, s.model) for d, s in zip(receipt.signal_dispositions, report.signals, strict=True))
    attempts = tuple(mark(d, a.model) for d, a in zip(receipt.attempt_dispositions, report.attempts, strict=True))
    whole = receipt.disposition
    if whole is Disposition.APPLIED and not {Disposition.APPLIED, Disposition.CORRECTED} & {*signals, *attempts}:
        whole = Disposition.RECORDED
    return FeedbackReceipt(whole, signals, attempts, receipt.state_position)

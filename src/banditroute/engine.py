"""The engine: decides over an immutable snapshot, hands feedback to the log, changes what is in force.

`route` takes no lock and does no I/O. `submit` writes to the log and returns a future. The `Follower`
folds what the log holds into the next snapshot.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, Protocol

from banditroute._version import __version__
from banditroute.choose import Choice, chosen
from banditroute.core.errors import InvalidRequest, StaleState, StoreUnavailable, UnknownCategory
from banditroute.core.fold import FOLD_VERSION
from banditroute.core.policy import View, reason
from banditroute.core.state import State
from banditroute.core.types import (
    CategoryReport,
    Decision,
    EngineInfo,
    Event,
    FeedbackReceipt,
    FeedbackReport,
    JournalRow,
    RouteQuery,
)
from banditroute.core.validate import check_query, check_report
from banditroute.follower import Follower
from banditroute.inflight import InFlight
from banditroute.intake import answered, appended, expiry
from banditroute.journal import JournalTail
from banditroute.log.base import Checkpoint, EventLog, FeedbackAppend, JournalKey
from banditroute.log.sink import DecisionSink
from banditroute.log.sink_codec import SinkRow
from banditroute.operate import ArmAction, Operations
from banditroute.snapshot import Snapshot
from banditroute.tokens import DecisionToken, TokenSigner


class Companion(Protocol):
    """Something that lives as long as an engine. `close` is idempotent."""

    def start(self) -> None: ...

    def close(self) -> None: ...


class Engine:
    """See the module's text and `wiring.open_engine`.

    Args:
        clock: Unix seconds; the engine reads no other clock for anything that it keeps.
        rng: draws models and makes decision ids.
        shared: the shared configuration to adopt once the log is folded; None takes the log's.
        stale, keep: see `Follower`.
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
        stale: Checkpoint | None = None,
        keep: Callable[[Checkpoint], object] = lambda checkpoint: None,
    ) -> None:
        self._log, self._sink = log, sink
        self.signer = signer
        self._clock, self._rng = clock, rng
        self._start_time = clock()
        self._in_flight = InFlight()
        self._companions: list[Companion] = []
        self.tail = JournalTail(log)
        self._follower = Follower(
            log,
            self.tail,
            begin=lambda: self._begin(shared),
            checkpoint_every=checkpoint_every,
            retention=log_retention_events,
            threaded=threaded,
            stale=stale,
            keep=keep,
        )
        self._operations = Operations(log, self._follower)
        self._follower.start()

    def _begin(self, shared: Mapping[str, Any] | None) -> None:
        self._log.key_checks(self.signer.key_checks())  # the log may not have been there when this process started
        if shared is not None:
            self._operations.begin(shared)

    def attach(self, companion: Companion) -> None:
        """Starts something that reads this engine's log, and closes it before the log."""
        companion.start()
        self._companions.append(companion)

    # --- deciding ---

    @property
    def snapshot(self) -> Snapshot:
        """The state that answers are based on now."""
        return self._follower.snapshot

    def route(self, query: RouteQuery, *, min_state_position: int = 0, timeout_s: float | None = None) -> Decision:
        """Chooses a model.

        Args:
            min_state_position: answer from a state that has folded at least this position.
            timeout_s: how long to wait for that; None: not at all.

        Raises:
            InvalidRequest: with every violation.
            UnknownCategory, NoEligibleModel, StaleState.
        """
        snapshot = self._follower.snapshot
        if min_state_position > snapshot.state.position:
            snapshot = self._follower.reach(min_state_position, timeout_s or 0.0)
        try:
            view = snapshot.view(query.category)
        except UnknownCategory:
            if self._follower.ready:
                raise
            raise StaleState("still starting: the log is not folded yet; try again") from None
        violations = check_query(query, view.settings)
        if violations:
            raise InvalidRequest(violations)
        now = self._clock()
        plan, place, token = self.decide(query, snapshot, view, now)
        time_ms, why = int(now * 1000.0), reason(plan, place)
        if self._sink is not None:
            self._sink.put(SinkRow(token.decision, time_ms, why, query, plan, place))
        models = plan.models
        return Decision(
            self.signer.sign(token),
            token.model,
            models[:place] + models[place + 1 :],
            token.propensity,
            why,
            token.expected_quality,
            token.expected_cost_usd,
            token.state_position,
            time_ms * 1e-3 + snapshot.state.settings.feedback_window_us * 1e-6,
            query.category,
            plan,
            not self._follower.store_ok,
        )

    def decide(self, query: RouteQuery, snapshot: Snapshot, view: View, now: float) -> Choice:
        """The choice itself, from a checked query's category `view` in `snapshot`; `now` in Unix seconds.

        Raises:
            NoEligibleModel
        """
        category = query.category
        choice = chosen(
            query, snapshot, view, in_flight=self._in_flight.of(category), now=now, rng=self._rng, log_id=self._log.log_id
        )
        self._in_flight.started(category, choice.token.model, choice.token.decision)
        return choice

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
        if not self._follower.ready:
            raise StoreUnavailable("still starting: the log is not folded yet; try again")
        token = self.signer.verify(report.decision_id)
        state = self._follower.snapshot.state
        expire_us = expiry(token, state, now=self._clock())
        category = state.categories.get(token.category)
        violations = check_report(report, drawn=token.model, known_models=category.cells if category else (token.model,))
        if violations:
            raise InvalidRequest(violations)
        answer: Future[FeedbackReceipt] = Future()
        answer.set_running_or_notify_cancel()  # it is on its way to the disk: too late to cancel

        def settle(done: Future[FeedbackReceipt]) -> None:
            error = done.exception()
            self._follower.store_ok = not isinstance(error, StoreUnavailable)
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(answered(done.result(), report, state=state, token=token))

        logged = self._log.append_feedback(self._taken(report, token, state, expire_us))
        logged.add_done_callback(settle)
        return answer

    def taken(self, report: FeedbackReport, token: DecisionToken) -> FeedbackAppend:
        """A checked report on a decision of this process, on its way into the log.

        Raises:
            FeedbackWindowOver: the decision is too old.
        """
        state = self._follower.snapshot.state
        return self._taken(report, token, state, expiry(token, state, now=self._clock()))

    def _taken(self, report: FeedbackReport, token: DecisionToken, state: State, expire_us: int) -> FeedbackAppend:
        if report.signals:
            self._in_flight.answered(token.category, token.model, token.decision)
        return appended(report, token, state.settings, expire_us=expire_us)

    def fold(self, event: Event) -> None:
        """See `Follower.fold`."""
        self._follower.fold(event)

    # --- configuration and operators ---

    def reload(self, shared: Mapping[str, Any]) -> int | None:
        """Adopts a shared configuration; what was learned stays, operator changes stay above it. A log that other processes
        share keeps its own, and the difference is logged: see `apply`.

        Returns:
            The position of the event, None where nothing changed.

        Raises:
            ConfigError: it cannot be adopted; the old one stays.
            StoreError, StaleState.
        """
        return self._operations.reload(shared)

    def apply(self, shared: Mapping[str, Any]) -> int | None:
        """Adopts a shared configuration, for all processes that share the log; returns as `reload`.

        Raises:
            ConfigReplaced: another process changed it meanwhile.
            ConfigError: it cannot be adopted; the old one stays.
            StoreError, StaleState.
        """
        return self._operations.apply(shared)

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
        return self._operations.set_weights(category, changes, reason=reason, actor=actor, etag=etag, validate_only=validate_only)

    def pause_arm(
        self, model: str, category: str = "", *, reason: str, actor: str, validate_only: bool = False
    ) -> tuple[tuple[CategoryReport, ...], int | None]:
        """Takes a model out of service in a category, or ("") in all that have it, until it is resumed.

        Returns:
            The categories meant as they are now, and the change's position; None where nothing changed.

        Raises:
            UnknownCategory, UnknownModel, StoreError.
            LastArm: a category would have no model in service.
        """
        return self._operations.change_arm(
            ArmAction.PAUSE, model, category, reason=reason, actor=actor, validate_only=validate_only
        )

    def resume_arm(
        self, model: str, category: str = "", *, reason: str, actor: str, validate_only: bool = False
    ) -> tuple[tuple[CategoryReport, ...], int | None]:
        """Undoes `pause_arm`; returns as it does.

        Raises:
            UnknownCategory, UnknownModel, StoreError.
        """
        return self._operations.change_arm(
            ArmAction.RESUME, model, category, reason=reason, actor=actor, validate_only=validate_only
        )

    def reset_arm(
        self, model: str, category: str = "", *, reason: str, actor: str, validate_only: bool = False
    ) -> tuple[tuple[CategoryReport, ...], int | None]:
        """Forgets what was learned of a model in a category, or ("") in all that have it; returns as `pause_arm`.

        Raises:
            UnknownCategory, UnknownModel, StoreError.
        """
        return self._operations.change_arm(
            ArmAction.RESET, model, category, reason=reason, actor=actor, validate_only=validate_only
        )

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
        return self._follower.snapshot.report(name, now_us=int(self._clock() * 1e6))

    def categories(self) -> tuple[CategoryReport, ...]:
        """All categories, by name."""
        snapshot, now_us = self._follower.snapshot, int(self._clock() * 1e6)
        return tuple(snapshot.report(name, now_us=now_us) for name in sorted(snapshot.state.settings.categories))

    def journal(self, *, before: tuple[int, int, int] | None = None, limit: int = 100) -> list[JournalRow]:
        """Configuration, operator and derived events, newest first, strictly before the key `before`."""
        return list(self._log.journal(before=before, limit=limit))

    def journal_end(self, ended: Callable[[], bool]) -> JournalKey | None:
        """See `JournalTail.end`."""
        return self.tail.end(ended)

    def journal_after(self, key: JournalKey, *, limit: int, ended: Callable[[], bool]) -> list[JournalRow]:
        """See `JournalTail.after`."""
        return self.tail.after(key, limit=limit, ended=ended)

    def wake_journal(self) -> None:
        """See `JournalTail.wake`."""
        self.tail.wake()

    def info(self) -> EngineInfo:
        """What runs, and how far it has learned."""
        state = self._follower.snapshot.state
        return EngineInfo(
            version=__version__,
            fold_version=FOLD_VERSION,
            log_id=self._log.log_id,
            epoch=self._log.epoch,
            log_position=self._end_of_log(),
            state_position=state.position,
            start_time=self._start_time,
            skipped_event_count=state.skipped_count,
            dropped_decision_count=self._sink.dropped if self._sink else 0,
            config_fingerprint=state.settings.fingerprint,
            state_stale=not self._follower.store_ok,
            rewind_count=self._follower.rewind_count,
            divergence_count=self._follower.divergence_count,
        )

    def _end_of_log(self) -> int:
        try:
            return self._log.tip().position
        except StoreUnavailable:
            return self._follower.snapshot.state.position  # as far as is known here

    def health(self) -> Mapping[str, bool]:
        """Component -> whether it is well."""
        return self._follower.health()

    def wait_ready(self, timeout_s: float) -> bool:
        """Waits until the log is folded and the configuration adopted."""
        return self._follower.wait_ready(timeout_s)

    def catch_up(self) -> None:
        """Folds everything durable that is not folded yet.

        Raises:
            FoldHalted, StoreError.
        """
        self._follower.catch_up()

    def close(self) -> None:
        """Stops folding, saves a checkpoint, and lets go of sink and log. Idempotent."""
        for companion in self._companions:
            companion.close()
        self._follower.close()
        self.tail.close()
        if self._sink is not None:
            self._sink.close()
        self._log.close()

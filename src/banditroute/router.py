"""The in-process library: the engine of the server, without the server."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from banditroute.config import load
from banditroute.core.errors import FieldViolation, InvalidRequest, StoreUnavailable
from banditroute.core.types import (
    Attempt,
    CategoryReport,
    Decision,
    ErrorKind,
    FeedbackReceipt,
    FeedbackReport,
    RouteQuery,
    Signal,
    SignalKind,
)
from banditroute.engine import Engine
from banditroute.wiring import open_engine

START_WAIT_S = 300.0


class Router:
    """Routes and learns in this process. Thread-safe; use as a context manager or call `close`.

    ::

        with Router.from_config("banditroute.yaml") as router:
            decision = router.route("summarise", input_tokens=900)
            ...  # call decision.model
            router.feedback(decision.id, eval_score=0.8, cost_usd=0.0012)
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @classmethod
    def from_config(
        cls,
        source: str | Path | Mapping[str, Any],
        *,
        store: str | None = None,
        clock: Callable[[], float] | None = None,
        seed: int | None = None,
    ) -> Self:
        """Opens a router.

        Args:
            source: a configuration file, or a dict of the same shape.
            store: in place of the configuration's, such as ``"memory:"``.
            clock: Unix seconds, for tests and simulations.
            seed: makes a run repeatable.

        Raises:
            ConfigError, StoreInUse, StoreTooNew, StoreKeyMismatch, StoreUnavailable, StoreUnfit.
        """
        engine = open_engine(load(source), store=store, clock=clock, seed=seed, threaded=False)
        if not engine.wait_ready(START_WAIT_S):
            engine.close()
            raise StoreUnavailable(f"the log could not be read to its end in {START_WAIT_S:g} s; try again")
        return cls(engine)

    def route(
        self,
        category: str,
        *,
        features: Mapping[str, float] | None = None,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        allowed_models: Iterable[str] = (),
        excluded_models: Iterable[str] = (),
        required_tags: Iterable[str] = (),
        max_cost_usd: float | None = None,
        request_key: str = "",
        labels: Mapping[str, str] | None = None,
    ) -> Decision:
        """Chooses a model. Tokens in tokens, cost in USD; everything but the category is optional.

        Raises:
            InvalidRequest: with every violation.
            UnknownCategory, NoEligibleModel.
        """
        return self.engine.route(
            RouteQuery(
                category,
                features or {},
                _whole("input_token_count", input_tokens),
                _whole("output_token_count", output_tokens),
                tuple(allowed_models),
                tuple(excluded_models),
                tuple(required_tags),
                max_cost_usd,
                request_key,
                labels or {},
            )
        )

    def feedback(
        self,
        decision_id: str,
        *,
        eval_score: float | None = None,
        rating: tuple[float, float, float] | None = None,
        accepted: bool | None = None,
        retried: bool | None = None,
        error: ErrorKind | str | None = None,
        cost_usd: float | None = None,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        cached_input_tokens: int | None = None,
        latency_s: float | None = None,
        time_to_first_token_s: float | None = None,
        source: str = "",
        model: str = "",
        shadow: bool = False,
        weight: float | None = None,
        observe_time: float | None = None,
    ) -> FeedbackReceipt:
        """Reports how a decision went: durable and learned when this returns. Safe to repeat.

        Args:
            eval_score: 0 (useless) to 1 (perfect).
            rating: (value, worst, best), such as (4, 1, 5).
            accepted: the answer was taken as it was.
            retried: the user asked again.
            error: how the call failed, such as "timeout"; None: it served.
            source: who or what judged.
            model: the model that this is about; default: the decision's.
            shadow: the call was made beside the chosen model, its answer not used.
            weight: scales the category's weight of these signals, above 0, at most 10.
            observe_time: Unix seconds; a later observation replaces an earlier one. Default: now.

        Raises:
            InvalidRequest: with every violation.
            MalformedDecisionId, ForgedDecisionId, ForeignDecisionId, FeedbackWindowOver.
            StoreUnavailable, StoreClosed: nothing was kept; try again.
        """
        signals = []
        scale = 1.0 if weight is None else weight
        for kind, value in (
            (SignalKind.RATING, None if rating is None else rating_value(*rating)),
            (SignalKind.EVAL_SCORE, eval_score),
            (SignalKind.ACCEPTED, accepted),
            (SignalKind.RETRIED, None if retried is None else not retried),
        ):
            if value is not None:
                signals.append(Signal(kind, float(value), source, scale, model))
        attempt = Attempt(
            model=model,
            error=error_kind(error),
            shadow=shadow,
            input_tokens=_whole("attempts[0].usage.input_token_count", input_tokens),
            output_tokens=_whole("attempts[0].usage.output_token_count", output_tokens),
            cached_input_tokens=_whole("attempts[0].usage.cached_input_token_count", cached_input_tokens),
            cost_usd=cost_usd,
            latency_s=latency_s,
            time_to_first_token_s=time_to_first_token_s,
        )
        said = error is not None or shadow or any(value is not None for value in attempt[3:])
        attempts = (attempt,) if said else ()
        future = self.engine.submit(FeedbackReport(decision_id, tuple(signals), attempts, observe_time))
        receipt = future.result()
        self.engine.catch_up()
        return receipt

    def category(self, name: str) -> CategoryReport:
        """One category with its arms: model, quality, expected cost, utility, share and sample sizes.

        Raises:
            UnknownCategory
        """
        return self.engine.category(name)

    def categories(self) -> tuple[CategoryReport, ...]:
        """All categories, by name."""
        return self.engine.categories()

    def set_weights(
        self,
        category: str,
        *,
        reason: str,
        actor: str = "library",
        cost_weight: float | None = None,
        latency_weight: float | None = None,
        clear: Iterable[str] = (),
    ) -> CategoryReport:
        """Sets weights above the configuration; the next `route` sees them.

        Args:
            clear: names of weights whose configured value is to return.

        Raises:
            UnknownCategory, StoreError.
            InvalidRequest: with every violation.
        """
        given = {"cost_weight": cost_weight, "latency_weight": latency_weight}
        changes: dict[str, float | None] = dict.fromkeys(clear)
        changes |= {field: value for field, value in given.items() if value is not None}
        return self.engine.set_weights(category, changes, reason=reason, actor=actor)[0]

    def pause(self, model: str, *, category: str = "", reason: str, actor: str = "library") -> tuple[CategoryReport, ...]:
        """Takes a model out of service in a category, or in all that have it, until it is resumed.

        Raises:
            UnknownCategory, UnknownModel, StoreError.
            LastArm: a category would have no model in service.
        """
        return self.engine.pause_arm(model, category, reason=reason, actor=actor)[0]

    def resume(self, model: str, *, category: str = "", reason: str, actor: str = "library") -> tuple[CategoryReport, ...]:
        """Undoes `pause`.

        Raises:
            UnknownCategory, UnknownModel, StoreError.
        """
        return self.engine.resume_arm(model, category, reason=reason, actor=actor)[0]

    def reset(self, model: str, *, category: str = "", reason: str, actor: str = "library") -> tuple[CategoryReport, ...]:
        """Forgets what was learned of a model in a category, or in all that have it.

        Raises:
            UnknownCategory, UnknownModel, StoreError.
        """
        return self.engine.reset_arm(model, category, reason=reason, actor=actor)[0]

    def reload(self, source: str | Path | Mapping[str, Any]) -> None:
        """Adopts another configuration: prices, models, categories. What was learned stays.

        Raises:
            ConfigError: it is wrong; the old one stays.
            StoreError
        """
        self.engine.reload(load(source).shared)

    def close(self) -> None:
        """Saves a checkpoint and lets go of the store. Idempotent."""
        self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _whole(field: str, count: int | None) -> int | None:
    """A token count as an int: NumPy's integers are taken, fractions are not."""
    if count is None:
        return None
    try:
        return operator.index(count)
    except TypeError:
        raise InvalidRequest([FieldViolation(field, f"{count!r} is not a whole number")]) from None


def rating_value(value: float, low: float, high: float) -> float:
    """A rating on [low, high] as a value in [0, 1].

    Raises:
        InvalidRequest: the scale is empty, or the value is outside it.
    """
    if not low < high:
        raise InvalidRequest([FieldViolation("signals[0].rating.max", f"{high} is not above min {low}")])
    if not low <= value <= high:
        raise InvalidRequest([FieldViolation("signals[0].rating.value", f"{value} is outside [{low}, {high}]")])
    return (value - low) / (high - low)


def error_kind(error: ErrorKind | str | None) -> ErrorKind:
    """The kind by name, such as "timeout".

    Raises:
        InvalidRequest: there is no such kind.
    """
    if error is None:
        return ErrorKind.NONE
    if isinstance(error, ErrorKind):
        return error
    try:
        return ErrorKind[error.upper()]
    except KeyError:
        names = ", ".join(kind.name.lower() for kind in ErrorKind)
        raise InvalidRequest([FieldViolation("attempts[0].error_kind", f"{error[:64]!r} is none of {names}")]) from None

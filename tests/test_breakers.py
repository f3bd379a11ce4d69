"""A model's outage as a router and its callers see it, on a simulated clock."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engines import Clock, opened, refolded
from hypothesis import given, settings
from hypothesis import strategies as st

from banditroute.core.types import (
    ArmReport,
    Attempt,
    BreakerState,
    Decision,
    ErrorKind,
    Exclusion,
    FeedbackReport,
    Reason,
    RouteQuery,
    Signal,
    SignalKind,
)
from banditroute.engine import Engine
from banditroute.log.checkpoint import encode
from banditroute.snapshot import Snapshot
from banditroute.summaries import summarise

QUALITIES = {"best": 0.9, "second": 0.7, "third": 0.5}
CONFIG: dict[str, Any] = {
    "models": {name: {} for name in QUALITIES},
    "categories": {"chat": {"models": list(QUALITIES)}, "code": {"models": ["best", "second"]}, "alone": {"models": ["best"]}},
    "decision_sink": {"enabled": False},
}
QUERY = RouteQuery("chat")
TIMEOUT = ErrorKind.TIMEOUT


def finish(engine: Engine, decision: Decision, *attempts: Attempt) -> None:
    """Calls were made for a decision: these, and if none of them served, nothing else."""
    served = [each.model or decision.model for each in attempts if each.error is ErrorKind.NONE]
    signals = tuple(Signal(SignalKind.EVAL_SCORE, QUALITIES[model], model=model) for model in served)
    engine.submit(FeedbackReport(decision.id, signals, attempts)).result()
    engine.catch_up()


def fail(engine: Engine, clock: Clock, model: str = "best", *, count: int = 5, error: ErrorKind = TIMEOUT) -> None:
    """So many calls of a model fail, each of a decision for it."""
    for _ in range(count):
        clock.now += 0.2
        finish(engine, engine.route(RouteQuery("chat", allowed_models=(model,))), Attempt(error=error))


@pytest.fixture
def clock() -> Clock:
    return Clock()


def started(clock: Clock, store: Path | None = None, **config: Any) -> Engine:
    """Three models, as good as QUALITIES says, known by 40 decisions each."""
    engine = opened(clock, store, document=CONFIG, **config)
    for model in QUALITIES:
        for _ in range(40):
            clock.now += 1.0
            finish(engine, engine.route(RouteQuery("chat", allowed_models=(model,))), Attempt())
    return engine


@pytest.fixture
def engine(clock: Clock) -> Iterator[Engine]:
    made = started(clock)
    yield made
    made.close()


def arm(engine: Engine, model: str, category: str = "chat") -> ArmReport:
    return next(each for each in engine.category(category).arms if each.model == model)


def test_an_outage_from_its_first_failure_to_its_end(engine: Engine, clock: Clock) -> None:
    assert engine.route(QUERY).model == "best"
    # Out, from routes and fallbacks of all categories, with the fifth failed call: fallbacks' as well as drawn ones'.
    for i in range(5):
        assert arm(engine, "best").breaker is BreakerState.CLOSED
        clock.now += 0.2
        if i % 2:
            finish(engine, engine.route(QUERY), Attempt("best", TIMEOUT), Attempt("second"))
        else:
            decision = engine.route(RouteQuery("code", excluded_models=("best",)))
            finish(engine, decision, Attempt(error=ErrorKind.NONE), Attempt("best", TIMEOUT))
    until = clock.now + 15.0
    for _ in range(200):
        decision = engine.route(QUERY)
        assert "best" not in (decision.model, *decision.fallback_models)
        assert "best" not in engine.route(RouteQuery("code")).plan.models
    excluded = {row.model: row.exclusion for row in decision.candidates if row.exclusion}
    assert excluded == {"best": Exclusion.BREAKER_OPEN}
    found = arm(engine, "best")
    assert (found.breaker, found.share) == (BreakerState.OPEN, 0.0)
    assert found.breaker_open_until == pytest.approx(until, abs=1e-3)
    assert arm(engine, "second").breaker is BreakerState.CLOSED
    # Half open without any event: a small share, exactly as logged, last among the fallbacks.
    position = engine.info().log_position
    clock.now = until - 0.001
    assert "best" not in engine.route(QUERY).plan.models
    clock.now = until + 0.001
    seen = [engine.route(QUERY) for _ in range(4000)]
    assert engine.info().log_position == position
    drawn = [decision for decision in seen if decision.model == "best"]
    assert len(drawn) == pytest.approx(200, abs=4 * 14)
    assert {(each.propensity, each.reason) for each in drawn} == {(0.05, Reason.PROBE)}
    assert engine.signer.verify(drawn[0].id).propensity == 0.05
    assert {each.fallback_models[-1] for each in seen if each.model != "best"} == {"best"}
    assert arm(engine, "best").share == 0.05
    # A probe fails: out for twice as long. What was decided earlier and is told now changes nothing.
    finish(engine, drawn[0], Attempt(error=TIMEOUT))
    clock.now += 29.0
    finish(engine, drawn[1], Attempt(error=TIMEOUT))
    for decision in drawn[2:8]:
        finish(engine, decision, Attempt())
    assert "best" not in engine.route(QUERY).plan.models
    clock.now += 1.001
    # Back with three answers; what fails of before is not heard.
    for _ in range(3):
        assert arm(engine, "best").breaker is BreakerState.HALF_OPEN
        finish(engine, engine.route(RouteQuery("chat", allowed_models=("best",))), Attempt())
    for decision in drawn[8:20]:
        finish(engine, decision, Attempt(error=TIMEOUT))
    assert engine.route(QUERY).model == "best"
    assert arm(engine, "best").breaker is BreakerState.CLOSED
    kinds = [row.kind for row in engine.journal() if row.kind.startswith("breaker_")]
    assert kinds == ["breaker_closed", "breaker_reopened", "breaker_opened"]


def test_quality_is_not_touched_by_failed_calls(engine: Engine, clock: Clock) -> None:
    before = arm(engine, "best")
    fail(engine, clock)
    after = arm(engine, "best")
    assert after.feedback_count == before.feedback_count
    assert after.quality_mean == pytest.approx(before.quality_mean, abs=1e-6)  # its evidence ages with every feedback
    assert after.error_count == before.error_count + 5


def test_the_last_model_serves_and_the_journal_warns(engine: Engine, clock: Clock) -> None:
    fail(engine, clock)
    for _ in range(50):
        alone = engine.route(RouteQuery("alone"))
        assert (alone.model, alone.propensity, alone.reason) == ("best", 1.0, Reason.ONLY_ELIGIBLE)
        assert engine.route(RouteQuery("chat", allowed_models=("best",))).model == "best"
    row = engine.journal(limit=1)[0]
    assert (row.kind, row.body["nothing_else_in"]) == ("breaker_opened", ["alone"])
    assert "WARNING: nothing else is left in alone, so it serves there nevertheless." in summarise(row)
    usual = engine.snapshot.view("chat").plan(QUERY)
    fail(engine, clock, "second")
    fail(engine, clock, "third")
    plan = engine.route(QUERY).plan  # all are broken: none is out
    assert (plan.models, plan.propensities) == (usual.models, usual.propensities)
    # That it serves there is how it is noticed to be back before its time.
    for _ in range(3):
        finish(engine, engine.route(RouteQuery("alone")), Attempt())
    assert engine.route(QUERY).plan.models == ("best",)


def test_an_outage_of_which_nobody_tells_more_ends_by_itself(engine: Engine, clock: Clock) -> None:
    fail(engine, clock)
    opened_at, shares = clock.now, []
    for step_s in (15, 45, 75, 105, 135):
        clock.now = opened_at + step_s + 1.0
        shares.append(arm(engine, "best").share)
    assert shares[:4] == [0.05, 0.1, 0.2, 0.4]
    assert shares[4] > 0.9
    assert engine.route(QUERY).model == "best"


def test_a_clock_behind_the_logs_does_not_shorten_an_outage_or_make_it_longer(engine: Engine, clock: Clock) -> None:
    fail(engine, clock)
    clock.now -= 3600.0
    assert "best" not in engine.route(QUERY).plan.models
    clock.now += 3600.0 + 15.001
    assert "best" in engine.route(QUERY).plan.models


@pytest.mark.parametrize(
    ("breaker", "out_s", "again_s", "part"),
    [
        ({"cooldown_s": 2.0, "cooldown_calls": 0}, 2.0, 4.0, 0.05),
        ({"cooldown_s": 2.0, "max_cooldown_s": 3.0, "cooldown_calls": 0}, 2.0, 3.0, 0.05),
        ({"cooldown_calls": 100}, 110.04, 220.08, 0.05),
        ({"trial_share": 0.2}, 15.0, 30.0, 0.2),
        ({"enabled": False}, 0.0, 0.0, 1.0),
    ],
)
def test_settings_take_effect(clock: Clock, breaker: dict[str, Any], out_s: float, again_s: float, part: float) -> None:
    engine = started(clock, breaker=breaker)
    for seconds in (out_s, again_s):
        fail(engine, clock, count=1 if seconds == again_s else 5)
        assert ("best" in engine.route(QUERY).plan.models) == (not seconds)
        clock.now += seconds - 0.01
        assert ("best" in engine.route(QUERY).plan.models) == (not seconds)
        clock.now += 0.02
        plan = engine.route(QUERY).plan
        assert dict(zip(plan.models, plan.propensities, strict=True))["best"] == pytest.approx(part, abs=0.01)
    engine.close()


def test_replicas_and_restarts_agree(clock: Clock, tmp_path: Path) -> None:
    """Of one log, whoever folds it knows the same breakers; and from there on it is a matter of the clock alone."""
    engine = started(clock, tmp_path)
    fail(engine, clock, "second", error=ErrorKind.RATE_LIMITED)
    fail(engine, clock)
    state = engine.snapshot.state
    replica = refolded(list(engine._log.read(0, 10**6)))
    assert encode(replica) == encode(state)
    at = clock.now
    now_us = [int((at + seconds) * 1e6) for seconds in (0, 4, 5, 14, 16, 40, 100, 300)]
    seen = [engine.snapshot.broken(each) for each in now_us]
    assert [Snapshot(replica, None).broken(each) for each in now_us] == seen
    assert len(set(seen)) > 4
    engine.close()
    engine = opened(clock, tmp_path, document=CONFIG)
    assert [engine.snapshot.broken(each) for each in now_us] == seen
    assert "best" not in engine.route(QUERY).plan.models
    engine.close()


@settings(max_examples=20, derandomize=True, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(sorted(QUALITIES)), st.booleans(), st.integers(0, 40)), max_size=60))
def test_someone_always_serves(calls: list[tuple[str, bool, int]]) -> None:
    clock = Clock()
    engine = opened(clock, document=CONFIG)
    for model, failed, gap_s in calls:
        clock.now += gap_s / 4.0
        for category in CONFIG["categories"]:
            decision = engine.route(RouteQuery(category))
            assert sum(decision.plan.propensities) == pytest.approx(1.0, abs=1e-12)
            states = {each.model: each.breaker for each in engine.category(category).arms}
            out = {name for name, state in states.items() if state is BreakerState.OPEN}
            assert set(decision.plan.models) == (set(states) - out or set(states))
        decision = engine.route(RouteQuery("chat"))
        finish(engine, decision, Attempt(model, TIMEOUT if failed else ErrorKind.NONE))
    engine.close()

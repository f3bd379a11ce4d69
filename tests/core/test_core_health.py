"""From the feedback in the log to breakers: which calls are heard, and that all who fold the log agree."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping
from typing import Any

import pytest
from core_logs import MODELS, category_entry, config_event, decided, document, fold, record, signals
from hypothesis import given, settings
from hypothesis import strategies as st

from banditroute.core.fold import learn
from banditroute.core.health import STALE_US
from banditroute.core.state import State
from banditroute.core.types import Attempt, BreakerState, ErrorKind, Event, EventKind, Signal, SignalKind, Transition
from banditroute.log.base import FeedbackAppend
from banditroute.log.checkpoint import decode, encode
from banditroute.log.memory import MemoryLog

START = 10**15
TIMEOUT = ErrorKind.TIMEOUT


def begun(**breaker: Any) -> State:
    shared = document({"chat": category_entry(), "code": category_entry(models=["ant", "bee"])})
    state, _ = fold([config_event(1, shared | {"breaker": breaker}, time_us=START)])
    return state


def tried(error: int = 0, *, observe_us: int | None = None) -> dict[str, Any]:
    return {"error": error, "observe_us": START if observe_us is None else observe_us}


def feedback(
    state: State,
    attempts: Mapping[str, Any],
    *,
    said: Mapping[str, Any] | None = None,
    before: Mapping[str, Any] | None = None,
    drawn: str = "ant",
    made: int | None = None,
    time_us: int = START,
) -> tuple[State, list[str]]:
    """Feedback on one decision, made just before it; attempts by model, or model and ``shadow``."""
    position = state.position + 1
    keyed = {key if "\x1f" in key else f"{key}\x1f": value for key, value in attempts.items()}
    decision = decided("chat", drawn) | {"state_position": state.position if made is None else made}
    body = {"decision": decision, "before": before, "after": record(position, said or {}, keyed, position=position)}
    state, found = learn(state, Event(position, time_us, EventKind.FEEDBACK, 1, body, b""))
    return state, [each.kind for each in found]


def broken(state: State, model: str = "ant", *, time_us: int = START, **fields: Any) -> State:
    for _ in range(5):
        assert model not in state.breakers or state.breakers[model].state(time_us) is BreakerState.CLOSED
        state, _ = feedback(state, {model: tried(TIMEOUT, observe_us=time_us)}, time_us=time_us, **fields)
    assert state.breakers[model].state(time_us) is BreakerState.OPEN
    return state


def test_whoever_was_called_is_heard() -> None:
    """The drawn model, one that was fallen back to, one beside it."""
    state, _ = feedback(begun(), {"ant": tried(TIMEOUT), "bee": tried(), "cat\x1fshadow": tried(TIMEOUT)})
    assert {model: (held.failures, held.usual_calls) for model, held in state.breakers.items()} == {
        "ant": (1.0, 1.0),
        "bee": (0.0, 1.0),
        "cat": (1.0, 1.0),
    }
    assert broken(begun(), "bee").breakers.keys() == {"bee"}
    assert broken(begun(), "dog", drawn="dog").breakers.keys() == {"dog"}


def test_only_the_first_value_of_an_attempt_counts() -> None:
    first = {"signals": {}, "attempts": {"ant\x1f": tried(TIMEOUT)}}
    state, _ = feedback(begun(), {"ant": tried(TIMEOUT)})
    held = state.breakers
    for corrected in (tried(), tried(ErrorKind.RATE_LIMITED), tried(TIMEOUT, observe_us=START + 1)):
        assert feedback(state, {"ant": corrected}, before=first)[0].breakers == held
    late, _ = feedback(state, {"ant": tried(TIMEOUT), "ant\x1fshadow": tried()}, before=first)
    assert late.breakers["ant"].usual_calls == pytest.approx(2.0, abs=1e-2)


def test_a_judgement_says_that_the_model_answered_where_nobody_tells_of_the_call() -> None:
    def judged(model: str) -> dict[str, Any]:
        return {key: [value, 1.0, START] for key, (value, _, _) in signals((model, "eval_score", 0.0)).items()}

    state, _ = feedback(begun(), {}, said=judged("ant"))
    assert state.breakers["ant"].usual_calls == 1.0
    state, _ = feedback(begun(), {"ant": tried(TIMEOUT)}, said=judged("ant") | judged("bee"))
    assert (state.breakers["ant"].failures, state.breakers["bee"].failures) == (1.0, 0.0)
    assert state.breakers["ant"].usual_calls == 1.0
    again, _ = feedback(state, {}, said={**judged("ant"), **judged("bee")}, before={"signals": judged("bee"), "attempts": {}})
    assert again.breakers["bee"] == state.breakers["bee"]
    assert again.breakers["ant"].usual_calls == pytest.approx(2.0, abs=1e-2)


def test_what_was_observed_long_ago_is_not_heard() -> None:
    state, _ = feedback(begun(), {"ant": tried(TIMEOUT, observe_us=START - STALE_US - 1)})
    assert state.breakers == {}
    old = {key: [value, 1.0, START - STALE_US - 1] for key, (value, _, _) in signals(("ant", "eval_score", 1.0)).items()}
    assert feedback(state, {}, said=old)[0].breakers == {}
    assert feedback(state, {"ant": tried(TIMEOUT, observe_us=START - STALE_US)})[0].breakers["ant"].failures == 1.0


def test_late_feedback_on_decisions_made_before_a_turn_changes_nothing() -> None:
    state = broken(begun())
    opened = state.breakers["ant"]
    assert opened.since == state.position
    half_open = opened.open_until_us
    for error in (TIMEOUT, ErrorKind.NONE):  # neither opens it again nor closes it
        for _ in range(4):
            made = opened.since - 1
            state, kinds = feedback(state, {"ant": tried(error, observe_us=half_open)}, made=made, time_us=half_open)
            assert not kinds
    assert state.breakers["ant"] == opened
    kinds = []
    for _ in range(3):
        state, more = feedback(state, {"ant": tried(observe_us=half_open)}, time_us=half_open)
        kinds += more
    assert kinds == ["breaker_closed"]
    for _ in range(9):
        state, kinds = feedback(
            state, {"ant": tried(TIMEOUT, observe_us=half_open)}, made=state.breakers["ant"].since - 1, time_us=half_open
        )
        assert not kinds
    assert broken(state, time_us=half_open).breakers["ant"].cooldown_us == 2 * opened.cooldown_us


def test_a_removed_model_is_not_heard_and_nothing_is_where_it_is_switched_off() -> None:
    state, _ = feedback(begun(), {"eel": tried(TIMEOUT)})
    assert state.breakers == {}
    off = begun(enabled=False)
    for _ in range(9):
        off, kinds = feedback(off, {"ant": tried(TIMEOUT)})
        assert not kinds
    assert off.breakers == {}


def test_turns_are_noted_with_their_evidence() -> None:
    state = begun(cooldown_s=2.0, max_cooldown_s=3.0)
    notes: list[Transition] = []
    for i in range(6):
        time_us = START + 2 * 10**6 * (i // 5)
        body = {
            "decision": decided("chat", "ant") | {"state_position": state.position},
            "before": None,
            "after": record(9, {}, {"ant\x1f": tried(TIMEOUT, observe_us=time_us)}, position=state.position + 1),
        }
        state, found = learn(state, Event(state.position + 1, time_us, EventKind.FEEDBACK, 1, body, b""))
        notes += found
    opened, reopened = notes
    assert (opened.kind, opened.position, reopened.kind, reopened.position) == ("breaker_opened", 6, "breaker_reopened", 7)
    assert opened.body["evidence"] > opened.body["evidence_needed"] == 1e5
    assert opened.body["usual_failure_share"] == pytest.approx(0.07, abs=0.02)
    assert {key: opened.body[key] for key in ("model", "failures", "rate_limited", "cooldown_s", "open_until_us")} == {
        "model": "ant",
        "failures": 5,
        "rate_limited": 0,
        "cooldown_s": 2.0,
        "open_until_us": START + 2 * 10**6,
    }
    assert reopened.body["cooldown_s"] == 3.0


def test_a_warning_says_where_nothing_else_is_left() -> None:
    state = broken(broken(broken(begun(), "dog"), "cat"), "ant")
    for _ in range(4):
        state, _ = feedback(state, {"bee": tried(TIMEOUT)})
    body = {
        "decision": decided("chat", "bee") | {"state_position": state.position},
        "before": None,
        "after": record(9, {}, {"bee\x1f": tried(TIMEOUT)}, position=state.position + 1),
    }
    last = Event(state.position + 1, START, EventKind.FEEDBACK, 1, body, b"")
    _, (note,) = learn(state, last)
    assert note.body["nothing_else_in"] == ["chat", "code"]
    _, (note,) = learn(state._replace(breakers={**state.breakers, "cat": state.breakers["bee"]}), last)
    assert note.body["nothing_else_in"] == ["code"]
    paused = state._replace(breakers={"bee": state.breakers["bee"]}, paused=frozenset({("code", "ant")}))
    _, (note,) = learn(paused, last)
    assert note.body["nothing_else_in"] == ["code"]


# --- all who fold the log agree --------------------------------------------------------------------


def outages(seed: int, length: int) -> list[Event]:
    """A log of models that fail for a while, one after the other and together, as `MemoryLog` makes it; with fallbacks, shadows,
    late feedback, corrections, duplicates and, now and then, a configuration."""
    rng = random.Random(seed)
    now = START / 1e6
    log = MemoryLog(lambda: now, log_id="0" * 32)
    entries = {"chat": category_entry(), "code": category_entry(models=["ant", "bee"])}
    log.append(EventKind.CONFIG, {"document": document(entries)})
    down = {model: (start := now + rng.uniform(0.0, 200.0), start + rng.uniform(5.0, 90.0)) for model in MODELS}
    decisions: list[tuple[bytes, dict[str, Any]]] = []
    while log.tip().position < length:
        now += rng.expovariate(2.0)
        if rng.random() < 0.01:
            breaker = {"cooldown_s": rng.choice((0.5, 15.0)), "enabled": rng.random() < 0.8}
            log.append(EventKind.CONFIG, {"document": document(entries) | {"breaker": breaker}})
        name = rng.choice(("chat", "code"))
        decision = decided(name, rng.choice(entries[name]["models"])) | {"state_position": log.tip().position}
        decisions.append((len(decisions).to_bytes(16, "big"), decision))
        key, decision = decisions[-1] if rng.random() < 0.8 else rng.choice(decisions)
        kinds = (ErrorKind.TIMEOUT, ErrorKind.RATE_LIMITED, ErrorKind.OTHER, ErrorKind.REJECTED)
        attempts = tuple(
            Attempt(
                model, rng.choice(kinds) if down[model][0] < now < down[model][1] else ErrorKind.NONE, shadow=rng.random() < 0.1
            )
            for model in dict.fromkeys((decision["model"], rng.choice(MODELS)))
        )
        said = (Signal(SignalKind.EVAL_SCORE, rng.random(), model=rng.choice(("", "bee"))),) if rng.random() < 0.3 else ()
        observe_us = int((now - rng.choice((0.0, 1.0, 300.0))) * 1e6) if rng.random() < 0.3 else None
        log.append_feedback(FeedbackAppend(key, decision, said, attempts, observe_us, 2**62))
    return list(log.read(0, 10**9))


@settings(max_examples=20, derandomize=True, deadline=None)
@given(st.integers(min_value=0, max_value=10**6), st.lists(st.integers(min_value=0, max_value=399), max_size=4))
def test_any_batching_and_any_restart_give_the_same_breakers(seed: int, cuts: list[int]) -> None:
    events = outages(seed, 400)
    whole, transitions = fold(events)
    state, found = fold([])
    for low, high in itertools.pairwise([0, *sorted(cuts), len(events)]):
        state, more = fold(events[low:high], decode(encode(state)))
        found += more
    assert (state.breakers, found) == (whole.breakers, transitions)
    assert encode(state) == encode(whole)


def test_those_logs_have_every_turn() -> None:
    kinds = {each.kind for seed in range(5) for each in fold(outages(seed, 400))[1]}
    assert {"breaker_opened", "breaker_reopened", "breaker_closed"} <= kinds

"""Documents, events and random logs for the tests of the core."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from banditroute.core.fold import FOLD_VERSION, learn
from banditroute.core.reward import SEPARATOR
from banditroute.core.settings import schema_fingerprint
from banditroute.core.state import INITIAL, State
from banditroute.core.types import Attempt, ErrorKind, Event, EventKind, Signal, SignalKind, Transition
from banditroute.log.base import FeedbackAppend
from banditroute.log.memory import MemoryLog

MODELS = ("ant", "bee", "cat", "dog")
PRICES = {"ant": (1.0, 2.0), "bee": (10.0, 30.0), "cat": (0.0, 0.0), "dog": (0.5, 0.25)}
WEIGHTS = {"rating": 1.0, "eval_score": 1.0, "accepted": 0.5, "retried": 0.3}


def model_entry(*, into: float = 1.0, out: float = 2.0, limit: int | None = None, tags: Sequence[str] = ()) -> dict[str, Any]:
    return {
        "input_usd_per_mtok": into,
        "output_usd_per_mtok": out,
        "cached_input_usd_per_mtok": into / 2,
        "context_token_limit": limit,
        "tags": list(tags),
    }


def category_entry(**changes: Any) -> dict[str, Any]:
    return {
        "models": list(MODELS),
        "cost_weight": 0.1,
        "latency_weight": 0.0,
        "cost_reference_usd": 0.01,
        "latency_reference_s": 10.0,
        "cost_scale": "linear",
        "features": {},
        "expected_input_tokens": 1000.0,
        "expected_output_tokens": 300.0,
        "signal_weights": dict(WEIGHTS),
        "propensity_floor": 0.01,
        "half_life_count": None,
        "half_life_s": None,
        "max_effective_sample_size": 1e6,
        "planning_horizon_count": 500,
    } | changes


def document(
    categories: Mapping[str, Mapping[str, Any]],
    *,
    models: Mapping[str, Any] | None = None,
    priors: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    return {
        "models": dict(models) if models else {name: model_entry(into=i, out=o) for name, (i, o) in PRICES.items()},
        "categories": {name: dict(entry) for name, entry in categories.items()},
        "priors": dict(priors or {}),
        "feedback_window_s": 3600.0 * 24 * 7,
    }


def event(
    position: int, body: Any, *, kind: str = EventKind.FEEDBACK, time_us: int = 10**12, fold_version: int = FOLD_VERSION
) -> Event:
    return Event(position, time_us, kind, fold_version, body, position.to_bytes(4, "big"))


def config_event(position: int, body: Mapping[str, Any], *, time_us: int = 10**12) -> Event:
    return event(position, {"document": body}, kind=EventKind.CONFIG, time_us=time_us)


def decided(category: str, model: str, *, features: Mapping[str, float] | None = None, cost_usd: float = 0.002) -> dict[str, Any]:
    """What an event keeps of a decision; features in the order of their names."""
    names = tuple(sorted(features or {}))
    return {
        "category": category,
        "model": model,
        "state_position": 0,
        "computed_cost_usd": cost_usd,
        "schema": schema_fingerprint(names).hex(),
        "context": [(features or {})[name] for name in names],
    }


def signals(*entries: tuple[str, str, float], weight: float = 1.0, source: str = "") -> dict[str, Any]:
    """Record entries from (model, kind, value)."""
    return {SEPARATOR.join((model, kind, source)): [value, weight, 0] for model, kind, value in entries}


def record(
    ordinal: int, said: Mapping[str, Any], attempts: Mapping[str, Any] | None = None, *, time_us: int = 10**12, position: int = 1
) -> dict[str, Any]:
    return {"ordinal": ordinal, "position": position, "time_us": time_us, "signals": dict(said), "attempts": dict(attempts or {})}


def scored(
    position: int, ordinal: int, decision: Mapping[str, Any], value: float, *, before: float | None = None, time_us: int = 10**12
) -> Event:
    """Feedback of one evaluation score on the drawn model; `before` makes it a correction."""
    model = decision["model"]
    was = None if before is None else {"signals": signals((model, "eval_score", before)), "attempts": {}}
    first = position if before is None else 1
    after = record(ordinal, signals((model, "eval_score", value)), time_us=time_us, position=first)
    return event(position, {"decision": dict(decision), "before": was, "after": after}, time_us=time_us)


def fold(events: Iterable[Event], state: State = INITIAL) -> tuple[State, list[Transition]]:
    transitions: list[Transition] = []
    for each in events:
        state, found = learn(state, each)
        transitions.extend(found)
    return state, transitions


FEATURE_CHOICES: tuple[dict[str, Any], ...] = (
    {},
    {"size": {"mean": 6.0, "stddev": 1.5}},
    {"size": {"mean": 5.0, "stddev": 2.5}, "hard": {"mean": 0.0, "stddev": 1.0}},
    {"hard": {"mean": 0.5, "stddev": 0.5}},
)
AGEING_CHOICES: tuple[dict[str, Any], ...] = (
    {},
    {"half_life_count": 1},
    {"half_life_count": 7},
    {"half_life_count": 200},
    {"half_life_s": 0.05},
    {"half_life_s": 5.0},
)


def random_document(rng: random.Random) -> dict[str, Any]:
    categories = {}
    for name in rng.sample(("code", "chat", "sums"), rng.randint(1, 3)):
        entry = category_entry(
            models=rng.sample(MODELS, rng.randint(1, 4)),
            features=rng.choice(FEATURE_CHOICES),
            signal_weights={kind: rng.choice((0.0, 0.3, 1.0)) for kind in WEIGHTS},
            max_effective_sample_size=rng.choice((5.0, 1e6)),
        )
        categories[name] = entry | rng.choice(AGEING_CHOICES)
    models = {name: model_entry(into=into * rng.choice((1.0, 2.0)), out=out) for name, (into, out) in PRICES.items()}
    places = rng.sample(("*", *categories), rng.randint(0, 1 + len(categories)))
    priors = {place: {model: random_prior(rng) for model in rng.sample(MODELS, rng.randint(1, 4))} for place in places}
    return document(categories, models=models, priors=priors)


def random_prior(rng: random.Random) -> dict[str, float | None]:
    """Right or wrong, of any size, with tokens or without."""
    return {
        "quality": rng.choice((0.0, 0.5, 0.7, round(rng.random(), 2))),
        "effective_sample_size": rng.choice((0.0, 5.0, 25.0, 400.0)),
        "input_tokens": rng.choice((None, 0.0, 1500.0)),
        "output_tokens": rng.choice((None, 200.0)),
    }


def random_log(seed: int, length: int) -> list[Event]:
    """At least `length` events, as `MemoryLog` makes them: every kind, with duplicates, corrections, late and
    off-policy feedback, changed models, features and half-lives, and now and then one that cannot be applied."""
    rng = random.Random(seed)
    now = itertools.count(1_700_000_000_000, 37)
    log = MemoryLog(lambda: next(now) / 1000.0, log_id="0" * 32)
    shared = random_document(rng)
    log.append(EventKind.CONFIG, {"document": shared})
    decisions: list[tuple[bytes, dict[str, Any]]] = []
    while log.tip().position < length:
        turn = rng.random()
        if turn < 0.02:
            shared = random_document(rng)
            log.append(EventKind.CONFIG, {"document": shared})
        elif turn < 0.04:
            changes = {rng.choice(("cost_weight", "latency_weight", "floor")): rng.choice((None, 0.0, 0.5, 1000.0))}
            name = rng.choice(("code", "chat", "sums"))
            log.append(EventKind.OPERATOR, {"action": "set_weights", "category": name, "changes": changes})
        else:
            if not decisions or turn < 0.7:
                decisions.append((len(decisions).to_bytes(16, "big"), _random_decision(rng, shared)))
            key, decision = decisions[-1] if turn < 0.7 else rng.choice(decisions)
            observe_us = None if rng.random() < 0.5 else rng.randrange(10**12, 2 * 10**15)
            said, tried = _random_feedback(rng)
            log.append_feedback(FeedbackAppend(key, decision, said, tried, observe_us, 2**62))
    return list(log.read(0, 10**9))


def _random_decision(rng: random.Random, shared: Mapping[str, Any]) -> dict[str, Any]:
    name = rng.choice(list(shared["categories"]))
    entry = shared["categories"][name]
    features = {feature: round(rng.gauss(3.0, 4.0), 3) for feature in entry["features"]}
    return decided(name, rng.choice(entry["models"]), features=features, cost_usd=rng.choice((0.0, 0.001, 0.02)))


def _random_feedback(rng: random.Random) -> tuple[tuple[Signal, ...], tuple[Attempt, ...]]:
    said = [
        Signal(
            kind, rng.choice((0.0, 1.0, round(rng.random(), 2))), rng.choice(("", "judge")), rng.choice((1.0, 0.25, 3.0)), model
        )
        for kind in rng.sample(list(SignalKind), rng.randint(0, 3))
        for model in rng.sample(("", "bee", "dog"), rng.choice((1, 1, 2)))
    ]
    tried = [
        Attempt(
            model=rng.choice(("", "ant", "cat")),
            shadow=shadow,
            error=rng.choice((ErrorKind.NONE, ErrorKind.NONE, ErrorKind.TIMEOUT)),
            input_tokens=rng.choice((None, 900, 1200)),
            output_tokens=rng.choice((None, 100, 333)),
            cost_usd=rng.choice((None, 0.0017, 0.3)),
            latency_s=rng.choice((None, 0.7, 12.0)),
        )
        for shadow in (False, True)
        if rng.random() < 0.4
    ]
    if not said and not tried:
        said.append(Signal(SignalKind.EVAL_SCORE, rng.random()))
    return tuple(said), tuple(tried)

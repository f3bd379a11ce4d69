"""How soon a model that is itself again is let back in, and how often one that is not.

All of it is the fold: it learns a model, the model falls, the alarm comes; probes follow, one in PROBE_EVERY events, until the
fold calls the model recovered. A rival that is better all along keeps the model demoted.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import numpy as np

from banditroute.bench.drift.spread import SEEDS, over_seeds
from banditroute.config import load, resolved
from banditroute.core.drift import LAG, QUALIFYING
from banditroute.core.fold import FOLD_VERSION, learn
from banditroute.core.reward import SEPARATOR
from banditroute.core.settings import parse_shared
from banditroute.core.shift import Shift
from banditroute.core.state import INITIAL, State, scope
from banditroute.core.types import Event, EventKind

KNOWN = QUALIFYING + LAG + 500
"""Feedbacks before the fall, so that 500 are in the reference."""
NOTICED = 3000
"""Feedbacks until when the alarm must have come."""
PROBE_EVERY = 20
RIVAL_EVERY, RIVAL_MEAN = 5, 0.99
"""Feedbacks of the model for one of its rival that is worked out, which keeps the rival known; the rest only pass."""
PROBES, RECOVERED_BY = 2000, 3000
FELL_FOR = 100
"""Probes of the fallen model before it recovers, where it does not at once."""
JUDGE_SD = 0.1
CATEGORY, MODEL, RIVAL = "category", "model", "rival"
DOCUMENT: dict[str, Any] = {
    "models": {name: {"input_usd_per_mtok": 1.0, "output_usd_per_mtok": 2.0} for name in (MODEL, RIVAL)},
    "categories": {CATEGORY: {"models": [MODEL, RIVAL]}},
}
_START_US = 1_700_000_000_000_000


class Fall(NamedTuple):
    """Scores, their mean, and by how much it falls."""

    draw: Callable[[random.Random, float], float]
    mean: float
    by: float


def binary(rng: random.Random, mean: float) -> float:
    """A score of 0 or 1."""
    return float(rng.random() < mean)


def judged(rng: random.Random, mean: float) -> float:
    """A score as a judge gives it."""
    return min(1.0, max(0.0, rng.gauss(mean, JUDGE_SD)))


FALLS = {
    "binary_0.15": Fall(binary, 0.85, 0.15),
    "binary_0.18": Fall(binary, 0.85, 0.18),
    "binary_0.50": Fall(binary, 0.85, 0.50),
    "judged_0.18": Fall(judged, 0.8, 0.18),
}


class Log:
    """Events of one model, as the engine writes them."""

    def __init__(self) -> None:
        self._document = resolved(load(DOCUMENT).shared, {})
        self._schema = parse_shared(self._document).categories[CATEGORY].schema.hex()

    def start(self) -> State:
        """The state that knows the configuration."""
        return learn(INITIAL, Event(1, _START_US, EventKind.CONFIG, FOLD_VERSION, {"document": self._document}, b""))[0]

    def feedback(self, state: State, value: float, *, later: int = 1, model: str = MODEL) -> Event:
        """A score of a decision made from `state`, so many positions later."""
        position = state.position + later
        decision = {
            "category": CATEGORY,
            "model": model,
            "state_position": state.position,
            "schema": self._schema,
            "context": [],
        }
        record = {
            "ordinal": position,
            "position": position,
            "newest": position,
            "time_us": _START_US + position,
            "signals": {SEPARATOR.join((model, "eval_score", "")): [value, 1.0, 1]},
            "attempts": {},
        }
        body = {"decision": decision, "before": None, "after": record}
        return Event(position, _START_US + position, EventKind.FEEDBACK, FOLD_VERSION, body, b"")


def change_of(state: State) -> Shift:
    """The model's open change."""
    (shift,) = (each for key, each in state.shifts.items() if scope(key)[0] == MODEL)
    return shift


def fallen(log: Log, fall: Fall, rng: random.Random) -> State | None:
    """A state that has just found out about a fall; None where the alarm came before it, or not at all."""
    state = log.start()
    for t in range(KNOWN + NOTICED):
        mean = fall.mean if t < KNOWN else fall.mean - fall.by
        if t % RIVAL_EVERY == 0:
            state, _ = learn(state, log.feedback(state, binary(rng, RIVAL_MEAN), model=RIVAL))
        state, _ = learn(state, log.feedback(state, fall.draw(rng, mean)))
        if MODEL in {scope(key)[0] for key in state.shifts}:
            shift = change_of(state)
            return state if t >= KNOWN and not shift.up else None
    return None


def probed(
    log: Log, state: State, draw: Callable[[], float], count: int, *, until: Collection[str] = ("promoted", "settled")
) -> tuple[State, int | None]:
    """So many probes later; and after how many the change was over, if it was: called off, or taken as the new normal."""
    for i in range(1, count + 1):
        if i % RIVAL_EVERY == 0:
            state, _ = learn(state, log.feedback(state, 1.0, model=RIVAL))
        state, notes = learn(state, log.feedback(state, draw(), later=PROBE_EVERY))
        if any(note.kind in until for note in notes):
            return state, i
    return state, None


def recoveries(fall: Fall, *, seeds: int, runs: int) -> dict[str, Any]:
    """Probes until a model is let back in: that recovered when it was found out, or FELL_FOR probes later; and the share of
    fallen ones that are called recovered within PROBES. `runs` are those of one seed."""
    at_once: list[list[int]] = []
    later: list[list[int]] = []
    falsely: list[list[bool]] = []
    deltas: list[float] = []
    log = Log()
    for seed in range(seeds):
        for each in (at_once, later, falsely):
            each.append([])
        rng = random.Random(seed)

        def good(rng: random.Random = rng) -> float:
            return fall.draw(rng, fall.mean)

        def bad(rng: random.Random = rng) -> float:
            return fall.draw(rng, fall.mean - fall.by)

        for _ in range(runs):
            found = fallen(log, fall, rng)
            if found is None:
                continue
            deltas.append(change_of(found).mean)
            at_once[-1].append(probed(log, found, good, RECOVERED_BY)[1] or RECOVERED_BY)
            still, passed = probed(log, found, bad, FELL_FOR, until=["promoted"])
            if passed is None:
                later[-1].append(probed(log, still, good, RECOVERED_BY)[1] or RECOVERED_BY)
                _, passed = probed(log, still, bad, PROBES - FELL_FOR, until=["promoted"])
            falsely[-1].append(passed is not None)
    return {
        "runs": len(deltas),
        "delta_when_found": {"mean": float(np.mean(deltas)), "sd": float(np.std(deltas))},
        "probes_to_promotion": _spread(at_once),
        f"probes_to_promotion_after_{FELL_FOR}": _spread(later),
        "false_promotions_share": over_seeds([float(np.mean(each)) for each in falsely]),
    }


def _spread(runs: list[list[int]]) -> dict[str, float]:
    every = np.concatenate(runs)
    p90, p95 = np.quantile(every, [0.9, 0.95]).tolist()
    means = over_seeds([float(np.mean(each)) for each in runs if each])
    return {"mean": means["mean"], "low": means["low"], "high": means["high"], "p90": p90, "p95": p95}


def run(*, quick: bool = False) -> dict[str, Any]:
    """By fall, over seeds."""
    seeds, runs = (2, 2) if quick else (SEEDS, 10)
    return {name: recoveries(fall, seeds=seeds, runs=runs) for name, fall in FALLS.items()}

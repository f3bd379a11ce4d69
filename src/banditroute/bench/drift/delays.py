"""How soon a fall of 0/1 scores is seen, beside the CUSUM that is told both distributions, at one measured run length.

No rule with as long a mean run to a false alarm has a shorter worst mean delay than CUSUM (Moustakides 1986). Every rule
starts from nothing, both on scores that do not change (the run) and on scores that just fell (the delay), and is given the
threshold at which its measured mean run is RUN.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np

from banditroute.bench.drift import rivers
from banditroute.bench.drift.spread import SEEDS, over_seeds
from banditroute.bench.drift.twin import Index, Twin, Vector, after
from banditroute.core.drift import BETS, LAG, QUALIFYING, SLACK, threshold
from banditroute.core.settings import FALSE_ALARMS_PER_MILLION

RUN = 5000
FALLS = ((0.85, 0.70), (0.92, 0.75), (0.85, 0.55))
REFERENCE = 500
"""Observations that the learned reference has when the fall comes."""
CUT, UNSEEN = 6 * RUN, 3000
"""Observations after which a run without alarm is cut, and a fall counts as not seen."""


class Fall(NamedTuple):
    """The mean of 0/1 scores before and after."""

    before: float
    after: float


class Rule(Protocol):
    """Many runs of one rule. An alarm is due where the statistic exceeds a threshold."""

    def step(self, runs: Index, values: Vector) -> Vector:
        """The statistic of these runs, one value later."""


class Cusum:
    """Page's CUSUM of the log-likelihood ratio of both distributions."""

    def __init__(self, fall: Fall, runs: int) -> None:
        self._of_one, self._of_zero = (
            math.log(a / b) for a, b in ((fall.after, fall.before), (1.0 - fall.after, 1.0 - fall.before))
        )
        self._sum = np.zeros(runs)

    def step(self, runs: Index, values: Vector) -> Vector:
        gain = np.where(values > 0.0, self._of_one, self._of_zero)
        self._sum[runs] = total = np.maximum(0.0, self._sum[runs] + gain)
        return total


class Known:
    """`drift.Pair` downward, its reference the true mean; the margin is SLACK, to which production's comes down as the reference
    grows. The statistic is the log of the evidence."""

    def __init__(self, fall: Fall, runs: int) -> None:
        self._wealth = np.zeros((runs, 2, len(BETS)))
        self._reference = np.full(runs, fall.before)

    def step(self, runs: Index, values: Vector) -> Vector:
        self._wealth[runs] = wealth = after(self._wealth[runs], values, reference=self._reference[runs], margin=SLACK)
        return np.asarray(np.log(wealth[:, 0].mean(axis=1)))


class Learned:
    """Production's whole rule for a model in one category: REFERENCE observations are in its reference when the fall comes, and
    what comes after joins them LAG later."""

    def __init__(self, fall: Fall, runs: int) -> None:
        self._twin, rng = Twin(runs, 1), np.random.default_rng([runs, 1])
        self._category = np.zeros(runs, dtype=np.int64)
        everyone = np.arange(runs)
        for _ in range(QUALIFYING + REFERENCE + LAG):
            self._twin.step(everyone, self._category, (rng.random(runs) < fall.before).astype(np.float64))
        self._twin.tests[:], self._twin.alone[:] = 0.0, 0.0

    def step(self, runs: Index, values: Vector) -> Vector:
        self._twin.step(runs, self._category[: len(runs)], values)
        of_model, of_arm = self._twin.tests[runs, 0], self._twin.alone[runs, 0, 0]
        return np.asarray(np.log(np.maximum(of_model.mean(axis=1), of_arm.mean(axis=1))))


Make = Callable[[Fall, int], Rule]
_EVIDENCE = np.log(np.geomspace(100.0, 20_000.0, 120))
RULES: dict[str, tuple[Make, Vector]] = {
    "cusum": (Cusum, np.linspace(3.0, 9.0, 180)),
    "known_reference": (Known, _EVIDENCE),
    "learned_reference": (Learned, _EVIDENCE),
}
"""Each with the thresholds among which the one for RUN is."""


def first_passages(rule: Rule, *, mean: float, runs: int, levels: Vector, limit: int, seed: int = 0) -> Vector:
    """When each run first exceeds each level, or `limit`; shape (runs, levels). All rules see the same scores."""
    rng = np.random.default_rng(seed)
    first, at = np.full((runs, len(levels)), float(limit)), np.zeros(runs, dtype=np.int64)
    going = np.arange(runs)
    for t in range(1, limit + 1):
        statistic = rule.step(going, (rng.random(runs)[going] < mean).astype(np.float64))
        reached = np.searchsorted(levels, statistic)
        for i in np.flatnonzero(reached > at[going]).tolist():
            run = going[i]
            first[run, at[run] : reached[i]] = t
            at[run] = reached[i]
        if (at[going] == len(levels)).any():
            going = going[at[going] < len(levels)]
            if not going.size:
                break
    return first


def at_run(run_lengths: Vector, delays: Vector, run: float) -> tuple[float, float]:
    """The mean delay where the mean run is `run`, and the 95th percentile at the next level; shapes (runs, levels).

    Raises:
        ValueError: no two levels have it between them.
    """
    lengths, means = run_lengths.mean(axis=0), delays.mean(axis=0)
    k = int(np.searchsorted(lengths, run))
    if not 0 < k < len(lengths):
        raise ValueError(f"mean runs are from {lengths[0]:.0f} to {lengths[-1]:.0f}")
    share = math.log(run / lengths[k - 1]) / math.log(lengths[k] / lengths[k - 1])
    return float(means[k - 1] + share * (means[k] - means[k - 1])), float(np.quantile(delays[:, k], 0.95))


def delays_of(fall: Fall, *, run: int, seeds: int, runs: int) -> dict[str, Any]:
    """Of every rule. `runs` are those of one seed; each seed has thresholds of its own."""
    found: dict[str, Any] = {}
    optimal: list[float] = []
    for name, (make, levels) in RULES.items():
        everyone = seeds * runs
        rule = make(fall, everyone)
        lengths = first_passages(rule, mean=fall.before, runs=everyone, levels=levels, limit=CUT * run // RUN)
        rule = make(fall, everyone)
        delays = first_passages(rule, mean=fall.after, runs=everyone, levels=levels, limit=UNSEEN)
        parts = [at_run(each, late, run) for each, late in zip(np.split(lengths, seeds), np.split(delays, seeds), strict=True)]
        means = [mean for mean, _ in parts]
        optimal = optimal or means
        found[name] = {"delay": over_seeds(means), "delay_p95": float(np.mean([p95 for _, p95 in parts]))}
        if name != "cusum":
            found[name]["ratio_to_cusum"] = over_seeds([a / b for a, b in zip(means, optimal, strict=True)])
            found[name]["at_default_budget"] = _at_default(make(fall, everyone), fall, everyone)
    for name, result in rivers.delays_of(fall.before, fall.after, run=run, seeds=seeds, warm=REFERENCE).items():
        found[name] = result
        if isinstance(result, dict):
            found[name]["ratio_to_cusum"] = result["delay"]["mean"] / float(np.mean(optimal))
    return found


def _at_default(rule: Rule, fall: Fall, runs: int) -> dict[str, float]:
    needed = np.log([threshold(FALSE_ALARMS_PER_MILLION)])
    took = first_passages(rule, mean=fall.after, runs=runs, levels=needed, limit=UNSEEN)[:, 0]
    median, p95 = np.quantile(took, [0.5, 0.95]).tolist()
    return {"median": median, "mean": float(took.mean()), "p95": p95, "unseen_share": float((took >= UNSEEN).mean())}


def run(*, quick: bool = False) -> dict[str, Any]:
    """By fall: mean delays in observations, over seeds."""
    run, seeds, runs = (500, 2, 40) if quick else (RUN, SEEDS, 50)
    falls = [Fall(*fall) for fall in FALLS]
    found = {f"{fall.before:g}_to_{fall.after:g}": delays_of(fall, run=run, seeds=seeds, runs=runs) for fall in falls}
    return {"mean_run": run} | found

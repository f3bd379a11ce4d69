"""River's ADWIN and Page-Hinkley on the same falls. Needs `pip install banditroute[peers]`."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from banditroute.bench.drift.spread import over_seeds
from banditroute.bench.peers import NOT_INSTALLED

RUNS = 15
"""Of one seed."""
TRIALS = 8
"""Thresholds that are tried until the mean run is right."""

Make = Callable[[float], Any]


def rules(fall: float) -> Mapping[str, tuple[Make, float, float]]:
    """Each rule with its threshold as a parameter, and two between which it is sought, the shorter run first.

    ADWIN looks after every value. Page-Hinkley is told the size of the fall: it allows for half of it, as is best.

    Raises:
        ImportError: River is not installed.
    """
    drift = importlib.import_module("river.drift")
    return {
        "river_adwin": (lambda log_delta: drift.ADWIN(delta=math.exp(log_delta), clock=1), 0.0, -12.0),
        "river_page_hinkley": (lambda height: drift.PageHinkley(delta=fall / 2.0, threshold=height, mode="down"), 1.0, 40.0),
    }


def alarm_after(make: Callable[[], Any], *, before: float, mean: float, warm: int, limit: int, rng: np.random.Generator) -> int:
    """Observations with `mean` until the alarm, or `limit`; `warm` ones with the mean `before` come first, without an alarm."""
    rule, heard = make(), False
    for value in (rng.random(warm) < before).tolist():
        rule.update(float(value))
        heard |= rule.drift_detected
    if heard:
        return alarm_after(make, before=before, mean=mean, warm=warm, limit=limit, rng=rng)
    for t, value in enumerate((rng.random(limit) < mean).tolist(), start=1):
        rule.update(float(value))
        if rule.drift_detected:
            return t
    return limit


def delays_of(before: float, after: float, *, run: int, seeds: int, warm: int) -> dict[str, Any]:
    """By rule, at the threshold where its measured mean run is `run`; NOT_INSTALLED where River is not."""
    try:
        found = rules(before - after)
    except ImportError:
        return dict.fromkeys(("river_adwin", "river_page_hinkley"), NOT_INSTALLED)
    count = seeds * RUNS

    def mean_of(make: Make, height: float, mean: float, limit: int) -> list[int]:
        rng = np.random.default_rng(count)
        return [
            alarm_after(lambda: make(height), before=before, mean=mean, warm=warm, limit=limit, rng=rng) for _ in range(count)
        ]

    result = {}
    for name, (make, short, long) in found.items():
        height = measured = 0.0
        for _ in range(TRIALS):
            height = (short + long) / 2.0
            measured = float(np.mean(mean_of(make, height, before, 6 * run)))
            short, long = (height, long) if measured < run else (short, height)
        delays = np.array(mean_of(make, height, after, run))
        result[name] = {
            "delay": over_seeds(delays.reshape(seeds, RUNS).mean(axis=1).tolist()),
            "delay_p95": float(np.quantile(delays, 0.95)),
            "mean_run": measured,
            "threshold": height,
        }
    return result

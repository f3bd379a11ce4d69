"""Logs for the tests of off-policy evaluation, made without the router."""

from __future__ import annotations

import numpy as np

from banditroute.lab.ope.logged import Logged
from banditroute.lab.source import FloatArray, IntArray


def make_logged(
    *,
    chosen: IntArray,
    propensities: FloatArray,
    quality: FloatArray,
    category: IntArray | None = None,
    cost_usd: FloatArray | None = None,
    context: FloatArray | None = None,
) -> Logged:
    """One category unless told; every decision costs a cent unless told."""
    category = np.zeros(len(chosen), dtype=np.int64) if category is None else category
    return Logged(
        categories=tuple(f"c{i}" for i in range(1 + int(category.max(initial=0)))),
        models=tuple(f"m{k}" for k in range(propensities.shape[1])),
        category=category,
        chosen=chosen,
        propensities=propensities,
        quality=quality,
        cost_usd=np.full(len(chosen), 0.01) if cost_usd is None else cost_usd,
        context=np.zeros((len(chosen), 0)) if context is None else context,
    )


def adaptive_log(*, seed: int, count: int, floor: float = 0.1, width: int = 0, slope: float = 0.0) -> Logged:
    """Two models of quality .3 and .6; the policy is greedy on the running means, with a floor. `slope`: of the first feature."""
    rng = np.random.default_rng(seed)
    context, uniforms = rng.standard_normal((count, width)), rng.random((2, count)).tolist()
    lifts = (slope * context[:, 0]).tolist() if width else [0.0] * count
    wins, looks = [1.0, 1.0], [2.0, 2.0]
    chosen, shares, quality = [], [], []
    for draw, luck, lift in zip(*uniforms, lifts, strict=True):
        best = int(wins[1] / looks[1] > wins[0] / looks[0])
        share = [floor, floor]
        share[best] = 1.0 - floor
        k = int(draw >= share[0])
        y = float(luck < (0.3, 0.6)[k] + lift)
        wins[k] += y
        looks[k] += 1.0
        chosen.append(k)
        shares.append(share)
        quality.append(y)
    return make_logged(
        chosen=np.array(chosen, dtype=np.int64), propensities=np.array(shares), quality=np.array(quality), context=context
    )

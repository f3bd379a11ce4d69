"""The fold against hand-written linear algebra over the whole batch."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from core_logs import (
    MODELS,
    category_entry,
    config_event,
    decided,
    document,
    fold,
    scored,
)

from banditroute.core.fold import learn
from banditroute.core.pool import ABILITY, CENTRE, CENTRE_VARIANCE, DIFFICULTY, START
from banditroute.core.posterior import RIDGE
from banditroute.snapshot import Snapshot


@pytest.mark.parametrize(("count", "half_life"), [(100_000, None), (10_000, 400)])
def test_many_events_equal_the_batch_posterior(count: int, half_life: int | None) -> None:
    """Feedback with duplicates and corrections, against hand-written linear algebra with the same variance components."""
    rng = random.Random(11)
    models = MODELS[:3]
    features = {"hard": {"mean": 0.0, "stddev": 1.0}, "size": {"mean": 6.0, "stddev": 1.5}}
    entry = category_entry(models=list(models), features=features, half_life_count=half_life)
    state, _ = fold([config_event(1, document({"chat": entry}))])
    rows: list[tuple[dict[str, Any], float]] = []
    position = 1
    while position < count:
        position += 1
        turn = rng.random()
        if turn < 0.85 or not rows:
            decision = decided("chat", rng.choice(models), features={"hard": rng.gauss(0, 1), "size": rng.gauss(6, 1.5)})
            value = min(1.0, max(0.0, rng.gauss(0.6, 0.2)))
            rows.append((decision, value))
            made = scored(position, len(rows), decision, value)
        else:
            which = rng.randrange(len(rows))
            decision, old = rows[which]
            value = old if turn < 0.9 else rng.random()
            rows[which] = (decision, value)
            made = scored(position, which + 1, decision, value, before=old)
        state, found = learn(state, made)
        assert not found
    ages = len(rows) - np.arange(1, len(rows) + 1)
    weights = np.ones(len(rows)) if half_life is None else 0.5 ** (ages / half_life)
    context = np.array([decision["context"] for decision, _ in rows])
    z = np.column_stack([np.ones(len(rows)), context[:, 0], (context[:, 1] - 6.0) / 1.5])
    y = np.array([value for _, value in rows])
    drawn = np.array([decision["model"] for decision, _ in rows])
    # One regression for all arms: theta_0 by the mixed model, of which this is the only category, slopes apart.
    size, pool = z.shape[1], state.pool
    heads = np.arange(len(models)) * size
    prior = RIDGE * np.eye(len(models) * size)
    prior[np.ix_(heads, heads)] = CENTRE_VARIANCE + DIFFICULTY + (ABILITY + pool.spread) * np.eye(len(models))
    precision = np.linalg.inv(prior)
    centre = np.zeros(len(prior))
    centre[heads] = CENTRE
    right = precision @ centre
    for i, model in enumerate(models):
        mine, at = drawn == model, slice(i * size, (i + 1) * size)
        precision[at, at] += (z[mine] * weights[mine, None]).T @ z[mine] / pool.of(model).noise
        right[at] += z[mine].T @ (weights[mine] * y[mine]) / pool.of(model).noise
    mean, covariance = np.linalg.solve(precision, right), np.linalg.inv(precision)
    assert state.pool.spread != START.spread
    beliefs = Snapshot(state, None).view("chat").beliefs
    for context_ in ((1.0, 0.0, 0.0), (1.0, -1.5, 2.0)):
        rows_ = np.kron(np.eye(len(models)), np.array(context_))
        belief, _ = beliefs.at(context_)
        np.testing.assert_allclose(belief.mean, rows_ @ mean, rtol=0, atol=1e-9)
        np.testing.assert_allclose(belief.covariance, rows_ @ covariance @ rows_.T, rtol=0, atol=1e-9)

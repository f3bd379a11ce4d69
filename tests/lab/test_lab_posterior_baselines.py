"""Baselines that keep a posterior, on toys small enough to follow by hand."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from banditroute.core.baselines import Policy, Utility
from banditroute.core.posterior_baselines import GAUSSIAN_NOISE, BetaThompson, GaussianThompson, LinUCB

UTILITY = Utility(cost_weight=0.5, cost_reference_usd=2.0)
FREE = Utility(cost_weight=0.0, cost_reference_usd=1.0)


class Told(random.Random):
    """Answers with the distribution's mean, and notes what was asked for."""

    def __init__(self) -> None:
        super().__init__(1)
        self.asked: list[tuple[float, float]] = []

    def betavariate(self, alpha: float, beta: float) -> float:
        self.asked.append((alpha, beta))
        return alpha / (alpha + beta)

    def gauss(self, mu: float = 0.0, sigma: float = 1.0) -> float:
        self.asked.append((mu, sigma))
        return mu


def feed(policy: Policy, score: float, *, model: int, category: int = 0, cost_usd: float = 0.0) -> None:
    policy.update(category=category, model=model, score=score, cost_usd=cost_usd)


def test_beta_counts_fractions_of_the_score_and_charges_the_mean_cost() -> None:
    rng = Told()
    policy = BetaThompson(categories=2, models=2, utility=UTILITY, rng=rng, model_costs_usd=[0.4, 0.0])
    assert policy.pick(0, (0, 1)) == 1  # .5 - .1 against .5
    feed(policy, 0.9, model=0, cost_usd=0.0)  # mean cost .2: 1.9 / 3 - .05
    feed(policy, 0.55, model=1, cost_usd=0.0)  # 1.55 / 3
    rng.asked.clear()
    assert policy.pick(0, (0, 1)) == 0
    assert np.array(rng.asked) == pytest.approx(np.array([(1.9, 1.1), (1.55, 1.45)]))
    feed(policy, 0.9, model=0, cost_usd=2.0)  # mean cost .8: 2.8 / 4 - .2
    assert policy.pick(0, (0, 1)) == 1
    rng.asked.clear()
    policy.pick(1, (0, 1))
    assert rng.asked == [(1.0, 1.0), (1.0, 1.0)]  # the other category has learned nothing


def test_gaussian_draws_from_its_posterior() -> None:
    rng = Told()
    policy = GaussianThompson(categories=2, models=2, utility=UTILITY, rng=rng)
    feed(policy, 0.9, model=0, cost_usd=2.0)  # utility .4
    feed(policy, 0.6, model=0)
    policy.pick(0, (0, 1))
    assert rng.asked[0] == pytest.approx((0.5, GAUSSIAN_NOISE / math.sqrt(3)))
    assert rng.asked[1] == pytest.approx((0.5, GAUSSIAN_NOISE))
    feed(policy, 0.8, model=1)
    assert policy.pick(0, (0, 1)) == 1
    assert rng.asked[3] == pytest.approx((0.65, GAUSSIAN_NOISE / math.sqrt(2)))
    rng.asked.clear()
    policy.pick(1, (0, 1))
    assert rng.asked == [(0.5, GAUSSIAN_NOISE)] * 2


def test_linucb_is_ridge_regression_with_a_bound() -> None:
    categories, models, alpha = 3, 2, 0.7
    policy = LinUCB(categories=categories, models=models, utility=UTILITY, alpha=alpha)
    rng = np.random.default_rng(4)
    design = [np.eye(1 + categories) for _ in range(models)]
    moment = [np.zeros(1 + categories) for _ in range(models)]
    for _ in range(80):
        category, score, cost_usd = int(rng.integers(categories)), float(rng.random()), float(rng.random())
        x = np.zeros(1 + categories)
        x[[0, 1 + category]] = 1.0
        bounds = [
            float(x @ np.linalg.solve(a, b) + alpha * math.sqrt(x @ np.linalg.solve(a, x)))
            for a, b in zip(design, moment, strict=True)
        ]
        picked = policy.pick(category, range(models))
        assert bounds[picked] == pytest.approx(max(bounds), abs=1e-12)
        feed(policy, score, model=picked, category=category, cost_usd=cost_usd)
        design[picked] += np.outer(x, x)
        moment[picked] += (score - 0.25 * cost_usd - 0.5) * x


@pytest.mark.parametrize("name", ["beta", "gaussian", "linucb"])
def test_each_finds_the_better_model_and_repeats_itself(name: str) -> None:
    def picks() -> list[int]:
        rng, outcomes = random.Random(5), random.Random(6)
        made: dict[str, Policy] = {
            "beta": BetaThompson(categories=1, models=3, utility=FREE, rng=rng, model_costs_usd=[0.0] * 3),
            "gaussian": GaussianThompson(categories=1, models=3, utility=FREE, rng=rng),
            "linucb": LinUCB(categories=1, models=3, utility=FREE),
        }
        policy, found = made[name], []
        for _ in range(400):
            model = policy.pick(0, range(3))
            feed(policy, min(1.0, max(0.0, outcomes.gauss((0.3, 0.7, 0.4)[model], 0.1))), model=model)
            found.append(model)
        return found

    first = picks()
    assert first == picks()
    assert set(first) == {0, 1, 2}
    assert first[200:].count(1) > 180

"""Baselines on toys small enough to follow by hand."""

from __future__ import annotations

import math
import random

import pytest

from banditroute.core.baselines import UCB1, EpsilonGreedy, Policy, Random, Utility

UTILITY = Utility(cost_weight=0.5, cost_reference_usd=2.0)
BOTH = (0, 1)
FREE = Utility(cost_weight=0.0, cost_reference_usd=1.0)


class Fixed(random.Random):
    """A generator that never, or always, explores."""

    def __init__(self, value: float) -> None:
        super().__init__(1)
        self._value = value

    def random(self) -> float:
        return self._value


def feed(policy: Policy, score: float, *, model: int, category: int = 0, cost_usd: float = 0.0) -> None:
    policy.update(category=category, model=model, score=score, cost_usd=cost_usd)


def test_utility_and_its_unit_form() -> None:
    assert UTILITY.of(score=0.8, cost_usd=1.0) == pytest.approx(0.55)
    assert UTILITY.unit_reward(score=1.0, cost_usd=0.0) == 1.0
    assert UTILITY.unit_reward(score=0.0, cost_usd=2.0) == 0.0
    assert UTILITY.unit_reward(score=0.25, cost_usd=2.0) == pytest.approx(0.25 / 1.5)
    assert UTILITY.unit_reward(score=0.0, cost_usd=9.0) == 0.0


def test_epsilon_greedy_tries_all_then_takes_the_best_mean() -> None:
    policy = EpsilonGreedy(categories=2, models=2, utility=UTILITY, rng=Fixed(0.9))
    assert policy.pick(0, BOTH) == 0
    feed(policy, 0.6, model=0)
    assert policy.pick(0, BOTH) == 1
    feed(policy, 0.9, model=1, cost_usd=2.0)  # utility 0.4
    assert policy.pick(0, BOTH) == 0
    feed(policy, 0.0, model=0)  # mean 0.3
    assert policy.pick(0, BOTH) == 1
    assert policy.pick(1, BOTH) == 0  # the other category has learned nothing


def test_epsilon_greedy_explores_uniformly_at_its_rate() -> None:
    policy = EpsilonGreedy(categories=1, models=4, utility=FREE, rng=random.Random(3), epsilon=0.2)
    for model in range(4):
        feed(policy, 1.0 if model == 2 else 0.0, model=model)
    n = 4000
    others = sum(policy.pick(0, (0, 1, 2)) != 2 for _ in range(n))
    assert abs(others / n - 0.15) < 4 * math.sqrt(0.15 * 0.85 / n)


def test_ucb1_follows_its_formula() -> None:
    policy = UCB1(categories=1, models=2, utility=FREE)
    assert policy.pick(0, BOTH) == 0
    feed(policy, 0.9, model=0)
    assert policy.pick(0, BOTH) == 1
    feed(policy, 0.1, model=1)
    n, sums = [1, 1], [0.9, 0.1]
    for _ in range(60):
        bounds = [s / c + math.sqrt(2 * math.log(sum(n)) / c) for s, c in zip(sums, n, strict=True)]
        expected = 0 if bounds[0] >= bounds[1] else 1
        assert policy.pick(0, BOTH) == expected
        feed(policy, (0.9, 0.1)[expected], model=expected)
        n[expected] += 1
        sums[expected] += (0.9, 0.1)[expected]
    assert n[0] > 3 * n[1] > 3


def test_random_is_uniform_and_repeatable() -> None:
    def draws(seed: int) -> list[int]:
        policy = Random(rng=random.Random(seed))
        return [policy.pick(0, (0, 1, 2)) for _ in range(3000)]

    assert draws(1) == draws(1) != draws(2)
    assert all(abs(draws(1).count(k) - 1000) < 4 * math.sqrt(3000 * 2 / 9) for k in range(3))


def test_only_models_that_are_there_are_picked() -> None:
    rng = random.Random(1)
    for policy in (EpsilonGreedy(categories=1, models=3, utility=FREE, rng=rng), UCB1(categories=1, models=3, utility=FREE)):
        for _ in range(50):
            model = policy.pick(0, (1, 2))
            feed(policy, {1: 0.2, 2: 0.1}[model], model=model)
        feed(policy, 1.0, model=0)
        assert {policy.pick(0, (1, 2)) for _ in range(50)} <= {1, 2}
    assert {Random(rng=rng).pick(0, (0, 2)) for _ in range(50)} == {0, 2}


def test_another_cost_weight_counts_from_then_on() -> None:
    policy = EpsilonGreedy(categories=1, models=2, utility=FREE, rng=Fixed(0.9))
    feed(policy, 0.8, model=0, cost_usd=1.0)
    feed(policy, 0.7, model=1, cost_usd=0.0)
    assert policy.pick(0, BOTH) == 0
    policy.reweigh(Utility(cost_weight=0.5, cost_reference_usd=1.0))
    feed(policy, 0.8, model=0, cost_usd=1.0)  # utility 0.3, so 0.55 on average
    assert policy.pick(0, BOTH) == 1

"""The statistics of a simulation, by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from banditroute.lab.results import INVERTED, ROUTER, WARM, Covered, PolicyResult, WeightResult, estimate, ratio

T2 = 4.302653
"""The 97.5 % quantile of Student's t at 2 degrees of freedom."""


def result(policy: str, *regrets: float, **fields: Any) -> PolicyResult:
    ones = (1.0,) * len(regrets)
    return PolicyResult(policy=policy, regrets=regrets, random_regrets=ones, mean_scores=ones, mean_costs_usd=ones, **fields)


def test_summary_figures() -> None:
    found = PolicyResult(
        policy="p",
        regrets=(1.0, 2.0, 6.0),
        random_regrets=(10.0, 10.0, 10.0),
        mean_scores=(0.5, 0.6, 0.7),
        mean_costs_usd=(1.0, 1.0, 4.0),
        regrets_at=((5, (0.0, 1.0, 5.0)), (10, (1.0, 2.0, 6.0))),
    )
    assert found.regret == 3.0
    half = T2 * math.sqrt(7) / math.sqrt(3)
    assert found.regret_ci95 == pytest.approx(half)
    assert found.regret_p90 == pytest.approx(5.2)
    assert found.share_of_random == pytest.approx(0.3)
    told = found.to_json()
    assert told["regret_ci95"] == pytest.approx([3 - half, 3 + half])
    assert told["regret_per_seed"] == [1.0, 2.0, 6.0]
    assert told["regret_at"] == {"5": 2.0, "10": 3.0}
    assert told["score_mean"] == pytest.approx(0.6)
    assert told["cost_mean_usd"] == 2.0
    assert told["coverage90"] is None


def test_a_ratio_of_sums_and_its_interval() -> None:
    pairs = [(1.0, 2.0), (1.0, 4.0), (4.0, 4.0)]
    found = ratio(pairs)
    assert found.mean == pytest.approx(0.6)
    spread = math.sqrt((0.2**2 + 1.4**2 + 1.6**2) / 2)  # of a - .6 b = -.2, -1.4, 1.6, which sum to 0
    assert found.half == pytest.approx(T2 * spread / (10 / 3) / math.sqrt(3))
    one = ratio(pairs[:1])
    assert one.mean == 0.5
    assert math.isnan(one.half)
    assert math.isnan(ratio([(0.0, 0.0), (0.0, 0.0)]).mean)
    assert estimate([1.0, 2.0, 6.0]).half == pytest.approx(T2 * math.sqrt(7) / math.sqrt(3))


def test_differences_are_paired() -> None:
    weight = WeightResult(
        cost_weight=0.1,
        policies=(result(ROUTER, 1.0, 5.0, 9.0), result("ucb1", 3.0, 8.0, 13.0), result("category-oracle", 0.0, 0.0, 0.0)),
    )
    policies = {policy["policy"]: policy["vs_banditroute"] for policy in weight.to_json()["policies"]}
    half = T2 / math.sqrt(3)  # of the differences 2, 3, 4
    assert policies["ucb1"]["mean"] == 3.0
    assert policies["ucb1"]["ci95"] == pytest.approx([3 - half, 3 + half])
    assert policies[ROUTER] is policies["category-oracle"] is None
    alone = WeightResult(cost_weight=0.1, policies=weight.policies[1:])
    assert alone.excess(alone["ucb1"]) is None


def test_coverage() -> None:
    runs = (Covered(cells=10, covered=9, seen=2, seen_covered=1), Covered(cells=10, covered=7, seen=8, seen_covered=8))
    told = result(ROUTER, 1.0, 2.0, coverages=runs).to_json()["coverage90"]
    assert told["all"]["mean"] == pytest.approx(0.8)
    assert told["all"]["cells"] == 20
    assert told["observed"]["mean"] == pytest.approx(0.9)
    assert told["observed"]["cells"] == 10
    t1 = 12.706205
    assert told["all"]["ci95"] == pytest.approx([0.8 - t1 * 0.1, 0.8 + t1 * 0.1])


def test_effect_of_priors() -> None:
    def at(name: str, early: float, late: float) -> PolicyResult:
        return result(name, late, regrets_at=((500, (early,)), (6000, (late,))))

    weight = WeightResult(cost_weight=0.1, policies=(at(ROUTER, 10.0, 40.0), at(WARM, 5.0, 10.0), at(INVERTED, 30.0, 60.0)))
    assert weight.to_json()["priors_effect"] == {
        "500": {"warm_over_cold": 0.5, "inverted_over_cold": 3.0, "inverted_minus_cold": 20.0},
        "6000": {"warm_over_cold": 0.25, "inverted_over_cold": 1.5, "inverted_minus_cold": 20.0},
    }
    assert WeightResult(cost_weight=0.1, policies=weight.policies[:1]).to_json()["priors_effect"] is None
    free = WeightResult(cost_weight=0.1, policies=(at(ROUTER, 0.0, 0.0), at(WARM, 0.0, 0.0), at(INVERTED, 1.0, 2.0)))
    assert free.to_json()["priors_effect"]["500"]["warm_over_cold"] is None

"""Replays: definitions by hand, one stream for all, the same numbers every time and from any number of processes."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

from banditroute.core.baselines import Utility
from banditroute.core.errors import DatasetError
from banditroute.lab.calibrate import calibrate
from banditroute.lab.course import make_stream
from banditroute.lab.datasets import Dataset, inverted, make_priors
from banditroute.lab.environments import Environment
from banditroute.lab.learners import POLICIES
from banditroute.lab.replay import simulate
from banditroute.lab.results import INVERTED, ROUTER, WARM
from banditroute.lab.router_policy import RouterPolicy
from banditroute.lab.source import mean_utilities

BASELINES = POLICIES[1:]


def test_utilities_by_hand(toy: Dataset) -> None:
    np.testing.assert_allclose(mean_utilities(toy, cost_weight=0.5), [[0.75, 0.4], [0.1, 0.4]])


def test_oracle_fixed_and_random_lose_what_they_must(toy: Dataset) -> None:
    requests = 400
    found = simulate(toy, cost_weights=[0.5], requests=requests, seeds=3, policies=BASELINES, jobs=1).weights[0]
    gaps = np.array([0.35, 0.30])  # of the wrong model in easy, in hard
    for seed in range(3):
        stream = make_stream(toy, requests=requests, seed=seed)
        n = np.bincount(stream.categories, minlength=2)
        assert found["category-oracle"].regrets[seed] == 0.0
        assert found["best-fixed"].regrets[seed] == pytest.approx(min(n * gaps))
        assert found["random"].random_regrets[seed] == pytest.approx(float(n @ gaps) / 2)
        picked = np.where(stream.categories == 0, 0, 1)
        steps = np.arange(requests)
        assert found["category-oracle"].mean_scores[seed] == pytest.approx(stream.scores[steps, picked].mean())
        assert found["category-oracle"].mean_costs_usd[seed] == pytest.approx(stream.costs_usd[steps, picked].mean())
    spread = math.sqrt(requests * 3 * 0.25 * 0.35**2)
    assert abs(sum(found["random"].regrets) - sum(found["random"].random_regrets)) < 4 * spread
    assert 0.0 < found["epsilon-greedy"].regret < found["random"].regret


def test_what_is_not_defined_is_null(toy: Dataset) -> None:
    one_model = dataclasses.replace(
        toy, models=("m",), scores=toy.scores[:, :1], costs_usd=toy.costs_usd[:, :1], output_tokens=None
    )
    told = simulate(one_model, cost_weights=[0.1], requests=10, seeds=1, policies=["random"], jobs=1).to_json()
    policy = told["results"][0]["policies"][0]
    assert policy["regret_ci95"] is None
    assert policy["share_of_random_regret"] is None
    assert policy["vs_banditroute"] is None
    json.dumps(told, allow_nan=False)


def test_streams_depend_on_the_seed_only(toy: Dataset) -> None:
    first, again, other = (make_stream(toy, requests=50, seed=seed) for seed in (1, 1, 2))
    for a, b in zip(first[:3], again[:3], strict=True):
        assert np.array_equal(np.asarray(a), np.asarray(b))
    assert (first.scores != other.scores).any()


def test_all_policies_see_one_stream_and_do_not_touch_one_another(toy: Dataset) -> None:
    together = simulate(toy, cost_weights=[0.1, 0.3], requests=80, seeds=2, jobs=1).weights
    for weight in together:
        for policy in POLICIES:
            alone = simulate(toy, cost_weights=[weight.cost_weight], requests=80, seeds=2, policies=[policy], jobs=1)
            assert alone.weights[0][policy] == weight[policy]
        assert len({weight[policy].random_regrets for policy in POLICIES}) == 1


@pytest.mark.parametrize("calibrated", [False, True], ids=["rows", "environment"])
def test_the_number_of_processes_changes_nothing(toy: Dataset, calibrated: bool) -> None:
    source = Environment(calibrate(toy)) if calibrated else toy
    ticks: list[tuple[int, int]] = []
    one = simulate(source, cost_weights=[0.1, 0.3], requests=60, seeds=2, jobs=1, progress=lambda *tick: ticks.append(tick))
    two = simulate(source, cost_weights=[0.1, 0.3], requests=60, seeds=2, jobs=2)
    assert one == two
    assert ticks == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]


def test_report_is_json_with_everything(toy: Dataset) -> None:
    told = json.loads(json.dumps(simulate(toy, cost_weights=[0.3], requests=20, seeds=2, jobs=1).to_json(), allow_nan=False))
    assert told["source"] == "toy"
    assert told["models"] == ["cheap", "dear"]
    assert told["cost_reference_usd"] == pytest.approx(0.010)
    assert (told["requests"], told["seeds"], told["with_priors"]) == (20, 2, False)
    assert [p["policy"] for p in told["results"][0]["policies"]] == list(POLICIES)


@pytest.mark.parametrize(
    "wrong",
    [
        {"requests": 0},
        {"seeds": 0},
        {"jobs": 0},
        {"cost_weights": []},
        {"policies": ["sorcery"]},
        {"policies": []},
        {"at": [6]},
        {"at": [0]},
        {"compared_priors": {}},
    ],
)
def test_wrong_arguments_are_refused(toy: Dataset, wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"give at least 1|unknown policies sorcery|no request [06] in a run of 5|cold start"):
        simulate(toy, **({"cost_weights": [0.1], "requests": 5, "seeds": 1, "policies": ["random"]} | wrong))  # type: ignore[arg-type]


def test_the_router_learns_the_toy(toy: Dataset) -> None:
    found = simulate(toy, cost_weights=[0.5], requests=600, seeds=2, policies=["banditroute"], jobs=1).weights[0]
    assert found["banditroute"].share_of_random < 0.35


def test_priors_reach_the_router(toy: Dataset) -> None:
    def regret(priors: dict[str, dict[str, dict[str, float]]] | None) -> float:
        found = simulate(toy, cost_weights=[0.5], requests=30, seeds=4, policies=["banditroute"], priors_in=priors, jobs=1)
        return found.weights[0]["banditroute"].regret

    told = {c: {m: p | {"effective_sample_size": 25.0} for m, p in arms.items()} for c, arms in make_priors(toy).items()}
    assert regret(told) != regret(None)


def test_priors_of_other_names_are_refused(toy: Dataset) -> None:
    priors = {"easy": {"stranger": {"quality": 0.5, "effective_sample_size": 5.0}}}
    with pytest.raises(DatasetError, match="name no category and model"):
        simulate(toy, cost_weights=[0.1], requests=5, seeds=1, policies=["banditroute"], priors_in=priors, jobs=1)


def test_cold_warm_and_inverted_on_the_same_streams(toy: Dataset) -> None:
    priors = {c: {m: p | {"effective_sample_size": 25.0} for m, p in arms.items()} for c, arms in make_priors(toy).items()}
    given = {"cost_weights": [0.5], "requests": 60, "seeds": 2, "jobs": 1}
    together = simulate(toy, policies=[ROUTER, "random"], at=[20], compared_priors=priors, **given)  # type: ignore[arg-type]
    found = together.weights[0]
    assert not together.with_priors
    assert [policy.policy for policy in found.policies] == [ROUTER, "random", WARM, INVERTED]
    for name, begun in ((ROUTER, None), (WARM, priors), (INVERTED, inverted(priors))):
        alone = simulate(toy, policies=[ROUTER], at=[20], priors_in=begun, **given).weights[0][ROUTER]  # type: ignore[arg-type]
        assert dataclasses.replace(alone, policy=name) == found[name]
    assert [effect.requests for effect in found.priors_effects] == [20, 60]
    assert found[WARM].regret < found[ROUTER].regret < found[INVERTED].regret


def test_regret_at_a_checkpoint_is_that_of_a_shorter_run(toy: Dataset) -> None:
    long, short = (simulate(toy, cost_weights=[0.1], requests=n, at=at, seeds=2, jobs=1) for n, at in ((90, [40]), (40, [])))
    for policy in POLICIES:
        if policy != "best-fixed":  # which is told the whole stream
            assert long.weights[0][policy].regret_at[40] == pytest.approx(short.weights[0][policy].regret)
            assert long.weights[0][policy].regret_at[90] == long.weights[0][policy].regret


def test_coverage_is_what_the_router_believes_against_the_truth(toy: Dataset) -> None:
    found = simulate(toy, cost_weights=[0.1], requests=50, seeds=2, policies=[ROUTER, "random"], jobs=1).weights[0]
    assert found["random"].coverages == ()
    assert [run.cells for run in found[ROUTER].coverages] == [4, 4]
    assert all(0 <= run.seen_covered <= run.seen <= run.cells for run in found[ROUTER].coverages)


def test_beliefs_of_the_router_cell_by_cell(toy: Dataset) -> None:
    costs_usd = [0.001, 0.01]
    utility = Utility(cost_weight=0.1, cost_reference_usd=0.01)
    with RouterPolicy(categories=toy.categories, models=toy.models, model_costs_usd=costs_usd, utility=utility, seed=1) as policy:
        blank = policy.beliefs()
        assert blank.mean == pytest.approx(np.full((2, 2), 0.5))
        assert (blank.feedback_counts == 0).all()
        for request in range(8):
            policy.pick(request, 1)
            policy.tell(request, score=1.0, cost_usd=0.0)
        beliefs = policy.beliefs()
    assert beliefs.feedback_counts[0].tolist() == [0, 0]
    assert beliefs.feedback_counts[1].sum() == 8
    most = int(beliefs.feedback_counts[1].argmax())
    assert beliefs.mean[1, most] > 0.7
    assert beliefs.stddev[1, most] < blank.stddev[1, most] / 2

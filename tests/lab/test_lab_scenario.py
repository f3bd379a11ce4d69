"""Scenario files: what they say, what is wrong with them, and what becomes of them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from banditroute.core.errors import DatasetError
from banditroute.lab.course import make_course
from banditroute.lab.datasets import Dataset
from banditroute.lab.delivery import Delivery, make_mail
from banditroute.lab.finding import find_scenario, finder, shipped
from banditroute.lab.happenings import Reweighted
from banditroute.lab.learners import POLICIES, router_of
from banditroute.lab.results import INVERTED, ROUTER, WARM
from banditroute.lab.runs import Task, run_tasks
from banditroute.lab.scenario import EventSpec, ScenarioSpec, named_model, settings_of
from banditroute.lab.scenario_results import scenario_result, tasks_of
from banditroute.lab.source import Source
from banditroute.lab.traffic import Traffic

SHIPPED = shipped("scenarios")
ASKED_FOR = {
    "stationary",
    "silent-degradation",
    "outage",
    "price-war",
    "new-model",
    "cold-start",
    "wrong-priors",
    "dirty-feedback",
    "budget-squeeze",
    "seasonal-mix",
}


def spec_of(**fields: Any) -> ScenarioSpec:
    return ScenarioSpec.model_validate({"name": "n", "sources": ["toy"], "requests": 40, "seeds": 2, **fields})


def written(folder: Path, **fields: Any) -> Path:
    path = folder / "scenario.yaml"
    path.write_text(yaml.safe_dump({"name": "n", "sources": ["mmlu_pro"], **fields}))
    return path


# --- files -----------------------------------------------------------------------------------------


def test_what_is_shipped() -> None:
    assert set(SHIPPED) >= ASKED_FOR


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_shipped_scenarios_play(name: str) -> None:
    spec = find_scenario(name)
    assert spec is not None
    assert spec.about
    short = spec.model_copy(update={"requests": 60, "seeds": 1, "sources": spec.sources[-1:], "policies": (ROUTER, "random")})
    settings = settings_of(short, find=finder(None, None))
    result = scenario_result(short, settings, run_tasks(tasks_of(settings, seeds=1)), seeds=1)
    told = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert [scene["source"] for scene in told["scenes"]] == list(short.sources) * len(spec.cost_weights)
    policies = [policy["policy"] for policy in told["scenes"][0]["policies"]]
    assert policies[:2] == [ROUTER, "random"]
    assert (WARM in policies) == (INVERTED in policies) == (spec.priors == "compare")


def test_a_name_that_is_no_scenario() -> None:
    assert find_scenario("mmlu_pro") is None
    assert find_scenario("nowhere") is None


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"sources": []}, "sources"),
        ({"requests": 0}, "requests"),
        ({"colour": "red"}, "colour"),
        ({"policies": ["best"]}, "no policy best; known: banditroute"),
        ({"policies": ["random"], "priors": "compare"}, "add banditroute to the policies"),
        (
            {"timeline": [{"at": 3, "model": "@best"}]},
            "price_factor, absent, outage, cost_weight; this says none",
        ),
        ({"timeline": [{"at": 3, "model": "@best", "outage": True, "absent": True}]}, "this says absent and outage"),
        ({"timeline": [{"at": 3, "degrade": 0.2}]}, "degrade needs a model"),
        ({"timeline": [{"at": 3, "model": "m", "cost_weight": 0.2}]}, "cost_weight is for all models"),
        ({"timeline": [{"at": 3, "until": 2, "model": "m", "outage": True}]}, "until 2 is not after at 3"),
        ({"timeline": [{"at": 3, "model": "m", "outage": True, "categories": ["c"]}]}, "categories go with degrade only"),
        ({"feedback": {"missing": 1.5}}, "feedback.missing"),
        ({"traffic": {"period": 1}}, "traffic.period"),
    ],
)
def test_a_wrong_file_is_refused_by_name_field_and_cause(tmp_path: Path, fields: dict[str, Any], told: str) -> None:
    path = written(tmp_path, **fields)
    with pytest.raises(DatasetError, match="mend these") as error:
        find_scenario(path)
    assert str(path) in str(error.value)
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"timeline": [{"at": 3, "model": "gpt", "outage": True}]}, "no model 'gpt'; there are"),
        ({"timeline": [{"at": 3, "model": "@dearest", "outage": True}]}, "no selector '@dearest'; known: @best"),
        ({"timeline": [{"at": 3, "model": "@best", "degrade": 0.1, "categories": ["poems"]}]}, "no category poems; there are"),
        ({"traffic": {"mix": {"poems": 1}}}, "no category poems; there are"),
        ({"traffic": {"mix": {"easy": 0}}}, "give one a weight above 0"),
    ],
)
def test_what_a_source_has_not_is_told(toy: Dataset, fields: dict[str, Any], told: str) -> None:
    settings = settings_of(spec_of(**fields), find=lambda _: toy)
    with pytest.raises(DatasetError, match=told):
        run_tasks(tasks_of(settings, seeds=1))


def test_sources_are_found_beside_the_scenario_and_in_the_data(toy: Dataset, tmp_path: Path) -> None:
    lines = ["sample_id,category,model,score,cost_usd"]
    lines += [f"{i},easy,{model},{score},{cost}" for i in range(4) for model, score, cost in (("a", 1, 0.1), ("b", 0, 0.2))]
    (tmp_path / "mine.csv").write_text("\n".join(lines))
    beside = finder(tmp_path / "scenario.yaml", None)("mine.csv")
    in_data = finder(None, tmp_path)("mine")
    assert beside.models == in_data.models == ("a", "b")
    with pytest.raises(DatasetError, match="neither a file nor a shipped environment"):
        finder(None, tmp_path)("yours")


# --- what happens ----------------------------------------------------------------------------------


def test_times_are_requests_or_shares_of_all(toy: Dataset) -> None:
    event = EventSpec(at=0.25, until=90, model="cheap", outage=True)
    happening = event.happening(toy, 200, 0.1)
    assert (happening.start, happening.end) == (50, 90)


def test_models_by_what_they_are(toy: Dataset) -> None:
    found = {name: named_model(toy, name, cost_weight=0.0) for name in ("@best", "@second", "@worst", "@cheapest", "@priciest")}
    worth = dict(zip(toy.models, toy.weights @ toy.mean_scores, strict=True))
    assert worth[found["@best"]] == max(worth.values())
    assert found["@second"] == found["@worst"] != found["@best"]
    assert (found["@cheapest"], found["@priciest"]) == ("cheap", "dear")
    assert named_model(toy, "dear", cost_weight=0.0) == "dear"


def test_another_cost_weight_changes_what_is_best_and_the_router_is_told(toy: Dataset) -> None:
    course = make_course(toy, [Reweighted(start=30, cost_weight=5.0)], requests=60, seed=1, cost_weight=0.0)
    assert [phase.cost_weight for phase in course.phases] == [0.0, 5.0]
    spec = spec_of(requests=60, cost_weights=[0.0], timeline=[{"at": 30, "cost_weight": 5.0}], policies=POLICIES)
    (setting,) = settings_of(spec, find=lambda _: toy)
    for outcome in run_tasks(tasks_of([setting], seeds=1))[0]:
        after = np.mean(np.array(outcome.shares)[31:], axis=0)
        if outcome.policy in (ROUTER, "category-oracle"):
            assert after[0] > 0.9, "only the cheap one is worth its cost"


def test_who_cannot_be_routed_to_is_not(toy: Dataset) -> None:
    spec = spec_of(timeline=[{"at": 10, "model": "cheap", "absent": True}], policies=POLICIES)
    for outcome in run_tasks(tasks_of(settings_of(spec, find=lambda _: toy), seeds=1))[0]:
        shares = np.array(outcome.shares)
        assert (shares[10:, 0] == 0.0).all(), outcome.policy


# --- traffic and feedback --------------------------------------------------------------------------


def test_mixes_that_drift_by_hand(toy: Dataset) -> None:
    weights = Traffic(mix={"easy": 3, "hard": 1}, later={"hard": 1}).weights(toy, requests=3)
    np.testing.assert_allclose(weights, [[0.75, 0.25], [0.375, 0.625], [0.0, 1.0]])
    with_seasons = Traffic(period=4, swing=1.0).weights(toy, requests=5)
    np.testing.assert_allclose(with_seasons / toy.weights, np.exp([[1, -1], [0, 0], [-1, 1], [0, 0], [1, -1]]), atol=1e-12)


def test_categories_come_as_often_as_the_mix_says(toy: Dataset) -> None:
    course = make_course(toy, requests=4000, seed=1, cost_weight=0.1, traffic=Traffic(mix={"hard": 0.8, "easy": 0.2}))
    share = float((course.stream.categories == toy.categories.index("hard")).mean())
    assert abs(share - 0.8) < 4 * (0.16 / 4000) ** 0.5
    for category in (0, 1):
        mine = course.stream.scores[course.stream.categories == category]
        assert {tuple(row) for row in mine} <= {tuple(row) for row in toy.scores[toy.rows_of(category)]}


def test_thumbs_and_noise_keep_the_mean(toy: Dataset) -> None:
    course = make_course(toy, requests=6000, seed=1, cost_weight=0.1)
    scores = course.stream.scores
    thumbs = make_mail(Delivery(as_thumbs=True), course, seed=1).told
    assert set(np.unique(thumbs)) == {0.0, 1.0}
    np.testing.assert_allclose(thumbs.mean(axis=0), scores.mean(axis=0), atol=4 * (0.25 / 6000) ** 0.5)
    noisy = make_mail(Delivery(noise=0.05), course, seed=1).told
    assert (noisy >= 0.0).all()
    assert (noisy <= 1.0).all()
    inner = (scores > 0.2) & (scores < 0.8)
    assert (noisy - scores)[inner].std() == pytest.approx(0.05, rel=0.1)
    assert make_mail(Delivery(), course, seed=1).told is scores


def test_features_of_prompts_reach_the_router(toy: Dataset) -> None:
    prompts = ("sum 1 and 2", "a long story about a dog", "def f(x): return x", "translate this")
    with_prompts = dataclasses.replace(toy, prompts=prompts)
    spec = spec_of(requests=60, features={"from": "prompt", "extract": ["length", {"projection": 2}]}, policies=[ROUTER])
    (setting,) = settings_of(spec, find=lambda _: with_prompts)
    source = setting.source
    assert isinstance(source, Dataset)
    assert source.feature_names == ("length", "projection_1", "projection_2")
    course = make_course(source, requests=60, seed=1, cost_weight=0.1)
    assert course.stream.features is not None
    with router_of(course, seed=1) as router:
        declared = router.engine.snapshot.state.settings.categories["c0"].features
        assert [feature.name for feature in declared] == sorted(source.feature_names)
        router.pick(0, int(course.stream.categories[0]))
    plain = dataclasses.replace(setting, source=toy)
    tell = [run_tasks([Task(each, seed=1)])[0][0].regrets_at for each in (setting, plain)]
    assert tell[0] != tell[1]
    with pytest.raises(DatasetError, match="no prompts to compute features of"):
        settings_of(spec, find=lambda _: toy)


# --- results ---------------------------------------------------------------------------------------


def test_a_scenario_told(toy: Dataset) -> None:
    def one(_: str) -> Source:
        return toy

    timeline = [{"at": 0.5, "until": 0.8, "model": "@best", "degrade": 0.3}]
    spec = spec_of(requests=90, timeline=timeline, policies=[ROUTER, "random", "priciest"], cost_weights=[0.1, 0.3])
    settings = settings_of(spec, find=one)
    result = scenario_result(spec, settings, run_tasks(tasks_of(settings, seeds=2)), seeds=2)
    assert [scene.cost_weight for scene in result.scenes] == [0.1, 0.3]
    scene = result.scenes[0]
    (mark,) = scene.marks
    assert (mark.start, mark.end, mark.text) == (45, 72, "worse")
    assert scene.ends[-1] == 90
    assert scene.curve("random")[-1].mean == pytest.approx(scene.result["random"].regret)
    np.testing.assert_allclose(scene.shares("priciest"), np.tile([0.0, 1.0], (60, 1)))
    assert len(scene.noticed) == 1
    told = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert told["scenes"][0]["noticed"][0]["requests_to_demotion"] == [None, None]

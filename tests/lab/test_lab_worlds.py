"""Families of worlds: what a seed draws, what the file may say, and replays that give each seed its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from banditroute.core.errors import DatasetError
from banditroute.lab.course import make_stream
from banditroute.lab.environments import Environment
from banditroute.lab.finding import find_source, find_source_or_worlds
from banditroute.lab.replay import simulate
from banditroute.lab.source import cost_reference_usd
from banditroute.lab.worlds import MARGIN, Worlds, WorldsSpec, load_environment_or_worlds, source_at

SHIPPED = ["interaction-03", "interaction-12", "mixed-model", "specialists"]


def family(**fields: Any) -> Worlds:
    worlds = {"categories": 3, "models": 2, "costs_usd": [0.001, 0.02]} | fields
    return Worlds(WorldsSpec.model_validate({"name": "toy", "worlds": worlds}))


@pytest.fixture
def written(tmp_path: Path) -> Callable[[Any], Path]:
    def write(document: Any) -> Path:
        path = tmp_path / "toy.yaml"
        path.write_text(yaml.safe_dump(document))
        return path

    return write


def test_nothing_drawn_by_hand() -> None:
    world = family(specialist_gap=0.25, category_weights={"zipf": 1.0}).world(3)
    np.testing.assert_allclose(world.mean_scores, [[0.75, 0.5], [0.5, 0.75], [0.75, 0.5]])
    np.testing.assert_allclose(world.mean_costs_usd, [[0.001, 0.02]] * 3)
    np.testing.assert_allclose(world.weights, np.array([6, 3, 2]) / 11)
    assert world.name == "toy[3]"
    assert set(make_stream(world, requests=50, seed=0).scores.ravel()) == {0.0, 1.0}


def test_a_seed_has_one_world_of_its_own() -> None:
    worlds = family(difficulty_sd=0.1, costs_usd={"low": 0.001, "high": 0.1})
    first, again, other = (worlds.world(seed) for seed in (1, 1, 2))
    assert first.spec == again.spec
    assert (first.mean_scores != other.mean_scores).all()
    assert (first.mean_costs_usd != other.mean_costs_usd).all()


def test_draws_have_the_stated_spreads() -> None:
    """Over 1,500 worlds, a sum of squares is within 4 standard errors of what is stated."""
    count, fields = 1500, {"difficulty_sd": 0.06, "ability_sd": 0.04, "interaction_sd": 0.02, "centre": {"mean": 0.5, "sd": 0.03}}
    worlds = family(costs_usd={"low": 0.001, "high": 0.1}, score={"kind": "continuous", "sd": 0.1}, **fields)
    drawn = [worlds.world(seed) for seed in range(count)]
    means = np.array([world.mean_scores for world in drawn])
    q = means - 0.5
    found = {
        "total": (q[:, 0, 0] ** 2, 0.03**2 + 0.06**2 + 0.04**2 + 0.02**2),
        "same category": (q[:, 0, 0] * q[:, 0, 1], 0.03**2 + 0.06**2),
        "same model": (q[:, 0, 0] * q[:, 1, 0], 0.03**2 + 0.04**2),
        "nothing but the centre": (q[:, 0, 0] * q[:, 1, 1], 0.03**2),
    }
    for what, (values, stated) in found.items():
        assert abs(values.mean() - stated) < 4 * values.std() / count**0.5, what
    logs = np.log10([world.mean_costs_usd[0] for world in drawn]).ravel()
    assert -3.0 <= logs.min() < -2.95 < -1.05 < logs.max() <= -1.0
    assert abs(logs.mean() + 2.0) < 4 * logs.std() / len(logs) ** 0.5


def test_interaction_of_a_drawn_spread() -> None:
    worlds = family(categories=40, models=20, costs_usd=[0.0] * 20, interaction_sd={"median": 0.02, "log_sd": 0.5})
    spreads = np.log([worlds.world(seed).mean_scores.std() for seed in range(60)])
    assert abs(spreads.mean() - np.log(0.02)) < 4 * 0.5 / 60**0.5
    assert spreads.std() == pytest.approx(0.5, rel=0.4)


def test_impossible_means_are_cut_or_their_world_drawn_anew() -> None:
    wide: dict[str, Any] = {"difficulty_sd": 0.3, "categories": 4}
    cut = [family(**wide).world(seed).mean_scores for seed in range(30)]
    assert (np.min(cut), np.max(cut)) == (MARGIN, 1 - MARGIN)
    redrawn = np.array([family(**wide, impossible_means="redraw").world(seed).mean_scores for seed in range(30)])
    assert redrawn.min() > MARGIN
    assert redrawn.max() < 1 - MARGIN
    with pytest.raises(DatasetError, match="make its sds smaller"):
        family(centre={"mean": 0.0}, impossible_means="redraw").world(0)


def test_a_continuous_score_keeps_its_sd_at_the_edge() -> None:
    world = family(centre={"mean": 1.0}, score={"kind": "continuous", "sd": 0.2}).world(0)
    scores = make_stream(world, requests=4000, seed=0).scores
    assert scores.mean() == pytest.approx(world.mean_scores[0, 0], abs=0.015)
    assert scores.std() == pytest.approx(0.2, rel=0.05)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_worlds(name: str) -> None:
    worlds = find_source_or_worlds(name)
    assert isinstance(worlds, Worlds)
    assert worlds.name == name
    assert (len(worlds.categories), len(worlds.models)) == (8, 6)
    assert source_at(worlds, 4).name == f"{name}[4]"
    first = find_source(name)
    assert isinstance(first, Environment)
    assert first.name == f"{name}[0]"


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"categories": 0}, "worlds.categories"),
        ({"difficulty_sd": -0.1}, "worlds.difficulty_sd"),
        ({"ability_sd": "much"}, "worlds.ability_sd"),
        ({"interaction_sd": {"median": 0.1}}, "worlds.interaction_sd"),
        ({"score": {"kind": "continuous"}}, "needs an sd"),
        ({"score": {"kind": "binary", "sd": 0.1}}, "has none"),
        ({"costs_usd": [0.1]}, "1 costs for 2 models"),
        ({"costs_usd": {"low": 2.0, "high": 1.0}}, "low 2 is above high 1"),
        ({"category_weights": "steep"}, "worlds.category_weights"),
        ({"impossible_means": "ignore"}, "worlds.impossible_means"),
        ({"colour": "red"}, "worlds.colour"),
    ],
)
def test_wrong_files_are_refused(written: Callable[[Any], Path], wrong: dict[str, Any], told: str) -> None:
    worlds = {"categories": 3, "models": 2, "costs_usd": [0.001, 0.02]} | wrong
    with pytest.raises(DatasetError, match=r"toy\.yaml: not a family of worlds") as caught:
        load_environment_or_worlds(written({"name": "toy", "worlds": worlds}))
    assert told in str(caught.value)


def test_every_wrong_field_is_named_at_once(written: Callable[[Any], Path]) -> None:
    with pytest.raises(DatasetError) as caught:
        load_environment_or_worlds(written({"worlds": {"categories": 0, "models": "six", "ability_sd": 7, "size": 1}}))
    for field in ("name", "categories", "models", "ability_sd", "costs_usd", "size"):
        assert f"{field}: " in str(caught.value)


@pytest.mark.parametrize("jobs", [1, 2])
def test_each_seed_replays_its_own_world(jobs: int) -> None:
    worlds = family(difficulty_sd=0.1, ability_sd=0.1, costs_usd={"low": 0.001, "high": 0.1})
    found = simulate(worlds, cost_weights=[0.1], requests=30, seeds=3, policies=["best-fixed", "random"], jobs=jobs)
    alone = [worlds.world(seed) for seed in range(3)]
    assert found.source == "toy"
    assert found.cost_reference_usd == pytest.approx(np.mean([cost_reference_usd(world) for world in alone]))
    for seed, world in enumerate(alone):
        utilities = world.mean_scores - 0.1 * world.mean_costs_usd / cost_reference_usd(world)
        categories = make_stream(world, requests=30, seed=seed).categories
        gaps = (utilities.max(axis=1, keepdims=True) - utilities)[categories].sum(axis=0)
        assert found.weights[0]["best-fixed"].regrets[seed] == pytest.approx(gaps.min())

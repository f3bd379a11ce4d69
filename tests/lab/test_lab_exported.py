"""An export of a store as an environment: what was fed in is what comes out, as far as the log can tell."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyarrow")

from export_stores import COSTS_USD, QUALITY, START, exported, serve, write_config

from banditroute import Router
from banditroute.core.errors import DatasetError
from banditroute.export.manifest import MANIFEST_FILE
from banditroute.lab.environments import Environment
from banditroute.lab.exported import MAX_WEIGHT, _Decided, _full, _weighted, load_export
from banditroute.lab.finding import find_scenario, find_source, finder
from banditroute.lab.replay import simulate


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export of 1,500 decisions, a tenth of them without feedback."""
    folder = tmp_path_factory.mktemp("lived")
    serve(write_config(folder), 1500)
    exported(folder / "state", folder / "out")
    return folder / "out"


def test_means_are_those_that_were_fed_in(lived: Path) -> None:
    found = load_export(lived)
    assert (found.categories, found.models) == (("classify", "summarise"), ("cheap", "dear"))
    assert found.weights == pytest.approx([0.5, 0.5], abs=0.04)
    for c, category in enumerate(found.categories):
        for k, model in enumerate(found.models):
            truth = QUALITY[category, model]
            error = math.sqrt(truth * (1.0 - truth) / 60)  # at a floor of 0.2, some 140 outcomes, one in twenty also by a judge
            assert found.mean_scores[c, k] == pytest.approx(truth, abs=3.0 * error)
            assert found.mean_costs_usd[c, k] == pytest.approx(COSTS_USD[model], rel=0.1)
            arm = found.spec.categories[category].models[model]
            assert arm.output_tokens is not None
            assert arm.output_tokens.mean == pytest.approx(100.0)
    assert [note.partition(" ")[2] for note in found.notes] == [
        "of 1500 decisions have no outcome, and are taken to be like those that have one"
    ]


def test_it_is_simulated_like_any_environment(lived: Path) -> None:
    source = find_source(lived)
    assert isinstance(source, Environment)
    result = simulate(source, cost_weights=[0.02], requests=800, seeds=2, policies=["banditroute", "random"], jobs=1)
    mine, at_random = result.weights[0].policies
    assert sum(mine.regrets) < sum(at_random.regrets)


def test_a_scenario_plays_it(lived: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(f"name: mine\nsources: [{lived.name}]\n")
    scenario = find_scenario(file)
    assert scenario is not None
    (tmp_path / lived.name).symlink_to(lived)
    assert isinstance(finder(file, None)(lived.name), Environment)


# --- weights ---


def request(rng: random.Random, length: int, share: float) -> dict[str, Any]:
    """A decision between two models, of which `dear` gets `share`."""
    model = "dear" if rng.random() < share else "cheap"
    candidates = [
        {"model": "dear", "propensity": share, "expected_cost_usd": 0.0},
        {"model": "cheap", "propensity": 1.0 - share, "expected_cost_usd": 0.0},
    ]
    return {"category": "c", "model": model, "features": [("long", float(length))], "candidates": candidates}


def decided(rows: Iterator[dict[str, Any]]) -> _Decided:
    from datetime import UTC, datetime

    made = _Decided(Path("out"))
    for i, row in enumerate(rows):
        time = datetime.fromtimestamp(START + i, UTC)
        made.add({**row, "decision_id": str(i), "decision_time": time, "input_tokens": None}, None)
    return made


def test_weights_restore_the_mix_of_requests() -> None:
    """`dear` gets nine of ten long requests and one of ten short ones, and later a third of that: its mean is wrong without
    weights, and right with them."""
    rng = random.Random(5)
    lengths: list[int] = []

    def rows() -> Iterator[dict[str, Any]]:
        for i in range(6000):
            lengths.append(rng.randrange(2))
            share = (0.9 if lengths[-1] else 0.1) * (1.0 if i < 3000 else 1.0 / 3.0)
            yield request(rng, lengths[-1], share)

    made = decided(rows())
    chosen = [each for each in _weighted(made.requests["c"]) if each.model == "dear"]
    weights = np.array([each.weight for each in chosen])
    long = np.array([lengths[int(each.sample_id)] for each in chosen])
    assert long.mean() > 0.85
    assert np.average(long, weights=weights) == pytest.approx(0.5, abs=0.04)
    assert weights.max() <= MAX_WEIGHT


def test_without_features_nothing_is_weighted() -> None:
    rng = random.Random(5)
    made = decided({**request(rng, 0, rng.uniform(0.1, 0.9)), "features": []} for _ in range(50))
    assert {each.weight for each in _weighted(made.requests["c"])} == {1.0}


# --- what is left out, and what is refused ---


def test_what_is_too_small_goes_where_it_costs_least() -> None:
    table = {"a": {"x": 50.0, "y": 40.0, "z": 3.0}, "b": {"x": 500.0, "y": 29.9, "z": 60.0}, "c": {"x": 1.0, "y": 2.0, "z": 0.0}}
    left, notes = _full(table, needed=30)
    assert left == {"b": {"x": 500.0, "z": 60.0}}
    assert [note.partition("; ")[0].replace("an arm needs 30 outcomes, and these have fewer", "few") for note in notes] == [
        "model y is left out: few: b 29",
        "category a is left out: few: z 3",
        "category c is left out: few: x 1, z 0",
    ]
    assert _full({"a": {"x": 30.0, "y": 30.0}}, needed=30) == ({"a": {"x": 30.0, "y": 30.0}}, [])
    assert _full({"a": {"x": 30.0, "y": 29.0}}, needed=30)[0] == {}


def made(tmp_path: Path, count: int, *, silent: float = 0.0, **changes: Any) -> Path:
    serve(write_config(tmp_path, **changes), count, silent=silent)
    exported(tmp_path / "state", tmp_path / "out")
    return tmp_path / "out"


def test_arms_with_few_outcomes_are_named(tmp_path: Path) -> None:
    out = made(tmp_path, 400)
    with Router.from_config(write_config(tmp_path, categories=_third()), seed=3, clock=lambda: START + 1e4) as router:
        for _ in range(10):
            router.feedback(router.route("translate").id, eval_score=1.0)
    exported(tmp_path / "state", out)
    found = load_export(out)
    assert found.categories == ("classify", "summarise")
    assert found.weights.sum() == pytest.approx(1.0)
    assert found.notes[0].startswith("category translate is left out: an arm needs 30 outcomes, and these have fewer: cheap ")


def _third() -> dict[str, Any]:
    plain = {"models": ["dear", "cheap"], "cost_weight": 0.02, "propensity_floor": 0.2}
    return {"summarise": plain, "classify": plain, "translate": plain}


def test_few_decisions(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no category has two models with 30 outcomes each: classify × cheap \d.*floor"):
        load_export(made(tmp_path, 20))


def test_no_feedback(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no decision has an outcome"):
        load_export(made(tmp_path, 20, silent=1.0))


def test_one_model(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"one model only \(dear\)"):
        load_export(made(tmp_path, 5, categories={"classify": {"models": ["dear"]}}))


def test_no_decisions(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no decision says what it chose"):
        load_export(made(tmp_path, 5, decision_sink={"enabled": False}))


def test_a_probability_of_zero() -> None:
    row = request(random.Random(1), 0, 0.0)
    with pytest.raises(DatasetError, match="with probability 0"):
        decided(iter([{**row, "model": "dear"}]))


def test_parts_that_are_gone_or_broken(tmp_path: Path) -> None:
    out = made(tmp_path, 5)
    part = out / "decisions-000001.parquet"
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(DatasetError, match=r"decisions-000001.parquet cannot be read"):
        load_export(out)
    part.unlink()
    with pytest.raises(DatasetError, match=r"decisions-000001.parquet cannot be read"):
        load_export(out)
    manifest = json.loads((out / MANIFEST_FILE).read_text())
    (out / MANIFEST_FILE).unlink()
    assert manifest["tables"]["decisions"]["row_count"] == 5
    with pytest.raises(DatasetError, match="is no export"):
        load_export(out)
    with pytest.raises(DatasetError, match="a directory, but not one that"):
        find_source(out)

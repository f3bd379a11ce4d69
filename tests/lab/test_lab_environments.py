"""Environments: what they draw has the moments that they state, and calibration states those of the data."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from banditroute.core.errors import DatasetError
from banditroute.lab.calibrate import calibrate, main, render
from banditroute.lab.datasets import Dataset
from banditroute.lab.environments import Environment, EnvironmentSpec, load_environment

REPOSITORY = Path(__file__).resolve().parents[2]

SHIPPED = [
    REPOSITORY / "simulations" / "environments" / f"{name}.yaml" for name in ("mmlu_pro", "paretobandit_k4_val", "routellm_mmlu")
]


def arm(score: dict[str, Any], cost: tuple[float, float], **tokens: tuple[float, float]) -> dict[str, Any]:
    return {"score": score, "cost_usd": {"mean": cost[0], "sd": cost[1]}} | {
        k: {"mean": v[0], "sd": v[1]} for k, v in tokens.items()
    }


def document() -> dict[str, Any]:
    models = {
        "right-or-wrong": arm({"kind": "binary", "mean": 0.3}, (0.01, 0.02), input_tokens=(500, 400), output_tokens=(90, 60)),
        "judged": arm({"kind": "continuous", "mean": 0.85, "sd": 0.12}, (0.002, 0.001), input_tokens=(520, 410)),
        "u-shaped": arm({"kind": "continuous", "mean": 0.4, "sd": 0.45}, (0.0, 0.0)),
        "constant": arm({"kind": "continuous", "mean": 0.7, "sd": 0.0}, (0.004, 0.0)),
        "extreme": arm({"kind": "continuous", "mean": 0.5, "sd": 0.5}, (0.001, 0.0001)),
        "hopeless": arm({"kind": "binary", "mean": 0.0}, (0.001, 0.0001)),
        "perfect": arm({"kind": "continuous", "mean": 1.0, "sd": 0.0}, (0.001, 0.0001)),
    }
    return {
        "name": "hand-made",
        "categories": {"few": {"weight": 0.2, "models": models}, "many": {"weight": 0.8, "models": models}},
    }


def test_samples_have_the_stated_moments() -> None:
    env = Environment(EnvironmentSpec.model_validate(document()))
    rng, n = np.random.default_rng(5), 20_000
    draws = [env.draw(rng) for _ in range(n)]
    specs = list(env.spec.categories["few"].models.values())

    shares = np.bincount([d.category for d in draws], minlength=2) / n
    assert abs(shares[0] - 0.2) < 4 * math.sqrt(0.16 / n)
    scores = np.array([d.scores for d in draws])
    assert scores.min() >= 0.0
    assert scores.max() <= 1.0
    for k, spec in enumerate(specs):
        sd = math.sqrt(spec.score.mean * (1 - spec.score.mean)) if spec.score.kind == "binary" else spec.score.sd
        assert abs(scores[:, k].mean() - spec.score.mean) <= 4 * sd / math.sqrt(n) + 1e-12
        assert scores[:, k].std() == pytest.approx(sd, rel=0.03, abs=1e-9)
    costs = np.array([d.costs_usd for d in draws])
    assert (costs >= 0).all()
    for k, spec in enumerate(specs):
        assert abs(costs[:, k].mean() - spec.cost_usd.mean) <= 4 * spec.cost_usd.sd / math.sqrt(n) + 1e-12
    assert costs[:, 1].std() == pytest.approx(0.001, rel=0.05)
    assert set(scores[:, 0]) == set(scores[:, 4]) == {0.0, 1.0}
    assert set(scores[:, 5]) == {0.0}
    assert set(scores[:, 6]) == {1.0}


def test_tokens_are_whole_nan_where_unknown_and_one_prompt_is_one_length() -> None:
    env = Environment(EnvironmentSpec.model_validate(document()))
    rng, n = np.random.default_rng(6), 5_000
    draws = [env.draw(rng) for _ in range(n)]
    prompt = np.array([d.input_tokens for d in draws])
    assert np.isnan(prompt[:, 2:]).all()
    assert (prompt[:, :2] == np.rint(prompt[:, :2])).all()
    assert abs(prompt[:, 0].mean() - 500) < 4 * 400 / math.sqrt(n)
    assert np.corrcoef(prompt[:, 0], prompt[:, 1])[0, 1] > 0.99
    answer = np.array([d.output_tokens for d in draws])
    assert np.isnan(answer[:, 1:]).all()
    assert abs(answer[:, 0].mean() - 90) < 4 * 60 / math.sqrt(n)


def test_no_tokens_at_all_is_none(toy: Dataset) -> None:
    draw = Environment(calibrate(toy)).draw(np.random.default_rng(0))
    assert draw.input_tokens is None
    assert draw.output_tokens is not None


def test_same_generator_same_draws() -> None:
    env = Environment(EnvironmentSpec.model_validate(document()))
    one, other = (env.draw(np.random.default_rng(9)) for _ in range(2))
    assert one.category == other.category
    assert one.scores.tolist() == other.scores.tolist()
    assert one.costs_usd.tolist() == other.costs_usd.tolist()


def test_calibration_by_hand(toy: Dataset) -> None:
    spec = calibrate(toy).model_dump(exclude_none=True)
    assert spec["categories"]["easy"] == {
        "weight": 0.5,
        "models": {
            "cheap": {
                "score": {"kind": "continuous", "mean": 0.8, "sd": 0.1},
                "cost_usd": {"mean": 0.001, "sd": 0.0},
                "output_tokens": {"mean": 20.0, "sd": 10.0},
            },
            "dear": {"score": {"kind": "continuous", "mean": 0.9, "sd": 0.0}, "cost_usd": {"mean": 0.01, "sd": 0.0}},
        },
    }
    assert spec["categories"]["hard"]["models"]["dear"]["output_tokens"] == {"mean": 70.0, "sd": 0.0}


def test_scores_of_0_and_1_are_binary(toy: Dataset) -> None:
    binary = dataclasses.replace(toy, scores=np.array([[0.0, 0.5], [1.0, 1.0], [1.0, 0.0], [1.0, 1.0]]))
    models = calibrate(binary).categories["easy"].models
    assert models["cheap"].score.model_dump() == {"kind": "binary", "mean": 0.5}
    assert models["dear"].score.kind == "continuous"


def test_command_writes_what_loads(toy: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = tmp_path / "toy.csv", tmp_path / "toy.yaml"
    rows = [
        f"s{i},{toy.categories[c]},{model},{toy.scores[i, k]},{toy.costs_usd[i, k]}"
        for i, c in enumerate(toy.sample_category)
        for k, model in enumerate(toy.models)
    ]
    data.write_text("\n".join(["sample_id,category,model,score,cost_usd", *rows]), encoding="utf-8")
    assert main([str(data), str(out), "--source", "made by hand, public domain"]) == 0
    assert "4 samples, 2 models, 2 categories" in capsys.readouterr().out
    text = out.read_text(encoding="utf-8")
    assert text.startswith("# Source: made by hand, public domain.\n# Method: ")
    env = load_environment(out)
    assert (env.name, env.categories, env.models) == ("toy", toy.categories, toy.models)
    np.testing.assert_allclose(env.mean_scores, toy.mean_scores)
    np.testing.assert_allclose(env.mean_costs_usd, toy.mean_costs_usd)
    assert render(env.spec, source="made by hand, public domain") == text


def test_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "absent.csv"), str(tmp_path / "out.yaml")]) == 1
    assert "absent.csv: no such file" in capsys.readouterr().err
    assert not (tmp_path / "out.yaml").exists()


def edit(path: str, value: Any) -> dict[str, Any]:
    edited = yaml.safe_load(yaml.safe_dump(document()))
    *parents, last = path.split("/")
    at = edited
    for name in parents:
        at = at[name]
    at[last] = value
    return edited  # type: ignore[no-any-return]


FEW = "categories/few/models"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (edit("colour", "red"), "colour: Extra inputs are not permitted"),
        (edit("categories/few/weight", 0.5), "weights sum to 1.3; make it 1"),
        (edit("categories/few/weight", 0.0), r"categories\.few\.weight: Input should be greater than 0"),
        (edit("categories", {}), "categories: Dictionary should have at least 1 item"),
        (edit("categories/few/models", {"new": arm({"kind": "binary", "mean": 0.5}, (1, 0))}), "categories differ in models"),
        (edit(f"{FEW}/judged/score", {"kind": "continuous", "mean": 0.9, "sd": 0.4}), r"sd 0.4 is more .*\(0.3\)"),
        (edit(f"{FEW}/judged/score", {"kind": "binary", "mean": 0.9, "sd": 0.4}), r"score\.binary\.sd: Extra inputs"),
        (edit(f"{FEW}/judged/score", {"kind": "stars", "mean": 4}), "score: Input tag 'stars'"),
        (edit(f"{FEW}/judged/score/mean", 1.2), "mean: Input should be less than or equal to 1"),
        (edit(f"{FEW}/judged/cost_usd", {"mean": -1, "sd": 0}), r"cost_usd\.mean: Input should be greater than or equal to 0"),
        (edit(f"{FEW}/judged/cost_usd", {"mean": 0, "sd": 1}), "with mean 0 has sd 0"),
        (edit(f"{FEW}/judged/cost_usd", {"mean": math.inf, "sd": 1}), "cost_usd.mean: Input should be a finite number"),
        ([1, 2], "document: Input should be a valid dictionary"),
    ],
)
def test_wrong_files_are_refused_by_field(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "env.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(DatasetError, match=message) as caught:
        load_environment(path)
    assert str(path) in str(caught.value)


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="not a readable YAML file"):
        load_environment(tmp_path / "absent.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1", encoding="utf-8")
    with pytest.raises(DatasetError, match="not a readable YAML file"):
        load_environment(tmp_path / "bad.yaml")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_environments_load_and_state_their_source(path: Path) -> None:
    env = load_environment(path)
    assert env.name == path.stem
    header = path.read_text(encoding="utf-8").split("name:")[0]
    assert "# Source: " in header
    assert "Apache-2.0" in header
    assert "# Method: " in header
    draw = env.draw(np.random.default_rng(0))
    assert draw.scores.shape == draw.costs_usd.shape == (len(env.models),)

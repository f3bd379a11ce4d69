from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import yaml

from banditroute.core.errors import DatasetError
from banditroute.lab.datasets import Dataset, half_of, inverted, make_priors, split, write_priors
from banditroute.lab.source import cost_reference_usd, model_costs_usd


def numbered(sizes: list[int]) -> Dataset:
    """One model; each sample's cost is its own number, so that samples can be told apart."""
    n = sum(sizes)
    return Dataset(
        name="numbered",
        categories=tuple(f"c{i}" for i in range(len(sizes))),
        models=("m",),
        sample_category=np.repeat(np.arange(len(sizes)), sizes),
        scores=np.zeros((n, 1)),
        costs_usd=np.arange(n, dtype=float)[:, None],
        input_tokens=np.arange(n, dtype=float)[:, None],
    )


def test_means_by_hand(toy: Dataset) -> None:
    np.testing.assert_allclose(toy.weights, [0.5, 0.5])
    np.testing.assert_allclose(toy.mean_scores, [[0.8, 0.9], [0.2, 0.9]])
    np.testing.assert_allclose(toy.mean_costs_usd, [[0.001, 0.010], [0.002, 0.010]])
    np.testing.assert_allclose(model_costs_usd(toy), [0.0015, 0.010])
    assert cost_reference_usd(toy) == pytest.approx(0.010)


def test_draws_are_rows(toy: Dataset) -> None:
    rng = np.random.default_rng(1)
    seen = {(d.category, *d.scores, *d.costs_usd) for d in (toy.draw(rng) for _ in range(100))}
    assert seen == {(int(c), *s, *u) for c, s, u in zip(toy.sample_category, toy.scores, toy.costs_usd, strict=True)}


def test_a_reference_of_nothing_is_one() -> None:
    assert cost_reference_usd(numbered([1])) == 1.0


@pytest.mark.parametrize("fraction", [0.3, 0.5])
def test_split_is_disjoint_complete_and_keeps_categories(fraction: float) -> None:
    data = numbered([10, 2, 30])
    a, b = split(data, fraction=fraction, seed=3)
    assert sorted([*a.costs_usd[:, 0], *b.costs_usd[:, 0]]) == list(range(42))
    assert a.categories == b.categories == data.categories
    assert a.counts.tolist() == [round(10 * fraction), 1, round(30 * fraction)]
    for part in (a, b):
        assert part.input_tokens is not None
        assert (part.input_tokens == part.costs_usd).all()


def test_split_depends_on_the_seed_only() -> None:
    data = numbered([50])
    assert (split(data, seed=1)[0].costs_usd == half_of(data, "a", seed=1).costs_usd).all()
    assert (split(data, seed=1)[1].costs_usd == half_of(data, "b", seed=1).costs_usd).all()
    assert (split(data, seed=1)[0].costs_usd != split(data, seed=2)[0].costs_usd).any()


def test_a_category_of_one_sample_drops_out_of_one_part() -> None:
    a, b = split(numbered([1, 10]), fraction=0.8)
    assert (a.categories, b.categories) == (("c0", "c1"), ("c1",))
    assert b.sample_category.tolist() == [0, 0]


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, float("nan")])
def test_split_refuses_a_fraction_outside(fraction: float) -> None:
    with pytest.raises(DatasetError, match="fraction"):
        split(numbered([4]), fraction=fraction)


def test_split_refuses_an_empty_part() -> None:
    with pytest.raises(DatasetError, match="too few samples"):
        split(numbered([1]))


def test_shapes_and_empty_categories_are_refused(toy: Dataset) -> None:
    with pytest.raises(DatasetError, match=r"toy: costs_usd has shape \(4, 1\); give \(4, 2\)"):
        dataclasses.replace(toy, costs_usd=np.ones((4, 1)))
    with pytest.raises(DatasetError, match=r"categories without samples \(hard\)"):
        dataclasses.replace(toy, sample_category=np.zeros(4, dtype=np.int64))


def test_priors_by_hand(toy: Dataset) -> None:
    assert make_priors(toy) == {
        "easy": {
            "cheap": {"quality": 0.8, "effective_sample_size": 2.0, "output_tokens": 20.0},
            "dear": {"quality": 0.9, "effective_sample_size": 2.0},
        },
        "hard": {
            "cheap": {"quality": 0.2, "effective_sample_size": 2.0, "output_tokens": 60.0},
            "dear": {"quality": 0.9, "effective_sample_size": 2.0, "output_tokens": 70.0},
        },
    }


def test_priors_claim_at_most_25_samples() -> None:
    priors = make_priors(numbered([24, 300]))
    assert [priors[c]["m"]["effective_sample_size"] for c in ("c0", "c1")] == [24.0, 25.0]


def test_priors_file_reads_back(toy: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "priors.yaml"
    write_priors(path, make_priors(toy), source="toy")
    assert path.read_text(encoding="utf-8").startswith("# Priors from toy.")
    assert yaml.safe_load(path.read_text(encoding="utf-8")) == make_priors(toy)


def test_inverted_priors_are_mirrored_about_the_categorys_mean() -> None:
    told = {m: {"quality": q, "effective_sample_size": 9.0} for m, q in (("a", 0.9), ("b", 0.5), ("c", 0.4))}
    turned = inverted({"sums": told, "odd": {"a": {"quality": 1.0, "effective_sample_size": 1.0}}})
    assert [arm["quality"] for arm in turned["sums"].values()] == pytest.approx([0.3, 0.7, 0.8])
    assert turned["sums"]["b"]["effective_sample_size"] == 9.0
    assert turned["odd"]["a"]["quality"] == 1.0
    skewed = inverted({"x": {m: {"quality": q, "effective_sample_size": 9.0} for m, q in (("a", 1.0), ("b", 1.0), ("c", 0.1))}})
    assert [arm["quality"] for arm in skewed["x"].values()] == pytest.approx([0.4, 0.4, 1.0])

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from core_logs import MODELS, category_entry, config_event, decided, document, fold, scored
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st
from mixed_worlds import CHAT, believed
from numpy.typing import NDArray

from banditroute.core.evidence import Cell, add_reward, empty_cell
from banditroute.core.fold import VARIANCES_EVERY, learn
from banditroute.core.mixed import Belief, Outlook
from banditroute.core.pool import (
    ABILITY,
    CENTRE_VARIANCE,
    DIFFICULTY,
    MIN_NOISE,
    PRIOR_NOISE,
    PRIOR_SIZE,
    START_NOISE,
    START_SPREAD,
    Pooled,
)
from banditroute.core.posterior import LOOKAHEAD, RIDGE, Arms, stddevs
from banditroute.core.settings import CategorySettings, Prior, parse_shared
from banditroute.core.state import State
from banditroute.snapshot import Snapshot

ALONE = CENTRE_VARIANCE + DIFFICULTY + ABILITY + START_SPREAD
"""Variance of one arm's quality before any evidence."""


def category(**changes: object) -> CategorySettings:
    return parse_shared(document({"chat": category_entry(**changes)})).categories["chat"]


def cell_of(*values: float, weight: float = 1.0) -> Cell:
    cell = empty_cell(1)
    for value in values:
        cell = add_reward(cell, z=(1.0,), before=(0.0, 0.0), after=(value, weight), weight=1.0, off_policy=False)
    return cell


def outlook(mean: list[float], covariance: NDArray[np.float64]) -> Outlook:
    return Outlook(np.array(mean), np.linalg.inv(covariance).astype(np.float64))


def one(
    cell: Cell,
    *,
    factor: float = 1.0,
    noise: float = START_NOISE,
    trust: float = 1.0,
    mean: float = 0.5,
    variance: float = ALONE,
    prior: Prior | None = None,
    settings: CategorySettings = CHAT,
) -> Arms:
    """A category of a single arm; of others nothing more is to be learned."""
    before = outlook([mean], np.array([[variance]]))
    return believed(
        [cell],
        factor=factor,
        settings=settings,
        known=[Pooled(noise, trust)],
        outlook=before,
        priors=[prior],
    )


def test_shrinkage_by_hand() -> None:
    # Prior N(.5, .0625 + .0225 + .04 + tau^2); four observations of mean .75 with noise .06.
    found = one(cell_of(0.5, 0.7, 0.8, 1.0))
    precision = 1 / ALONE + 4 / 0.06
    assert found.belief.mean[0] == pytest.approx((0.5 / ALONE + 3.0 / 0.06) / precision, rel=1e-14)
    assert found.belief.mean[0] == pytest.approx(0.72584, abs=1e-5)
    assert found.belief.covariance[0][0] == pytest.approx(1 / precision, rel=1e-14)
    assert stddevs(found.belief) == [pytest.approx(math.sqrt(1 / precision))]
    assert list(found.sizes) == [4.0]
    assert found.later[0][0] == pytest.approx(1 / (precision + LOOKAHEAD / 0.06), rel=1e-14)


def test_forgetting_and_the_cap_scale_evidence_when_it_is_read() -> None:
    cell, ten = cell_of(*[0.9] * 40), one(cell_of(*[0.9] * 10))
    for found in (one(cell, factor=0.25), one(cell, settings=category(max_effective_sample_size=10.0))):
        assert list(found.sizes) == pytest.approx([10.0])
        assert found.belief.mean[0] == pytest.approx(ten.belief.mean[0], rel=1e-12)
        assert found.belief.covariance[0][0] == pytest.approx(ten.belief.covariance[0][0], rel=1e-12)
    # The outlook neither fades nor is capped.
    faded = one(cell, factor=0.0)
    assert [faded.belief.mean[0], faded.belief.covariance[0][0]] == pytest.approx([0.5, ALONE])


@pytest.mark.parametrize("features", [{}, {"size": {"mean": 0.0, "stddev": 1.0}}])
def test_a_prior_from_a_file_counts_as_so_many_observations(features: dict[str, dict[str, float]]) -> None:
    dimension = 1 + len(features)
    found = one(empty_cell(dimension), noise=0.05, mean=0.4, variance=0.03, prior=Prior(0.9, 20.0, None, None))
    precision = 1 / 0.03 + 20 / 0.05
    assert found.belief.mean[0] == pytest.approx((0.4 / 0.03 + 0.9 * 20 / 0.05) / precision, rel=1e-12)
    assert found.belief.covariance[0][0] == pytest.approx(1 / precision, rel=1e-12)
    assert list(found.sizes) == [0.0]
    # Twenty observations of that mean would say the same.
    seen = one(cell_of(*[0.9] * 20), noise=0.05, mean=0.4, variance=0.03)
    assert seen.belief.mean[0] == pytest.approx(found.belief.mean[0], rel=1e-12)
    # It neither fades nor is capped.
    capped = one(
        empty_cell(dimension),
        factor=0.0,
        noise=0.05,
        mean=0.4,
        variance=0.03,
        prior=Prior(0.9, 20.0, None, None),
        settings=category(max_effective_sample_size=1.0),
    )
    assert capped.belief.mean[0] == found.belief.mean[0]


def test_a_prior_from_a_file_is_no_surer_than_its_own_noise_allows() -> None:
    found = one(empty_cell(1), noise=MIN_NOISE, prior=Prior(0.9, 20.0, None, None))
    assert found.belief.covariance[0][0] == pytest.approx(1 / (1 / ALONE + 20 / PRIOR_NOISE), rel=1e-12)
    # What was seen here keeps the learned noise.
    seen = one(cell_of(0.9, 0.9), noise=MIN_NOISE)
    assert seen.belief.covariance[0][0] == pytest.approx(1 / (1 / ALONE + 2 / MIN_NOISE), rel=1e-12)


def test_values_that_never_vary_make_no_prior_of_another_category_certain() -> None:
    """3,000 times exactly .5 in one category: the noise falls to its floor; a prior elsewhere is as unsure as before."""
    priors = {"*": {model: {"quality": 0.8, "effective_sample_size": 25.0} for model in MODELS}}
    both = {"chat": category_entry(), "code": category_entry()}
    state, _ = fold([config_event(1, document(both, priors=priors))])
    for i in range(3000):
        state, found = learn(state, scored(2 + i, 1 + i, decided("chat", MODELS[i % 4]), 0.5))
        assert not found
    assert state.pool.of("ant").noise < 0.001
    belief = Snapshot(state, None).view("code").beliefs.belief
    assert min(stddevs(belief)) > 0.95 * math.sqrt(0.02 / 25.0)


@pytest.mark.parametrize(
    ("size", "trust", "worth"), [(PRIOR_SIZE, 1.0, 25.0), (400.0, 1.0, 25.0), (400.0, 0.1, 2.5), (8.0, 0.1, 0.8)]
)
def test_a_prior_is_worth_no_more_than_so_much_and_as_it_is_trusted(size: float, trust: float, worth: float) -> None:
    found = one(cell_of(0.5, 0.5), trust=trust, prior=Prior(0.9, size, None, None))
    precision = 1 / ALONE + (2 + worth) / START_NOISE
    assert found.belief.mean[0] == pytest.approx((0.5 / ALONE + (1.0 + 0.9 * worth) / START_NOISE) / precision, rel=1e-12)
    assert found.belief.covariance[0][0] == pytest.approx(1 / precision, rel=1e-12)
    assert found.later[0][0] == pytest.approx(1 / (precision + LOOKAHEAD / START_NOISE), rel=1e-12)


# --- features --------------------------------------------------------------------------------------


class Regression:
    """Joint Bayesian regression of several arms, theta = (theta_0, theta_1 ...) of one arm after the other."""

    def __init__(self, rng: np.random.Generator, count: int, features: int) -> None:
        self.count, self.dimension = count, 1 + features
        root = rng.normal(size=(count, count + 2)) * 0.1
        self.common = root @ root.T + 0.001 * np.eye(count)
        self.mean = rng.random(count).tolist()
        self.noises = rng.choice((0.001, 0.04, 0.2), size=count).tolist()
        size = count * self.dimension
        covariance = RIDGE * np.eye(size)
        heads = np.arange(count) * self.dimension
        covariance[np.ix_(heads, heads)] = self.common
        self.precision = np.linalg.inv(covariance)
        centre = np.zeros(size)
        centre[heads] = self.mean
        self.right = self.precision @ centre

    def observe(self, arm: int, z: NDArray[np.float64], y: NDArray[np.float64], w: NDArray[np.float64], noise: float) -> None:
        at = slice(arm * self.dimension, (arm + 1) * self.dimension)
        self.precision[at, at] += (z.T * w) @ z / noise
        self.right[at] += z.T @ (w * y) / noise

    def at(self, z: NDArray[np.float64]) -> Belief:
        rows = np.kron(np.eye(self.count), z)
        mean = rows @ np.linalg.solve(self.precision, self.right)
        covariance = rows @ np.linalg.inv(self.precision) @ rows.T
        return Belief(mean.astype(np.float64), covariance.astype(np.float64))


@profile(max_examples=40, derandomize=True, deadline=None)
@given(
    st.integers(min_value=1, max_value=5),
    st.integers(min_value=1, max_value=16),
    st.integers(min_value=0, max_value=80),
    st.integers(min_value=0, max_value=2**32 - 1),
)
def test_features_against_joint_bayesian_regression(count: int, features: int, most: int, seed: int) -> None:
    """theta_0 correlated across arms by the outlook, slopes independent, an arm with a prior; at the mean and anywhere else."""
    rng = np.random.default_rng(seed)
    truth, factor = Regression(rng, count, features), 0.5
    cells, priors = [], []
    for arm in range(count):
        rows = int(rng.integers(0, most + 1))
        z = np.column_stack([np.ones(rows), rng.normal(0.3, 1.0, size=(rows, features))])
        y, w = rng.random(rows), rng.random(rows)
        cell = empty_cell(1 + features)
        for z_i, y_i, w_i in zip(z.tolist(), y.tolist(), w.tolist(), strict=True):
            cell = add_reward(cell, z=z_i, before=(0.0, 0.0), after=(y_i, w_i), weight=1.0, off_policy=False)
        cells.append(cell)
        truth.observe(arm, z, y, factor * w, truth.noises[arm])
        prior = Prior(0.7, 12.0, None, None) if rng.random() < 0.3 else None
        priors.append(prior)
        if prior is not None:
            ahead = np.eye(1, 1 + features)  # said of the mean context
            truth.observe(arm, ahead, np.array([0.7]), np.array([12.0]), max(PRIOR_NOISE, truth.noises[arm]))
    before = outlook(truth.mean, truth.common)
    found = believed(cells, factor=factor, known=[Pooled(noise) for noise in truth.noises], outlook=before, priors=priors)
    mean_context = np.eye(1, 1 + features)[0]
    contexts = [mean_context, *[np.append(1.0, rng.normal(0, 2, features)) for _ in range(3)]]
    for z_ in contexts:
        (belief, later), expected = found.at(z_.tolist()), truth.at(z_)
        np.testing.assert_allclose(belief.mean, expected.mean, rtol=0, atol=1e-9)
        np.testing.assert_allclose(belief.covariance, expected.covariance, rtol=0, atol=1e-9)
        assert np.linalg.eigvalsh(later).min() > 0.0
        assert np.linalg.eigvalsh(belief.covariance - later).min() > -1e-12
    np.testing.assert_allclose(found.belief.mean, found.at(mean_context.tolist())[0].mean, rtol=0, atol=1e-15)
    # What more looks at the mean context would leave there.
    for arm in range(count):
        truth.observe(arm, np.eye(1, 1 + features), np.zeros(1), np.array([LOOKAHEAD]), truth.noises[arm])
    for later in (found.later, found.at(mean_context.tolist())[1]):
        np.testing.assert_allclose(later, truth.at(mean_context).covariance, rtol=0, atol=1e-9)


def test_without_features_every_context_is_the_mean() -> None:
    found = one(cell_of(0.2, 0.9))
    assert found.slopes is None
    belief, later = found.at((1.0,))
    assert belief is found.belief
    assert later is found.later


@pytest.mark.parametrize("dimension", [2, 5, 17])
def test_no_context_makes_the_posterior_fail(dimension: int) -> None:
    """Collinear and huge contexts: what is believed stays finite, its covariance positive."""
    for seed in range(60):
        rng = random.Random(seed)
        cells = []
        for _ in range(2):
            cell = empty_cell(dimension)
            sizes = [rng.choice((1e9, 1e9, 1.0)) for _ in range(dimension - 1)]
            for _ in range(rng.randint(1, 30)):
                z = [1.0, *[size * rng.choice((1.0, -1.0, 0.8, rng.uniform(-1, 1))) for size in sizes]]
                cell = add_reward(cell, z=z, before=(0.0, 0.0), after=(rng.random(), 1.0), weight=1.0, off_policy=False)
            cells.append(cell)
        noise = rng.choice((MIN_NOISE, 0.06))
        before = outlook([0.5, 0.5], np.array([[0.1, 0.06], [0.06, 0.1]]))
        found = believed(cells, known=[Pooled(noise)] * 2, outlook=before)
        for z in ([1.0, *[0.0] * (dimension - 1)], [1.0, *[10.0] * (dimension - 1)], [1.0, *[-1.0, 10.0] * 8][:dimension]):
            belief, later = found.at(z)
            assert np.isfinite(belief.mean).all()
            assert np.isfinite(belief.covariance).all()
            assert np.isfinite(later).all()
            assert (np.diagonal(belief.covariance) > 0.0).all()
            assert (np.diagonal(later) > 0.0).all()
            assert (np.diagonal(belief.covariance - later) >= 0.0).all()


def test_features_in_a_wrong_unit_and_alike_still_answer() -> None:
    """Three features that say the same, then a standard deviation a thousand million times too small: the old
    evidence is carried over, huge and singular, and the category must go on serving."""
    rng = random.Random(8)
    state, _ = fold([config_event(1, document({"chat": category_entry(features=alike(1.0))}))])
    for i in range(40):
        x = rng.gauss(0, 1)
        state, found = learn(state, scored(2 + i, 1 + i, decided("chat", "ant", features={"a": x, "b": x, "c": -x}), 0.5))
        assert not found
    state, found = learn(state, config_event(42, document({"chat": category_entry(features=alike(1e-9))})))
    assert not found
    beliefs = Snapshot(state, None).view("chat").beliefs
    for z in ((1.0, 0.0, 0.0, 0.0), (1.0, 1.0, 1.0, 1.0), (1.0, 10.0, -10.0, 3.0)):
        belief, _ = beliefs.at(z)
        assert (np.diagonal(belief.covariance) > 0.0).all()
        assert abs(belief.mean - 0.5).max() < 0.5


def alike(stddev: float) -> dict[str, dict[str, float]]:
    return {name: {"mean": 0.0, "stddev": stddev} for name in ("a", "b", "c")}


# --- from the fold to a belief ---------------------------------------------------------------------


def belief_of(state: State, name: str) -> dict[str, tuple[float, float]]:
    """(mean, variance) by model, as a decision sees them."""
    view = Snapshot(state, None).view(name)
    belief = view.beliefs.belief
    return {
        arm.model.name: (mean, variance)
        for arm, mean, variance in zip(view.arms, belief.mean.tolist(), np.diagonal(belief.covariance).tolist(), strict=True)
    }


def test_a_new_category_starts_from_what_is_known_of_the_models_and_a_new_model_from_the_others() -> None:
    state, _ = fold([config_event(1, document({"chat": category_entry(models=["ant", "bee"])}))])
    for position in range(2, VARIANCES_EVERY):
        model, value = ("ant", 0.9) if position % 2 else ("bee", 0.7)
        state, _ = learn(state, scored(position, position - 1, decided("chat", model), value))
    both = document({"chat": category_entry(), "code": category_entry()})
    state, _ = learn(state, config_event(VARIANCES_EVERY, both))
    found = belief_of(state, "code")
    assert found["ant"][0] > found["cat"][0] > found["bee"][0] > 0.5  # the newcomer: between the good and the less good
    assert found["cat"] == pytest.approx(found["dog"], rel=1e-12)
    assert found["ant"][1] < found["cat"][1]
    # What is known of `chat` is known of its models there, not only of models in general.
    there = belief_of(state, "chat")
    assert there["cat"][0] > found["cat"][0]
    assert there["ant"][0] == pytest.approx(0.9, abs=0.01)


def test_a_category_without_feedback_of_its_own_is_not_moved_by_its_own_later() -> None:
    """Feedback acts at once, between refreshes too; on the other categories it acts at the next refresh."""
    both = document({"chat": category_entry(), "code": category_entry()})
    state, _ = fold([config_event(1, both), *[scored(2 + i, 1 + i, decided("code", "ant"), 0.9) for i in range(7)]])
    before = belief_of(state, "chat"), belief_of(state, "code")
    state, _ = fold([scored(9, 8, decided("chat", "ant"), 0.1)], state)
    after = belief_of(state, "chat"), belief_of(state, "code")
    assert after[0]["ant"][0] < before[0]["ant"][0]
    assert after[0]["bee"][0] < before[0]["bee"][0]  # the category may be hard
    assert after[1] == before[1]

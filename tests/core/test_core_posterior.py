from __future__ import annotations

import math
import random

import numpy as np
import pytest
from core_logs import MODELS, PRICES, category_entry, config_event, decided, document, event, fold, model_entry, record, scored
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st

from banditroute.core.evidence import Cell, Usage, add_reward, add_usage, empty_cell, usage_of
from banditroute.core.fold import VARIANCES_EVERY, State, learn
from banditroute.core.posterior import (
    COST_WEIGHT,
    LATENCY_WEIGHT,
    MAX_NOISE,
    MAX_SPREAD,
    MIN_NOISE,
    MIN_SPREAD,
    NOISE_WEIGHT,
    POOLED_NOISE_WEIGHT,
    RIDGE,
    SPREAD_WEIGHT,
    START,
    START_NOISE,
    START_SPREAD,
    TOKEN_WEIGHT,
    Pooled,
    Posterior,
    Sight,
    consumption,
    posterior,
    refresh_means,
    refresh_variances,
    shrunk_ratio,
)
from banditroute.core.settings import CategorySettings, ModelSettings, Prior, parse_shared


def category(**changes: object) -> CategorySettings:
    return parse_shared(document({"chat": category_entry(**changes)})).categories["chat"]


def cell_of(*values: float, weight: float = 1.0) -> Cell:
    cell = empty_cell(1)
    for value in values:
        cell = add_reward(cell, z=(1.0,), before=(0.0, 0.0), after=(value, weight), weight=1.0, off_policy=False)
    return cell


def test_shrinkage_by_hand() -> None:
    # Prior N(.5, .01 + .0625); four observations of mean .75 with noise .06.
    belief = posterior(
        cell_of(0.5, 0.7, 0.8, 1.0), factor=1.0, settings=category(), pooled=START.newcomer, spread=START.spread, prior=None
    )
    precision = 1 / 0.0725 + 4 / 0.06
    assert belief.mean[0] == pytest.approx((0.5 / 0.0725 + 3.0 / 0.06) / precision, rel=1e-14)
    assert belief.mean[0] == pytest.approx(0.70714, abs=1e-5)
    assert belief.covariance[0][0] == pytest.approx(1 / precision, rel=1e-14)
    assert belief.size == 4.0


def test_forgetting_and_the_cap_scale_evidence_when_it_is_read() -> None:
    cell, pooled = cell_of(*[0.9] * 40), START.newcomer
    whole = posterior(cell, factor=0.25, settings=category(), pooled=pooled, spread=0.01, prior=None)
    ten = posterior(cell_of(*[0.9] * 10), factor=1.0, settings=category(), pooled=pooled, spread=0.01, prior=None)
    capped = posterior(
        cell, factor=1.0, settings=category(max_effective_sample_size=10.0), pooled=pooled, spread=0.01, prior=None
    )
    for belief in (whole, capped):
        assert belief.size == pytest.approx(10.0)
        assert belief.mean[0] == pytest.approx(ten.mean[0], rel=1e-12)
        assert belief.covariance[0][0] == pytest.approx(ten.covariance[0][0], rel=1e-12)
    # The prior neither fades nor is capped.
    faded = posterior(cell, factor=0.0, settings=category(), pooled=pooled, spread=0.01, prior=None)
    assert [faded.mean[0], faded.covariance[0][0]] == pytest.approx([0.5, 0.0725])


@pytest.mark.parametrize("features", [{}, {"size": {"mean": 0.0, "stddev": 1.0}}])
def test_a_prior_from_a_file_counts_as_so_many_observations(features: dict[str, dict[str, float]]) -> None:
    pooled = Pooled(0.4, 0.02, 0.05, 1.0, None)
    dimension = 1 + len(features)
    prior = Prior(0.9, 20.0, None, None)
    belief = posterior(
        empty_cell(dimension), factor=1.0, settings=category(features=features), pooled=pooled, spread=0.01, prior=prior
    )
    precision = 1 / 0.03 + 20 / 0.05
    assert belief.mean[0] == pytest.approx((0.4 / 0.03 + 0.9 * 20 / 0.05) / precision, rel=1e-12)
    assert belief.covariance[0][0] == pytest.approx(1 / precision, rel=1e-12)
    assert belief.size == 0.0


@profile(max_examples=40, derandomize=True, deadline=None)
@given(
    st.integers(min_value=1, max_value=16), st.integers(min_value=0, max_value=80), st.integers(min_value=0, max_value=2**32 - 1)
)
def test_features_against_closed_form_bayesian_regression(features: int, rows: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    dimension = 1 + features
    z = np.column_stack([np.ones(rows), rng.normal(size=(rows, features))])
    y, w = rng.random(rows), rng.random(rows)
    cell = empty_cell(dimension)
    for z_i, y_i, w_i in zip(z.tolist(), y.tolist(), w.tolist(), strict=True):
        cell = add_reward(cell, z=z_i, before=(0.0, 0.0), after=(y_i, w_i), weight=1.0, off_policy=False)
    pooled = Pooled(0.6, 0.02, 0.04, 1.0, None)
    belief = posterior(cell, factor=0.5, settings=category(), pooled=pooled, spread=0.01, prior=None)
    prior_precision = np.diag([1 / 0.03] + [1 / RIDGE] * features)
    precision = prior_precision + 0.5 / 0.04 * (z.T * w) @ z
    right = 0.5 / 0.04 * z.T @ (w * y) + prior_precision @ np.array([0.6] + [0.0] * features)
    np.testing.assert_allclose(belief.mean, np.linalg.solve(precision, right), atol=1e-11)
    np.testing.assert_allclose(belief.covariance, np.linalg.inv(precision), atol=1e-12)


@pytest.mark.parametrize("dimension", [2, 5, 17])
def test_no_context_makes_the_posterior_fail(dimension: int) -> None:
    """Collinear and huge contexts: what is believed stays finite, its covariance positive."""
    for seed in range(60):
        rng = random.Random(seed)
        cell = empty_cell(dimension)
        for _ in range(rng.randint(1, 30)):
            z = [1.0, *[rng.choice((1e9, -1e9, 8e8, 1.0, rng.uniform(-1e9, 1e9))) for _ in range(dimension - 1)]]
            cell = add_reward(cell, z=z, before=(0.0, 0.0), after=(rng.random(), 1.0), weight=1.0, off_policy=False)
        pooled = START.newcomer._replace(noise=rng.choice((MIN_NOISE, 0.06)))
        belief = posterior(cell, factor=1.0, settings=category(), pooled=pooled, spread=0.01, prior=None)
        assert all(map(math.isfinite, belief.mean))
        assert all(row[i] > 0.0 for i, row in enumerate(belief.covariance))


# --- pooling ---------------------------------------------------------------------------------------


def test_means_by_hand() -> None:
    sights = [
        Sight("ant", cell_of(*[0.8] * 10), 1.0),
        Sight("bee", cell_of(0.1), 1.0),
        Sight("ant", cell_of(*[0.6] * 10), 0.5),  # five observations left
        Sight("cat", cell_of(), 1.0),
    ]
    pool = refresh_means(START, sights)
    w1, w2, w3 = 1 / (0.01 + 0.006), 1 / (0.01 + 0.012), 1 / 0.07
    raw = (w1 * 0.8 + w2 * 0.6) / (w1 + w2)
    centre = (0.5 + raw + 0.1) / 3
    assert pool.newcomer == START.newcomer._replace(mean=pool.newcomer.mean)
    assert pool.newcomer.mean == pytest.approx(centre)
    assert pool.of("ant").mean == pytest.approx(((w1 + w2) * raw + 16 * centre) / (w1 + w2 + 16))
    assert pool.of("ant").variance == pytest.approx(1 / (w1 + w2 + 16))
    assert pool.of("bee").mean == pytest.approx((w3 * 0.1 + 16 * centre) / (w3 + 16))
    assert pool.of("cat") == pool.of("never heard of") == pool.newcomer
    assert pool.spread == START.spread


def test_variances_by_hand() -> None:
    ant = [cell_of(0.9, 0.7, 0.8, 0.8), cell_of(0.2, 0.4)]
    bee = [cell_of(0.5, 0.7, 0.6)]
    sights = [Sight("ant", ant[0], 1.0), Sight("ant", ant[1], 1.0), Sight("bee", bee[0], 1.0)]
    pool = refresh_variances(START, sights)
    within_ant, within_bee = 0.02 + 0.02, 0.02
    common = (within_ant + within_bee + POOLED_NOISE_WEIGHT * START_NOISE) / (3 + 1 + 2 + POOLED_NOISE_WEIGHT)
    noise = (within_ant + NOISE_WEIGHT * common) / (4 + NOISE_WEIGHT)
    assert pool.of("ant").noise == pytest.approx(noise)
    assert pool.of("bee").noise == pytest.approx((within_bee + NOISE_WEIGHT * common) / (2 + NOISE_WEIGHT))
    assert pool.newcomer.noise == pytest.approx(common)
    # DerSimonian and Laird over the two categories of `ant`: n = 4 of mean .8, n = 2 of mean .3.
    weights = np.array([4.0, 2.0]) / noise
    means = np.array([0.8, 0.3])
    q = float(weights @ (means - weights @ means / weights.sum()) ** 2)
    tau = (q - 1) / float(weights.sum() - weights @ weights / weights.sum())
    assert pool.spread == pytest.approx((SPREAD_WEIGHT * START_SPREAD + min(MAX_SPREAD, tau)) / (SPREAD_WEIGHT + 1))


def test_refreshes_of_nothing() -> None:
    assert refresh_means(START, []) == START
    fresh = refresh_variances(START, [])
    assert fresh.newcomer.noise == pytest.approx(START_NOISE)
    assert fresh._replace(newcomer=START.newcomer) == START


@pytest.mark.parametrize("weight", [0.1, 0.3, 1.0])
def test_noise_of_small_cells_of_light_signals_is_not_inflated(weight: float) -> None:
    """Many cells with little evidence each: the noise is that of one value, whatever a value weighs."""
    rng = random.Random(3)
    cells = [cell_of(*[min(1.0, max(0.0, rng.gauss(0.5, 0.1))) for _ in range(3)], weight=weight) for _ in range(2000)]
    pool = refresh_variances(START, [Sight("ant", cell, 1.0) for cell in cells])
    assert pool.of("ant").noise == pytest.approx(0.01, rel=0.1)


@profile(max_examples=100, derandomize=True, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(MODELS),
            st.lists(st.tuples(st.floats(0.0, 1.0), st.floats(1e-3, 1.0)), max_size=6),
            st.floats(0.0, 1.0),
        ),
        max_size=12,
    )
)
def test_refreshes_stay_in_range(groups: list[tuple[str, list[tuple[float, float]], float]]) -> None:
    sights = []
    for model, said, factor in groups:
        cell = empty_cell(1)
        for value, weight in said:
            cell = add_reward(cell, z=(1.0,), before=(0.0, 0.0), after=(value, weight), weight=1.0, off_policy=False)
        sights.append(Sight(model, cell, factor))
    pool = START
    for _ in range(3):
        pool = refresh_variances(refresh_means(pool, sights), sights)
    assert MIN_SPREAD <= pool.spread <= MAX_SPREAD
    for pooled in (*pool.models.values(), pool.newcomer):
        assert -1e-9 <= pooled.mean <= 1.0 + 1e-9
        assert MIN_NOISE <= pooled.noise <= MAX_NOISE
        assert 0.0 < pooled.variance <= 0.0625


def test_a_new_category_starts_from_what_is_known_of_the_models_and_a_new_model_from_the_others() -> None:
    state, _ = fold([config_event(1, document({"chat": category_entry(models=["ant", "bee"])}))])
    for position in range(2, VARIANCES_EVERY):
        model, value = ("ant", 0.9) if position % 2 else ("bee", 0.7)
        state, _ = learn(state, scored(position, position - 1, decided("chat", model), value))
    both = document({"chat": category_entry(), "code": category_entry()})
    state, _ = learn(state, config_event(VARIANCES_EVERY, both))
    means = {model: belief_of(state, "code", model).mean[0] for model in MODELS}
    assert means["ant"] > means["cat"] > 0.5
    assert means["ant"] > means["bee"] > 0.5
    assert means["cat"] == means["dog"] == state.pool.newcomer.mean
    deviations = {model: belief_of(state, "code", model).covariance[0][0] for model in MODELS}
    assert deviations["ant"] < deviations["cat"]


def belief_of(state: State, name: str, model: str) -> Posterior:
    return posterior(
        state.categories[name].cells[model],
        factor=1.0,
        settings=state.settings.categories[name],
        pooled=state.pool.of(model),
        spread=state.pool.spread,
        prior=state.settings.prior(name, model),
    )


# --- tokens, cost, latency -------------------------------------------------------------------------


def priced(attempt: dict[str, float], model: ModelSettings) -> dict[str, float]:
    """The attempt as the engine hands it to the log: with what the price table asks for its tokens."""
    if "input_tokens" not in attempt or "output_tokens" not in attempt:
        return attempt
    return attempt | {"computed_usd": model.list_cost_usd(attempt["input_tokens"], attempt["output_tokens"])}


def used(price: str, *attempts: dict[str, float], weight: float = 1.0) -> Cell:
    model = parse_shared(document({"chat": category_entry()})).models[price]
    cell = empty_cell(1)
    for values in attempts:
        usage = usage_of(priced({"error": 0, "observe_us": 1} | values, model))
        cell = add_usage(cell, before=(Usage(), False), after=usage, weight=weight)
    return cell


def test_tokens_cost_ratio_and_latency_by_hand() -> None:
    one = {"input_tokens": 2000, "output_tokens": 500, "cost_usd": 0.006, "latency_s": 3.0}  # listed at .003
    cell = used("ant", *[one] * 6)
    pooled = START.newcomer._replace(latency_s=1.0)
    use = consumption(cell, factor=1.0, settings=category(), pooled=pooled, prior=None)
    assert use.input_tokens == pytest.approx((6 * 2000 + TOKEN_WEIGHT * 1000) / (6 + TOKEN_WEIGHT))
    assert use.output_tokens == pytest.approx((6 * 500 + TOKEN_WEIGHT * 300) / (6 + TOKEN_WEIGHT))
    assert use.cost_ratio == pytest.approx((6 * 2 + COST_WEIGHT) / (6 + COST_WEIGHT))
    assert use.latency_s == pytest.approx((6 * 3.0 + LATENCY_WEIGHT * 1.0) / (6 + LATENCY_WEIGHT))
    assert use.unpriced_usd == 0.0
    alone = consumption(cell, factor=0.5, settings=category(), pooled=START.newcomer, prior=None)
    assert alone.latency_s == pytest.approx(3.0)
    prior = Prior(0.5, 1.0, 7000.0, 800.0)
    fresh = consumption(empty_cell(1), factor=1.0, settings=category(), pooled=START.newcomer, prior=prior)
    assert (fresh.input_tokens, fresh.output_tokens, fresh.cost_ratio, fresh.latency_s) == (7000.0, 800.0, 1.0, None)


def test_latency_that_has_faded_away_is_forgotten() -> None:
    cell = used("ant", {"latency_s": 3.0})
    for factor in (0.0, 1e-300):
        assert consumption(cell, factor=factor, settings=category(), pooled=START.newcomer, prior=None).latency_s is None
        pooled = START.newcomer._replace(latency_s=2.0)
        assert consumption(cell, factor=factor, settings=category(), pooled=pooled, prior=None).latency_s == 2.0


def test_unpriced_models_cost_what_their_bills_say() -> None:
    cell = used("cat", *[{"input_tokens": 10, "output_tokens": 10, "cost_usd": usd} for usd in (0.01, 0.03)])
    use = consumption(cell, factor=0.5, settings=category(), pooled=START.newcomer, prior=None)
    assert use.unpriced_usd == pytest.approx(0.02)
    assert use.cost_ratio == 1.0


def test_the_ratio_survives_a_price_change() -> None:
    """Bills of .9 of the list price before and after it doubles: the ratio is .9 throughout, with nothing to relearn."""
    old = parse_shared(document({"chat": category_entry()})).models["ant"]
    new = old._replace(input_usd_per_token=2 * old.input_usd_per_token, output_usd_per_token=2 * old.output_usd_per_token)
    cell = empty_cell(1)
    for model in (old, new):
        for _ in range(200):
            billed = 0.9 * model.list_cost_usd(1000, 100)
            attempt = {"error": 0, "input_tokens": 1000, "output_tokens": 100, "cost_usd": billed}
            after = usage_of(priced(attempt, model))
            cell = add_usage(cell, before=(Usage(), False), after=after, weight=1.0)
    use = consumption(cell, factor=1.0, settings=category(), pooled=START.newcomer, prior=None)
    assert use.cost_ratio == pytest.approx((0.9 * 400 + COST_WEIGHT) / (400 + COST_WEIGHT))


def test_a_price_given_late_leaves_old_bills_out_of_the_ratio() -> None:
    bills = {"ant\x1f": {"error": 0, "observe_us": 1, "input_tokens": 1000, "output_tokens": 500, "cost_usd": 0.002}}
    free = {
        name: model_entry(into=0.0 if name == "ant" else i, out=0.0 if name == "ant" else o) for name, (i, o) in PRICES.items()
    }
    state, _ = fold([config_event(1, document({"chat": category_entry()}, models=free))])
    for i in range(50):
        body = {"decision": decided("chat", "ant", cost_usd=0.0), "before": None, "after": record(1 + i, {}, bills)}
        state, found = learn(state, event(2 + i, body))
        assert not found
    state, _ = learn(state, config_event(52, document({"chat": category_entry()})))  # now 1 and 2 USD: listed at .002 too
    body = {"decision": decided("chat", "ant"), "before": None, "after": record(51, {}, bills)}
    state, _ = learn(state, event(53, body))
    cell = state.categories["chat"].cells["ant"]
    use = consumption(cell, factor=1.0, settings=category(), pooled=START.newcomer, prior=None)
    assert use.cost_ratio == pytest.approx(1.0)


def test_shrunk_ratio() -> None:
    assert shrunk_ratio(reported=0.0, computed=0.0, count=0.0, prior=1.3) == 1.3
    assert shrunk_ratio(reported=5.0, computed=0.0, count=5.0, prior=1.3) == 1.3
    assert shrunk_ratio(reported=3.0, computed=2.0, count=10.0, prior=1.0) == pytest.approx((3.0 + 2.0) / (2.0 + 2.0))

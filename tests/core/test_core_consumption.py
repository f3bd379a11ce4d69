"""Tokens, bills and latency: ratios pooled two ways."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pytest
from core_logs import PRICES, category_entry, config_event, decided, document, event, fold, model_entry, record
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st

from banditroute.core.consumption import Consumption, consumptions, usuals
from banditroute.core.evidence import USAGE_AGEING_COUNT, Cell, Usage, add_usage, empty_cell, scaled, usage_of
from banditroute.core.fold import learn
from banditroute.core.pool import START, USAGE_WEIGHT, Pool, Pooled
from banditroute.core.reward import SEPARATOR
from banditroute.core.settings import ModelSettings, Prior, parse_shared
from banditroute.core.sights import FEWEST_TOKENS
from banditroute.core.state import INITIAL, usage_factor
from banditroute.log.checkpoint import decode, encode
from banditroute.snapshot import Snapshot

W = USAGE_WEIGHT
ANT = parse_shared(document({"chat": category_entry()})).models["ant"]


def priced(attempt: Mapping[str, float], model: ModelSettings) -> dict[str, float]:
    """The attempt as the engine hands it to the log: with what the price table asks for its tokens."""
    if "input_tokens" not in attempt or "output_tokens" not in attempt:
        return dict(attempt)
    return {**attempt, "computed_usd": model.list_cost_usd(attempt["input_tokens"], attempt["output_tokens"])}


def used(*attempts: Mapping[str, float], model: ModelSettings = ANT) -> Cell:
    cell = empty_cell(1)
    for values in attempts:
        usage = usage_of(priced({"error": 0, "observe_us": 1, **values}, model))
        cell = add_usage(cell, before=(Usage(), False), after=usage, weight=1.0)
    return cell


def pool_with(latency_s: float | None = None, **models: Pooled) -> Pool:
    return START._replace(models=models, newcomer=START.newcomer._replace(latency_s=latency_s))


def consumed(
    *cells: Cell, pool: Pool = START, priors: Sequence[Prior | None] | None = None, factor: float = 1.0, **entry: object
) -> list[Consumption]:
    """Of as many arms (ant, bee, cat, dog) as there are cells; 1,000 and 300 tokens are expected unless said otherwise."""
    names = ["ant", "bee", "cat", "dog"][: len(cells)]
    settings = parse_shared(document({"chat": category_entry(models=names, **entry)})).categories["chat"]
    return consumptions(cells, factor=factor, usuals=usuals(settings, pool, priors or [None] * len(cells)))


def alone(cell: Cell, pool: Pool = START, prior: Prior | None = None, factor: float = 1.0) -> Consumption:
    (found,) = consumed(cell, pool=pool, priors=[prior], factor=factor)
    return found


# --- one arm ---------------------------------------------------------------------------------------


def test_tokens_cost_ratio_and_latency_by_hand() -> None:
    one = {"input_tokens": 2000, "output_tokens": 500, "cost_usd": 0.006, "latency_s": 3.0}  # listed at .003
    cell = used(*[one] * 6)
    use = alone(cell, pool_with(latency_s=1.0))
    assert use.input_tokens == pytest.approx((6 * 2000 + W * 1000) / (6 + W))
    assert use.output_tokens == pytest.approx((6 * 500 + W * 300) / (6 + W))
    assert use.cost_ratio == pytest.approx((6 * 2 + W) / (6 + W))
    assert use.latency_s == pytest.approx((6 * 3.0 + W * 1.0) / (6 + W))
    assert use.unpriced_usd == 0.0
    assert alone(cell, pool_with(latency_s=1.0), factor=0.5).latency_s == pytest.approx((3 * 3.0 + W * 1.0) / (3 + W))
    prior = Prior(0.5, 1.0, 7000.0, 800.0)
    fresh = alone(empty_cell(1), prior=prior)
    assert (fresh.input_tokens, fresh.output_tokens, fresh.cost_ratio, fresh.latency_s) == (7000.0, 800.0, 1.0, None)


def test_a_models_ratios_are_what_it_starts_from() -> None:
    pool = pool_with(2.0, ant=Pooled(0.06, cost_ratio=0.9, input_ratio=1.2, output_ratio=3.0, latency_s=5.0))
    use = alone(empty_cell(1), pool)
    assert [use.input_tokens, use.output_tokens, use.cost_ratio, use.latency_s] == pytest.approx([1200.0, 900.0, 0.9, 5.0])
    use = alone(used(*[{"output_tokens": 300}] * 6), pool)
    assert use.output_tokens == pytest.approx((6 * 300 + W * 900) / (6 + W))


def test_latency_that_has_faded_away_is_forgotten() -> None:
    cell = used({"latency_s": 3.0})
    for factor in (0.0, 1e-300):
        assert alone(cell, factor=factor).latency_s is None
        assert alone(cell, pool_with(latency_s=2.0), factor=factor).latency_s == 2.0


def test_unpriced_models_cost_what_their_bills_say() -> None:
    free = ANT._replace(input_usd_per_token=0.0, output_usd_per_token=0.0)
    cell = used(*[{"input_tokens": 10, "output_tokens": 10, "cost_usd": usd} for usd in (0.01, 0.03)], model=free)
    use = alone(cell, factor=0.5)
    assert use.unpriced_usd == pytest.approx(0.02)
    assert use.cost_ratio == 1.0


def test_the_ratio_survives_a_price_change() -> None:
    """Bills of .9 of the list price before and after it doubles: the ratio is .9 throughout, with nothing to relearn."""
    new = ANT._replace(input_usd_per_token=2 * ANT.input_usd_per_token, output_usd_per_token=2 * ANT.output_usd_per_token)
    cell = empty_cell(1)
    for model in (ANT, new):
        for _ in range(200):
            billed = 0.9 * model.list_cost_usd(1000, 100)
            attempt = {"error": 0, "input_tokens": 1000, "output_tokens": 100, "cost_usd": billed}
            cell = add_usage(cell, before=(Usage(), False), after=usage_of(priced(attempt, model)), weight=1.0)
    assert alone(cell).cost_ratio == pytest.approx((0.9 * 400 + W) / (400 + W))


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
    assert alone(state.categories["chat"].cells["ant"]).cost_ratio == pytest.approx(1.0)


# --- two ways --------------------------------------------------------------------------------------


def test_what_the_other_arms_use_shows_on_an_untried_one() -> None:
    """By hand: requests twice as long as expected, seen 12 and 36 times by models that use elsewhere what is expected."""
    ant, bee = used(*[{"input_tokens": 2000}] * 12), used(*[{"input_tokens": 2000}] * 36)
    found = consumed(ant, bee, empty_cell(1))
    one, two = 12 * W / (12 + W), 36 * W / (36 + W)  # 3 and 3.6: no arm says more than 4 attempts would
    assert found[2].input_tokens == pytest.approx(1000 * (2 * (one + two) + W) / (one + two + W))
    assert found[2].input_tokens == pytest.approx(1622.64, abs=0.01)
    for_ant, for_bee = (2 * two + W) / (two + W), (2 * one + W) / (one + W)
    assert found[0].input_tokens == pytest.approx((12 * 2000 + W * 1000 * for_ant) / (12 + W))
    assert found[1].input_tokens == pytest.approx((36 * 2000 + W * 1000 * for_bee) / (36 + W))
    assert found[2].output_tokens == pytest.approx(300.0)


def test_what_is_a_models_own_way_does_not_show_on_the_others() -> None:
    """A model that answers three times as long anywhere says, with 900 tokens here, that the requests are as expected."""
    wordy = Pooled(0.06, output_ratio=3.0)
    ant, bee = consumed(used(*[{"output_tokens": 900}] * 50), empty_cell(1), pool=pool_with(ant=wordy))
    assert ant.output_tokens == pytest.approx(900.0)
    assert bee.output_tokens == pytest.approx(300.0)
    # And it starts from both: three times its way, here where the others say twice.
    ant, _ = consumed(empty_cell(1), used(*[{"output_tokens": 600}] * 400), pool=pool_with(ant=wordy))
    weight = 400 * W / (400 + W)
    assert ant.output_tokens == pytest.approx(900 * (2 * weight + W) / (weight + W))


def test_an_arms_own_attempts_win_with_many() -> None:
    long = used(*[{"input_tokens": 4000, "output_tokens": 1200, "latency_s": 8.0, "cost_usd": 0.02}] * 300)
    last = math.inf
    for count in (0, 4, 40, 4000):
        tried = scaled(used({"input_tokens": 500, "output_tokens": 100, "latency_s": 1.0, "cost_usd": 0.0007}), count)
        use = consumed(tried, long, long, pool=pool_with(latency_s=2.0))[0]
        assert use.input_tokens < last
        last = use.input_tokens
    assert [use.input_tokens, use.output_tokens, use.latency_s, use.cost_ratio] == pytest.approx([500, 100, 1.0, 1.0], rel=0.01)


def test_arms_whose_prior_states_tokens_neither_take_nor_give() -> None:
    stated = Prior(0.5, 5.0, 3000.0, None)
    tried = used(*[{"input_tokens": 9000, "output_tokens": 900}] * 30)
    long = used(*[{"input_tokens": 2000, "output_tokens": 600}] * 30)
    weight = 30 * W / (30 + W)
    found = consumed(tried, long, empty_cell(1), priors=[stated, None, None])
    # Input: `ant` knows 3,000 and its own attempts, whatever the others use; `cat` hears of `bee` only.
    assert found[0].input_tokens == pytest.approx((30 * 9000 + W * 3000) / (30 + W))
    assert found[2].input_tokens == pytest.approx(1000 * (2 * weight + W) / (weight + W))
    # Output: nothing was stated, both are heard.
    assert found[2].output_tokens == pytest.approx(300 * ((3 + 2) * weight + W) / (2 * weight + W))
    fresh = consumed(empty_cell(1), long, empty_cell(1), priors=[stated, None, None])
    assert fresh[0].input_tokens == 3000.0
    # Nor does the model's own ratio elsewhere count, as the prior is of this arm.
    wordy = pool_with(ant=Pooled(0.06, input_ratio=5.0))
    assert consumed(empty_cell(1), long, priors=[stated, None], pool=wordy)[0].input_tokens == 3000.0


def test_bills_and_latency_are_pooled_two_ways_too() -> None:
    """Caching on this category halves the bills; it takes three times as long as models do elsewhere."""
    one = {"input_tokens": 1000, "output_tokens": 500, "cost_usd": 0.001, "latency_s": 6.0}  # listed at .002
    pool = pool_with(2.0, ant=Pooled(0.06, latency_s=2.0), bee=Pooled(0.06, latency_s=4.0, cost_ratio=1.5))
    ant, bee = consumed(used(*[one] * 12), empty_cell(1), pool=pool)
    assert ant.cost_ratio == pytest.approx((12 * 0.5 + W) / (12 + W))
    assert bee.cost_ratio == pytest.approx(1.5 * (0.5 * 3 + W) / (3 + W))
    assert ant.latency_s == pytest.approx((12 * 6.0 + W * 2.0) / (12 + W))
    assert bee.latency_s == pytest.approx(4.0 * (3 * 3 + W) / (3 + W))


def test_a_model_that_never_takes_any_time_says_nothing_of_the_category() -> None:
    fast = Pooled(0.06, latency_s=0.0)
    ant, bee = consumed(used(*[{"latency_s": 0.0}] * 20), empty_cell(1), pool=pool_with(2.0, ant=fast))
    assert ant.latency_s == 0.0
    assert bee.latency_s == pytest.approx(2.0)


def test_where_no_tokens_are_expected_the_others_still_say_how_many() -> None:
    tried = used(*[{"input_tokens": 500}] * 12)
    for none in (0.0, 1e-320):
        _, bee = consumed(tried, empty_cell(1), expected_input_tokens=none)
        weight = 12 * W / (12 + W)
        assert bee.input_tokens == pytest.approx((500 * weight + FEWEST_TOKENS * W) / (weight + W))


def test_no_expected_tokens_and_almost_none_leave_a_state_that_can_be_kept() -> None:
    attempt = {"error": 0, "observe_us": 1, "input_tokens": 1000, "output_tokens": 200, "computed_usd": 0.0}
    entries = {
        "chat": category_entry(expected_input_tokens=0.0, expected_output_tokens=1e-320),
        "code": category_entry(expected_input_tokens=1e-9, expected_output_tokens=1e9),
    }
    state, _ = fold([config_event(1, document(entries))])
    for i in range(30):
        name = ("chat", "code")[i % 2]
        body = {"decision": decided(name, "ant"), "before": None, "after": record(1 + i, {}, {"ant\x1f": attempt})}
        state, found = learn(state, event(2 + i, body))
        assert not found
    assert decode(encode(state)) == state
    assert state.pool.of("ant").input_ratio == 1.0
    for name in entries:
        for arm in Snapshot(state, None).view(name).arms:
            assert 0.0 <= arm.consumption.input_tokens < 2000.0
            assert math.isfinite(arm.consumption.output_tokens)


# --- properties ------------------------------------------------------------------------------------

AMOUNT = st.one_of(st.just(0.0), st.floats(1e-9, 1e12))
USES = st.lists(st.tuples(AMOUNT, AMOUNT, AMOUNT, AMOUNT, st.floats(1e-9, 1e12)), max_size=3)
RATIO = st.floats(1e-9, 1e9)
EXPECTED = st.one_of(st.just(0.0), st.floats(0.0, 1e9))


@profile(max_examples=300, derandomize=True, deadline=None)
@given(
    st.lists(st.tuples(USES, RATIO, RATIO, st.none() | AMOUNT, st.none() | EXPECTED), min_size=1, max_size=4),
    st.tuples(EXPECTED, EXPECTED),
    st.none() | AMOUNT,
    st.floats(0.0, 1.0),
)
def test_everything_is_finite_and_not_below_0(
    arms: list[tuple[list[tuple[float, ...]], float, float, float | None, float | None]],
    expected: tuple[float, float],
    usual_s: float | None,
    factor: float,
) -> None:
    cells, priors, models = [], [], {}
    for name, (uses, ratio, cost_ratio, latency_s, stated) in zip(("ant", "bee", "cat", "dog"), arms, strict=False):
        names = "input_tokens", "output_tokens", "cost_usd", "latency_s", "computed_usd"
        cell = empty_cell(1)
        for values in uses:
            attempt = {"error": 0} | dict(zip(names, values, strict=True))
            cell = add_usage(cell, before=(Usage(), False), after=usage_of(attempt), weight=1.0)
        cells.append(cell)
        models[name] = Pooled(0.06, 1.0, cost_ratio, ratio, 1.0 / ratio, latency_s)
        priors.append(None if stated is None else Prior(0.5, 1.0, stated, None))
    pool = pool_with(usual_s, **models)
    found = consumed(
        *cells, pool=pool, priors=priors, factor=factor, expected_input_tokens=expected[0], expected_output_tokens=expected[1]
    )
    for use in found:
        for value in use:
            assert value is None or 0.0 <= value < math.inf
        assert (use.latency_s is None) is (not usual_s)


@profile(max_examples=60, derandomize=True, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 40), st.floats(0.1, 10.0), st.floats(0.3, 3.0)), min_size=1, max_size=4),
    st.floats(1e-2, 1e2),
)
def test_the_unit_does_not_matter(arms: list[tuple[int, float, float]], unit: float) -> None:
    """Tokens, dollars or seconds counted in another unit: the same amounts in that unit."""

    def found(scale: float) -> list[Consumption]:
        cells, models = [], {}
        for name, (count, size, ratio) in zip(("ant", "bee", "cat", "dog"), arms, strict=False):
            amount = 1000 * size * scale
            attempt = {"error": 0, "input_tokens": amount, "latency_s": amount, "cost_usd": amount, "computed_usd": 700 * scale}
            one = add_usage(empty_cell(1), before=(Usage(), False), after=usage_of(attempt), weight=1.0)
            cells.append(scaled(one, float(count)))
            models[name] = Pooled(0.06, 1.0, ratio, ratio, 1.0, 2000 * ratio * scale)
        return consumed(*cells, pool=pool_with(2000 * scale, **models), expected_input_tokens=1000 * scale)

    for one, other in zip(found(1.0), found(unit), strict=True):
        assert one.latency_s is not None
        assert other.input_tokens == pytest.approx(one.input_tokens * unit, rel=1e-9)
        assert other.latency_s == pytest.approx(one.latency_s * unit, rel=1e-9)
        assert other.cost_ratio == pytest.approx(one.cost_ratio, rel=1e-9)


@profile(max_examples=40, derandomize=True, deadline=None)
@given(
    st.permutations(range(4)), st.lists(st.floats(10.0, 1e5), min_size=4, max_size=4), st.lists(st.integers(0, 30), min_size=4)
)
def test_the_order_of_arms_does_not_matter(order: list[int], sizes: list[float], counts: list[int]) -> None:
    cells = [scaled(used({"input_tokens": size}), float(count)) for size, count in zip(sizes, counts, strict=False)]
    base = consumed(*cells)
    turned = consumed(*[cells[i] for i in order])
    assert [use.input_tokens for use in turned] == pytest.approx([base[i].input_tokens for i in order], rel=1e-12)


@pytest.mark.parametrize("half_life", [None, 2000])
def test_tokens_follow_a_drift_whatever_ages_the_rewards(half_life: int | None) -> None:
    """Long enough for landmarks to move (64 half-lives), and a correction at the end finds its own weight."""
    state, _ = learn(INITIAL, config_event(1, document({"chat": category_entry(models=["ant"], half_life_count=half_life)})))
    count = 64 * USAGE_AGEING_COUNT + 100
    sizes = {}
    for ordinal in range(1, count + 3 * USAGE_AGEING_COUNT):
        if ordinal > 2 and ordinal < count - USAGE_AGEING_COUNT:
            continue  # what lies between need not have reported tokens
        sizes[ordinal] = 400 if ordinal < count else 800
        after = record(ordinal, {}, tried("ant", sizes[ordinal]), position=ordinal + 1)
        state, _ = learn(state, event(ordinal + 1, {"decision": decided("chat", "ant"), "before": None, "after": after}))
    category = state.categories["chat"]
    assert category.usage_landmark > 0
    newest = max(sizes)
    weights = {ordinal: 0.5 ** ((newest - ordinal) / USAGE_AGEING_COUNT) for ordinal in sizes}
    usage, factor = category.cells["ant"].usage, usage_factor(category)
    assert factor * usage.input_n == pytest.approx(sum(weights.values()), rel=1e-9)
    assert factor * usage.input_tokens == pytest.approx(sum(weights[i] * sizes[i] for i in sizes), rel=1e-9)
    assert usage.input_tokens / usage.input_n > 740
    again = record(count, {}, tried("ant", 100), position=count + 1)
    before = {"signals": {}, "attempts": tried("ant", 800)}
    state, _ = learn(state, event(newest + 2, {"decision": decided("chat", "ant"), "before": before, "after": again}))
    moved = usage_factor(state.categories["chat"]) * state.categories["chat"].cells["ant"].usage.input_tokens
    assert moved == pytest.approx(sum(weights[i] * sizes[i] for i in sizes) - 700 * weights[count], rel=1e-9)


def tried(model: str, tokens: int) -> dict[str, dict[str, float]]:
    return {f"{model}{SEPARATOR}": {"error": 0, "input_tokens": tokens, "observe_us": 1}}

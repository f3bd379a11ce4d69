from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from core_logs import category_entry, config_event, decided, document, event, fold, random_log, record, scored, signals
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from banditroute.core.evidence import (
    MAX_STANDARD_SCORE,
    REBASE_HALF_LIVES,
    Ageing,
    Cell,
    Usage,
    add_reward,
    add_usage,
    empty_cell,
    finite,
    remapped,
    scaled,
    standardised,
    usage_of,
)
from banditroute.core.fold import _rebased
from banditroute.core.numerics import unpack
from banditroute.core.settings import Feature, ModelSettings
from banditroute.core.state import CategoryState, State, present_factor

PROFILE = settings(max_examples=60, derandomize=True, deadline=None)
PRICED = ModelSettings("m", 1e-6, 2e-6, 0.5e-6, None, frozenset())
FREE = ModelSettings("free", 0.0, 0.0, 0.0, None, frozenset())
AGEINGS: tuple[dict[str, Any], ...] = ({}, {"half_life_count": 5}, {"half_life_count": 1}, {"half_life_s": 2.0})
SECOND = 10**6
START_US = 10**15


def sums(rows: Sequence[tuple[Sequence[float], float, float]]) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """(sum w z z^T, sum w y z, sum w y^2) of rows (z, y, w), all at once."""
    z, y, w = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    return (z * w[:, None]).T @ z, z.T @ (w * y), float(np.sum(w * y * y))


def assert_holds(
    cell: Cell, truth: tuple[NDArray[np.float64], NDArray[np.float64], float], *, factor: float = 1.0, rel: float = 1e-12
) -> None:
    size = len(cell.moment)
    np.testing.assert_allclose(np.array(unpack(cell.information, size)) * factor, truth[0], rtol=rel, atol=rel)
    np.testing.assert_allclose(np.array(cell.moment) * factor, truth[1], rtol=rel, atol=rel)
    assert cell.square * factor == pytest.approx(truth[2], rel=rel, abs=rel)


@PROFILE
@given(st.integers(min_value=0, max_value=2**32 - 1))
def test_rewards_one_by_one_are_the_batch(seed: int) -> None:
    rng = random.Random(seed)
    rows = [((1.0, rng.gauss(0, 2), rng.gauss(0, 2)), rng.random(), rng.choice((0.3, 1.0, 4.5))) for _ in range(40)]
    cell = empty_cell(3)
    for z, y, w in rows:
        # Each is said with weight .4 of its own first, then raised and corrected.
        cell = add_reward(cell, z=z, before=(0.0, 0.0), after=(0.5, 0.4), weight=w, off_policy=False)
        cell = add_reward(cell, z=z, before=(0.5, 0.4), after=(y, 1.0), weight=w, off_policy=False)
    assert_holds(cell, sums(rows))
    assert cell.feedback_count == 40


def test_add_reward_by_hand() -> None:
    cell = add_reward(empty_cell(2), z=(1.0, 2.0), before=(0.0, 0.0), after=(0.5, 0.8), weight=10.0, off_policy=True)
    assert cell == Cell((8.0, 16.0, 32.0), (4.0, 8.0), 2.0, Usage(), 1, 0, 1)
    cell = add_reward(cell, z=(1.0, 2.0), before=(0.5, 0.8), after=(1.0, 0.8), weight=10.0, off_policy=True)
    assert cell == Cell((8.0, 16.0, 32.0), (8.0, 16.0), 8.0, Usage(), 1, 0, 1)


def state_of(ageing: Mapping[str, Any], features: Mapping[str, Any] | None = None) -> State:
    entry = category_entry(features=dict(features or {}), **ageing)
    state, found = fold([config_event(1, document({"chat": entry}), time_us=START_US)])
    assert not found
    return state


@pytest.mark.parametrize("ageing", AGEINGS)
@pytest.mark.parametrize("gap", [0, 3, 150])
def test_feedback_then_correction_is_the_corrected_value_from_the_start(ageing: Mapping[str, Any], gap: int) -> None:
    features = {"size": {"mean": 1.0, "stddev": 2.0}}
    decision = decided("chat", "ant", features={"size": 4.0})
    others = [
        scored(3 + i, 2 + i, decided("chat", "ant", features={"size": float(i % 3)}), 0.25, time_us=START_US + i * SECOND)
        for i in range(gap)
    ]
    end = START_US + gap * SECOND
    corrected = [
        scored(2, 1, decision, 0.9, time_us=START_US),
        *others,
        event(
            3 + gap,
            {
                "decision": decision,
                "before": {"signals": signals(("ant", "eval_score", 0.9)), "attempts": {}},
                "after": record(1, signals(("ant", "eval_score", 0.1)), time_us=START_US),
            },
            time_us=end,
        ),
    ]
    direct = [scored(2, 1, decision, 0.1, time_us=START_US), *others]
    one, _ = fold(corrected, state_of(ageing, features))
    two, _ = fold(direct, state_of(ageing, features))
    a, b = one.categories["chat"], two.categories["chat"]
    assert a.landmark == b.landmark
    assert a.cells["ant"].information == b.cells["ant"].information
    np.testing.assert_allclose(a.cells["ant"].moment, b.cells["ant"].moment, rtol=1e-12)
    assert a.cells["ant"].square == pytest.approx(b.cells["ant"].square, rel=1e-12)
    assert a.cells["ant"].feedback_count == b.cells["ant"].feedback_count == 1 + gap


@pytest.mark.parametrize("former", AGEINGS)
@pytest.mark.parametrize("latter", AGEINGS)
def test_a_correction_carries_its_own_weight_across_a_change_of_half_life(
    former: Mapping[str, Any], latter: Mapping[str, Any]
) -> None:
    def run(first_value: float, *, correct: bool) -> State:
        state = state_of(former)
        position, ordinal = 1, 0
        for block in range(2):
            for i in range(20):
                position, ordinal = position + 1, ordinal + 1
                value = first_value if ordinal == 7 else 0.5
                made = scored(position, ordinal, decided("chat", "ant"), value, time_us=START_US + (30 * block + i) * SECOND // 4)
                state, found = fold([made], state)
                assert not found
            position += 1
            if block == 0:
                late = START_US + 21 * SECOND // 4
                state, _ = fold([config_event(position, document({"chat": category_entry(**latter)}), time_us=late)], state)
        if correct:
            end = START_US + 15 * SECOND
            after = record(7, signals(("ant", "eval_score", 1.0)), time_us=START_US + 6 * SECOND // 4, position=8)
            before = {"signals": signals(("ant", "eval_score", first_value)), "attempts": {}}
            body = {"decision": decided("chat", "ant"), "before": before, "after": after}
            state, found = fold([event(position, body, time_us=end)], state)
            assert not found
        return state

    corrected, direct = (
        run(value, correct=correct).categories["chat"].cells["ant"] for value, correct in ((0.0, True), (1.0, False))
    )
    assert corrected.information == direct.information
    assert corrected.moment[0] == pytest.approx(direct.moment[0], rel=1e-12)
    assert corrected.square == pytest.approx(direct.square, rel=1e-12)
    assert corrected.moment[0] <= corrected.information[0]


@pytest.mark.parametrize("ageing", AGEINGS)
def test_order_does_not_matter_and_equals_explicit_weights(ageing: Mapping[str, Any]) -> None:
    rng = random.Random(7)
    facts = [(ordinal, START_US + ordinal * SECOND // 10, rng.random()) for ordinal in range(1, 301)]
    late = START_US + 400 * SECOND
    results = []
    for _ in range(3):
        rng.shuffle(facts)
        events = [
            event(
                2 + i,
                {
                    "decision": decided("chat", "bee"),
                    "before": None,
                    "after": record(ordinal, signals(("bee", "eval_score", value)), time_us=when),
                },
                time_us=late,
            )
            for i, (ordinal, when, value) in enumerate(facts)
        ]
        results.append(fold(events, state_of(ageing))[0])
    kind, half_life = next(iter(ageing.items()), ("", math.inf))
    rows = []
    for ordinal, when, value in facts:
        age = 300 - ordinal if kind == "half_life_count" else (late - when) / SECOND
        rows.append(((1.0,), value, 0.5 ** (age / half_life)))
    truth = sums(rows)
    for state in results:
        category = state.categories["chat"]
        factor = present_factor(state, category)
        cell = category.cells["bee"]
        assert cell.information[0] * factor == pytest.approx(truth[0][0, 0], rel=1e-11)
        assert cell.moment[0] * factor == pytest.approx(truth[1][0], rel=1e-11)
        assert cell.square * factor == pytest.approx(truth[2], rel=1e-11)


def test_duplicates_change_nothing() -> None:
    state = state_of({"half_life_count": 5})
    decision = decided("chat", "ant")
    state, _ = fold([scored(2, 1, decision, 0.9)], state)
    again, _ = fold([scored(3, 1, decision, 0.9, before=0.9)], state)
    assert again.categories["chat"].cells == state.categories["chat"].cells


@PROFILE
@given(st.integers(min_value=1, max_value=1000), st.integers(min_value=0, max_value=300))
def test_rebasing_scales_by_powers_of_two_and_nothing_else(half_life: int, steps: int) -> None:
    ageing = Ageing(half_life, None)
    rng = random.Random(steps)
    cell = empty_cell(2)
    for _ in range(5):
        cell = add_reward(cell, z=(1.0, rng.random()), before=(0.0, 0.0), after=(rng.random(), 1.0), weight=1.0, off_policy=False)
    category = CategoryState({"m": cell}, {"m": 0}, 0, 0, (), ageing, 0)
    place = steps * half_life + half_life - 1
    moved = _rebased(category, place, 0)
    if steps < REBASE_HALF_LIVES:
        assert moved is category
        return
    assert moved.landmark == steps * half_life
    assert scaled(moved.cells["m"], math.ldexp(1.0, steps)) == cell
    # A reader at any later place sees the same numbers.
    kept = ageing.weight(0, relative_to=place)
    assert ageing.weight(moved.landmark, relative_to=place) * moved.cells["m"].square == pytest.approx(
        kept * cell.square, rel=1e-12
    )


def test_forward_weights_stay_bounded_over_a_long_life() -> None:
    state = state_of({"half_life_count": 2})
    most = 0.0
    for i in range(1, 5001):
        state, _ = fold([scored(1 + i, i, decided("chat", "ant"), 0.5)], state)
        most = max(most, state.categories["chat"].cells["ant"].information[0])
    assert most < 2.0 ** (REBASE_HALF_LIVES + 3)
    category = state.categories["chat"]
    size = category.cells["ant"].information[0] * present_factor(state, category)
    assert size == pytest.approx(1.0 / (1.0 - 0.5**0.5), rel=1e-12)


def test_evidence_of_long_ago_fades_to_nothing_without_an_error() -> None:
    state = state_of({"half_life_s": 0.001})
    state, _ = fold([scored(2, 1, decided("chat", "ant"), 0.5, time_us=START_US)], state)
    state, found = fold([scored(3, 2, decided("chat", "bee"), 0.5, time_us=START_US + 10**15)], state)
    assert not found
    category = state.categories["chat"]
    assert category.cells["ant"].information[0] * present_factor(state, category) < 1e-300
    assert category.cells["bee"].information[0] * present_factor(state, category) == 1.0
    # and a correction of the faded one is a correction of nothing
    state, found = fold([scored(4, 1, decided("chat", "ant"), 0.9, before=0.5, time_us=START_US)], state)
    assert not found
    assert finite(state.categories["chat"].cells["ant"])


@PROFILE
@given(st.integers(min_value=0, max_value=2**32 - 1))
def test_remapped_is_recomputation_from_scratch(seed: int) -> None:
    rng = random.Random(seed)
    old = (Feature("a", 1.0, 2.0), Feature("b", 0.0, 1.0), Feature("c", -3.0, 0.5))
    # b is dropped, d is new, a and c are standardised anew.
    new = (Feature("a", 0.5, 3.0), Feature("c", -2.5, 0.25), Feature("d", 7.0, 1.0))
    raws = [{"a": rng.gauss(1, 2), "b": rng.gauss(0, 1), "c": rng.uniform(-4.5, -1.5)} for _ in range(30)]
    ys = [rng.random() for _ in raws]
    cell, truth = empty_cell(4), empty_cell(4)
    for raw, y in zip(raws, ys, strict=True):
        cell = add_reward(cell, z=standardised(raw, old), before=(0.0, 0.0), after=(y, 1.0), weight=1.0, off_policy=False)
        truth = add_reward(truth, z=standardised(raw, new), before=(0.0, 0.0), after=(y, 1.0), weight=1.0, off_policy=False)
    found = remapped(cell, old, new)
    np.testing.assert_allclose(found.information, truth.information, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(found.moment, truth.moment, rtol=1e-11, atol=1e-11)
    assert found.square == cell.square
    assert found.feedback_count == 30
    there = remapped(cell, old, (Feature("x", 0.0, 1.0),))  # renamed: another feature, from scratch
    assert there.information == (cell.information[0], 0.0, 0.0)
    assert remapped(cell, old, old) == cell


def test_standardised() -> None:
    features = (Feature("a", 1.0, 2.0), Feature("b", 0.0, 1.0))
    assert standardised({"a": 5.0}, features) == (1.0, 2.0, 0.0)
    assert standardised({"a": 1e9, "b": -1e9}, features) == (1.0, MAX_STANDARD_SCORE, -MAX_STANDARD_SCORE)
    assert standardised({}, ()) == (1.0,)


def attempt(**values: float) -> dict[str, Any]:
    return {"error": 0, "observe_us": 1} | values


def test_usage_by_hand() -> None:
    whole = attempt(input_tokens=1000, output_tokens=500, cached_input_tokens=400, cost_usd=0.004, latency_s=2.0)
    usage, failed = usage_of(whole | {"computed_usd": 0.0018})
    assert not failed
    assert usage == Usage(1, 1000, 1, 500, 1, 0.0018, 0.004, 1, 2.0, 0, 0)
    assert usage_of(attempt(cost_usd=0.004, computed_usd=0.002))[0] == Usage(cost_n=1, computed_usd=0.002, reported_usd=0.004)
    assert usage_of(attempt(cost_usd=0.004))[0] == Usage()
    assert usage_of(attempt(cost_usd=0.004, computed_usd=0.0))[0] == Usage(unpriced_n=1, unpriced_usd=0.004)
    assert usage_of(attempt(error=1, latency_s=30.0)) == (Usage(), True)
    assert usage_of(None) == (Usage(), False)


def test_a_corrected_attempt_is_the_last_word() -> None:
    first = usage_of(attempt(input_tokens=10, output_tokens=20, cost_usd=1.0, computed_usd=0.5, latency_s=1.5))
    failed = usage_of(attempt(error=1))
    nothing = (Usage(), False)
    cell = add_usage(empty_cell(1), before=nothing, after=first, weight=0.75)
    assert cell.usage.latency_s == 0.75 * 1.5
    cell = add_usage(cell, before=first, after=failed, weight=0.75)
    assert cell.usage == Usage()
    assert cell.error_count == 1
    assert add_usage(cell, before=failed, after=nothing, weight=0.75).error_count == 0


def test_information_never_shrinks_over_random_logs() -> None:
    for seed in range(4):
        state, _ = fold(random_log(seed, 400))
        for category in state.categories.values():
            for cell in category.cells.values():
                assert finite(cell)
                assert cell.information[0] >= 0.0
                assert cell.feedback_count >= cell.off_policy_count >= 0
                assert cell.error_count >= 0

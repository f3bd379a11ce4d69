"""Snapshots keep what nothing has changed, and nothing else: each change shows in the very next plan."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import pytest
from core_logs import (
    MODELS,
    PRICES,
    category_entry,
    config_event,
    decided,
    document,
    event,
    fold,
    model_entry,
    random_log,
    scored,
)
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st

from banditroute.core.fold import MEANS_EVERY_YOUNG, learn
from banditroute.core.policy import share_at_mean
from banditroute.core.state import INITIAL, State
from banditroute.core.types import Candidate, Event, EventKind, RouteQuery
from banditroute.snapshot import Snapshot

ENTRIES = {"chat": category_entry(propensity_floor=0.0), "code": category_entry(propensity_floor=0.0)}


def told(count: int) -> State:
    """Two categories after `count` feedbacks, of which the last one comes just after a refit."""
    state, found = fold([config_event(1, document(ENTRIES))])
    rng = random.Random(1)
    for i in range(count):
        decision = decided(("chat", "code")[i % 2], MODELS[i // 2 % 4])
        state, more = fold([scored(2 + i, 1 + i, decision, rng.random())], state)
        found += more
    assert not found
    return state


@pytest.fixture
def state() -> State:
    state = told(24)
    assert state.position % MEANS_EVERY_YOUNG == 1  # the next ones do not refit
    return state


def rows(snapshot: Snapshot, category: str) -> Mapping[str, Candidate]:
    return share_at_mean(snapshot.view(category))


def after(snapshot: Snapshot, *events: Event) -> Snapshot:
    """As the engine publishes it: the forerunner's views were asked for before."""
    rows(snapshot, "chat")
    rows(snapshot, "code")
    state, found = fold(events, snapshot.state)
    assert not found
    return Snapshot(state, snapshot)


def weighed(position: int, **changes: float | None) -> Event:
    return event(position, {"action": "set_weights", "category": "chat", "changes": changes}, kind=EventKind.OPERATOR)


def as_from_scratch(snapshot: Snapshot) -> None:
    fresh = Snapshot(snapshot.state, None)
    for name in snapshot.state.settings.categories:
        assert rows(snapshot, name) == rows(fresh, name)


def test_a_set_weight_shows_in_the_next_plan_and_so_does_its_clearing(state: State) -> None:
    first = Snapshot(state, None)
    heavy = after(first, weighed(26, cost_weight=2.0, latency_weight=0.5))
    assert (heavy.view("chat").weights, heavy.view("code").weights) == ((2.0, 0.5), (0.1, 0.0))
    was, now = rows(first, "chat"), rows(heavy, "chat")
    for model in MODELS:
        assert now[model].utility_mean == pytest.approx(was[model].utility_mean - 1.9 * was[model].expected_cost_usd / 0.01)
        assert now[model].quality_mean == was[model].quality_mean
    assert now["bee"].propensity < was["bee"].propensity
    assert rows(heavy, "code") == rows(first, "code")
    cleared = after(heavy, weighed(27, cost_weight=None, latency_weight=None))
    assert rows(cleared, "chat") == was
    as_from_scratch(heavy)


def test_a_changed_price_shows_in_the_next_plan(state: State) -> None:
    priced = {name: model_entry(into=into, out=out) for name, (into, out) in PRICES.items()}
    first = after(Snapshot(state, None), config_event(26, document(ENTRIES, models=priced)))
    dearer = after(first, config_event(27, document(ENTRIES, models=priced | {"ant": model_entry(into=3.0, out=6.0)})))
    for name in ENTRIES:
        was, now = rows(first, name), rows(dearer, name)
        assert now["ant"].expected_cost_usd == pytest.approx(3.0 * was["ant"].expected_cost_usd)
        assert now["ant"].utility_mean < was["ant"].utility_mean
        assert now["bee"].expected_cost_usd == was["bee"].expected_cost_usd
    as_from_scratch(dearer)
    # Even if a configuration were not to refit the pool.
    as_from_scratch(Snapshot(dearer.state._replace(pool=first.state.pool), first))


@pytest.mark.parametrize(
    ("change", "moves"),
    [
        ({"propensity_floor": 0.2}, "propensity"),
        ({"cost_weight": 1.0}, "utility_mean"),
        ({"cost_reference_usd": 0.02}, "utility_mean"),
        ({"expected_output_tokens": 900.0}, "expected_cost_usd"),
        ({"max_effective_sample_size": 1.0}, "quality_mean"),
        ({"cost_scale": "log"}, "utility_mean"),
    ],
)
def test_a_changed_category_shows_in_the_next_plan(state: State, change: dict[str, Any], moves: str) -> None:
    first = after(Snapshot(state, None), config_event(26, document(ENTRIES)))
    other = after(first, config_event(27, document(ENTRIES | {"chat": {**ENTRIES["chat"], **change}})))
    assert getattr(rows(other, "chat")["bee"], moves) != getattr(rows(first, "chat")["bee"], moves)
    as_from_scratch(other)


def test_new_priors_and_arms_show_in_the_next_plan(state: State) -> None:
    first = after(Snapshot(state, None), config_event(26, document(ENTRIES)))
    priors = {"chat": {"ant": {"quality": 1.0, "effective_sample_size": 25.0, "input_tokens": 5000.0}}}
    praised = after(first, config_event(27, document(ENTRIES, priors=priors)))
    for name in ENTRIES:  # in the other category by way of the pool
        assert rows(praised, name)["ant"].quality_mean > rows(first, name)["ant"].quality_mean
    assert rows(praised, "chat")["ant"].expected_cost_usd > rows(first, "chat")["ant"].expected_cost_usd
    few = after(praised, config_event(28, document(ENTRIES | {"chat": {**ENTRIES["chat"], "models": ["dog", "ant"]}})))
    assert list(rows(few, "chat")) == ["dog", "ant"]
    with_news = config_event(29, document({**ENTRIES, "new": category_entry()}))
    assert set(rows(after(few, with_news), "new")) == set(MODELS)
    as_from_scratch(few)


def test_feedback_shows_in_the_next_plan_of_its_category_and_leaves_the_others_alone(state: State) -> None:
    first = Snapshot(state, None)
    attempt = {"error": 0, "observe_us": 1, "input_tokens": 9000, "output_tokens": 3000, "latency_s": 1.0}
    scored_ = scored(26, 25, decided("chat", "ant"), 1.0)
    scored_.body["after"]["attempts"]["ant\x1f"] = attempt
    second = after(first, scored_)
    assert second.state.pool is state.pool  # no refit
    was, now = rows(first, "chat"), rows(second, "chat")
    assert now["ant"].quality_mean > was["ant"].quality_mean
    assert now["ant"].quality_stddev < was["ant"].quality_stddev
    assert now["ant"].expected_cost_usd > was["ant"].expected_cost_usd
    assert now["bee"].quality_mean > was["bee"].quality_mean  # the category is not as hard
    assert second.view("code") is first.view("code")
    assert second.view("chat") is not first.view("chat")
    # And so does its correction.
    corrected = after(second, scored(27, 25, decided("chat", "ant"), 0.0, before=1.0))
    assert rows(corrected, "chat")["ant"].quality_mean < was["ant"].quality_mean
    as_from_scratch(second)
    as_from_scratch(corrected)


def test_a_refit_shows_in_the_next_plan_of_every_category(state: State) -> None:
    snapshot = Snapshot(state, None)
    for position in range(26, 33):
        last, snapshot = snapshot, after(snapshot, scored(position, position - 1, decided("chat", "ant"), 1.0))
        refitted = snapshot.state.pool is not last.state.pool
        assert refitted == (position == 32)
        assert (snapshot.view("code") is last.view("code")) != refitted
        as_from_scratch(snapshot)
    was, now = rows(last, "code"), rows(snapshot, "code")
    assert now["ant"].quality_mean > was["ant"].quality_mean  # what `chat` has shown of ant


def test_time_shows_where_evidence_ages_by_it() -> None:
    entries = {"chat": category_entry(half_life_s=1.0), "code": category_entry()}
    state, _ = fold([config_event(1, document(entries)), scored(2, 1, decided("chat", "ant"), 1.0)])
    first = Snapshot(state, None)
    second = after(first, scored(3, 2, decided("code", "ant"), 0.5, time_us=10**12 + 2 * 10**6))
    assert second.view("chat").beliefs.sizes[0] == pytest.approx(0.25)
    assert 0.5 < rows(second, "chat")["ant"].quality_mean < rows(first, "chat")["ant"].quality_mean
    as_from_scratch(second)


@profile(max_examples=30, derandomize=True, deadline=None)
@given(st.integers(min_value=0, max_value=10**6), st.integers(min_value=1, max_value=5))
def test_whatever_happens_a_snapshot_answers_as_one_from_scratch_does(seed: int, batch: int) -> None:
    """Every kind of event; some of the views asked for in between, at the mean and elsewhere, so that grounds of any age are
    carried on. To the bit."""
    rng = random.Random(seed)
    state, snapshot = INITIAL, Snapshot(INITIAL, None)
    for i, each in enumerate(random_log(seed, 60)):
        state, _ = learn(state, each)
        if i % batch:
            continue
        snapshot, fresh = Snapshot(state, snapshot), Snapshot(state, None)
        for name, category in state.settings.categories.items():
            if rng.random() < 0.6:
                query = RouteQuery(name, features={feature.name: rng.gauss(3.0, 4.0) for feature in category.features})
                assert snapshot.view(name).plan(query) == fresh.view(name).plan(query)
                assert snapshot.report(name) == fresh.report(name)
                assert snapshot.view(name).beliefs.later.tolist() == fresh.view(name).beliefs.later.tolist()

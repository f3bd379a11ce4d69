from __future__ import annotations

import itertools
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from core_logs import (
    MODELS,
    category_entry,
    config_event,
    decided,
    document,
    event,
    fold,
    random_log,
    record,
    scored,
    signals,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from banditroute.core.fold import FOLD_VERSION, MEANS_EVERY, MEANS_EVERY_YOUNG, VARIANCES_EVERY, learn
from banditroute.core.pool import START
from banditroute.core.settings import canonical_json
from banditroute.core.sights import Columns
from banditroute.core.state import INITIAL, State
from banditroute.core.types import Event, EventKind, RouteQuery
from banditroute.log.checkpoint import checkpoint_of, decode, encode
from banditroute.snapshot import Snapshot

HERE = Path(__file__).parent


@settings(max_examples=25, derandomize=True, deadline=None)
@given(st.integers(min_value=0, max_value=10**6), st.lists(st.integers(min_value=0, max_value=299), max_size=4), st.data())
def test_any_batching_and_any_restart_give_the_same_state(seed: int, cuts: list[int], data: st.DataObject) -> None:
    events = random_log(seed, 300)
    whole, transitions = fold(events)
    state, found = fold([])
    edges = [0, *sorted(cuts), len(events)]
    for low, high in itertools.pairwise(edges):
        state, more = fold(events[low:high], state)
        found += more
        if data.draw(st.booleans()):
            state = decode(encode(state))  # a restart: checkpoint, then the tail
    assert encode(state) == encode(whole)
    assert checkpoint_of(state).digest == checkpoint_of(whole).digest
    assert found == transitions


@settings(max_examples=15, derandomize=True, deadline=None)
@given(st.integers(min_value=0, max_value=10**6), st.lists(st.integers(min_value=0, max_value=299), max_size=3))
def test_columns_kept_between_refits_change_nothing(seed: int, restarts: list[int]) -> None:
    """Nor do those that were last used on another log."""
    whole, _ = fold(random_log(seed, 300))
    state, columns = INITIAL, Columns()
    for each in random_log(seed + 1, 100):
        learn(state, each, columns)
    for each in random_log(seed, 300):
        state, _ = learn(state, each, columns)
        if each.position in restarts:
            state, columns = decode(encode(state)), Columns()
    assert encode(state) == encode(whole)


def test_categories_where_nothing_changed_share_what_was_made_of_them() -> None:
    state, columns = fold([config_event(1, document({"chat": category_entry(), "code": category_entry()}))])[0], Columns()
    for position in range(2, 73):
        name = "chat" if position <= 64 else "code"  # refits at 64, with the variances, and at 72
        state, _ = learn(state, scored(position, position, decided(name, "ant"), 0.5), columns)
        if position == 64:
            early = state.pool
    assert state.pool.cells["chat"] is early.cells["chat"]
    assert state.pool.cells.keys() == {"chat", "code"}


def test_events_from_json_fold_like_those_in_memory() -> None:
    """A store gives keys back in another order, and whole floats perhaps as integers."""
    events = random_log(5, 400)
    stored = [each._replace(body=json.loads(canonical_json(each.body))) for each in events]
    assert encode(fold(stored)[0]) == encode(fold(events)[0])


def test_a_long_log_through_every_refresh_point() -> None:
    events = random_log(1, 2 * VARIANCES_EVERY + MEANS_EVERY + 3)
    whole, _ = fold(events)
    for cut in (MEANS_EVERY_YOUNG, MEANS_EVERY - 1, MEANS_EVERY, VARIANCES_EVERY - 1, VARIANCES_EVERY, VARIANCES_EVERY + 1):
        early, _ = fold(events[:cut])
        assert encode(fold(events[cut:], decode(encode(early)))[0]) == encode(whole)
    assert whole.pool != START


def test_a_checkpoint_keeps_a_filled_pool_to_the_last_bit() -> None:
    events = random_log(3, VARIANCES_EVERY + 20)
    state, _ = fold(events)
    pool = state.pool
    assert len(pool.models) > 2
    assert pool.cells
    assert pool.spread != START.spread
    back = decode(encode(state))
    assert back == state
    assert all(type(cell) is tuple for seen in back.pool.cells.values() for cell in seen.values())
    # The same decisions, whichever of the two is asked: the derived arithmetic sees the same numbers in the same order.
    for name in state.settings.categories:
        views = [Snapshot(each, None).view(name) for each in (state, back)]
        assert views[0].plan(RouteQuery(name)) == views[1].plan(RouteQuery(name))
        one, two = (view.beliefs for view in views)
        np.testing.assert_array_equal(one.belief.mean, two.belief.mean)
        np.testing.assert_array_equal(one.belief.covariance, two.belief.covariance)
        np.testing.assert_array_equal(one.later, two.later)
        assert one.sizes == two.sizes


def test_refreshes_fall_on_fixed_positions() -> None:
    """Means at every eighth position while young, at every 64th later; variances at powers of two, then every 1,024."""
    rng = random.Random(4)
    state, _ = fold([config_event(1, document({"chat": category_entry()}))])
    means, variances = [], []
    for position in range(2, 2 * VARIANCES_EVERY + 1):
        before = state.pool
        state, _ = learn(state, scored(position, position - 1, decided("chat", rng.choice(MODELS)), rng.random()))
        if state.pool is not before:
            means.append(position)
        if state.pool.spread != before.spread:
            variances.append(position)
    assert means == [*range(8, 1025, 8), *range(1088, 2049, 64)]
    assert variances == [8, 16, 32, 64, 128, 256, 512, 1024, 2048]


def test_a_removed_category_leaves_the_pool_and_a_removed_model_stays_in_it() -> None:
    both = document({"chat": category_entry(), "code": category_entry()})
    said = [scored(2 + i, 1 + i, decided(("chat", "code")[i % 2], MODELS[i % 4]), 0.5) for i in range(14)]
    state, _ = fold([config_event(1, both), *said])
    assert state.pool.cells.keys() == {"chat", "code"}
    assert state.pool.cells["chat"].keys() == {"ant", "cat"}
    less = config_event(16, document({"chat": category_entry(models=["bee"])}))
    state, _ = fold([less], state)
    assert {name: set(seen) for name, seen in state.pool.cells.items()} == {"chat": {"ant", "cat"}}


def test_the_same_bits_on_every_core_type() -> None:
    digests = set()
    above = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    for changed in (
        *({"OPENBLAS_CORETYPE": core} for core in ("Haswell", "Zen", "SkylakeX")),
        {"NPY_DISABLE_CPU_FEATURES": " ".join(above)},  # NumPy's own loops at their plainest
    ):
        environment = {**os.environ, **changed, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        done = subprocess.run(
            [sys.executable, str(HERE / "fold_digest.py")], env=environment, capture_output=True, text=True, check=True
        )
        digests.add(done.stdout)
    assert len(digests) == 1


def test_the_chain_position_and_clock_follow_the_log() -> None:
    state, _ = fold([config_event(1, document({"chat": category_entry()}), time_us=50)])
    state, _ = fold([scored(2, 1, decided("chat", "ant"), 0.5, time_us=40)], state)
    assert (state.position, state.chain, state.append_time_us) == (2, (2).to_bytes(4, "big"), 50)


@pytest.mark.parametrize("strange", [{"kind": "spend"}, {"kind": ""}, {"fold_version": FOLD_VERSION + 1}])
def test_events_of_a_newer_version_halt(strange: dict[str, Any]) -> None:
    from banditroute.core.errors import FoldHalted

    state, _ = fold([config_event(1, document({"chat": category_entry()}))])
    with pytest.raises(FoldHalted, match="upgrade"):
        learn(state, scored(2, 1, decided("chat", "ant"), 0.5)._replace(**strange))


def test_operator_weights_lie_above_the_file_until_cleared() -> None:
    def changed(position: int, **changes: float | None) -> Event:
        body = {"action": "set_weights", "category": "chat", "changes": changes}
        return event(position, body, kind=EventKind.OPERATOR)

    state, found = fold([config_event(1, document({"chat": category_entry()})), changed(2, cost_weight=0.7, latency_weight=0.0)])
    assert not found
    assert state.overrides == {"chat": {"cost_weight": 0.7, "latency_weight": 0.0}}
    state, _ = fold([config_event(3, document({"chat": category_entry(cost_weight=0.2)}))], state)
    assert state.overrides["chat"]["cost_weight"] == 0.7
    state, _ = fold([changed(4, cost_weight=None)], state)
    assert state.overrides == {"chat": {"latency_weight": 0.0}}
    state, found = fold([changed(5, latency_weight=None)], state)
    assert state.overrides == {}
    assert not found
    assert state.categories["chat"].revision == 5


def test_removed_models_keep_their_evidence_and_feedback_for_them_is_recorded() -> None:
    state, _ = fold([config_event(1, document({"chat": category_entry()})), scored(2, 1, decided("chat", "dog"), 0.5)])
    held = state.categories["chat"].cells["dog"]
    state, _ = fold([config_event(3, document({"chat": category_entry(models=["ant"])}))], state)
    state, found = fold([scored(4, 2, decided("chat", "dog"), 0.9)], state)
    assert (state.recorded_count, found) == (1, [])
    assert state.categories["chat"].cells["dog"] == held
    state, _ = fold([config_event(5, document({"sums": category_entry()}))], state)
    state, found = fold([scored(6, 3, decided("chat", "ant"), 0.9)], state)
    assert (state.recorded_count, found) == (2, [])
    state, _ = fold([config_event(7, document({"chat": category_entry()}))], state)
    assert state.categories["chat"].cells["dog"] == held


def test_off_policy_evidence_lands_on_the_model_that_it_names() -> None:
    after = record(1, signals(("ant", "eval_score", 0.2), ("bee", "rating", 0.8)))
    body = {"decision": decided("chat", "ant"), "before": None, "after": after}
    state, _ = fold([config_event(1, document({"chat": category_entry()})), event(2, body)])
    cells = state.categories["chat"].cells
    assert (cells["ant"].moment, cells["ant"].off_policy_count) == ((0.2,), 0)
    assert (cells["bee"].moment, cells["bee"].off_policy_count) == ((0.8,), 1)


# --- any event at all ------------------------------------------------------------------------------

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -(10**400), 2**53 + 1, 0, -1, ""])
    | st.floats(allow_nan=True, allow_infinity=True)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
BASE = document({"chat": category_entry(features={"size": {"mean": 0.0, "stddev": 1.0}}, half_life_count=10)})
VALID: dict[str, Any] = {
    EventKind.CONFIG: {"document": BASE},
    EventKind.OPERATOR: {"action": "set_weights", "category": "chat", "changes": {"cost_weight": 0.3}},
    EventKind.FEEDBACK: {
        "decision": decided("chat", "ant", features={"size": 2.0}),
        "before": {"signals": signals(("ant", "eval_score", 0.3)), "attempts": {"ant\x1f": {"error": 0, "observe_us": 1}}},
        "after": record(
            3,
            signals(("ant", "eval_score", 0.3), ("bee", "rating", 0.4)),
            {"ant\x1f": {"error": 0, "observe_us": 1, "input_tokens": 5, "output_tokens": 6, "cost_usd": 0.1, "latency_s": 1.0}},
        ),
    },
}


BAD: tuple[Any, ...] = (None, "x", float("nan"), float("inf"), -1, 1e308, 10**400, [], {}, [[[]]], True)


def paths(node: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [at]
    if isinstance(node, dict):
        for key, inner in node.items():
            found += paths(inner, (*at, key))
    elif isinstance(node, list):
        for index, inner in enumerate(node):
            found += paths(inner, (*at, index))
    return found


def mutated(drawn: st.DrawFn, body: Any) -> Any:
    body = json.loads(json.dumps(body))
    for _ in range(drawn(st.integers(min_value=1, max_value=2))):
        path = drawn(st.sampled_from(paths(body)))
        if not path:
            return drawn(JSON)
        inner = body
        for step in path[:-1]:
            inner = inner[step]
        action = drawn(st.sampled_from(("drop", "replace", "add")))
        if action == "drop":
            del inner[path[-1]]
        elif action == "add" and isinstance(inner[path[-1]], dict):
            inner[path[-1]][drawn(st.text(max_size=4))] = drawn(JSON)
        else:
            inner[path[-1]] = drawn(JSON)
    return body


@st.composite
def arbitrary_events(drawn: st.DrawFn) -> tuple[str, Any]:
    kind = drawn(st.sampled_from(list(VALID)))
    return kind, drawn(JSON) if drawn(st.integers(0, 9)) == 0 else mutated(drawn, VALID[kind])


def started() -> State:
    state, found = fold(
        [
            config_event(1, BASE),
            scored(2, 1, decided("chat", "ant", features={"size": 1.0}), 0.7),
            scored(3, 2, decided("chat", "bee", features={"size": -1.0}), 0.2),
        ]
    )
    assert not found
    return state


STARTED = started()


@settings(max_examples=1500, derandomize=True, deadline=None)
@given(arbitrary_events(), st.sampled_from([4, MEANS_EVERY, VARIANCES_EVERY]))
def test_arbitrary_events_never_raise(strange: tuple[str, Any], position: int) -> None:
    kind, body = strange
    before = encode(STARTED)
    state, transitions = learn(STARTED, event(position, body, kind=kind))
    assert encode(STARTED) == before
    assert (state.position, state.append_time_us) == (position, 10**12)
    if transitions:
        (only,) = transitions
        assert (only.kind, only.position, only.index) == ("event_skipped", position, 1)
        assert state.skipped_count == 1
        restored = state._replace(
            position=STARTED.position, chain=STARTED.chain, pool=STARTED.pool, skipped_count=STARTED.skipped_count
        )
        assert encode(restored) == before
    else:
        assert state.skipped_count == 0
        # What was taken can be kept, read back, believed and learned upon.
        assert encode(decode(encode(state))) == encode(state)
        snapshot = Snapshot(state, None)
        for name in state.settings.categories:
            belief = snapshot.view(name).beliefs.belief
            assert np.isfinite(belief.mean).all()
            assert np.isfinite(belief.covariance).all()
        state, _ = learn(state, scored(MEANS_EVERY * 100, 9, decided("chat", "ant", features={"size": 0.5}), 0.5))


@pytest.mark.parametrize("kind", list(VALID))
def test_the_bodies_that_are_mutated_are_valid_themselves(kind: str) -> None:
    _, transitions = learn(STARTED, event(4, VALID[kind], kind=kind))
    assert transitions == ()


@pytest.mark.parametrize("kind", list(VALID))
def test_every_single_key_that_goes_missing_or_bad_is_survived(kind: str) -> None:
    for path in paths(VALID[kind])[1:]:
        for bad in BAD:
            body = json.loads(json.dumps(VALID[kind]))
            inner = body
            for step in path[:-1]:
                inner = inner[step]
            inner[path[-1]] = bad
            state, transitions = learn(STARTED, event(4, body, kind=kind))
            assert len(transitions) == state.skipped_count
            encode(state)

"""What the fold does about a model that changed: from the alarm to the end of the change."""

from __future__ import annotations

import functools
import json
import math
import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from change_logs import ARMS, DOWN, KNOWN_AFTER, TWO, Said, Story, fallen, near, steady, without
from core_logs import category_entry, fold
from hypothesis import given, settings
from hypothesis import strategies as st

from banditroute.core.change import (
    CONTRASTS_AT,
    PROBING_AT,
    SETTLED_AT,
    SETTLED_UP_AT,
)
from banditroute.core.drift import (
    FALSE_RECOVERY,
    LAG,
    LEAST_ALONE,
    LEAST_OF_ARM,
    LEAST_OF_MODEL,
    MAX_SOURCES,
    QUALIFYING,
    Pair,
    source_of,
    stream_key,
    threshold,
)
from banditroute.core.errors import NoEligibleModel
from banditroute.core.evidence import Cell, shifted
from banditroute.core.fold import learn
from banditroute.core.lifecycle import lifecycle, lifecycle_reason
from banditroute.core.settings import FALSE_ALARMS_PER_MILLION, canonical_json
from banditroute.core.shift import KEPT, PRIOR_VARIANCE, Span
from banditroute.core.sights import Columns
from banditroute.core.state import INITIAL, State, change_key, scope
from banditroute.core.types import EventKind, JournalRow, Lifecycle, Plan, RouteQuery, Transition
from banditroute.log.checkpoint import checkpoint_of, decode, encode
from banditroute.snapshot import Snapshot
from banditroute.summaries import summarise

UP = (("chat", "bee", 0.97), ("code", "bee", 0.97))


def cells(state: State, model: str = "bee") -> Mapping[str, Cell]:
    return {name: category.cells[model] for name, category in state.categories.items()}


def assert_same_sums(found: Cell, wanted: Cell) -> None:
    np.testing.assert_allclose(found.information, wanted.information, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.moment, wanted.moment, rtol=1e-12, atol=1e-12)
    assert found.square == pytest.approx(wanted.square, rel=1e-12, abs=1e-12)


def watchers_of(state: State, model: str = "bee") -> tuple[Any, ...]:
    """Everything that the tests of change have made of a model."""
    held = state.models.get(model)
    return (held.streams if held else {}), {name: each.references.get(model, {}) for name, each in state.categories.items()}


def lifecycles(state: State) -> dict[tuple[str, str], Lifecycle]:
    return {
        (name, model): lifecycle(state, name, model) for name, each in state.settings.categories.items() for model in each.models
    }


def sentence(note: Transition) -> str:
    return summarise(JournalRow(1, note.position, note.index, note.append_time_us, note.kind, note.body))


# --- alarms ----------------------------------------------------------------------------------------


def test_a_fallen_model_is_demoted_where_a_rival_is_better_and_stays_where_none_is() -> None:
    began = steady().state.position
    story = fallen()
    state = story.state
    (note,) = story.notes
    (shift,) = state.shifts.values()
    assert state.shifts.keys() == {"bee"}
    assert shift.demoted == ("chat",)
    assert shift.start == began  # what came behind it was told of the fallen model
    assert (shift.detected, note.position) == (state.position, state.position)
    assert lifecycles(state) == {
        ("chat", "ant"): Lifecycle.LIVE,
        ("chat", "bee"): Lifecycle.DEMOTED,
        ("code", "ant"): Lifecycle.LIVE,
        ("code", "bee"): Lifecycle.LIVE,
    }
    assert "worse than it was" in lifecycle_reason(state, "chat", "bee")
    assert "evidence of recovery" in lifecycle_reason(state, "chat", "bee")
    assert lifecycle_reason(state, "code", "bee").endswith("but no rival is better")
    assert lifecycle_reason(state, "chat", "ant") == ""
    assert note.kind == "demoted"
    assert note.body.keys() == {
        "model",
        "category",
        "demoted_in",
        "shift",
        "shift_stddev",
        "reference",
        "estimate",
        "evidence",
        "evidence_needed",
        "feedback_count",
        "since_position",
    }
    body = note.body
    assert (body["model"], body["category"], body["demoted_in"]) == ("bee", "", ["chat"])
    assert (body["shift"], body["feedback_count"], body["since_position"]) == (shift.mean, shift.size, shift.start)
    assert body["evidence_needed"] == threshold(FALSE_ALARMS_PER_MILLION) < body["evidence"]
    told = [each.body["after"]["signals"] for each in story.events if each.position > began]
    values = [value for said in told for value, _, _ in said.values()]
    assert shift.size == len(values)
    assert body["estimate"] == pytest.approx(sum(values) / len(values), abs=1e-12)
    assert body["reference"] == pytest.approx(0.8, abs=0.03)
    assert body["shift"] == pytest.approx(-0.4, abs=3 * body["shift_stddev"])
    assert "?" not in sentence(note)


def test_where_no_rival_is_better_a_fallen_model_is_degraded_and_stays() -> None:
    story = steady()
    story.run(100, ("chat", "bee", 0.68), ("code", "bee", 0.68), until="degraded")
    assert story.kinds == ["degraded"]
    assert story.notes[0].body["demoted_in"] == []
    assert "?" not in sentence(story.notes[0])
    assert set(lifecycles(story.state).values()) == {Lifecycle.LIVE}
    assert story.state.shifts["bee"].demoted == ()
    # The day a rival is better after all, it is demoted.
    found = story.run(400, ("chat", "ant", 0.95), until="demoted")
    note = story.notes[-1]
    assert (note.body["model"], note.body["demoted_in"], note.body["formerly_demoted_in"]) == ("bee", ["chat"], [])
    assert "?" not in sentence(note)
    assert len(found) > 1


def test_a_fall_of_one_arm_opens_a_shift_of_that_arm_only() -> None:
    story = steady()
    before = cells(story.state)
    story.run(400, ("chat", "bee", 0.4), *[("code", "bee", 0.8)] * 3, until="demoted")
    state, (note,) = story.state, story.notes
    key = change_key("bee", "chat")
    assert state.shifts.keys() == {key}
    assert (note.body["model"], note.body["category"], note.body["demoted_in"]) == ("bee", "chat", ["chat"])
    assert note.body["since_position"] == state.shifts[key].start
    assert "in category chat" in sentence(note)
    assert lifecycle(state, "chat", "bee") is Lifecycle.DEMOTED
    assert "in this category" in lifecycle_reason(state, "chat", "bee")
    assert lifecycle(state, "code", "bee") is Lifecycle.LIVE
    assert lifecycle_reason(state, "code", "bee") == ""
    # Here learning goes on, there the shift learns; and the tests of the other arms keep what they have.
    assert cells(state)["code"].information > before["code"].information
    chat = cells(state)["chat"]
    assert_same_sums(chat, before["chat"])
    story.feed("chat", "bee", 0.4)
    assert cells(story.state)["chat"].information == chat.information
    assert story.state.shifts[key].size == state.shifts[key].size + 1
    assert state.categories["chat"].references["bee"].keys() == state.categories["code"].references["bee"].keys()
    assert all(each.tests == Pair() for each in state.categories["chat"].references["bee"].values())
    assert all(each.tests != Pair() for each in state.categories["code"].references["bee"].values())
    assert all(row[0] == "code" for each in state.models["bee"].streams.values() for row in each.waiting)


def test_a_change_of_the_model_takes_over_from_those_of_its_arms() -> None:
    story = steady()
    story.run(400, ("chat", "bee", 0.4), *[("code", "bee", 0.8)] * 3, until="demoted")
    key = change_key("bee", "chat")
    start, detected = story.state.shifts[key][:2]
    late = story.decide("chat", "bee")
    while "bee" not in story.state.shifts:
        story.run(1, ("code", "bee", 0.5))
    assert story.state.shifts.keys() == {"bee"}
    assert story.state.past == {key: (Span(start, detected, story.state.position),)}
    before = story.state
    story.say(late, ("bee", "eval_score", 0.4))
    assert story.state.recorded_count == before.recorded_count + 1


def test_an_improvement_is_no_demotion_and_in_the_end_the_new_normal() -> None:
    story = steady()
    story.run(400, *UP, until="improved")
    (note,) = story.notes
    state = story.state
    assert "?" not in sentence(note)
    assert note.body["demoted_in"] == []
    assert note.body["shift"] > 0.0
    assert state.shifts["bee"].up
    assert set(lifecycles(state).values()) == {Lifecycle.LIVE}
    assert "better than it was" in lifecycle_reason(state, "chat", "bee")
    story.run(SETTLED_UP_AT, *UP, until="settled")
    held, last = story.events[-1], story.state
    assert last.shifts == {}
    assert lifecycle_reason(last, "chat", "bee") == ""
    note = story.notes[-1]
    assert (note.body["feedback_count"], note.body["reason"]) == (SETTLED_UP_AT, "nothing changed again")
    assert "?" not in sentence(note)
    for name, cell in cells(last).items():  # the same looks, each worth so much more
        was = cells(state)[name]
        moved = shifted(was, note.body["shift"])
        assert (cell.information, cell.moment) == (was.information, moved.moment)
        assert cell.square == pytest.approx(moved.square, rel=1e-12)
        assert cell.moment[0] / cell.information[0] == pytest.approx(0.96, abs=0.03)
    assert watchers_of(last) == ({}, {"chat": {}, "code": {}})  # what is usual must be found anew
    (span,) = last.past["bee"]
    assert (span.start, span.detected, span.end) == (state.shifts["bee"].start, state.shifts["bee"].detected, held.position)
    # It is learned again, tested again, and a fall from there is found.
    story.run(2 * KNOWN_AFTER, *UP)
    story.run(200, ("chat", "bee", 0.3), ("code", "bee", 0.3), until="demoted")
    found = next(note for note in story.notes[::-1] if "reference" in note.body)
    assert found.body["reference"] == pytest.approx(0.96, abs=0.03)


def test_a_fall_that_demoted_nothing_is_the_new_normal_in_the_end() -> None:
    story = steady()
    story.run(400, ("chat", "bee", 0.68), ("code", "bee", 0.68), until="degraded")
    detected = story.state
    story.run(SETTLED_AT, ("chat", "bee", 0.68), ("code", "bee", 0.68), until="settled")
    note = story.notes[-1]
    assert story.kinds == ["degraded", "settled"]
    assert note.body["feedback_count"] == SETTLED_AT
    for name, cell in cells(story.state).items():
        assert cell.moment == shifted(cells(detected)[name], note.body["shift"]).moment
        assert cell.moment[0] / cell.information[0] == pytest.approx(0.68, abs=0.03)


@pytest.mark.parametrize(
    ("ageing", "features"),
    [
        ({}, ()),
        ({}, ("size", "hard")),
        ({"half_life_count": 50}, ()),
        ({"half_life_count": 50}, ("size",)),
        ({"half_life_s": 40.0}, ()),
    ],
)
def test_what_was_told_since_the_change_is_in_the_shift_and_no_longer_in_the_cells(
    ageing: dict[str, Any], features: tuple[str, ...]
) -> None:
    story = steady(features=features, **ageing)
    began = story.state.position
    story.run(300, *DOWN, ("chat", "ant", 0.6), until="demoted", features=features)
    state = story.state
    shift = state.shifts["bee"]
    assert began - 10 < shift.start <= began + 5
    fewer = without(story.events, model="bee", behind=shift.start, until=state.position)
    plain, notes = fold(fewer)
    assert not notes
    assert shift.size == len(story.events) - len(fewer) > 5
    for name, cell in cells(state).items():
        assert_same_sums(cell, plain.categories[name].cells["bee"])
        assert state.categories[name].cells["ant"] == plain.categories[name].cells["ant"]
    assert all(row.position <= shift.start for row in state.models["bee"].rows)
    # As one observation after the other of the shift.
    assert shift.variance < PRIOR_VARIANCE
    assert shift.mean == pytest.approx(-0.4, abs=4 * shift.variance**0.5)


@pytest.mark.parametrize("latter", [{"half_life_count": 80}, {"half_life_s": 30.0}, {}])
def test_what_was_told_before_the_half_life_changed_is_taken_out_as_it_went_in(latter: dict[str, Any]) -> None:
    story = steady(half_life_count=50)
    story.run(6, *DOWN, seed=1)
    story.run(2, ("chat", "ant", 0.6), ("code", "ant", 0.2))  # the newest of each category stays
    entry = category_entry(models=TWO, **latter)
    story.configure({"chat": entry, "code": entry})
    configured = story.state.position
    story.run(200, *DOWN, seed=2, until="demoted")
    shift = story.state.shifts["bee"]
    assert shift.start < configured - 5
    plain, _ = fold(without(story.events, model="bee", behind=shift.start, until=story.state.position))
    for name, cell in cells(story.state).items():
        assert_same_sums(cell, plain.categories[name].cells["bee"])


def test_after_other_features_only_what_was_told_since_is_moved() -> None:
    story = steady()
    story.run(6, *DOWN, seed=1)
    schema = {"size": {"mean": 0.0, "stddev": 1.0}}
    story.configure({"chat": category_entry(models=TWO, features=schema), "code": category_entry(models=TWO)})
    configured = story.state
    assert {row.category for row in configured.models["bee"].rows} == {"code"}
    story.run(200, ("chat", "bee", 0.4), seed=2, features=["size"], until="demoted")
    shift = story.state.shifts["bee"]
    for name, cell in cells(story.state).items():
        gone = [each for each in configured.models["bee"].rows if each.position > shift.start and each.category == name]
        assert cell.information[0] == pytest.approx(cells(configured)[name].information[0] - len(gone), rel=1e-12)


def test_a_change_that_is_older_than_what_is_kept_moves_all_that_is() -> None:
    """A slow fall: rows of before are out of reach, and what the shift began with is the oldest row that is not."""
    story = steady()
    rng = random.Random(5)
    for i in range(600):
        name = ("chat", "code")[i % 2]
        story.feed(name, "bee", near(rng, 0.8 - 0.0003 * i))
        if story.state.shifts:
            break
    (shift,) = story.state.shifts.values()
    assert shift.size <= KEPT
    fewer = without(story.events, model="bee", behind=shift.start, until=story.state.position)
    for name, cell in cells(story.state).items():
        assert_same_sums(cell, fold(fewer)[0].categories[name].cells["bee"])


# --- recovery --------------------------------------------------------------------------------------


def test_a_recovered_model_is_promoted_with_all_that_was_known() -> None:
    story = fallen()
    detected = story.state
    story.run(60, ("chat", "bee", 0.4), ("chat", "ant", 0.6), seed=1)
    assert story.state.shifts["bee"].level < 0.0  # how bad it is was asked first
    story.run(600, ("chat", "bee", 0.8), ("code", "bee", 0.8), ("chat", "ant", 0.6), seed=2, until="promoted")
    state, note = story.state, story.notes[-1]
    assert "probing" in story.kinds
    assert state.shifts == {}
    assert set(lifecycles(state).values()) == {Lifecycle.LIVE}
    assert note.body["evidence"] >= note.body["evidence_needed"] >= 2 / FALSE_RECOVERY
    assert "?" not in sentence(note)
    (span,) = state.past["bee"]
    shift = detected.shifts["bee"]
    assert (span.start, span.detected, span.end) == (shift.start, shift.detected, state.position)
    # The cells are those of a log without all that was told of it in between.
    plain, _ = fold(without(story.events, model="bee", behind=span.start, until=span.end))
    for name, cell in cells(state).items():
        assert_same_sums(cell, plain.categories[name].cells["bee"])
        assert cell.information == cells(detected)[name].information
        assert cell.moment == cells(detected)[name].moment
    # References stay: the next fall is found at once.
    assert all(reference.size >= LEAST_ALONE for reference in state.categories["chat"].references["bee"].values())
    story.run(150, *DOWN, seed=3, until="demoted")


def test_probing_and_relapse_are_told() -> None:
    story = fallen()
    story.run(60, ("chat", "bee", 0.4), seed=3)
    story.run(60, ("chat", "bee", 0.8), until="probing")
    assert story.state.shifts["bee"].recovery.evidence >= PROBING_AT
    assert lifecycle(story.state, "chat", "bee") is Lifecycle.PROBING
    assert lifecycle(story.state, "code", "bee") is Lifecycle.LIVE
    assert story.notes[-1].body["evidence"] == story.state.shifts["bee"].recovery.evidence
    assert "?" not in sentence(story.notes[-1])
    story.run(200, ("chat", "bee", 0.2), until="relapsed")
    assert story.state.shifts["bee"].recovery.evidence < 1.0
    assert lifecycle(story.state, "chat", "bee") is Lifecycle.DEMOTED
    assert "?" not in sentence(story.notes[-1])


def test_what_was_decided_before_the_alarm_is_no_probe() -> None:
    story = fallen()
    for told in (story.decide("chat", "bee", made=story.state.shifts["bee"].detected - 1), story.decide("chat", "bee")):
        was = story.state.shifts["bee"]
        story.say(told, ("bee", "eval_score", 0.8))
        now = story.state.shifts["bee"]
        assert now.size == was.size + 1
        assert now.probes == was.probes + (told.decision["state_position"] >= was.detected)


def test_demotion_ends_where_rivals_are_no_better() -> None:
    story = fallen()
    story.run(400, ("chat", "ant", 0.2), seed=4, until="released")
    note = story.notes[-1]
    assert (note.body["model"], note.body["demoted_in"], note.body["formerly_demoted_in"]) == ("bee", [], ["chat"])
    assert lifecycle(story.state, "chat", "bee") is Lifecycle.LIVE
    assert "?" not in sentence(note)


def world_with_a_rival_that_is_hardly_known(*more: str) -> Story:
    """bee well known; ant with references, but not enough of them for tests of its own."""
    story = Story({"chat": category_entry(models=["ant", *more, "bee"])})
    story.run(QUALIFYING + LAG + 2 * LEAST_OF_ARM, ("chat", "ant", 0.6))
    story.run(KNOWN_AFTER, ("chat", "bee", 0.8))
    story.run(200, ("chat", "bee", 0.4), until="demoted")
    assert story.state.categories["chat"].references["ant"][stream_key("", "eval_score")].size < LEAST_OF_MODEL
    return story


def test_where_all_fell_alike_it_was_the_traffic_and_the_demotion_is_undone() -> None:
    story = world_with_a_rival_that_is_hardly_known()
    before = story.state
    story.run(CONTRASTS_AT[0], ("chat", "ant", 0.25), until="settled")
    note = story.notes[-1]
    assert note.body["reason"].startswith("its rivals fell by 0.3")
    assert "the traffic changed" in sentence(note)
    assert (note.body["model"], note.body["demoted_in"]) == ("bee", ["chat"])
    assert lifecycle(story.state, "chat", "bee") is Lifecycle.LIVE
    assert story.state.shifts == {}
    assert story.state.past["bee"][0].end == story.state.position
    assert cells(story.state)["chat"].moment == shifted(cells(before)["chat"], note.body["shift"]).moment


def test_where_the_rivals_are_what_they_were_it_stays_and_is_asked_no_more() -> None:
    story = world_with_a_rival_that_is_hardly_known()
    story.run(CONTRASTS_AT[-1] + 10, ("chat", "ant", 0.6))
    shift = story.state.shifts["bee"]
    assert (shift.contrasted, shift.rivals_count) == (True, CONTRASTS_AT[-1])
    assert shift.demoted == ("chat",)


def test_the_rivals_are_asked_whatever_number_of_values_comes_at_once() -> None:
    """One value, then two at a time: that steps over every point at which it is asked."""
    story, rng = Story({"chat": category_entry(models=TWO)}), random.Random(1)

    def both(mean: float) -> None:
        told = [("ant", kind, near(rng, mean)) for kind in ("eval_score", "rating")]
        story.say(story.decide("chat", "ant"), *told)

    for _ in range(QUALIFYING + LAG + 2 * LEAST_OF_ARM):
        both(0.6)
    story.run(KNOWN_AFTER, ("chat", "bee", 0.8))
    story.run(200, ("chat", "bee", 0.4), until="demoted")
    story.feed("chat", "ant", 0.25)
    for _ in range(CONTRASTS_AT[0] // 2):
        assert "settled" not in story.kinds
        both(0.25)
    assert story.kinds == ["demoted", "settled"]


# --- corrections -----------------------------------------------------------------------------------


def test_a_correction_of_what_was_before_the_change_changes_the_cell_exactly() -> None:
    story = steady()
    known = story.feed("chat", "bee", 0.75)
    story.run(10, *ARMS, seed=9)
    story.run(200, *DOWN, until="demoted")
    before = story.state
    assert known.position <= before.shifts["bee"].start
    story.say(known, ("bee", "eval_score", 0.25))
    after = story.state
    assert after.shifts == before.shifts
    was, now = cells(before)["chat"], cells(after)["chat"]
    assert now.information == was.information
    assert now.moment[0] == was.moment[0] - 0.5
    assert now.square == pytest.approx(was.square - 0.75**2 + 0.25**2, rel=1e-15)
    assert cells(after)["code"] == cells(before)["code"]
    assert watchers_of(after) == watchers_of(before)
    assert after.recorded_count == before.recorded_count


@pytest.mark.parametrize(("when", "later"), [("moved by the alarm", 10), ("told since", 10), ("told since", 0)])
def test_a_correction_inside_an_open_change_is_the_corrected_value_from_the_start(when: str, later: int) -> None:
    def told(first: float, corrected: float | None) -> tuple[State, State]:
        story = steady()
        if when == "moved by the alarm":
            story.run(4, *DOWN, seed=1)
            known = story.feed("chat", "bee", first)
            story.run(200, *DOWN, seed=2, until="demoted")
        else:
            story.run(200, *DOWN, seed=2, until="demoted")
            known = story.feed("chat", "bee", first)
        story.run(later, *DOWN, seed=3)
        assert known.position > story.state.shifts["bee"].start
        before = story.state
        if corrected is not None:
            story.say(known, ("bee", "eval_score", corrected))
        return before, story.state

    before, after = told(0.405, 0.395)
    direct, _ = told(0.395, None)
    assert [each.shifts["bee"][:2] for each in (after, direct)] == [before.shifts["bee"][:2]] * 2
    assert cells(after) == cells(before)
    assert (after.recorded_count, watchers_of(after)) == (before.recorded_count, watchers_of(before))
    moved = after.shifts["bee"].mean - before.shifts["bee"].mean
    # Exact where nothing came in between; else what the variance has grown in between is taken to have been as it is now.
    assert moved == pytest.approx(direct.shifts["bee"].mean - before.shifts["bee"].mean, rel=0.25 if later else 1e-9)
    assert after.shifts["bee"]._replace(mean=0.0) == before.shifts["bee"]._replace(mean=0.0)


def test_correcting_all_of_an_open_change_moves_it_by_as_much() -> None:
    story = fallen()
    rng = random.Random(8)
    told = [(story.feed("chat", "bee", value), value) for value in [near(rng, 0.4) for _ in range(300)]]
    was = story.state.shifts["bee"]
    for said, value in told:
        story.say(said, ("bee", "eval_score", value + 0.2))
    assert story.state.shifts["bee"].mean - was.mean == pytest.approx(0.2, rel=0.1)


def test_a_correction_of_an_ended_change_is_recorded_and_teaches_nothing() -> None:
    story = steady()
    story.run(4, *DOWN, seed=1)
    moved = story.feed("chat", "bee", 0.4)
    story.run(200, *DOWN, seed=2, until="demoted")
    inside = story.feed("chat", "bee", 0.4)
    story.run(60, ("chat", "bee", 0.4), seed=1)
    story.run(600, ("chat", "bee", 0.8), seed=2, until="promoted")
    for known in (moved, inside):
        before = story.state
        assert before.past["bee"][0].start < known.position <= before.past["bee"][0].end
        story.say(known, ("bee", "eval_score", 0.9))
        after = story.state
        assert after.recorded_count == before.recorded_count + 1
        assert (after.categories["chat"].cells, after.shifts, after.models) == (
            before.categories["chat"].cells,
            {},
            before.models,
        )
    # A second kind of signal on it is no evidence either.
    before = story.state
    story.say(inside, ("bee", "rating", 0.1))
    assert cells(story.state) == cells(before)
    assert watchers_of(story.state) == watchers_of(before)


def test_late_feedback_on_what_was_decided_in_an_ended_change_is_not_learned_and_moves_no_test() -> None:
    story = fallen()
    early = story.decide("chat", "bee", made=story.state.position)
    story.run(60, ("chat", "bee", 0.4), seed=1)
    late = story.decide("code", "bee", made=story.state.position)
    story.run(600, ("chat", "bee", 0.8), seed=2, until="promoted")
    for known in (early, late):
        before = story.state
        story.say(known, ("bee", "eval_score", 0.1), attempts={"bee\x1f": {"error": 0, "observe_us": 1, "latency_s": 2.0}})
        after = story.state
        assert after.recorded_count == before.recorded_count + 1
        name = known.decision["category"]
        assert after.categories[name].cells["bee"]._replace(usage=cells(before)[name].usage) == cells(before)[name]
        assert after.categories[name].cells["bee"].usage.latency_n > cells(before)[name].usage.latency_n  # what it took is true
        assert (after.models, watchers_of(after)) == (before.models, watchers_of(before))
    # And on what was decided since it is.
    before = story.state
    story.feed("chat", "bee", 0.8)
    assert story.state.recorded_count == before.recorded_count
    assert cells(story.state)["chat"].information > cells(before)["chat"].information
    assert watchers_of(story.state) != watchers_of(before)


def test_duplicates_change_nothing() -> None:
    story = steady()
    known = story.feed("chat", "bee", 0.8)
    story.run(200, *DOWN, seed=2, until="demoted")
    inside = story.feed("chat", "bee", 0.4)
    for said in (known, inside):
        ((_, (value, _, _)),) = said.signals.items()
        before = story.state
        story.say(said, ("bee", "eval_score", value))
        same = story.state._replace(
            position=before.position,
            chain=before.chain,
            append_time_us=before.append_time_us,
            pool=before.pool,
            feedback_count=before.feedback_count,
        )
        assert same == before


@pytest.mark.parametrize("order", ["as decided", "reversed", "mixed"])
def test_each_correction_goes_to_where_the_value_is(order: str) -> None:
    """Usage comes first, values in any order: after all of them are corrected to .5 the cells say .5, to rounding."""
    story = Story({"chat": category_entry(models=TWO)})
    rng = random.Random(6)
    all_of_it = []
    served = {"bee\x1f": {"error": 0, "observe_us": 1, "latency_s": 1.0}}
    for low in range(0, KNOWN_AFTER + 40, 20):
        batch = [story.decide("chat", "bee") for _ in range(20)]
        for said in batch:
            story.say(said, attempts=served)
        told = [(said, near(rng, 0.8 if low + i < KNOWN_AFTER + 8 else 0.3)) for i, said in enumerate(batch)]
        if order != "as decided":
            told.reverse()
        if order == "mixed":
            rng.shuffle(told)
        for said, value in told:
            story.say(said, ("bee", "eval_score", value))
        all_of_it += batch
    (shift,) = story.state.shifts.values()
    cell = cells(story.state)["chat"]
    assert cell.information[0] == len(all_of_it) - shift.size
    for said in all_of_it:
        story.say(said, ("bee", "eval_score", 0.5))
    cell = cells(story.state)["chat"]
    assert cell.moment[0] == pytest.approx(0.5 * cell.information[0], rel=1e-12)
    assert cell.square == pytest.approx(0.25 * cell.information[0], rel=1e-12)


# --- what tests see --------------------------------------------------------------------------------


def test_only_the_first_value_of_each_signal_moves_a_test() -> None:
    story = steady()
    known = story.feed("chat", "bee", 0.8)
    before = story.state
    story.say(known, ("bee", "eval_score", 0.1))  # a correction
    assert watchers_of(story.state) == watchers_of(before)
    story.say(known, ("bee", "rating", 0.1))  # another signal: the first of a stream of its own
    streams, former = story.state.models["bee"].streams, before.models["bee"].streams
    assert streams.keys() - former.keys() == {stream_key("", "rating")}
    assert streams[stream_key("", "rating")].seen == 1
    assert streams[stream_key("", "eval_score")] == former[stream_key("", "eval_score")]
    story.say(known, ("bee", "rating", 0.9))
    assert story.state.models["bee"].streams == streams
    # What counts is the source too.
    story.say(known, ("bee", "rating", 0.3), source="qa")
    assert story.state.models["bee"].streams[stream_key("qa", "rating")].seen == 1


def test_a_whole_number_is_the_value_that_it_is() -> None:
    """A store may give it back without its point: the state must not show that."""
    one, other = fallen(), fallen()
    for story, value in ((one, 1), (other, 1.0)):
        for model in TWO:
            story.feed("chat", model, value)
    assert encode(one.state) == encode(other.state)


@pytest.mark.parametrize("position", [-(10**400), -1, 0, 10**400])
def test_a_decision_of_an_impossible_position_is_skipped(position: int) -> None:
    story = fallen()
    body = json.loads(json.dumps(story.events[-1].body))
    body["before"], body["after"]["position"] = None, position
    (note,) = story.push(EventKind.FEEDBACK, body)
    assert note.kind == "event_skipped"


@pytest.mark.parametrize("how", ["off-policy", "weight 0"])
def test_some_evidence_moves_no_test(how: str) -> None:
    story = steady()
    before = story.state
    for _ in range(100):
        if how == "off-policy":
            story.say(story.decide("chat", "ant"), ("bee", "eval_score", 0.0))
        else:
            story.feed("chat", "bee", 0.0, weight=0.0)
    after = story.state
    assert not story.notes
    assert watchers_of(after) == watchers_of(before)
    assert watchers_of(after, "ant") == watchers_of(before, "ant")
    learned = cells(after)["chat"].information[0] - cells(before)["chat"].information[0]
    assert learned == (100.0 if how == "off-policy" else 0.0)
    assert len(after.models["bee"].rows) == min(KEPT, len(before.models["bee"].rows) + (100 if how == "off-policy" else 0))


def test_off_policy_evidence_in_an_open_change_is_of_the_shift_but_no_probe() -> None:
    story = fallen()
    before = story.state
    story.say(story.decide("chat", "ant"), ("bee", "eval_score", 0.8))
    was, now = before.shifts["bee"], story.state.shifts["bee"]
    assert (now.size, now.probes, now.recovery) == (was.size + 1, was.probes, was.recovery)
    assert now.mean > was.mean
    assert cells(story.state)["chat"].off_policy_count == cells(before)["chat"].off_policy_count + 1
    assert cells(story.state)["chat"].information == cells(before)["chat"].information


# --- sources ---------------------------------------------------------------------------------------

KINDS = ("eval_score", "rating", "accepted", "retried")


def sourced(story: Story, *told: tuple[str, str, float], count: int, seed: int = 0, until: bool = False) -> None:
    """`count` decisions for bee, in turn in both categories, of which each (source, kind, mean) says a value."""
    rng = random.Random(seed)
    for i in range(count):
        said = story.decide(("chat", "code")[i % 2], "bee")
        for source, kind, mean in told:
            story.say(said, ("bee", kind, near(rng, mean)), source=source)
        if until and story.state.shifts:
            return


def watched_by(*sources: tuple[str, str]) -> Story:
    """bee is well known to all of them, in categories that ask for two that agree."""
    entry = category_entry(models=TWO, min_sources=2)
    story = Story({"chat": entry, "code": entry})
    story.run(20, ("chat", "ant", 0.6), ("code", "ant", 0.6))
    sourced(story, *[(source, kind, 0.8) for source, kind in sources], count=KNOWN_AFTER)
    assert not story.notes
    return story


def test_one_source_never_demotes_where_two_are_asked_for() -> None:
    evil = [("evil", kind) for kind in KINDS]
    story = watched_by(("qa", "eval_score"), *evil)
    sourced(story, ("qa", "eval_score", 0.8), *[(*each, 0.0) for each in evil], count=150)
    assert not story.notes
    assert not story.state.shifts
    for alone in ("eval_score", "rating"):  # nor where the others say nothing any more
        sourced(story, ("evil", alone, 0.0), count=100)
    assert not story.notes


def test_two_sources_that_agree_demote() -> None:
    story = watched_by(("qa", "eval_score"), ("users", "rating"), ("evil", "accepted"))
    sourced(story, ("qa", "eval_score", 0.3), ("users", "rating", 0.3), ("evil", "accepted", 1.0), count=200, until=True)
    assert story.kinds == ["demoted"]
    assert story.state.shifts["bee"].demoted == ("chat", "code")


def test_one_source_never_demotes_however_many_sources_there_are() -> None:
    """More streams than are tested apart: what one source says stays what one source says."""
    honest = [(f"judge {i}", "eval_score") for i in range(MAX_SOURCES - 2)]
    story = watched_by(*honest, *[("evil", kind) for kind in KINDS])
    streams = story.state.models["bee"].streams
    assert len({source_of(key) for key in streams}) == len(honest) + 1
    told = [(source, kind, 0.8) for source, kind in honest] + [("evil", kind, 0.0) for kind in KINDS]
    sourced(story, *told, count=60)
    assert not story.notes


def test_streams_of_one_model_are_bounded() -> None:
    story = Story({"chat": category_entry(models=TWO)})
    for i in range(5 * MAX_SOURCES):
        story.feed("chat", "bee", 0.5, source=f"user {i}", kind=KINDS[i % 4])
    streams = story.state.models["bee"].streams
    assert len(streams) == MAX_SOURCES + 1
    assert streams[stream_key("", "*")].seen == 4 * MAX_SOURCES


# --- the same everywhere ---------------------------------------------------------------------------

PLAIN = {name: name for name in ("ant", "bee", "new", "chat", "code")}


def eventful(names: Mapping[str, str] = PLAIN) -> Story:
    """A log with every state that an arm can be in, and every line that the journal knows of them."""
    ant, bee, new, chat, code = (names[each] for each in PLAIN)
    of_bee = (chat, bee, 0.8), (code, bee, 0.8)
    down = (chat, bee, 0.4), (code, bee, 0.4)
    up = (chat, ant, 0.95), (code, ant, 0.5)
    entry = category_entry(models=[ant, bee], half_life_count=5000)
    story = Story({chat: entry, code: entry})
    story.run(2 * KNOWN_AFTER, (chat, ant, 0.6), of_bee[0], (code, ant, 0.2), of_bee[1])
    story.run(400, (chat, bee, 0.4), *[of_bee[1]] * 3, until="demoted")  # of the arm
    story.say(story.decide(chat, bee), (bee, "eval_score", 0.3), (ant, "rating", 0.7))
    story.run(40, (chat, bee, 0.4), (chat, ant, 0.6))
    late = story.decide(chat, bee)
    story.run(600, (chat, bee, 0.8), until="promoted")
    story.say(late, (bee, "eval_score", 0.4))
    story.run(60, *of_bee)
    story.run(200, *down, until="demoted")  # of the model
    story.run(60, *down)
    story.run(100, (chat, bee, 0.75), (code, bee, 0.75), until="probing")
    story.run(200, (chat, bee, 0.2), until="relapsed")
    story.run(400, *up, until="improved")
    story.run(400, *up, until="settled")
    story.operate("pause_arm", bee, chat)
    story.run(20, (chat, ant, 0.9), (code, bee, 0.4))
    both = category_entry(models=[ant, bee, new], quality_floor=0.6, half_life_count=5000)
    story.configure({chat: both, code: entry}, onboarding={"looks": 5})
    story.operate("resume_arm", bee, chat)
    story.run(30, (chat, new, 0.7), (chat, ant, 0.95), until="onboarded")
    story.run(100, (chat, new, 0.3), until="below_floor")
    story.operate("reset_arm", bee)
    story.run(40, (chat, bee, 0.8), (chat, ant, 0.95))
    story.run(200, (chat, new, 0.98), until="above_floor")
    story.configure({chat: entry, code: entry})
    story.run(20, (chat, bee, 0.8), (code, ant, 0.5))
    return story


@functools.cache
def told() -> Story:
    story = eventful()
    assert set(story.kinds) >= {
        "demoted",
        "released",
        "promoted",
        "probing",
        "relapsed",
        "improved",
        "settled",
        "onboarding",
        "onboarded",
        "below_floor",
        "above_floor",
    }
    return story


def test_every_line_of_the_journal_says_all_that_its_sentence_needs() -> None:
    for note in told().notes:
        assert "?" not in sentence(note)
        assert json.loads(json.dumps(note.body)) == note.body


def test_a_restart_in_any_state_gives_the_same_state() -> None:
    story = told()
    cuts = {note.position + late for note in story.notes for late in (-1, 0, 1)} | set(range(0, len(story.events), 111))
    state = INITIAL
    notes: list[Transition] = []
    for each in story.events:
        state, found = learn(state, each)
        notes += found
        if each.position in cuts:
            body = encode(state)
            back = decode(body)
            assert back == state
            assert encode(back) == body
            for name in state.settings.categories:
                views = [Snapshot(known, None).view(name) for known in (state, back)]
                assert views[0].plan(RouteQuery(name)) == views[1].plan(RouteQuery(name))
            state = back  # with all keys in another order
    assert encode(state) == encode(story.state)
    assert checkpoint_of(state).digest == checkpoint_of(story.state).digest
    assert notes == story.notes


def test_a_store_gives_the_same_state() -> None:
    """Keys sorted, tuples as lists, and columns kept between refits."""
    state, columns = INITIAL, Columns()
    for each in told().events:
        state, _ = learn(state, each._replace(body=json.loads(canonical_json(each.body))), columns)
    assert encode(state) == encode(told().state)


def test_names_do_not_matter() -> None:
    names = {"ant": "zebra", "bee": "ant", "new": "aphid", "chat": "tasks", "code": "chat"}
    other = eventful(names)
    assert [(note.position, note.kind) for note in other.notes] == [(note.position, note.kind) for note in told().notes]

    def renamed(value: Any) -> Any:
        return names.get(value, value) if isinstance(value, str) else value

    for one, two in zip(told().notes, other.notes, strict=True):
        for key, value in one.body.items():
            if isinstance(value, float):
                assert two.body[key] == pytest.approx(value, rel=1e-6)
            elif isinstance(value, list):
                assert sorted(map(renamed, value)) == sorted(two.body[key])
            elif key != "best_where":
                assert two.body[key] == renamed(value)
    ours, theirs = lifecycles(told().state), lifecycles(other.state)
    assert {(renamed(name), renamed(model)): life for (name, model), life in ours.items()} == theirs


# --- any log at all --------------------------------------------------------------------------------


def reckless(seed: int, length: int) -> Iterator[Story]:
    """A story after each of its events: models rise and fall, are judged late, twice and by others; operators and
    configurations come and go. Alarms need little, so that there are many."""
    rng = random.Random(seed)
    models = ["ant", "bee", "cat"]

    def entries() -> dict[str, Any]:
        found = {}
        for name in rng.sample(("chat", "code", "sums"), rng.randint(1, 3)):
            found[name] = category_entry(
                models=rng.sample(models, rng.randint(1, 3)),
                min_sources=rng.choice((1, 1, 1, 2)),
                quality_floor=rng.choice((None, None, 0.5, 0.8)),
                features=rng.choice(({}, {}, {"size": {"mean": 0.0, "stddev": 1.0}})),
                propensity_floor=rng.choice((0.0, 0.01)),
                **rng.choice(({}, {}, {"half_life_count": 100}, {"half_life_s": 300.0})),
            )
        return found

    def shared() -> dict[str, Any]:
        return {
            "false_alarms_per_million_feedbacks": rng.choice((5e4, 1e5)),
            "onboarding": {"looks": rng.choice((0, 5, 30)), "min_share": 0.03, "max_share": rng.choice((0.1, 0.4))},
        }

    held = category_entry(models=["ant", "bee"])
    current: dict[str, Any] = {"chat": held, "code": held}
    story = Story(current, **shared())
    story.run(KNOWN_AFTER - 60, ("chat", "bee", 0.8), ("chat", "bee", 0.8), ("code", "bee", 0.7), ("chat", "ant", 0.6), seed=seed)
    quality = {"ant": 0.6, "bee": 0.8, "cat": 0.5}
    decisions: list[Said] = []
    for _ in range(length):
        turn = rng.random()
        name = rng.choice(sorted(current))
        model = rng.choice([*current[name]["models"], *["bee"] * 3])
        if turn < 0.01:
            current = entries()
            story.configure(current, **shared())
        elif turn < 0.03:
            action = rng.choice(("pause_arm", "resume_arm", "resume_arm", "reset_arm"))
            story.operate(action, rng.choice(models), rng.choice(("", "", *current)))
        elif turn < 0.05:
            quality[rng.choice([*models, "bee", "bee"])] = rng.choice((0.1, 0.4, 0.8, 1.0))
        elif turn < 0.8 or not decisions:
            features = {feature: rng.gauss(0.0, 2.0) for feature in current[name]["features"]}
            made = max(0, story.state.position - rng.choice((0, 0, 0, 3, 50)))
            decisions.append(story.decide(name, model, features=features, made=made))
            if rng.random() < 0.9:
                told = [(model, "eval_score", near(rng, quality[model]))]
                if rng.random() < 0.1:
                    told.append((rng.choice(models), "rating", rng.random()))
                story.say(decisions[-1], *told, weight=rng.choice((1.0, 1.0, 0.3, 0.0)), source=rng.choice(("", "", "qa")))
        else:
            said = rng.choice(decisions[-100:])
            about = rng.choice((said.decision["model"], rng.choice(models)))
            kind, value = rng.choice(("eval_score", "eval_score", "rating")), rng.choice((0.0, 1.0, round(rng.random(), 2)))
            story.say(said, (about, kind, value), source=rng.choice(("", "qa")))
        yield story


@settings(max_examples=8, derandomize=True, deadline=None)
@given(st.integers(min_value=0, max_value=10**6))
def test_whatever_happens(seed: int) -> None:
    """Nothing is skipped but what names no arm, a checkpoint keeps everything, and what is drawn from are probabilities."""
    snapshot, rng = Snapshot(INITIAL, None), random.Random(seed)
    for story in reckless(seed, 300):
        state = story.state
        for key, shift in state.shifts.items():
            assert math.isfinite(shift.mean)
            assert 0.0 < shift.variance <= PRIOR_VARIANCE
            assert shift.recovery.evidence > 0.0
            assert scope(key)[0] in state.settings.models
        if rng.random() > 0.1:
            continue
        assert decode(encode(state)) == state
        snapshot = Snapshot(state, snapshot)
        for name, category in state.settings.categories.items():
            plan = serving(snapshot, name)
            assert plan == serving(Snapshot(state, None), name)
            if plan is None:
                assert {(name, model) for model in category.models} <= state.paused
            else:
                assert sum(plan.propensities) == pytest.approx(1.0, abs=1e-12)
                assert min(plan.propensities) >= 0.0
            for cell in state.categories[name].cells.values():
                assert -1e-9 <= cell.moment[0] <= cell.information[0] + 1e-9 or state.past or category.features
    skipped = [note for note in story.notes if note.kind == "event_skipped"]
    assert all("no arm" in note.body["reason"] for note in skipped)
    assert story.state.skipped_count == len(skipped)
    back, found = fold(story.events)
    assert encode(back) == encode(story.state)
    assert found == story.notes


def serving(snapshot: Snapshot, category: str) -> Plan | None:
    try:
        return snapshot.view(category).plan(RouteQuery(category))
    except NoEligibleModel:
        return None


def test_the_reckless_do_have_changes() -> None:
    kinds = set()
    for seed in range(6):
        *_, story = reckless(seed, 300)
        kinds |= set(story.kinds)
    assert {"demoted", "promoted", "improved", "settled", "onboarding", "below_floor", "probing"} <= kinds

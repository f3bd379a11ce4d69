"""Guard rails: the quality floor, first looks at new models, and what operators do to arms."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import pytest
from change_logs import Story, near
from core_logs import category_entry, model_entry

from banditroute.core.drift import LAG, LEAST_OF_ARM, QUALIFYING
from banditroute.core.errors import NoEligibleModel
from banditroute.core.evidence import empty_cell
from banditroute.core.fold import MEANS_EVERY_YOUNG
from banditroute.core.guards import ABOVE_AT, BELOW_AT, floored
from banditroute.core.lifecycle import lifecycle, lifecycle_reason
from banditroute.core.policy import LEAST_PROBES, share_at_mean
from banditroute.core.pool import STANDING_VARIANCE, standing
from banditroute.core.settings import Onboarding
from banditroute.core.state import State, change_key
from banditroute.core.types import Candidate, Exclusion, JournalRow, Lifecycle, Plan, RouteQuery, Transition
from banditroute.snapshot import Snapshot
from banditroute.summaries import summarise

TWO = ["ant", "bee"]
DEAR = model_entry(into=100.0, out=100.0)
SURE = QUALIFYING + LAG + 3 * LEAST_OF_ARM


def sentence(note: Transition) -> str:
    return summarise(JournalRow(1, note.position, note.index, note.append_time_us, note.kind, note.body))


def plan(state: State, category: str = "chat", **query: Any) -> Plan:
    return Snapshot(state, None).view(category).plan(RouteQuery(category, **query))


def shares(state: State, category: str = "chat") -> Mapping[str, Candidate]:
    return share_at_mean(Snapshot(state, None).view(category))


# --- the quality floor -----------------------------------------------------------------------------


def floors(models: list[str], floor: float | None = 0.5, **changes: Any) -> dict[str, Any]:
    return {"chat": category_entry(models=models, quality_floor=floor, **changes)}


def below_floor(**changes: Any) -> Story:
    """ant is worth less than bee, since it is dear, but bee is below the floor."""
    story = Story(floors(TWO, cost_weight=5.0, **changes), models={"ant": DEAR})
    story.run(60, ("chat", "ant", 0.8), ("chat", "bee", 0.3), until="below_floor")
    return story


def test_an_arm_below_the_floor_gets_the_least_probes_and_is_the_last_resort() -> None:
    story = below_floor()
    (note,) = story.notes
    assert story.state.below == {("chat", "bee")}
    assert (note.body["model"], note.body["category"], note.body["floor"]) == ("bee", "chat", 0.5)
    assert note.body["estimate"] + BELOW_AT * note.body["stddev"] <= 0.5
    assert "?" not in sentence(note)
    assert lifecycle(story.state, "chat", "bee") is Lifecycle.DEMOTED
    assert lifecycle_reason(story.state, "chat", "bee") == "below the category's quality floor of 0.5"
    found = plan(story.state)
    assert found.models == ("ant", "bee")
    assert found.eligible[1].utility_mean > found.eligible[0].utility_mean + 1.0  # it would be chosen
    assert found.propensities == pytest.approx((1.0 - LEAST_PROBES, LEAST_PROBES), abs=1e-15)
    alone = plan(story.state, excluded_models=("ant",))
    assert (alone.models, alone.propensities) == (("bee",), (1.0,))
    # Far below it is no other.
    story.run(300, ("chat", "bee", 0.1))
    assert dict(zip(*plan(story.state)[:2], strict=True))["bee"] == LEAST_PROBES


def test_an_arm_that_is_above_the_floor_again_is_let_go() -> None:
    story = below_floor()
    story.run(400, ("chat", "bee", 0.9), until="above_floor")
    note = story.notes[-1]
    assert note.body["estimate"] >= 0.5
    assert "?" not in sentence(note)
    assert story.state.below == frozenset()
    assert lifecycle(story.state, "chat", "bee") is Lifecycle.LIVE


def standing_at(state: State, mean: float, error: float, model: str = "bee") -> State:
    """The state as if the pool took the arm's quality to be this."""
    pull = 1.0 / (state.pool.spread + STANDING_VARIANCE)
    usual = state.pool.of(model).ability + state.pool.difficulty.get("chat", 0.0)
    precision = 1.0 / error**2 - pull
    assert precision > 0.0
    own = ((precision + pull) * mean - pull * usual) / precision
    state = state._replace(
        pool=state.pool._replace(cells={"chat": {**state.pool.cells.get("chat", {}), model: (precision, own)}})
    )
    assert standing(state.pool, "chat", model) == pytest.approx((mean, error**2))
    return state


def test_the_floor_holds_back_and_lets_go_at_its_bounds() -> None:
    story = Story(floors(["ant", "bee", "cat"]))
    story.run(24, ("chat", "ant", 0.8), ("chat", "cat", 0.8))
    error = 0.05

    def after(state: State, errors_below: float) -> frozenset[tuple[str, str]]:
        return floored(standing_at(state, 0.5 - errors_below * error, error))[0].below

    held = story.state._replace(below=frozenset({("chat", "bee")}))
    for state, at in ((story.state, BELOW_AT), (held, ABOVE_AT)):
        assert after(state, at - 1e-6) == frozenset()
        assert after(state, at + 1e-6) == {("chat", "bee")}
    # In between it stays what it was.
    assert after(story.state, 0.5 * (ABOVE_AT + BELOW_AT)) == frozenset()
    assert after(held, 0.5 * (ABOVE_AT + BELOW_AT)) == {("chat", "bee")}


@pytest.mark.parametrize("names", [("ant", "bee", "cat"), ("cat", "bee", "ant"), ("bee", "cat", "ant")])
def test_the_best_of_all_that_are_below_stays_whatever_its_name(names: tuple[str, str, str]) -> None:
    """All are found to be below at the same refit."""
    best, middle, worst = names
    state = Story(floors(["ant", "bee", "cat"], 0.7)).state
    for model, mean in ((best, 0.6), (middle, 0.5), (worst, 0.3)):
        state = standing_at(state, mean, 0.02, model)
    state, notes = floored(state)
    assert state.below == {("chat", middle), ("chat", worst)}
    assert [note.body["model"] for note in notes] == [worst, middle]


@pytest.mark.parametrize("floor", [0.7, 0.9, 1.0])
def test_an_arm_of_which_nothing_is_known_is_not_below_any_floor(floor: float) -> None:
    story = Story(floors(TWO, floor))
    story.configure(floors([*TWO, "cat"], floor))
    story.feed("chat", "ant", 1.0)
    story.configure(floors([*TWO, "cat", "dog"], floor))
    assert story.state.below == frozenset()


def test_the_last_arm_that_is_not_paused_is_never_held_back() -> None:
    story = Story(floors(TWO, 0.6))
    story.operate("pause_arm", "ant", "chat")
    story.run(200, ("chat", "bee", 0.2))
    assert story.state.below == frozenset()
    story.run(60, ("chat", "ant", 0.9))
    (note,) = story.operate("resume_arm", "ant", "chat")
    assert note.kind == "below_floor"
    assert story.state.below == {("chat", "bee")}


def test_the_floor_asks_as_many_sources_as_the_category_does() -> None:
    story = Story(floors(TWO, min_sources=2))
    story.run(100, ("chat", "ant", 0.8))
    rng = random.Random(3)

    def judged(other: float) -> None:
        said = story.decide("chat", "bee")
        story.say(said, ("bee", "eval_score", near(rng, 0.1)), ("bee", "rating", 0.0), ("bee", "accepted", 0.0), source="evil")
        story.say(said, ("bee", "eval_score", near(rng, other)), source="qa")

    for _ in range(SURE):
        judged(0.9)
    assert standing(story.state.pool, "chat", "bee")[0] < 0.4
    assert story.state.below == frozenset()
    for _ in range(6 * SURE):
        judged(0.1)
        if story.state.below:
            break
    assert story.state.below == {("chat", "bee")}


def test_a_configuration_without_the_floor_or_the_arm_lets_go_at_once() -> None:
    for entry in (floors(TWO, None), floors(["ant", "cat"])):
        story = below_floor()
        assert not [note for note in story.configure(entry) if note.kind != "onboarding"]
        assert story.state.below == frozenset()
    assert lifecycle(story.state, "chat", "ant") is Lifecycle.LIVE
    story = below_floor()
    (note,) = story.configure(floors(TWO, 0.1))
    assert note.kind == "above_floor"
    assert story.state.below == frozenset()


def test_a_fall_below_the_floor_counts_with_its_open_change() -> None:
    story = Story(floors(TWO, 0.5))
    story.run(2 * (QUALIFYING + LAG + 100), ("chat", "ant", 0.6), ("chat", "bee", 0.8))
    story.run(200, ("chat", "bee", 0.2), until="below_floor")
    assert story.kinds == ["demoted", "below_floor"]
    assert story.notes[-1].body["estimate"] == pytest.approx(0.2, abs=0.15)
    assert plan(story.state).propensities[1] == LEAST_PROBES
    # Once recovered it is above the floor again, with all that was known.
    story.run(30, ("chat", "bee", 0.2))
    story.run(600, ("chat", "bee", 0.8), until="promoted")
    assert story.state.below == frozenset()
    assert lifecycle(story.state, "chat", "bee") is Lifecycle.LIVE


# --- new models ------------------------------------------------------------------------------------

THREE = ["ant", "bee", "new"]


def running(looks: int = 12, min_share: float = 0.05, max_share: float = 0.3, **changes: Any) -> Story:
    """ant and bee are known, and `new` comes in."""
    story = Story({"chat": category_entry(models=TWO, **changes), "code": category_entry(models=["ant"])})
    story.run(120, ("chat", "ant", 0.5), ("chat", "bee", 0.4), ("code", "ant", 0.5))
    story.configure(
        {"chat": category_entry(models=THREE, **changes), "code": category_entry(models=["ant"])},
        onboarding={"looks": looks, "min_share": min_share, "max_share": max_share},
    )
    return story


@pytest.mark.parametrize("floor", [0.0, 0.01])
@pytest.mark.parametrize("quality", [0.0, 0.5, 1.0])
def test_the_share_of_a_new_model_is_bounded_until_it_was_looked_at(quality: float, floor: float) -> None:
    looks, least, most = 12, 0.05, 0.3
    story = running(looks, least, most, propensity_floor=floor)
    (note,) = story.notes
    assert (note.kind, note.body) == ("onboarding", {"model": "new", "least_share": least, "max_share": most, "looks": looks})
    assert "?" not in sentence(note)
    found = []
    for i in range(looks):
        assert story.state.newcomers == {"new": i}
        assert lifecycle(story.state, "chat", "new") is Lifecycle.ONBOARDING
        assert lifecycle_reason(story.state, "chat", "new") == f"new: {i} of {looks} first looks"
        found.append(shares(story.state)["new"].propensity)
        story.feed("chat", "ant", 0.5)
        story.feed("chat", "new", quality)
    assert all(least - 1e-12 <= share <= most + 1e-12 for share in found)
    assert {0.0: min, 0.5: max, 1.0: max}[quality](found) == pytest.approx(most if quality else least, abs=1e-12)
    note = story.notes[-1]
    assert (note.kind, note.body["model"], note.body["feedback_count"]) == ("onboarded", "new", looks)
    assert "?" not in sentence(note)
    assert story.state.newcomers == {}
    assert lifecycle(story.state, "chat", "new") is Lifecycle.LIVE
    assert lifecycle_reason(story.state, "chat", "new") == ""
    story.run(60, ("chat", "new", quality))
    free = shares(story.state)["new"].propensity
    assert free > 0.9 if quality == 1.0 else free <= floor if quality == 0.0 else 0.0 < free < 1.0


def test_what_was_learned_of_a_new_model_is_told_with_where_it_is_best() -> None:
    for value, best in ((1.0, ["chat"]), (0.0, [])):
        story = running(looks=MEANS_EVERY_YOUNG * 4)
        story.run(200, ("chat", "new", value), until="onboarded")
        assert story.notes[-1].body["best_in"] == best


def test_bounds_hold_beside_probes() -> None:
    """Where a demoted arm takes its part too, with arms at the floor beside it."""
    story = running(looks=300, min_share=0.05, max_share=0.3, propensity_floor=0.05)
    story.run(40, ("chat", "new", 0.9))
    state = story.state._replace(below=frozenset({("chat", "bee")}))
    found = plan(state)
    shown = dict(zip(found.models, found.propensities, strict=True))
    assert shown == pytest.approx({"new": 0.3, "bee": LEAST_PROBES, "ant": 0.7 - LEAST_PROBES}, abs=1e-12)


@pytest.mark.parametrize("most", [0.29, 0.3, 0.31, 0.35])
def test_no_share_is_above_the_most_whatever_else_is_held(most: float) -> None:
    story = Story({"chat": category_entry(models=[*TWO, "cat", "dog"], propensity_floor=0.02)})
    story.run(120, ("chat", "ant", 0.6), ("chat", "bee", 0.59), ("chat", "cat", 0.3), ("chat", "dog", 0.3))
    entry = category_entry(models=["new 1", "new 2", *TWO, "cat", "dog"], propensity_floor=0.02)
    story.configure({"chat": entry}, onboarding={"looks": 500, "min_share": 0.02, "max_share": most})
    for value in [0.5, 0.6, 0.65, 0.7, 0.6, 0.5, 0.7] * 5:
        story.feed("chat", "new 1", value)
        story.feed("chat", "new 2", value - 0.2)
        state = story.state._replace(below=frozenset({("chat", "cat"), ("chat", "dog")}))
        for each in (story.state, state):
            found = shares(each)
            assert sum(row.propensity for row in found.values()) == pytest.approx(1.0, abs=1e-12)
            for name in ("new 1", "new 2"):
                assert 0.02 - 1e-12 <= found[name].propensity <= most + 1e-12


def test_only_what_is_new_to_a_running_log_is_new() -> None:
    # Not at the first configuration,
    story = Story({"chat": category_entry(models=TWO)})
    assert story.state.newcomers == {}
    # nor before there is any feedback,
    story.configure({"chat": category_entry(models=THREE)})
    assert story.state.newcomers == {}
    story.run(10, ("chat", "ant", 0.5))
    # nor one that other categories know,
    story.configure({"chat": category_entry(models=THREE), "code": category_entry(models=["ant", "bee"])})
    assert story.state.newcomers == {}
    # but one that was never there;
    story.configure({"chat": category_entry(models=[*THREE, "newer"])})
    assert story.state.newcomers == {"newer": 0}
    story.feed("chat", "newer", 0.5)
    assert story.state.newcomers == {"newer": 1}
    # gone it is forgotten, and back with what was told of it, it is known.
    story.configure({"chat": category_entry(models=TWO)})
    assert story.state.newcomers == {}
    assert shares(story.state).keys() == {"ant", "bee"}
    story.configure({"chat": category_entry(models=[*THREE, "newer"])})
    assert story.state.newcomers == {"new": 0}  # nobody ever said a word of that one


def test_a_new_model_that_left_unseen_is_new_again() -> None:
    story = running()
    assert story.state.newcomers == {"new": 0}
    story.configure({"chat": category_entry(models=TWO), "code": category_entry(models=["ant"])})
    assert (story.state.newcomers, lifecycle(story.state, "chat", "ant")) == ({}, Lifecycle.LIVE)
    (note,) = story.configure({"chat": category_entry(models=THREE), "code": category_entry(models=["ant"])})
    assert (note.kind, story.state.newcomers) == ("onboarding", {"new": 0})
    assert note.body["looks"] == Onboarding().looks


def test_without_looks_nothing_is_new() -> None:
    story = running(looks=0)
    assert (story.notes, story.state.newcomers) == ([], {})
    assert lifecycle(story.state, "chat", "new") is Lifecycle.LIVE


def test_only_first_values_of_its_own_are_looks() -> None:
    story = running(looks=3)
    told = story.decide("chat", "new")
    story.say(told, attempts={"new\x1f": {"error": 0, "observe_us": 1, "latency_s": 1.0}})
    story.feed("chat", "new", 0.5, weight=0.0)
    story.say(story.decide("chat", "ant"), ("new", "eval_score", 0.9))
    assert story.state.newcomers == {"new": 0}
    story.say(told, ("new", "eval_score", 0.4))
    story.say(told, ("new", "eval_score", 0.9))  # a correction
    assert story.state.newcomers == {"new": 1}


# --- pause and resume ------------------------------------------------------------------------------


def both() -> Story:
    entry = category_entry(models=TWO)
    story = Story({"chat": entry, "code": entry})
    story.run(200, ("chat", "ant", 0.5), ("chat", "bee", 0.8), ("code", "ant", 0.5), ("code", "bee", 0.8))
    return story


def test_a_paused_arm_gets_nothing_until_it_is_resumed() -> None:
    story = both()
    story.operate("resume_arm", "bee", "chat")  # it was not paused: nothing but a refit
    before = story.state
    assert not story.operate("pause_arm", "bee", "chat")
    assert story.state.paused == {("chat", "bee")}
    assert story.state.categories["chat"].revision == story.state.position
    assert story.state.categories["chat"].cells == before.categories["chat"].cells
    found = shares(story.state)
    assert (found["bee"].propensity, found["bee"].exclusion) == (0.0, Exclusion.PAUSED)
    assert found["bee"].lifecycle is lifecycle(story.state, "chat", "bee") is Lifecycle.DISABLED
    assert lifecycle_reason(story.state, "chat", "bee") == "paused by an operator"
    assert found["ant"].propensity == 1.0
    assert plan(story.state).models == ("ant",)
    assert shares(story.state, "code") == shares(before, "code")
    assert not story.operate("resume_arm", "bee", "chat")
    assert story.state.paused == frozenset()
    assert shares(story.state) == shares(before)


def test_a_pause_without_a_category_is_one_in_all() -> None:
    story = both()
    story.operate("pause_arm", "bee")
    assert story.state.paused == {("chat", "bee"), ("code", "bee")}
    story.operate("resume_arm", "bee", "code")
    assert story.state.paused == {("chat", "bee")}
    # What is told of it meanwhile is learned: late feedback is as true as ever.
    before = story.state.categories["chat"].cells["bee"]
    story.feed("chat", "bee", 0.7)
    assert story.state.categories["chat"].cells["bee"].information[0] == before.information[0] + 1.0


def test_where_all_are_paused_nobody_serves() -> None:
    """The fold does as it is told; the engine does not let it come to this."""
    story = both()
    for model in TWO:
        story.operate("pause_arm", model, "chat")
    with pytest.raises(NoEligibleModel) as caught:
        plan(story.state)
    assert caught.value.exclusions == dict.fromkeys(TWO, "PAUSED")


def test_a_pause_goes_with_its_arm() -> None:
    story = both()
    story.operate("pause_arm", "bee")
    story.configure({"chat": category_entry(models=["ant"]), "code": category_entry(models=TWO)})
    assert story.state.paused == {("code", "bee")}
    story.configure({"chat": category_entry(models=TWO), "code": category_entry(models=TWO)})
    assert lifecycle(story.state, "chat", "bee") is Lifecycle.LIVE


@pytest.mark.parametrize("action", ["pause_arm", "resume_arm", "reset_arm"])
@pytest.mark.parametrize(("model", "category"), [("nobody", ""), ("bee", "nowhere"), ("nobody", "chat"), ("", "chat")])
def test_what_is_done_to_no_arm_is_skipped(action: str, model: str, category: str) -> None:
    story = both()
    before = story.state
    (note,) = story.operate(action, model, category)
    assert note.kind == "event_skipped"
    assert story.state.paused == before.paused
    assert story.state.categories == before.categories


# --- reset -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("only", ["chat", ""])
def test_a_reset_forgets_an_arm_and_nothing_else(only: str) -> None:
    story = both()
    before = story.state
    assert not story.operate("reset_arm", "bee", only)
    state = story.state
    for name, category in state.categories.items():
        was = before.categories[name]
        assert category.cells["ant"] == was.cells["ant"]
        if name == only or not only:
            assert category.cells["bee"] == empty_cell(1)
            assert category.entered["bee"] == category.revision == state.position
            assert not category.references.get("bee")
        else:
            assert category == was
    assert {row.category for row in state.models["bee"].rows} == ({"code"} if only else set())
    waiting = [row for each in state.models["bee"].streams.values() for row in each.waiting]
    assert all(row[0] != only for row in waiting)
    assert bool(state.models["bee"].streams) == bool(only)
    assert state.models["ant"] == before.models["ant"]


def test_a_reset_shows_at_once_everywhere() -> None:
    """Not with the next refit: what other categories were told of the model is not known any more either."""
    story = both()
    assert (story.state.position + 1) % MEANS_EVERY_YOUNG  # no refit is due
    story.operate("reset_arm", "bee")
    for name in ("chat", "code"):
        found = shares(story.state, name)["bee"]
        assert found.quality_stddev > 0.1
        assert "bee" not in story.state.pool.cells.get(name, {})


def test_corrections_of_what_was_before_a_reset_are_recorded_only() -> None:
    story = both()
    known = story.feed("chat", "bee", 0.8)
    elsewhere = story.feed("code", "bee", 0.8)
    story.operate("reset_arm", "bee", "chat")
    before = story.state
    story.say(known, ("bee", "eval_score", 0.1))
    assert story.state.recorded_count == before.recorded_count + 1
    assert story.state.categories["chat"].cells["bee"] == empty_cell(1)
    story.say(elsewhere, ("bee", "eval_score", 0.1))
    assert story.state.recorded_count == before.recorded_count + 1
    assert story.state.categories["code"].cells["bee"] != before.categories["code"].cells["bee"]


def test_what_was_decided_before_a_reset_moves_no_test() -> None:
    story = both()
    late = story.decide("chat", "bee")
    story.operate("reset_arm", "bee")
    story.say(late, ("bee", "eval_score", 0.8))
    assert story.state.models["bee"].streams == {}
    story.feed("chat", "bee", 0.8)
    assert [each.seen for each in story.state.models["bee"].streams.values()] == [1]


def changed(scope: str) -> Story:
    entry = category_entry(models=TWO)
    story = Story({"chat": entry, "code": entry})
    story.run(
        4 * (QUALIFYING + LAG + 100), ("chat", "ant", 0.6), ("chat", "bee", 0.8), ("code", "ant", 0.2), ("code", "bee", 0.8)
    )
    others = [("code", "bee", 0.8)] * 3 if scope == "arm" else [("code", "bee", 0.4)]
    story.run(400, ("chat", "bee", 0.4), *others, until="demoted")
    assert story.state.shifts.keys() == {change_key("bee", "chat" if scope == "arm" else None)}
    return story


@pytest.mark.parametrize(("scope", "only"), [("arm", "chat"), ("arm", ""), ("model", "")])
def test_a_reset_ends_an_open_change(scope: str, only: str) -> None:
    story = changed(scope)
    (key,) = story.state.shifts
    inside = story.feed("chat", "bee", 0.4)
    late = story.decide("chat", "bee")
    story.operate("reset_arm", "bee", only)
    assert story.state.shifts == {}
    assert story.state.past[key][-1].end == story.state.position
    assert lifecycle(story.state, "chat", "bee") is Lifecycle.LIVE
    before = story.state
    story.say(inside, ("bee", "eval_score", 0.9))
    story.say(late, ("bee", "eval_score", 0.9))
    assert story.state.recorded_count == before.recorded_count + 2
    assert story.state.categories["chat"].cells["bee"] == empty_cell(1)


def test_a_reset_of_another_arm_leaves_an_open_change_alone() -> None:
    story = changed("arm")
    before = story.state.shifts
    story.operate("reset_arm", "bee", "code")
    story.operate("reset_arm", "ant", "chat")
    assert story.state.shifts == before


def test_a_reset_lets_go_of_an_arm_below_the_floor() -> None:
    story = below_floor()
    story.operate("reset_arm", "bee", "chat")
    assert story.state.below == frozenset()
    assert lifecycle(story.state, "chat", "bee") is Lifecycle.LIVE

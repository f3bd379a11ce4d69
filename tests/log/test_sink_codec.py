"""Batches of decisions as text and bytes: what goes in comes out."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banditroute.core.types import Candidate, Exclusion, Lifecycle, Plan, Reason, RouteQuery
from banditroute.log.sink_codec import DamagedBatch, KeptDecision, PlanPacker, SinkRow, Waiting, asked, decoded, encoded
from banditroute.tokens import uuid7

NUMBERS = st.floats(allow_nan=False, width=64)
NAMES = st.text(min_size=1, max_size=8)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    names = draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))
    many = range(len(names))
    exclusions = [None, *[draw(st.sampled_from([None, *Exclusion])) for _ in names[1:]]]
    lives = [draw(st.sampled_from(Lifecycle)) for _ in many]
    rows = [
        Candidate(names[i], exclusions[i], draw(NUMBERS), draw(NUMBERS), draw(NUMBERS), draw(NUMBERS), draw(NUMBERS), lives[i])
        for i in many
    ]
    eligible = tuple([row for row in rows if row.exclusion is None])
    few = tuple([0.5 for _ in eligible])
    return Plan(tuple([row.model for row in eligible]), few, eligible, tuple(rows), few, few, tuple([math.inf for _ in eligible]))


@st.composite
def sink_rows(draw: st.DrawFn) -> list[SinkRow]:
    some = draw(st.lists(plans(), min_size=1, max_size=3))
    rows = []
    for number in range(draw(st.integers(0, 80))):
        plan = draw(st.sampled_from(some)) if number < 10 else some[number % len(some)]
        query = (
            RouteQuery(draw(NAMES), {"f": draw(NUMBERS)}, draw(st.none() | st.integers(0, 10**6)))
            if number < 5
            else RouteQuery("c")
        )
        choice = draw(st.integers(0, len(plan.eligible) - 1)) if number < 10 else 0
        rows.append(SinkRow(uuid7(10**12 + number, number), 10**12 + number, draw(st.sampled_from(Reason)), query, plan, choice))
    return rows


def packed(rows: list[SinkRow]) -> list[Waiting]:
    packer = PlanPacker()
    return [
        Waiting(row.decision, row.time_ms, row.reason, asked(row.query), packer.packed(row.plan), row.query.category, row.choice)
        for row in rows
    ]


@given(sink_rows())
def test_what_goes_in_comes_out(rows: list[SinkRow]) -> None:
    found = decoded(*encoded(packed(rows)))
    assert len(found) == len(rows)
    for row, kept in zip(rows, found, strict=True):
        assert (kept.decision, kept.time_ms, kept.reason) == (row.decision.hex(), row.time_ms, row.reason)
        assert (kept.category, kept.chosen) == (row.query.category, row.plan.eligible[row.choice])
        assert kept.candidates[: len(row.plan.eligible)] == row.plan.eligible
        assert {each.model: each for each in kept.candidates} == {each.model: each for each in row.plan.candidates}
        assert kept.request.get("features", {}) == row.query.features
        assert kept.request.get("input_tokens") == row.query.input_tokens


def test_a_breath_every_few_rows() -> None:
    candidates = (Candidate("a", None, 0.8, 0.05, 0.002, 0.7, 1.0),)
    plan = Plan(("a",), (1.0,), candidates, candidates, (0.002,), (1.0,), (math.inf,))
    rows = [SinkRow(uuid7(1, i), 1, Reason.BEST, RouteQuery("c"), plan, 0) for i in range(200)]
    breaths: list[int] = []
    encoded(packed(rows), breathe=lambda: breaths.append(1))
    assert len(breaths) == 3


OLD = '{"rows": [["00", 5, 1, {"input_tokens": 9}, 0]], "plans": [[["a"], {}]]}'
FORTY = bytes(40)


def test_rows_of_before_know_neither_category_nor_choice() -> None:
    a = Candidate("a", None, 0.0, 0.0, 0.0, 0.0, 0.0)
    assert decoded(OLD, FORTY) == [KeptDecision("00", 5, Reason.BEST, {"input_tokens": 9}, (a,), None, None)]


@pytest.mark.parametrize(
    ("rows", "numbers"),
    [
        (OLD, bytes(39)),
        (OLD, bytes(32)),
        (OLD[:-1], FORTY),
        ("[]", FORTY),
        ("{}", FORTY),
        (OLD.replace(", 0]]", ", 7]]"), FORTY),
        (OLD.replace(", 1, ", ", 99, "), FORTY),
        (OLD.replace(", 0]]", ', 0, "c"]]'), FORTY),
        (OLD.replace(", 0]]", ', 0, "c", 4]]'), FORTY),
        (OLD.replace('["a"], {}', '["a"], []'), FORTY),
    ],
)
def test_damage_is_told(rows: str, numbers: bytes) -> None:
    with pytest.raises(DamagedBatch):
        decoded(rows, numbers)

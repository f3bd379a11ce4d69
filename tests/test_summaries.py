"""What each kind of line says to people."""

from __future__ import annotations

from typing import Any

import pytest

from banditroute.core.types import JournalRow
from banditroute.summaries import actor_of, change_reason_of, summarise


def row(position: int, kind: str = "config", **body: Any) -> JournalRow:
    return JournalRow(1, position, 0, 0, kind, body)


@pytest.mark.parametrize(
    ("found", "summary"),
    [
        (row(1, fingerprint="0123456789abcdef", replaces=0), "Configuration 0123456789ab took effect as revision 1."),
        (row(5, fingerprint="abc", replaces=1), "Configuration abc took effect as revision 5, replacing revision 1."),
        (row(5), "Configuration unknown took effect as revision 5."),
        (row(7, "event_skipped", reason="KeyError: 'x'"), "The event at position 7 was skipped: KeyError: 'x'."),
        (
            row(
                8,
                "operator",
                action="set_weights",
                category="c",
                changes={"latency_weight": None},
                previous={"latency_weight": 1.0},
            ),
            "Somebody cleared latency_weight (was 1.0) in category c.",
        ),
        (
            row(
                8, "operator", action="set_weights", category="c", changes={"latency_weight": 2, "cost_weight": None}, actor="ada"
            ),
            "ada cleared cost_weight and set latency_weight to 2 in category c.",
        ),
        (row(8, "operator", action="set_weights"), "Somebody changed nothing in category ?."),
        (
            row(8, "operator", action="pause_arm", model="gpt {x}", category="c", actor="ada"),
            "ada paused gpt {x} in category c.",
        ),
        (row(8, "operator", action="resume_arm", model="m", category=""), "Somebody resumed m in every category that has it."),
        (
            row(8, "operator", action="reset_arm", model="m", category="c", actor="ada"),
            "ada reset m in category c: what was learned of it is forgotten.",
        ),
        (row(8, "operator", action="pause_arm"), "Somebody paused ? in every category that has it."),
        (row(8, "operator", action=["odd"]), "Operator at position 8."),
        (row(9, "arm_demoted"), "Arm demoted at position 9."),
        (
            row(9, "breaker_opened", model="m", failures=5, rate_limited=0, cooldown_s=15.0, nothing_else_in=[]),
            "The breaker of m opened for 15 s: 5 calls failed of late (0 rate limits).",
        ),
        (
            row(9, "breaker_reopened", model="m", cooldown_s=30.0, nothing_else_in=["a", "b"]),
            "The breaker of m opened for 30 s: a probe failed again."
            " WARNING: nothing else is left in a, b, so it serves there nevertheless.",
        ),
        (row(9, "breaker_closed", model="m"), "m answers again: its breaker closed."),
        (row(9, "breaker_opened", nothing_else_in=3), "The breaker of ? opened for ? s: ? calls failed of late (? rate limits)."),
    ],
)
def test_each_kind_has_its_sentence(found: JournalRow, summary: str) -> None:
    assert summarise(found) == summary


def test_who_and_why() -> None:
    said = row(3, "operator", actor="ada", reason="broken")
    assert (actor_of(said), change_reason_of(said)) == ("ada", "broken")
    derived = row(3, "event_skipped", reason="ValueError: x")  # a cause, not anybody's reason
    assert (actor_of(derived), change_reason_of(derived)) == ("", "")

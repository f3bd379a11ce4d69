"""Following events over lost connections."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from banditroute.client import AdminClient, RequestFailed
from banditroute.v1 import admin_pb2

from .conftest import UNAVAILABLE, Scripted, refusal

FULL = refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, reason="OVERLOADED", retry_s=0.001)


@pytest.fixture
def admin(address: str) -> Iterator[AdminClient]:
    with AdminClient(address) as client:
        yield client


def starts(scripted: Scripted) -> list[tuple[int, int, int]]:
    """What each call of WatchEvents started after."""
    found: list[Any] = [request for request in scripted.requests if isinstance(request, admin_pb2.WatchEventsRequest)]
    return [(each.start_after.epoch, each.start_after.position, each.start_after.index) for each in found]


def positions(events: Iterator[admin_pb2.JournalEntry], count: int) -> list[int]:
    return [event.position for event in itertools.islice(events, count)]


def test_it_goes_on_from_the_last_key(admin: AdminClient, scripted: Scripted) -> None:
    """The scripted server gives one event behind the key and ends the stream."""
    assert positions(admin.watch_events(after=(1, 2, 5)), 3) == [3, 4, 5]
    assert starts(scripted) == [(1, 2, 5), (1, 3, 0), (1, 4, 0)]


def test_without_a_key_it_starts_at_the_servers_state(admin: AdminClient, scripted: Scripted) -> None:
    assert positions(admin.watch_events(), 2) == [7, 8]
    assert starts(scripted) == [(1, 6, 2**32 - 1), (1, 7, 0)]


def test_what_comes_between_call_and_first_event_is_not_missed(admin: AdminClient, scripted: Scripted) -> None:
    events = admin.watch_events()
    scripted.refusals = [UNAVAILABLE]
    assert positions(events, 1) == [7]
    assert starts(scripted) == [(1, 6, 2**32 - 1)] * 2


def test_outages_are_waited_out_and_told_once(admin: AdminClient, scripted: Scripted) -> None:
    lost: list[RequestFailed] = []
    events = admin.watch_events(after=(1, 0, 0), lost=lost.append)
    assert positions(events, 2) == [1, 2]  # renewed at once: nobody need know
    assert not lost
    scripted.refusals = [UNAVAILABLE] * 3
    assert positions(events, 1) == [3]
    assert [failure.code for failure in lost] == [grpc.StatusCode.UNAVAILABLE]
    assert starts(scripted) == [(1, 0, 0), (1, 1, 0), (1, 2, 0), (1, 2, 0), (1, 2, 0), (1, 2, 0)]


def test_who_is_not_let_in_is_told_so(admin: AdminClient, scripted: Scripted) -> None:
    scripted.refusals = [FULL]
    with pytest.raises(RequestFailed) as caught:
        next(admin.watch_events(after=(1, 0, 0)))
    assert caught.value.reason == "OVERLOADED"


def test_a_place_that_is_not_free_again_is_waited_for(admin: AdminClient, scripted: Scripted) -> None:
    events = admin.watch_events(after=(1, 0, 0))
    assert positions(events, 1) == [1]
    scripted.refusals = [FULL, FULL]
    assert positions(events, 1) == [2]


def test_a_refusal_is_final(admin: AdminClient, scripted: Scripted) -> None:
    events = admin.watch_events(after=(1, 0, 0))
    assert positions(events, 1) == [1]
    scripted.refusals = [refusal(grpc.StatusCode.INVALID_ARGUMENT)]
    with pytest.raises(RequestFailed, match="because"):
        next(events)


@pytest.mark.parametrize("action", ["pause_arm", "resume_arm", "reset_arm"])
def test_changes_of_arms_are_sent_once(admin: AdminClient, scripted: Scripted, action: str) -> None:
    scripted.refusals = [UNAVAILABLE]
    with pytest.raises(RequestFailed):
        getattr(admin, action)("m", reason="broken")
    answer = getattr(admin, action)("m", category="chat", reason="broken", actor="ada", validate_only=True)
    assert answer.state_position == 9
    first, second = scripted.requests[-2:]
    assert isinstance(first, admin_pb2.PauseArmRequest | admin_pb2.ResumeArmRequest | admin_pb2.ResetArmRequest)
    assert (first.model, first.category, first.change_reason) == ("m", "", "broken")
    assert isinstance(second, type(first))
    assert (second.category, second.actor, second.validate_only) == ("chat", "ada", True)

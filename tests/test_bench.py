"""That the benchmarks in process measure what they say; no test asserts a time."""

from __future__ import annotations

import importlib
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from banditroute.bench import breaker, decide, fold, peers, simulation, workers_part
from banditroute.bench.timing import Call, in_turn, quantile
from banditroute.core.fold import learn
from banditroute.core.state import INITIAL
from banditroute.log.sqlite import SqliteLog


def test_quantiles() -> None:
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert quantile([3.0, 1.0, 2.0], 0.99) == 3.0
    assert quantile([5.0], 0.0) == 5.0


def test_subjects_take_turns_and_are_made_ready_each_time() -> None:
    seen: list[str] = []

    def subject(name: str) -> Any:
        def ready() -> Call:
            seen.append(f"{name} ready")
            return lambda: seen.append(name)

        return ready

    found = in_turn({"a": subject("a"), "b": subject("b")}, count=2, rounds=2)
    assert found.keys() == {"a", "b"}
    assert seen[0::2] == [f"{name} ready" for name in seen[1::2]]
    assert seen[1::2] == ["a", "b", *["a", "a", "b", "b"] * 2]
    assert all(0.0 <= each["p50_us"] <= each["p99_us"] for each in found.values())


def test_the_events_to_learn_from_are_first_feedbacks_that_are_learned() -> None:
    told = fold.events(3, 2, 50)
    state = INITIAL
    for event in told:
        state, skipped = learn(state, event)
        assert not skipped
    assert (state.position, state.feedback_count) == (51, 50)
    assert sum(c.usage.cost_n for k in state.categories.values() for c in k.cells.values()) == pytest.approx(50, rel=0.05)
    found = fold.learning(state, fold.events(3, 2, 200)[51:], repeats=1)
    assert found["learn_us"] > 0.0
    assert found["refits_share"] == pytest.approx(found["refits_us"] / found["learn_us"])


def test_simulations_are_timed_beside_a_bare_loop() -> None:
    found = simulation.run(quick=True)
    assert found.keys() == set(simulation.CASES)
    for each in found.values():
        assert each["share_of_bare"] == pytest.approx(each["per_second"] / each["bare_per_second"])


@pytest.mark.parametrize("how", list(breaker.FAILURES))
def test_an_outage_is_counted_from_its_first_failed_call_to_its_end(how: str) -> None:
    found, without = [breaker.outage(1, how=how, outage_s=20.0, breaker=each) for each in ({}, {"enabled": False})]
    _, fails_in_s = breaker.FAILURES[how]
    assert found.failed_until_out >= 5
    assert fails_in_s < found.out_after_s < 20.0
    assert found.back_after_s > 0.0
    assert found.failed_until_out + found.failed_probes < without.failed_until_out
    assert without.failed_until_out == pytest.approx(without.requests, rel=0.05)
    assert (without.failed_probes, without.out_after_s, without.back_after_s) == (0, 20.0, 0.0)


def test_openings_are_those_of_the_last_phase() -> None:
    assert breaker.openings([(0.01, 2000)], 1) == 0
    assert breaker.openings([(0.9, 500)], 1) > 0
    assert breaker.openings([(0.9, 500), (0.0, 2000)], 1) == 0


@pytest.mark.parametrize(("arms", "features"), [(3, 0), (2, 2)])
def test_fresh_decisions_are_each_on_a_state_of_their_own(arms: int, features: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decide, "WARM", 20)
    fresh = decide.Fresh(arms, features)
    with fresh.router:
        positions = []
        for _ in range(5):
            fresh()()
            positions.append(fresh.router.engine.snapshot.state.position)
        assert positions == [*range(22, 27)]
        assert 1.0 <= fresh.contenders <= arms


def test_peers_that_are_not_installed_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    assert peers.subjects() == ({}, list(peers.NAMES))


def test_peers_that_are_installed_pick() -> None:
    found, missing = peers.subjects()
    assert {*found, *missing} == {*peers.NAMES}
    for ready in found.values():
        ready()()
        ready()()


def test_appends_of_workers_are_counted_when_they_are_answered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(workers_part, "_begin", lambda: None)
    per_s = [workers_part.append(str(tmp_path), str(number), "0.1", "4") for number in (1, 2)]
    assert min(per_s) > 0.0
    with closing(SqliteLog(tmp_path, time.time)) as log:
        assert log.tip().position >= 2 * 4

"""That the figures of the detector measure what they say, on the detector that serves."""

from __future__ import annotations

import importlib
import math
import random
from collections.abc import Sequence
from functools import partial
from itertools import islice
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from banditroute.bench.drift import delays, nulls, recoveries, rivers, spread, worlds
from banditroute.bench.drift.delays import Cusum, Fall, Known, Learned, at_run, first_passages
from banditroute.bench.drift.nulls import Size
from banditroute.bench.drift.twin import Alarm, Index, Twin, Vector
from banditroute.bench.peers import NOT_INSTALLED
from banditroute.core.drift import BETS, LAG, SLACK, Pair, Reference, Stream, joined, observed, threshold
from banditroute.core.fold import learn
from banditroute.core.state import scope
from banditroute.core.types import JournalRow

CATEGORIES = 3


class Single:
    """What a twin stands for, one model, out of `core.drift`'s own parts; alarms as the lifecycle deals with them."""

    def __init__(self) -> None:
        self.stream = Stream()
        self.references = [Reference() for _ in range(CATEGORIES)]

    def step(self, category: int, value: float) -> None:
        self.stream, self.references[category] = observed(self.stream, self.references[category], str(category), value)
        if len(self.stream.waiting) > LAG:
            oldest = int(self.stream.waiting[0][0])
            self.stream, self.references[oldest] = joined(self.stream, self.references[oldest])

    def alarm(self, category: int, needed: float) -> tuple[int | None, bool] | None:
        for where, pair in ((None, self.stream.tests), (category, self.references[category].tests)):
            for up in (False, True):
                if math.fsum(pair[up]) / len(BETS) > needed:
                    self._begin_anew(where)
                    return where, up
        return None

    def _begin_anew(self, category: int | None) -> None:
        whole = category is None
        if whole:
            self.stream = self.stream._replace(tests=Pair())
        waiting = tuple(row for row in self.stream.waiting if not whole and row[0] != str(category))
        self.stream = self.stream._replace(waiting=waiting)
        for each in range(CATEGORIES):
            if whole or each == category:
                self.references[each] = self.references[each]._replace(waiting=0, tests=Pair())

    def same_as(self, twin: Twin, model: int) -> bool:
        stream = self.stream
        return (
            (stream.seen, stream.size, stream.square) == (twin.seen[model], twin.size[model], twin.square[model])
            and (stream.tested, stream.gap) == (twin.tested[model], twin.gap[model])
            and bool((np.array(stream.tests) == twin.tests[model]).all())
            and all(
                (reference.size, reference.total, reference.waiting)
                == (twin.sizes[model, k], twin.totals[model, k], twin.recent[model, k])
                and bool((np.array(reference.tests) == twin.alone[model, k]).all())
                for k, reference in enumerate(self.references)
            )
        )


def test_the_twin_is_the_detector_step_by_step() -> None:
    heard = [alarm for seed in range(3) for alarm in both_through(seed, nulls.judged if seed == 1 else nulls.binary)]
    assert {(alarm.category is None, alarm.up) for alarm in heard} == {(a, b) for a in (False, True) for b in (False, True)}


def both_through(seed: int, scores: nulls.Scores) -> list[Alarm]:
    """Alarms on streams that change now and then, the twin and `core.drift` being compared after every value."""
    rng = np.random.default_rng(seed)
    count, needed = 5, 30.0
    twin, singles = Twin(count, CATEGORIES), [Single() for _ in range(count)]
    means, heard = rng.random((count, CATEGORIES)), list[Alarm]()
    for t in range(1500):
        models = rng.permutation(count)[: rng.integers(1, count + 1)]
        categories = rng.integers(0, CATEGORIES, len(models)) if t % 400 < 300 else np.zeros(len(models), dtype=np.int64)
        mean = np.clip(means[models, categories] + 0.3 * (t % 600 > 450) * (-1.0) ** models, 0.0, 1.0)
        values = scores(rng, mean)
        twin.step(models, categories, values)
        expected = []
        for model, category, value in zip(models.tolist(), categories.tolist(), values.tolist(), strict=True):
            singles[model].step(category, value)
            found = singles[model].alarm(category, needed)
            if found:
                expected.append(Alarm(model, *found))
        assert twin.alarms(models, categories, needed) == expected
        heard += expected
        assert all(singles[model].same_as(twin, model) for model in models.tolist())
    return heard


def test_the_twin_is_what_the_fold_does() -> None:
    log, rng = recoveries.Log(), random.Random(3)
    state, twin = log.start(), Twin(1, 1)
    one = np.zeros(1, dtype=np.int64)
    for t in range(1200):
        value = recoveries.binary(rng, 0.85 if t < 500 else 0.6)
        state, _ = learn(state, log.feedback(state, value))
        twin.step(one, one, np.array([value]))
        alarms = twin.alarms(one, one, threshold(20.0))
        if state.shifts:
            ((key, shift),) = state.shifts.items()
            assert alarms == [Alarm(0, None if scope(key)[1] is None else 0, up=shift.up)]
            break
        assert not alarms
        (stream,) = state.models[recoveries.MODEL].streams.values()
        (reference,) = state.categories[recoveries.CATEGORY].references[recoveries.MODEL].values()
        single = Single()
        single.stream, single.references = stream, [reference]
        assert single.same_as(twin, 0)
    else:
        pytest.fail("no alarm came")


# --- false alarms ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", nulls.SCENARIOS)
def test_batches_are_values_of_different_models(name: str) -> None:
    per_world, batches = nulls.SCENARIOS[name]
    for models, categories, values in islice(batches(np.random.default_rng(1), 7), 40):
        assert len(set(models.tolist())) == 7
        assert set((models // per_world).tolist()) == set(range(7))
        assert categories.min() >= 0
        assert categories.max() < len(nulls.MEANS)
        assert values.min() >= 0.0
        assert values.max() <= 1.0


def test_alarms_are_counted_by_direction_level_and_part() -> None:
    found = [Alarm(0, None, up=False), Alarm(3, 1, up=False), Alarm(9, None, up=True)]
    result = nulls.per_million("binary", found, Size(worlds=10, feedbacks=1000), 2)
    assert result["feedbacks"] == 10_000
    assert (result["down"]["mean"], result["up"]["mean"]) == (200.0, 100.0)
    assert result["down_of_models_as_a_whole"] == 100.0
    assert result["up"]["p95"] == pytest.approx(190.0)  # between 0 and 200
    of_bandits = nulls.per_million("chosen_by_thompson", [Alarm(39, 0, up=True)], Size(worlds=10, feedbacks=1000), 2)
    assert of_bandits["up"]["mean"] == 100.0


def test_a_generous_budget_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    size = Size(worlds=20, feedbacks=600)
    assert len(nulls.false_alarms("binary", budget=1e5, size=size)) > len(nulls.false_alarms("binary", budget=20.0, size=size))


# --- delays ----------------------------------------------------------------------------------------


class Counts:
    """A rule whose statistic is how many values a run has had."""

    def __init__(self, runs: int) -> None:
        self._count = np.zeros(runs)

    def step(self, runs: Index, values: Vector) -> Vector:
        self._count[runs] += 1.0
        return np.asarray(self._count[runs] + runs)


def test_first_passages_by_hand() -> None:
    levels = np.array([2.0, 2.5, 5.0])
    first = first_passages(Counts(3), mean=0.5, runs=3, levels=levels, limit=4)
    assert first.tolist() == [[3, 3, 4], [2, 2, 4], [1, 1, 4]]


def test_the_delay_is_that_at_the_run() -> None:
    lengths = np.array([[10.0, 100.0, 1000.0]] * 2)
    late = np.array([[1.0, 2.0, 3.0], [3.0, 4.0, 5.0]])
    assert at_run(lengths, late, 100.0)[0] == pytest.approx(3.0)
    mean, p95 = at_run(lengths, late, math.sqrt(1e5))
    assert mean == pytest.approx(3.5)
    assert p95 == pytest.approx(4.9)
    with pytest.raises(ValueError, match="from 10 to 1000"):
        at_run(lengths, late, 5.0)


def test_cusum_by_hand() -> None:
    rule, runs = Cusum(Fall(0.8, 0.4), 2), np.arange(2)
    assert rule.step(runs, np.array([1.0, 0.0])) == pytest.approx([0.0, math.log(3.0)])
    assert rule.step(runs, np.array([0.0, 1.0])) == pytest.approx([math.log(3.0), math.log(1.5)])


def test_a_known_reference_is_the_pair_with_its_slack() -> None:
    rule, pair, rng = Known(Fall(0.85, 0.7), 1), Pair(), random.Random(1)
    for _ in range(60):
        value = float(rng.random() < 0.7)
        pair = pair.after(value, reference=0.85, margin=SLACK)
        found = rule.step(np.zeros(1, dtype=np.int64), np.array([value]))
        assert math.exp(found[0]) == pytest.approx(math.fsum(pair.down) / len(BETS))


def test_a_learned_reference_has_what_it_says_and_tests_begin_anew() -> None:
    rule = Learned(Fall(0.85, 0.7), 3)
    twin = rule._twin
    assert twin.size.tolist() == [delays.REFERENCE] * 3
    assert not twin.tests.any()
    assert not twin.alone.any()
    assert (twin.totals[:, 0] / twin.sizes[:, 0]).tolist() == pytest.approx([0.85] * 3, abs=0.08)


def test_cusum_needs_no_longer_than_what_is_told_less() -> None:
    found = delays.delays_of(Fall(0.85, 0.55), run=300, seeds=2, runs=60)
    assert found["known_reference"]["ratio_to_cusum"]["mean"] > 0.9
    assert found["cusum"]["delay"]["mean"] < found["learned_reference"]["at_default_budget"]["mean"]


class Impatient:
    """Stands for River's rules: an alarm after so many zeros."""

    def __init__(self, **settings: Any) -> None:
        height = settings.get("threshold")
        self._left = math.ceil(height if height is not None else -math.log(settings["delta"]))
        self.drift_detected = False

    def update(self, value: float) -> None:
        self._left -= value == 0.0
        self.drift_detected = self._left <= 0


def test_rivers_rules_get_the_threshold_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    river = SimpleNamespace(ADWIN=Impatient, PageHinkley=Impatient)
    monkeypatch.setattr(importlib, "import_module", lambda name: river)
    found = rivers.delays_of(0.8, 0.5, run=20, seeds=2, warm=0)
    assert found.keys() == {"river_adwin", "river_page_hinkley"}
    for result in found.values():
        assert result["mean_run"] == pytest.approx(20.0, rel=0.3)
        assert result["delay"]["mean"] == pytest.approx(8.0, rel=0.4)  # of zeros that come 2.5 times as often


def test_river_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    assert set(rivers.delays_of(0.8, 0.5, run=20, seeds=2, warm=0).values()) == {NOT_INSTALLED}


def test_river_where_it_is_installed() -> None:
    pytest.importorskip("river")
    rng = np.random.default_rng(1)
    for make, short, long in rivers.rules(0.8).values():
        height = short + (long - short) / 8.0
        took = rivers.alarm_after(partial(make, height), before=0.9, mean=0.1, warm=50, limit=500, rng=rng)
        assert took < 100


# --- recovery and whole routers --------------------------------------------------------------------


def test_a_model_falls_is_found_out_and_comes_back() -> None:
    log, rng = recoveries.Log(), random.Random(2)
    fall = recoveries.FALLS["binary_0.50"]
    state = recoveries.fallen(log, fall, rng)
    assert state is not None
    shift = recoveries.change_of(state)
    assert shift.demoted == (recoveries.CATEGORY,)
    assert shift.mean < -0.2
    still, passed = recoveries.probed(log, state, lambda: 0.0, 40)
    assert passed is None
    assert still.position == state.position + 40 * recoveries.PROBE_EVERY + 40 // recoveries.RIVAL_EVERY
    _, passed = recoveries.probed(log, still, lambda: 1.0, 500)
    assert passed is not None


def row(position: int, kind: str, **body: Any) -> JournalRow:
    return JournalRow(1, position, 1, 0, kind, body)


def alarm(position: int, model: str, category: str = "", kind: str = "demoted") -> JournalRow:
    return row(position, kind, model=model, category=category, since_position=position - 5)


def outcome(*rows: JournalRow) -> Sequence[Any]:
    return worlds.outcome(rows)


def test_what_becomes_of_alarms() -> None:
    assert outcome() == (0, 0, 0, 0, 0, 0, ())
    assert outcome(alarm(3, "a", kind="improved"), row(4, "demoted", model="b", category="")) == (0, 0, 0, 0, 0, 0, ())
    assert outcome(
        alarm(3, "a", "x"),
        alarm(5, "a"),  # the whole model: the arm's own is over
        row(30, "settled", model="a", category="", reason="its rivals fell by 0.2 too"),
        alarm(31, "b", kind="degraded"),
        row(40, "settled", model="b", category="", reason="nothing changed again"),
        alarm(50, "c", "x"),
        row(60, "promoted", model="c", category="x"),
        alarm(70, "c", "y"),
    ) == (5, 2, 1, 1, 1, 1, (25,))


def test_routers_on_worlds_count_their_alarms() -> None:
    found = worlds.stationary(budget=20.0, seeds=2, requests=150)
    assert found["feedbacks"] == 300
    assert found["down"]["mean"] >= 0.0
    harder = worlds.harder_prompts(worlds.Size(requests=900, change=450), slowly=False, seeds=1)
    assert harder["requests_after"] == 450
    assert harder["alarms"]["mean"] >= harder["settled_by_contrast"]["mean"]


def test_spread_by_hand() -> None:
    assert spread.over_seeds([2.0]) == {"mean": 2.0, "low": 2.0, "high": 2.0, "p95": 2.0}
    found = spread.over_seeds([1.0, 2.0, 3.0])
    assert found["mean"] == 2.0
    assert found["high"] - 2.0 == pytest.approx(4.3027 / math.sqrt(3.0), rel=1e-4)  # Student, 2 degrees of freedom
    assert found["p95"] == pytest.approx(2.9)

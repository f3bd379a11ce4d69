"""The example of docs/explanation/degradation.md, number by number."""

from __future__ import annotations

import math

import pytest

from banditroute.core.change import PROBING_AT
from banditroute.core.drift import LAG, SLACK, Reference, Stream, change_point, evidence, observed, threshold
from banditroute.core.policy import probe_share
from banditroute.core.settings import FALSE_ALARMS_PER_MILLION
from banditroute.core.shift import PRIOR_VARIANCE, Shift

BOLDEST = 3
KNOWN, NOISE, VARIANCE = 0.8, 0.16, 0.001
RIVAL = 0.70
START, DETECTED = 1000, 1030


def told(values: list[float]) -> list[tuple[float, float]]:
    """Of each value, the boldest bet's wealth and the evidence after it."""
    stream, reference = Stream(seen=100 + LAG + 200, size=200, square=200 * 0.8 * 0.2), Reference(200, 160.0)
    found = []
    for value in values:
        stream, reference = observed(stream, reference, "only", value)
        assert reference.tests == stream.tests  # there is one category, so both levels say the same
        found.append((stream.tests.down[BOLDEST], evidence({"judge": stream.tests.down}, min_sources=1)))
    return found


def test_the_alarm() -> None:
    stream = Stream(size=200, square=200 * 0.8 * 0.2)
    assert stream.variance == pytest.approx(0.1585, abs=5e-5)
    margin = SLACK + math.sqrt(stream.variance / 200)
    assert margin == pytest.approx(0.0382, abs=5e-5)
    low = 0.8 - margin
    assert low == pytest.approx(0.7618, abs=5e-5)
    factors = [1.0 + bet * low / (1.0 - low) for bet in (0.1, 0.2, 0.4, 0.7)]
    assert factors == pytest.approx([1.320, 1.640, 2.279, 3.239], abs=6e-4)
    boldest, together = zip(*told([0.0, 0.0, 1.0, 0.0]), strict=True)
    assert boldest == pytest.approx([3.24, 13.7, 4.42, 17.6], abs=0.05)
    assert together == pytest.approx([2.12, 7.15, 4.36, 11.6], abs=0.05)
    needed = threshold(FALSE_ALARMS_PER_MILLION)
    assert needed == 100_000.0
    (_, before), (_, alarm) = told([0.0] * 11)[-2:]
    assert before < needed < alarm
    assert alarm == pytest.approx(153_000, rel=1e-3)


def shift() -> Shift:
    """After 30 rewards of which half are right."""
    found = Shift(start=START, detected=DETECTED, up=False, updated=START)
    for i, residual in enumerate([-0.8, 0.2] * 15, start=1):
        found = found.after(residual, noise=NOISE + VARIANCE, position=START + i)
    return found.begun(NOISE)


def test_the_demotion() -> None:
    assert change_point([0.2] * 10 + [-0.8, 0.2] * 15, noise=NOISE) == 10
    by_hand = -0.3 * 30 / (30 + 0.161 / PRIOR_VARIANCE)
    assert by_hand == pytest.approx(-0.283, abs=5e-4)
    found = shift()
    assert found.mean == pytest.approx(by_hand, abs=5e-4)
    assert math.sqrt(found.variance) == pytest.approx(0.071, abs=2e-3)  # it grows a little from event to event
    gap = RIVAL - (KNOWN + found.mean)
    assert gap == pytest.approx(0.183, abs=5e-4)
    assert found.luck == pytest.approx(0.142, abs=5e-4)
    assert found.doubt < found.luck < gap
    assert -found.mean - gap == pytest.approx(0.1)
    share = probe_share(gap, shift=found.mean, noise=NOISE)
    assert share == pytest.approx(0.070, abs=5e-4)
    assert 1.0 / share == pytest.approx(14, abs=0.5)
    assert share * gap == pytest.approx(0.013, abs=5e-4)


def test_the_way_back() -> None:
    found = shift()
    assert pytest.approx(17.98, abs=5e-3) == 9 * NOISE / 0.283**2
    assert found.first == 17
    noise, trust, position = NOISE + VARIANCE, NOISE / (NOISE + 20 * VARIANCE), DETECTED
    assert trust == pytest.approx(0.889, abs=5e-4)
    for residual in [-0.8, 0.2] * 8 + [-0.3]:
        position += 14
        found = found.after(residual, noise=noise, position=position).tested(KNOWN + residual, KNOWN, noise=noise, trust=trust)
    assert found.level == pytest.approx(-0.3 + 1.65 * math.sqrt(0.161 / 17), abs=1e-9)
    assert found.level == pytest.approx(-0.139, abs=5e-4)
    right = [1.0 + bet * trust * (1.0 - KNOWN - found.level) / (KNOWN + found.level) for bet in (0.25, 0.5, 0.95)]
    assert right == pytest.approx([1.11, 1.23, 1.43], abs=5e-3)
    e_values = []
    while not found.recovered:
        share = min(0.3, probe_share(RIVAL - KNOWN - found.mean, shift=found.mean, noise=NOISE) * found.recovery.evidence)
        position += round(1.0 / share)
        found = found.after(0.2, noise=noise, position=position).tested(1.0, KNOWN, noise=noise, trust=trust)
        e_values.append(found.recovery.evidence)
    assert found.recovery.needed == 100.0
    assert e_values[3] < PROBING_AT < e_values[4] == pytest.approx(3.5, abs=0.05)
    assert len(e_values) == 20
    assert e_values[15] == pytest.approx(117, abs=0.5)
    assert found.mean > 0.5 * found.level

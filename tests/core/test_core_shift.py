"""What is learned of a change: against Gaussian posteriors worked out whole, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from banditroute.core.drift import GIVEN_UP, Recovery
from banditroute.core.shift import GROWTH, LEAST_FIRST, MOST_FIRST, PRIOR_VARIANCE, Shift, Span

NOISE = 0.1
FALLEN = Shift(start=10, detected=20, up=False, updated=10)
observations = st.lists(
    st.tuples(st.floats(-1.0, 1.0), st.floats(0.01, 0.3), st.integers(0, 60)), min_size=1, max_size=12
)  # residual, noise, events since the one before


def posterior(residuals: list[float], noises: list[float], positions: list[int]) -> tuple[float, float]:
    """Of delta at the last observation: delta ~ N(0, .3^2) at the first, a random walk from there."""
    when = np.array(positions, dtype=float) - positions[0]
    walk = PRIOR_VARIANCE + GROWTH * np.minimum(when[:, None], when[None, :])
    gain = np.linalg.solve(walk + np.diag(noises), walk[:, -1])
    return float(gain @ residuals), float(walk[-1, -1] - gain @ walk[:, -1])


def learned(residuals: list[float], noises: list[float], positions: list[int]) -> Shift:
    shift = FALLEN._replace(updated=positions[0])
    for residual, noise, position in zip(residuals, noises, positions, strict=True):
        shift = shift.after(residual, noise=noise, position=position)
    return shift


@given(observations)
def test_a_shift_is_the_posterior_of_a_random_walk(told: list[tuple[float, float, int]]) -> None:
    residuals, noises = [each[0] for each in told], [each[1] for each in told]
    positions = np.cumsum([each[2] for each in told]).tolist()
    shift = learned(residuals, noises, positions)
    mean, variance = posterior(residuals, noises, positions)
    assert shift.mean == pytest.approx(mean, abs=1e-9)
    assert shift.variance == pytest.approx(variance, abs=1e-9)
    assert (shift.size, shift.updated) == (len(told), positions[-1])


def test_variance_grows_from_event_to_event_but_not_beyond_what_was_believed_at_first() -> None:
    shift = FALLEN.after(-0.2, noise=0.03, position=100)
    assert shift.variance == pytest.approx(0.09 * 0.03 / 0.12)
    assert shift.variance_at(100) == shift.variance_at(40) == shift.variance
    assert shift.variance_at(2100) == pytest.approx(shift.variance + 0.18**2)
    assert shift.variance_at(10**9) == PRIOR_VARIANCE


def test_late_news_are_no_step_back() -> None:
    shift = FALLEN.after(-0.2, noise=0.03, position=100).after(-0.2, noise=0.03, position=50)
    assert shift.updated == 100
    assert shift.variance == pytest.approx(1.0 / (1.0 / 0.09 + 2.0 / 0.03))


@given(st.lists(st.floats(-1.0, 1.0), min_size=1, max_size=8), st.data(), st.floats(-1.0, 1.0), st.floats(0.01, 0.3))
def test_corrections_are_exact_where_no_variance_has_grown(
    residuals: list[float], data: st.DataObject, change: float, noise: float
) -> None:
    count = len(residuals)
    which = data.draw(st.integers(0, count - 1))
    right = [each + change * (i == which) for i, each in enumerate(residuals)]
    shift, expected = (learned(each, [noise] * count, [100] * count) for each in (residuals, right))
    assert shift.corrected(change, noise=noise).mean == pytest.approx(expected.mean, abs=1e-9)
    assert shift.corrected(change, noise=noise).variance == expected.variance


@pytest.mark.parametrize(
    ("position", "made", "covered"),
    [
        (10, 5, False),  # first judged at the start: before it
        (11, 5, True),
        (30, 15, True),  # judged at the end
        (31, 15, False),  # made before the alarm, judged after the end
        (31, 20, True),  # made when it was known
        (99, 29, True),
        (99, 30, False),  # made when it was over
        (5, 5, False),
    ],
)
def test_what_an_ended_change_covers(position: int, made: int, covered: bool) -> None:
    assert Span(start=10, detected=20, end=30).covers(position=position, made=made) is covered


# --- the test of recovery --------------------------------------------------------------------------


def probed(shift: Shift, told: list[float], known: float = 0.8) -> Shift:
    for value in told:
        shift = shift.tested(value, known, noise=NOISE, trust=1.0)
    return shift


def asked_first(shift: Shift, value: float) -> Shift:
    """With the level that so many equal first probes give."""
    shift = shift.begun(NOISE)
    for count in range(int(MOST_FIRST) + 1):
        if shift.level < 0.0:
            assert count >= LEAST_FIRST
            return shift
        assert (shift.recovery, shift.recovered) == (Recovery(), False)
        shift = probed(shift, [value])
    raise AssertionError("no level after as many as there may be")


def test_the_first_probes_only_tell_how_bad_it_is() -> None:
    shift = asked_first(FALLEN, 0.5)
    assert -0.3 < shift.level < 0.0
    assert shift.recovery == Recovery()


def test_a_model_that_is_itself_again_passes_and_one_that_is_not_starts_anew() -> None:
    fallen = asked_first(FALLEN._replace(mean=-0.3, variance=0.001), 0.5)
    again = probed(fallen._replace(mean=0.0), [0.8] * 200)
    assert again.recovered
    assert not again._replace(up=True).recovered
    still = fallen
    while still.recovery.epoch == 1:
        assert still.recovery.evidence >= GIVEN_UP
        still = probed(still, [0.4])
    assert still.recovery == Recovery(2)
    assert still.level < 0.0

"""The example of docs/explanation/learning.md, number by number."""

from __future__ import annotations

import math

import numpy as np
import pytest
from mixed_worlds import Seen, believed, differences

from banditroute.core.mixed import Fit
from banditroute.core.policy import looks_left, outline
from banditroute.core.pool import START, START_NOISE, START_SPREAD, Pooled
from banditroute.core.posterior import LOOKAHEAD
from banditroute.core.propensity import thompson


def test_the_worked_example() -> None:
    assert pytest.approx(0.0152) == START_SPREAD
    outlook = Fit(START, ["A", "B"]).outlook("only", ("A", "B"))
    assert outlook.mean == pytest.approx([0.5, 0.5])
    assert np.linalg.inv(outlook.precision) == pytest.approx(np.array([[0.1402, 0.085], [0.085, 0.1402]]))
    # There is no other category whose looks could tell anything.
    assert LOOKAHEAD == 6.0
    ahead = Fit(START, ["A", "B"], looks=LOOKAHEAD, arms={"only": ["A", "B"]}).outlook("only", ("A", "B"))
    np.testing.assert_allclose(ahead.precision, outlook.precision, rtol=1e-12)
    cells = [Seen(4.0, 0.8).cell, Seen(1.0, 0.5).cell]
    found = believed(cells, outlook=outlook, ahead=ahead, known=[Pooled(START_NOISE)] * 2)
    belief, later = found.belief, found.later
    assert belief.mean == pytest.approx([0.762, 0.564], abs=5e-4)
    assert belief.covariance == pytest.approx(np.array([[0.0131, 0.0032], [0.0032, 0.0366]]), abs=5e-5)
    difference = float(differences(belief.covariance)[0, 1])
    assert difference == pytest.approx(0.0433, abs=5e-5)
    gap = float(belief.mean[0] - belief.mean[1])
    assert gap == pytest.approx(0.198, abs=5e-4)
    assert gap / math.sqrt(difference) == pytest.approx(0.952, abs=5e-4)
    assert START_NOISE / difference == pytest.approx(1.4, abs=0.05)
    assert looks_left(gap, difference, noise=START_NOISE, horizon=500) == pytest.approx(46.5, abs=0.05)
    assert later == pytest.approx(np.array([[0.0056, 0.0003], [0.0003, 0.0078]]), abs=5e-5)
    left = float(differences(later)[0, 1])
    assert left == pytest.approx(0.0129, abs=5e-5)
    assert difference - left == pytest.approx(0.0304, abs=5e-5)
    spread = outline(belief, later).spread
    assert np.square(spread) == pytest.approx([0.0152, 0.0152], abs=5e-5)
    assert thompson(belief.mean.tolist(), spread)[0] == pytest.approx(0.872, abs=5e-4)
    assert thompson([gap, 0.0], spread)[0] == pytest.approx(0.5 * math.erfc(-gap / math.sqrt(2 * (difference - left))), abs=1e-9)

"""The example of docs/explanation/learning.md, number by number."""

from __future__ import annotations

import math

import numpy as np
import pytest

from banditroute.core.mixed import Fit, contrasts, posterior
from banditroute.core.policy import pays
from banditroute.core.pool import START, START_NOISE, START_SPREAD
from banditroute.core.propensity import thompson


def test_the_worked_example() -> None:
    assert pytest.approx(0.0152) == START_SPREAD
    outlook = Fit(START, ["A", "B"]).outlook("only", ("A", "B"))
    assert outlook.mean == pytest.approx([0.5, 0.5])
    assert np.linalg.inv(outlook.precision) == pytest.approx(np.array([[0.1402, 0.085], [0.085, 0.1402]]))
    n, mean = np.array([4.0, 1.0]), np.array([0.8, 0.5])
    belief = posterior(outlook, precision=n / START_NOISE, moment=n * mean / START_NOISE)
    assert belief.mean == pytest.approx([0.762, 0.564], abs=5e-4)
    assert belief.covariance == pytest.approx(np.array([[0.0131, 0.0032], [0.0032, 0.0366]]), abs=5e-5)
    variances, differences = contrasts(belief.covariance)
    difference = float(differences[0, 1])
    assert difference == pytest.approx(0.0433, abs=5e-5)
    assert variances == pytest.approx([0.0216, 0.0216], abs=5e-5)
    gap = float(belief.mean[0] - belief.mean[1])
    assert gap / math.sqrt(difference) == pytest.approx(0.952, abs=5e-4)
    assert START_NOISE / difference == pytest.approx(1.4, abs=0.05)
    assert pays(gap, difference, noise=START_NOISE, horizon=500)
    assert thompson(belief.mean.tolist(), np.sqrt(variances).tolist())[0] == pytest.approx(0.830, abs=5e-4)

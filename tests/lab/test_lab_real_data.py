"""The development data, where it is there: what it says, and that shipped environments still say the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from banditroute.lab.calibrate import calibrate
from banditroute.lab.datasets import Dataset
from banditroute.lab.environments import load_environment
from banditroute.lab.replay import simulate

REPOSITORY = Path(__file__).resolve().parents[2]

SIZES = {"mmlu_pro": (12_002, 9, 14), "paretobandit_k4_val": (1_766, 4, 9), "routellm_mmlu": (14_042, 2, 57)}


@pytest.mark.parametrize("name", SIZES)
def test_sizes_and_shipped_environment(real_data: Callable[[str], Dataset], name: str) -> None:
    data = real_data(name)
    assert (len(data.sample_category), len(data.models), len(data.categories)) == SIZES[name]
    shipped = load_environment(REPOSITORY / "simulations" / "environments" / f"{name}.yaml")
    assert shipped.spec == calibrate(data)
    np.testing.assert_allclose(shipped.mean_scores, data.mean_scores, rtol=1e-3)


def test_random_loses_what_was_measured_elsewhere(real_data: Callable[[str], Dataset]) -> None:
    found = simulate(
        real_data("paretobandit_k4_val"), cost_weights=[0.1, 0.3], seeds=2, policies=["random", "best-fixed"], jobs=1
    )
    for weight, random_regret, fixed in zip(found.weights, (363.6, 646.5), (30.6, 28.7), strict=True):
        assert weight["random"].regret == pytest.approx(random_regret, rel=0.05)
        assert weight["best-fixed"].regret == pytest.approx(fixed, rel=0.1)

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from banditroute.lab.datasets import Dataset
from banditroute.lab.loading import load_dataset

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def toy() -> Dataset:
    """Two categories, two models, hand-sized: `dear` is best in `hard`, `cheap` in `easy`. Reference: 0.010 USD."""
    return Dataset(
        name="toy",
        categories=("easy", "hard"),
        models=("cheap", "dear"),
        sample_category=np.array([0, 0, 1, 1]),
        scores=np.array([[0.9, 0.9], [0.7, 0.9], [0.1, 0.8], [0.3, 1.0]]),
        costs_usd=np.array([[0.001, 0.010], [0.001, 0.010], [0.002, 0.012], [0.002, 0.008]]),
        output_tokens=np.array([[10.0, np.nan], [30.0, np.nan], [50.0, 70.0], [70.0, np.nan]]),
    )


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], Dataset]:
    """Loads a data set of the development data, or skips where the folder is not there."""
    folder = (REPOSITORY / os.environ.get("BANDITROUTE_DATA", "../shared/data")).resolve()
    loaded: dict[str, Dataset] = {}

    def load(name: str) -> Dataset:
        path = folder / f"{name}.parquet"
        if not path.is_file():
            pytest.skip(f"no {path.name} in BANDITROUTE_DATA={folder}")
        if name not in loaded:
            loaded[name] = load_dataset(path)
        return loaded[name]

    return load

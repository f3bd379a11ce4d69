"""What figures over seeds are printed as."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import t as student

SEEDS = 20


def over_seeds(values: Sequence[float]) -> dict[str, float]:
    """Mean, the ends of its 95 % interval (Student's t; the mean itself where there is one value), and the 95th percentile."""
    count = len(values)
    mean = float(np.mean(values))
    error = float(np.std(values, ddof=1)) / math.sqrt(count) if count > 1 else 0.0
    reach = error * float(student.ppf(0.975, count - 1)) if error else 0.0
    return {"mean": mean, "low": mean - reach, "high": mean + reach, "p95": float(np.quantile(values, 0.95))}

"""The detector of change alone: false alarms, delays beside CUSUM and River, and the test of recovery (core/drift, core/shift).

Every figure is over seeds: the mean, its 95 % interval (`low`, `high`) and the 95th percentile.
"""

from __future__ import annotations

from typing import Any

from banditroute.bench.drift import delays, nulls, recoveries, worlds


def run(*, quick: bool = False) -> dict[str, Any]:
    """All parts. Observations and feedbacks are counted, never timed."""
    return {
        "false_alarms": nulls.run(quick=quick),
        "router": worlds.run(quick=quick),
        "delays": delays.run(quick=quick),
        "recovery": recoveries.run(quick=quick),
    }

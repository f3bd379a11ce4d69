"""Benchmarks: figures are ratios to a ceiling or to a peer that was measured in the same run, or stand beside one.

`banditroute bench` runs them all; each part is a module with `run(...) -> dict` of JSON data.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from typing import Any

from banditroute.bench import breaker, decide, drift, feedback, fold, mixed, ope, propensity, serving, simulation, workers
from banditroute.bench.many import coldstart, faults, memory, replicas, throughput

PARTS: dict[str, Callable[..., dict[str, Any]]] = {
    "propensity": propensity.run,
    "drift": drift.run,
    "ope": ope.run,
    "decide": decide.run,
    "fold": fold.run,
    "simulation": simulation.run,
    "breaker": breaker.run,
    "serving": serving.run,
    "feedback": feedback.run,
    "mixed": mixed.run,
    "replicas": replicas.run,
    "faults": faults.run,
    "redis": throughput.run,
    "redis-memory": memory.run,
    "workers": workers.run,
    "coldstart": coldstart.run,
}


def main(*, quick: bool = False, only: Sequence[str] = ()) -> dict[str, Any]:
    """Runs the benchmarks.

    Args:
        quick: shorter runs, for a look; figures vary more.
        only: names of PARTS; empty: all.

    Raises:
        ValueError: a name is none of PARTS.
    """
    unknown = set(only) - PARTS.keys()
    if unknown:
        raise ValueError(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    results: dict[str, Any] = {
        "machine": {"python": platform.python_version(), "cores": os.cpu_count(), "system": platform.system()}
    }
    for name, run in PARTS.items():
        if not only or name in only:
            results[name] = run(quick=quick)
    return results

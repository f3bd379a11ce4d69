"""Timing single calls in process, on a machine that others use too."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence

Call = Callable[[], object]
Subject = Callable[[], Call]
"""Gets one call ready, untimed, and gives it."""


def microseconds(subject: Subject, count: int) -> list[float]:
    """What each of `count` calls took, in µs. The garbage collector waits: its pauses are not the call's."""
    clock, took = time.perf_counter_ns, []
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(count):
            call = subject()
            start = clock()
            call()
            took.append((clock() - start) / 1e3)
    finally:
        if collecting:
            gc.enable()
    return took


def quantile(values: Sequence[float], share: float) -> float:
    """The value that `share` of them do not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def in_turn(subjects: Mapping[str, Subject], *, count: int, rounds: int) -> dict[str, dict[str, float]]:
    """`p50_us` and `p99_us` of each subject in its quietest round; they take turns, so that all see the same machine."""
    seen: dict[str, list[list[float]]] = {name: [] for name in subjects}
    for subject in subjects.values():
        microseconds(subject, max(1, count // 10))
    for _ in range(rounds):
        for name, subject in subjects.items():
            seen[name].append(microseconds(subject, count))
    quiet = {name: min(found, key=lambda values: quantile(values, 0.5)) for name, found in seen.items()}
    return {name: {"p50_us": quantile(took, 0.5), "p99_us": quantile(took, 0.99)} for name, took in quiet.items()}

"""The figures of `lab/changes.py` over seeds, each beside the bar that it has to clear."""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np

from banditroute.lab.changes import Figures, Value, arrival, dearer, degradation, outage, slander, standing_firm
from banditroute.lab.delivery import DIRTY
from banditroute.lab.environments import Environment, EnvironmentSpec
from banditroute.lab.results import bounds, defined, ratio
from banditroute.lab.source import Source

JUDGED, BINARY, SIMULATED = "paretobandit_k4_val", "mmlu_pro", "mmlu_pro (environment)"
"""The sources that the caller brings: recorded judge-like and 0/1 scores, and the environment made from the latter."""
BINARY_WORLD, FAR_AHEAD, ALONE = "0/1 world", "leader far ahead", "one model"

Statistic = Literal["mean", "p5", "p95", "least", "most"]
Progress = Callable[[int, int], None]
"""Called with the number of finished runs and of all."""


class Bar(NamedTuple):
    """What a figure must be at most, or at least. With `times`, `limit` is in multiples of the same of that case."""

    figure: str
    of: Statistic
    limit: float
    at_least: bool = False
    times: str = ""


class Case(NamedTuple):
    """One change at one source: how a seed is measured, and what is asked of the figures."""

    name: str
    source: str
    measure: Callable[..., Figures]
    bars: tuple[Bar, ...]


def _degradation(name: str, source: str, loss: float, regained_after: int, *bars: Bar) -> Case:
    """Bars that all of them have, and their own."""
    common = (
        Bar("share_over_probes", "mean", 0.01),
        Bar("regret_to_forgetting", "mean", 0.45),
        Bar(f"regained_after_{regained_after}", "mean", 0.8, at_least=True),
        Bar("false_promotion", "mean", 0.02),
        _FALSE_ALARMS,
    )
    return Case(name, source, partial(degradation, loss=loss), (*bars, *common))


def _dirty(clean: str, source: str, regained_after: int) -> Case:
    bars = (
        Bar("feedbacks_to_demotion", "mean", 1.5, times=clean),
        Bar("regret", "mean", 1.5, times=clean),
        Bar("share_over_probes", "mean", 0.015),
        Bar(f"regained_after_{regained_after}", "mean", 0.8, at_least=True),
        Bar("false_promotion", "mean", 0.03),
        _FALSE_ALARMS,
    )
    return Case(f"{clean}-dirty", source, partial(degradation, loss=0.18, delivery=DIRTY, rivals=False), bars)


_FALSE_ALARMS = Bar("false_demotions_per_million", "mean", 20.0)
_TO_DEMOTION, _TO_HALF = "feedbacks_to_demotion", "requests_to_half"
_ADOPTED = (Bar(_TO_HALF, "mean", 100.0), Bar("extra_spend", "mean", 0.01))
_LEFT = (Bar("looks_until_below_1_percent", "p95", 30.0),)
_UNMOVED = (Bar("demotions", "most", 0.0), Bar("share_kept", "mean", 0.95, at_least=True))
_MOVED = (Bar("moved_on_next_request", "mean", 0.5, at_least=True),)
_UNBLAMED = (Bar("demotions", "most", 0.0),)

CASES = (
    _degradation("judged-0.18", JUDGED, 0.18, 400, Bar(_TO_DEMOTION, "mean", 20.0), Bar(_TO_DEMOTION, "p95", 30.0)),
    _degradation("judged-0.50", JUDGED, 0.5, 500),
    _degradation("binary-0.18", BINARY, 0.18, 1200, Bar(_TO_DEMOTION, "mean", 220.0), Bar(_TO_DEMOTION, "p95", 520.0)),
    _degradation("binary-0.50", BINARY, 0.5, 500),
    _degradation("binary-true-0.18", BINARY_WORLD, 0.18, 1200, Bar(_TO_DEMOTION, "mean", 130.0)),
    _degradation("harder-true-0.18", SIMULATED, 0.18, 1200, Bar(_TO_DEMOTION, "mean", 130.0)),
    _dirty("judged-0.18", JUDGED, 600),
    _dirty("binary-true-0.18", BINARY_WORLD, 1800),
    Case("unbeaten", FAR_AHEAD, partial(standing_firm, loss=0.18), _UNMOVED),
    Case("last-model", ALONE, partial(standing_firm, loss=1.0), (*_UNMOVED, Bar("noticed", "mean", 1.0, at_least=True))),
    Case(
        "last-model-down", ALONE, outage, (Bar("served", "least", 1.0, at_least=True), Bar("warned", "least", 1.0, at_least=True))
    ),
    Case("judged-arrival-best", JUDGED, partial(arrival, best=True), _ADOPTED),
    Case("binary-arrival-best", BINARY, partial(arrival, best=True), _ADOPTED),
    Case("judged-arrival-worst", JUDGED, partial(arrival, best=False), _LEFT),
    Case("binary-arrival-worst", BINARY, partial(arrival, best=False), _LEFT),
    Case("judged-price-x20", JUDGED, partial(dearer, factor=20.0), _MOVED),
    Case("binary-price-x20", BINARY, partial(dearer, factor=20.0), _MOVED),
    Case("judged-slander", JUDGED, partial(slander, min_sources=2), _UNBLAMED),
    Case("binary-slander", BINARY, partial(slander, min_sources=2), _UNBLAMED),
    Case("judged-slander-unguarded", JUDGED, partial(slander, min_sources=1), ()),
)
"""What `measured` can measure. The last one has no bar: it shows what `min_sources` is good for."""


def built_sources() -> dict[str, Source]:
    """Worlds of 0/1 scores that the cases bring along: one where a leader at .85 has rivals close behind, one where it stays
    best, one without a rival. Their four categories differ in difficulty."""
    means = {BINARY_WORLD: (0.85, 0.79, 0.7, 0.5), FAR_AHEAD: (0.9, 0.5, 0.45), ALONE: (0.8,)}
    return {name: _world(name, each) for name, each in means.items()}


def _world(name: str, means: Sequence[float]) -> Environment:
    categories = {
        f"category-{c + 1}": {
            "weight": 0.25,
            "models": {
                f"model-{k + 1}": {"score": {"kind": "binary", "mean": mean + ease}, "cost_usd": {"mean": 0.001, "sd": 0.0}}
                for k, mean in enumerate(means)
            },
        }
        for c, ease in enumerate((-0.06, -0.02, 0.02, 0.06))
    }
    return Environment(EnvironmentSpec.model_validate({"name": name, "categories": categories}))


# --- over seeds ------------------------------------------------------------------------------------


class Summary(NamedTuple):
    """One figure over the seeds that have it. Of a ratio: mean and interval are those of the ratio of sums."""

    defined_count: int
    mean: float
    ci95: list[float] | None
    p5: float
    p95: float
    least: float
    most: float
    per_seed: tuple[Value, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON data; null stands for what is not defined."""
        told = {name: defined(value) if isinstance(value, float) else value for name, value in self._asdict().items()}
        return told | {"per_seed": [list(map(defined, _pair(value))) for value in self.per_seed]}


def summed_up(values: Sequence[Value]) -> Summary:
    """The statistics of one figure, one value for each seed."""
    pairs = [pair for pair in map(_pair, values) if not math.isnan(pair[0])]
    singles = [a / b for a, b in pairs if b > 0.0]
    if not singles:
        return Summary(0, math.nan, None, math.nan, math.nan, math.nan, math.nan, tuple(values))
    whole = ratio(pairs)
    p5, p95 = np.quantile(singles, [0.05, 0.95]).tolist()
    return Summary(len(pairs), whole.mean, bounds(whole), p5, p95, min(singles), max(singles), tuple(values))


def _pair(value: Value) -> tuple[float, float]:
    return value if isinstance(value, tuple) else (value, 1.0)


class Verdict(NamedTuple):
    """A bar with what was found; None where a figure that it needs was not measured."""

    bar: Bar
    limit: float | None
    found: float | None
    met: bool | None

    def to_json(self) -> dict[str, Any]:
        """JSON data."""
        told = self.bar._asdict()
        return told | {"limit": self.limit, "found": self.found, "met": self.met}


@dataclass(frozen=True, kw_only=True)
class CaseResult:
    """What one case came to."""

    name: str
    source: str
    figures: Mapping[str, Summary]
    verdicts: tuple[Verdict, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON data."""
        return {
            "case": self.name,
            "source": self.source,
            "bars": [verdict.to_json() for verdict in self.verdicts],
            "figures": {name: figure.to_json() for name, figure in self.figures.items()},
        }


@dataclass(frozen=True, kw_only=True)
class ChangeFigures:
    """What `measured` found, and which cases it left out for want of their source."""

    requests: int
    seeds: int
    cases: tuple[CaseResult, ...]
    left_out: tuple[tuple[str, str], ...]

    def to_json(self) -> dict[str, Any]:
        """JSON data with everything in it."""
        return {
            "requests": self.requests,
            "seeds": self.seeds,
            "cases": [case.to_json() for case in self.cases],
            "left_out": [{"case": case, "needs": source} for case, source in self.left_out],
        }


def measured(
    sources: Mapping[str, Source],
    *,
    seeds: int = 20,
    requests: int = 6000,
    only: Sequence[str] = (),
    jobs: int | None = None,
    progress: Progress | None = None,
) -> ChangeFigures:
    """All cases, or those named, at each seed.

    `sources` by the names that cases ask for; what is not there is left out. `jobs` processes work at once (default: 2, or 1
    on a single core), as in `replay.simulate`; the numbers are the same whatever it is.

    Raises ValueError for an unknown case or a count below 1.
    """
    jobs = min(2, os.cpu_count() or 1) if jobs is None else jobs
    for name, count in {"seeds": seeds, "jobs": jobs}.items():
        if count < 1:
            raise ValueError(f"{name} is {count}; give at least 1")
    known = [case.name for case in CASES]
    if unknown := [name for name in only if name not in known]:
        raise ValueError(f"unknown cases {', '.join(unknown)}; known: {', '.join(known)}")
    there = {**built_sources(), **sources}
    asked = [case for case in CASES if not only or case.name in only]
    run = [case for case in asked if case.source in there]
    tasks = [_Task(case.name, seed, requests) for case in run for seed in range(seeds)]
    found: dict[_Task, Figures] = {}
    for task, figures in _run_all(there, tasks, jobs=jobs):
        found[task] = figures
        if progress is not None:
            progress(len(found), len(tasks))
    summaries = {
        case.name: {
            name: summed_up([found[_Task(case.name, seed, requests)][name] for seed in range(seeds)])
            for name in found[_Task(case.name, 0, requests)]
        }
        for case in run
    }
    return ChangeFigures(
        requests=requests,
        seeds=seeds,
        cases=tuple(
            CaseResult(
                name=case.name,
                source=case.source,
                figures=summaries[case.name],
                verdicts=tuple(_verdict(bar, case.name, summaries) for bar in case.bars),
            )
            for case in run
        ),
        left_out=tuple((case.name, case.source) for case in asked if case.source not in there),
    )


def _verdict(bar: Bar, case: str, summaries: Mapping[str, Mapping[str, Summary]]) -> Verdict:
    def of(name: str) -> float | None:
        figure = summaries.get(name, {}).get(bar.figure)
        return None if figure is None else defined(getattr(figure, bar.of))

    found, unit = of(case), of(bar.times) if bar.times else 1.0
    limit = None if unit is None else bar.limit * unit
    met = None if found is None or limit is None else found >= limit if bar.at_least else found <= limit
    return Verdict(bar, limit, found, met)


class _Task(NamedTuple):
    case: str
    seed: int
    requests: int


_CASES = {case.name: case for case in CASES}
_adopted: dict[str, Source] = {}


def _run_all(sources: Mapping[str, Source], tasks: Sequence[_Task], *, jobs: int) -> Iterator[tuple[_Task, Figures]]:
    """Each task with its figures, in the order of completion."""
    if jobs == 1 or len(tasks) <= 1:
        for task in tasks:
            yield task, _run(sources, task)
        return
    # Spawn: see `replay`.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(jobs, len(tasks)), mp_context=context, initializer=_adopt, initargs=(sources,)) as pool:
        futures = {pool.submit(_run_adopted, task): task for task in tasks}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _adopt(sources: Mapping[str, Source]) -> None:
    _adopted.update(sources)


def _run_adopted(task: _Task) -> Figures:
    return _run(_adopted, task)


def _run(sources: Mapping[str, Source], task: _Task) -> Figures:
    case = _CASES[task.case]
    with _quiet():
        return case.measure(sources[case.source], seed=task.seed, requests=task.requests)


@contextmanager
def _quiet() -> Iterator[None]:
    """That models get worse is what is measured here: no news for the log."""
    log = logging.getLogger("banditroute")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)

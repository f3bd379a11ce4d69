"""How often the intervals hold the truth, over many logs that the router made: coverage, bias, error and width by estimator."""

from __future__ import annotations

import math
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from banditroute.lab.datasets import Dataset
from banditroute.lab.loading import load_dataset
from banditroute.lab.ope.estimators import Estimate
from banditroute.lab.ope.evaluation import Evaluation, Outcomes, evaluate, fitted
from banditroute.lab.ope.sequences import difference_terms, quality_terms
from banditroute.lab.ope.truth import MadeLog, Policy, Setting, logging_policy, made_log, policies

SEQUENCE, SEQUENCE_DIFFERENCE, DIFFERENCE, CHANGE = "anytime", "anytime difference", "DR difference", "DR cost change"
Progress = Callable[[int, int], None]
"""Called with the number of finished logs and of all."""


class Told(NamedTuple):
    """What one estimator said of one policy on one log, beside the truth. `covers`: of the sequence, at all times."""

    estimator: str
    error: float
    width: float
    covers: bool


class Trial(NamedTuple):
    """All that was said of one policy on one log."""

    policy: str
    is_supported: bool
    effective_sample_size: float
    largest_weight_share: float
    truth: float
    told: tuple[Told, ...]


def trials(data: Dataset, setting: Setting, *, seed: int) -> list[Trial]:
    """One log, every policy."""
    made = made_log(data, setting, seed=seed)
    outcomes, logged = fitted(made.logged), logging_policy(data, made)
    found = []
    for policy in policies(data, made, setting):
        evaluation = evaluate(made.logged, policy.rows, policy=policy.name, outcomes=outcomes, floor=setting.floor)
        truth = float(policy.qualities.mean())
        told = [_told(estimate.name, estimate, truth) for estimate in evaluation.quality]
        found.append(
            Trial(
                policy.name,
                evaluation.is_supported,
                evaluation.support.effective_sample_size,
                evaluation.support.largest_weight_share,
                truth,
                (*told, *_compared(evaluation, policy, logged), *_always(made, outcomes, evaluation, policy, logged, setting)),
            )
        )
    return found


def _compared(evaluation: Evaluation, policy: Policy, logged: Policy) -> Iterator[Told]:
    yield _told(DIFFERENCE, evaluation.quality_difference, float((policy.qualities - logged.qualities).mean()))
    yield _told(CHANGE, evaluation.cost_change, float(policy.costs_usd.mean() / logged.costs_usd.mean()) - 1.0)


def _always(
    made: MadeLog, outcomes: Outcomes, evaluation: Evaluation, policy: Policy, logged: Policy, setting: Setting
) -> Iterator[Told]:
    """Of the sequences: whether they hold at every time."""
    given, most = (made.logged, policy.rows, outcomes.quality.predictable), 1.0 / setting.floor
    for name, sequence, terms, means in (
        (SEQUENCE, evaluation.quality_sequence, quality_terms(*given, most=most), policy.qualities),
        (
            SEQUENCE_DIFFERENCE,
            evaluation.difference_sequence,
            difference_terms(*given, most=most),
            policy.qualities - logged.qualities,
        ),
    ):
        middle, width = (sequence.low + sequence.high) / 2.0, sequence.high - sequence.low
        yield Told(name, middle - float(means.mean()), width, terms.always_covers(means))


def _told(name: str, estimate: Estimate, truth: float) -> Told:
    return Told(name, estimate.value - truth, estimate.width, estimate.low <= truth <= estimate.high)


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Of one estimator of one policy, over the logs that support a verdict. `coverage_error`: standard error of the coverage."""

    coverage: float
    coverage_error: float
    bias: float
    rmse: float
    width: float

    def to_json(self) -> dict[str, Any]:
        """JSON data."""
        return dict(vars(self))


@dataclass(frozen=True, kw_only=True)
class PolicyFigures:
    """Of one policy: `supported` of `logs` logs got a verdict; the others do not count. Empty `by_estimator` where none did."""

    policy: str
    logs: int
    supported: int
    truth: float
    effective_sample_size: float
    largest_weight_share: float
    by_estimator: Mapping[str, Figures]

    def to_json(self) -> dict[str, Any]:
        """JSON data with everything in it."""
        return {**vars(self), "by_estimator": {name: each.to_json() for name, each in self.by_estimator.items()}}


@dataclass(frozen=True, kw_only=True)
class Study:
    """One data set and one way to make logs."""

    data: str
    setting: Setting
    policies: tuple[PolicyFigures, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON data with everything in it."""
        told = [policy.to_json() for policy in self.policies]
        return {"data": self.data, "setting": self.setting._asdict(), "policies": told}


def summed_up(runs: Sequence[Sequence[Trial]]) -> tuple[PolicyFigures, ...]:
    """Figures over logs; each run has the same policies in the same order."""
    return tuple(_figures(column) for column in zip(*runs, strict=True))


def _figures(column: Sequence[Trial]) -> PolicyFigures:
    kept = [trial for trial in column if trial.is_supported]
    by_estimator = {}
    for told in zip(*[trial.told for trial in kept], strict=True):
        errors, covered = np.array([each.error for each in told]), float(np.mean([each.covers for each in told]))
        by_estimator[told[0].estimator] = Figures(
            coverage=covered,
            coverage_error=math.sqrt(covered * (1.0 - covered) / len(told)),
            bias=float(errors.mean()),
            rmse=math.sqrt(float((errors**2).mean())),
            width=float(np.mean([each.width for each in told])),
        )
    return PolicyFigures(
        policy=column[0].policy,
        logs=len(column),
        supported=len(kept),
        truth=float(np.mean([trial.truth for trial in column])),
        effective_sample_size=float(np.mean([trial.effective_sample_size for trial in column])),
        largest_weight_share=float(np.mean([trial.largest_weight_share for trial in column])),
        by_estimator=by_estimator,
    )


def study(path: Path, setting: Setting, *, runs: int, jobs: int | None = None, progress: Progress | None = None) -> Study:
    """`runs` logs made from the data set at `path`, each of its own seed; the figures do not depend on `jobs`.

    With more than one job the caller's main module must be importable without side effects, as multiprocessing's spawn demands.

    Raises:
        DatasetError: it cannot be read.
    """
    jobs = min(2, os.cpu_count() or 1) if jobs is None else jobs
    data, found = load_dataset(path), []
    for trial in _run_all(data, path, setting, runs=runs, jobs=min(jobs, runs)):
        found.append(trial)
        if progress is not None:
            progress(len(found), runs)
    return Study(data=data.name, setting=setting, policies=summed_up(found))


def _run_all(data: Dataset, path: Path, setting: Setting, *, runs: int, jobs: int) -> Iterator[list[Trial]]:
    if jobs == 1:
        yield from (trials(data, setting, seed=seed) for seed in range(runs))
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_adopt, initargs=(path,)) as pool:
        yield from pool.map(_run_adopted, [setting] * runs, range(runs))


_adopted: list[Dataset] = []


def _adopt(path: Path) -> None:
    _adopted[:] = [load_dataset(path)]


def _run_adopted(setting: Setting, seed: int) -> list[Trial]:
    return trials(_adopted[0], setting, seed=seed)

"""Replays requests through the production router and through baselines, and says how much each policy lost.

Every policy of a seed sees the same requests in the same order, and of each request only the outcome of the model that
it picked. Regret is pseudo-regret: at each request the mean utility of the category's best model less that of the
picked one, with means over the whole source; utility = score - cost_weight * cost / cost_reference, where the reference
is the mean cost of the priciest model. It does not reward use of the prompt beyond its category.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import random
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.special import stdtrit

from banditroute.core import baselines
from banditroute.lab.router_policy import Priors, RouterPolicy
from banditroute.lab.source import FloatArray, IntArray, Source, cost_reference_usd, model_costs_usd

ROUTER = "banditroute"
POLICIES = (ROUTER, "epsilon-greedy", "ucb1", "random", "best-fixed", "category-oracle")
"""What can be replayed. `best-fixed` and `category-oracle` are told the truth: bounds, not rivals."""

Progress = Callable[[int, int], None]
"""Called with the number of finished tasks and of all tasks; one task is one seed at one cost weight."""


@dataclass(frozen=True, kw_only=True)
class PolicyResult:
    """One policy at one cost weight. Tuples run over the seeds; regret in utility summed over all requests."""

    policy: str
    regrets: tuple[float, ...]
    random_regrets: tuple[float, ...]
    mean_scores: tuple[float, ...]
    mean_costs_usd: tuple[float, ...]

    @property
    def regret(self) -> float:
        return float(np.mean(self.regrets))

    @property
    def regret_ci95(self) -> float:
        """Half the width of the 95 % Student-t interval over the seeds; NaN with one seed.

        It covers the draw of the requests and the policy's own randomness, not the choice of the data set.
        """
        n = len(self.regrets)
        if n < 2:
            return math.nan
        return float(stdtrit(n - 1, 0.975) * np.std(self.regrets, ddof=1) / math.sqrt(n))

    @property
    def regret_p90(self) -> float:
        return float(np.quantile(self.regrets, 0.9))

    @property
    def share_of_random(self) -> float:
        """Regret over that of uniform random picks, in expectation on the same requests; NaN where random loses nothing."""
        expected = sum(self.random_regrets)
        return sum(self.regrets) / expected if expected > 0.0 else math.nan

    def to_json(self) -> dict[str, Any]:
        """JSON data; null stands for what is not defined."""
        half = self.regret_ci95
        return {
            "policy": self.policy,
            "regret_mean": self.regret,
            "regret_ci95": None if math.isnan(half) else [self.regret - half, self.regret + half],
            "regret_p90": self.regret_p90,
            "regret_per_seed": list(self.regrets),
            "share_of_random_regret": None if math.isnan(self.share_of_random) else self.share_of_random,
            "score_mean": float(np.mean(self.mean_scores)),
            "cost_mean_usd": float(np.mean(self.mean_costs_usd)),
        }


@dataclass(frozen=True, kw_only=True)
class WeightResult:
    """All policies at one cost weight, in the order asked for."""

    cost_weight: float
    policies: tuple[PolicyResult, ...]

    def __getitem__(self, policy: str) -> PolicyResult:
        return next(result for result in self.policies if result.policy == policy)


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """What `simulate` found. Cost in USD per request."""

    source: str
    models: tuple[str, ...]
    categories: tuple[str, ...]
    cost_reference_usd: float
    requests: int
    seeds: int
    with_priors: bool
    weights: tuple[WeightResult, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON data with everything in it."""
        return {
            "source": self.source,
            "models": list(self.models),
            "categories": list(self.categories),
            "cost_reference_usd": self.cost_reference_usd,
            "requests": self.requests,
            "seeds": self.seeds,
            "with_priors": self.with_priors,
            "results": [{"cost_weight": w.cost_weight, "policies": [p.to_json() for p in w.policies]} for w in self.weights],
        }


class Stream(NamedTuple):
    """The requests of one seed with every model's outcome: shapes (requests,) and (requests, models)."""

    categories: IntArray
    scores: FloatArray
    costs_usd: FloatArray


class _Task(NamedTuple):
    cost_weight: float
    seed: int
    requests: int
    policies: tuple[str, ...]
    priors_in: Priors | None


class _Run(NamedTuple):
    regret: float
    random_regret: float
    mean_score: float
    mean_cost_usd: float


def make_stream(source: Source, *, requests: int, seed: int) -> Stream:
    """The requests that every policy of this seed sees, whatever the cost weight."""
    rng = np.random.default_rng([seed, zlib.crc32(b"stream")])
    draws = [source.draw(rng) for _ in range(requests)]
    return Stream(
        categories=np.array([draw.category for draw in draws], dtype=np.int64),
        scores=np.array([draw.scores for draw in draws]),
        costs_usd=np.array([draw.costs_usd for draw in draws]),
    )


def mean_utilities(source: Source, *, cost_weight: float) -> FloatArray:
    """Of shape (categories, models)."""
    return np.asarray(source.mean_scores - cost_weight * source.mean_costs_usd / cost_reference_usd(source), dtype=np.float64)


def simulate(
    source: Source,
    *,
    cost_weights: Sequence[float],
    requests: int = 6000,
    seeds: int = 10,
    policies: Sequence[str] = POLICIES,
    priors_in: Priors | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> Simulation:
    """Replay `requests` requests for each seed and cost weight through each policy.

    `priors_in`, in the shape of a priors file, goes to the router only. `jobs` processes work at once (default: 2, or
    1 on a single core); the numbers are the same whatever it is. With more than one job the caller's main module must be
    importable without side effects, as multiprocessing's spawn demands.

    Raises ValueError for an unknown policy or a count below 1, DatasetError for priors that fit nothing in the source,
    ConfigError where the router refuses the configuration made from them.
    """
    if unknown := [policy for policy in policies if policy not in POLICIES]:
        raise ValueError(f"unknown policies {', '.join(unknown)}; known: {', '.join(POLICIES)}")
    jobs = min(2, os.cpu_count() or 1) if jobs is None else jobs
    for name, count in (("requests", requests), ("seeds", seeds), ("jobs", jobs), ("cost_weights", len(cost_weights))):
        if count < 1:
            raise ValueError(f"{name} is {count}; give at least 1")
    tasks = [_Task(weight, seed, requests, tuple(policies), priors_in) for weight in cost_weights for seed in range(seeds)]
    runs: dict[int, list[_Run]] = {}
    for index, result in _run_all(source, tasks, jobs=jobs):
        runs[index] = result
        if progress is not None:
            progress(len(runs), len(tasks))
    weights = []
    for w, cost_weight in enumerate(cost_weights):
        mine = [runs[w * seeds + seed] for seed in range(seeds)]
        weights.append(WeightResult(cost_weight=cost_weight, policies=tuple(map(_summary, policies, zip(*mine, strict=True)))))
    return Simulation(
        source=source.name,
        models=source.models,
        categories=source.categories,
        cost_reference_usd=cost_reference_usd(source),
        requests=requests,
        seeds=seeds,
        with_priors=priors_in is not None,
        weights=tuple(weights),
    )


def _summary(policy: str, runs: Sequence[_Run]) -> PolicyResult:
    return PolicyResult(
        policy=policy,
        regrets=tuple(run.regret for run in runs),
        random_regrets=tuple(run.random_regret for run in runs),
        mean_scores=tuple(run.mean_score for run in runs),
        mean_costs_usd=tuple(run.mean_cost_usd for run in runs),
    )


def _run_all(source: Source, tasks: Sequence[_Task], *, jobs: int) -> Iterator[tuple[int, list[_Run]]]:
    """Each task's index and result, in the order of completion."""
    if jobs == 1 or len(tasks) == 1:
        for index, task in enumerate(tasks):
            yield index, _run(source, task)
        return
    # Spawn, because a fork would copy the caller's threads' locks, and grpc forbids it.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(jobs, len(tasks)), mp_context=context, initializer=_adopt, initargs=(source,))
    with pool:
        futures: Mapping[Future[list[_Run]], int] = {pool.submit(_run_adopted, task): i for i, task in enumerate(tasks)}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


_adopted: list[Source] = []


def _adopt(source: Source) -> None:
    _adopted[:] = [source]


def _run_adopted(task: _Task) -> list[_Run]:
    return _run(_adopted[0], task)


def _run(source: Source, task: _Task) -> list[_Run]:
    stream = make_stream(source, requests=task.requests, seed=task.seed)
    means = mean_utilities(source, cost_weight=task.cost_weight)
    gaps = (means.max(axis=1, keepdims=True) - means)[stream.categories]
    random_regret = float(gaps.mean(axis=1).sum())
    steps = np.arange(task.requests)
    runs = []
    for name in task.policies:
        with ExitStack() as stack:
            picks = _play(_policy(name, source, stream, means, task, stack), stream)
        runs.append(
            _Run(
                regret=float(gaps[steps, picks].sum()),
                random_regret=random_regret,
                mean_score=float(stream.scores[steps, picks].mean()),
                mean_cost_usd=float(stream.costs_usd[steps, picks].mean()),
            )
        )
    return runs


def _play(policy: baselines.Policy, stream: Stream) -> IntArray:
    picks = np.empty(len(stream.categories), dtype=np.int64)
    scores, costs_usd = stream.scores.tolist(), stream.costs_usd.tolist()
    for step, category in enumerate(stream.categories.tolist()):
        model = policy.pick(category)
        policy.update(category=category, model=model, score=scores[step][model], cost_usd=costs_usd[step][model])
        picks[step] = model
    return picks


def _policy(name: str, source: Source, stream: Stream, means: FloatArray, task: _Task, stack: ExitStack) -> baselines.Policy:
    seed = int(np.random.default_rng([task.seed, zlib.crc32(name.encode())]).integers(2**31))
    categories, models = means.shape
    utility = baselines.Utility(task.cost_weight, cost_reference_usd(source))
    match name:
        case "epsilon-greedy":
            return baselines.EpsilonGreedy(categories=categories, models=models, utility=utility, rng=random.Random(seed))
        case "ucb1":
            return baselines.UCB1(categories=categories, models=models, utility=utility)
        case "random":
            return baselines.Random(models=models, rng=random.Random(seed))
        case "best-fixed":
            return baselines.BestFixed(model=int(means[stream.categories].sum(axis=0).argmax()))
        case "category-oracle":
            return baselines.CategoryOracle(best=means.argmax(axis=1).tolist())
        case _:
            return stack.enter_context(
                RouterPolicy(
                    categories=source.categories,
                    models=source.models,
                    model_costs_usd=model_costs_usd(source).tolist(),
                    utility=utility,
                    seed=seed,
                    priors=task.priors_in,
                )
            )

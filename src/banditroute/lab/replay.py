"""Replays requests through the production router and through baselines, and says how much each policy lost.

Every policy of a seed sees the same requests in the same order, and of each request only the outcome of the model that
it picked. Regret is pseudo-regret: at each request the mean utility of the category's best model less that of the
picked one, with means over the whole source; utility = score - cost_weight * cost / cost_reference, where the reference
is the mean cost of the priciest model. It does not reward use of the prompt beyond its category.

Of a family of worlds every seed replays its own. At the end of a run the router's beliefs are held against the truth.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import ExitStack
from typing import NamedTuple

import numpy as np

from banditroute.core import baselines
from banditroute.core.posterior_baselines import BetaThompson, GaussianThompson, LinUCB
from banditroute.lab.datasets import inverted
from banditroute.lab.results import INVERTED, ORACLE, ROUTER, WARM, Covered, PolicyResult, Simulation, WeightResult
from banditroute.lab.router_policy import Priors, RouterPolicy
from banditroute.lab.source import FloatArray, IntArray, Source, cost_reference_usd, model_costs_usd
from banditroute.lab.worlds import Worlds, source_at

POLICIES = (ROUTER, "epsilon-greedy", "ucb1", "beta-ts", "gaussian-ts", "linucb", "random", "best-fixed", ORACLE)
"""What can be replayed. `best-fixed` and `category-oracle` are told the truth: bounds, not rivals."""

Z90 = 1.6448536269514722
"""Half the width of a normal's central 90 % interval, in standard deviations."""

Progress = Callable[[int, int], None]
"""Called with the number of finished tasks and of all tasks; one task is one seed at one cost weight."""


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
    checkpoints: tuple[int, ...]
    priors: Mapping[str, Priors]


class _Run(NamedTuple):
    regret: float
    random_regret: float
    mean_score: float
    mean_cost_usd: float
    regrets_at: tuple[float, ...]
    coverage: Covered | None


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
    source: Source | Worlds,
    *,
    cost_weights: Sequence[float],
    requests: int = 6000,
    seeds: int = 10,
    policies: Sequence[str] = POLICIES,
    at: Sequence[int] = (),
    priors_in: Priors | None = None,
    compared_priors: Priors | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> Simulation:
    """Replay `requests` requests for each seed and cost weight through each policy.

    `at`: numbers of requests at which regret is told as well. `priors_in`, in the shape of a priors file, goes to the
    router only. `compared_priors` adds two policies after those asked for: the router begun with these priors, and with
    them inverted. `jobs` processes work at once (default: 2, or 1 on a single core); the numbers are the same whatever it
    is. With more than one job the caller's main module must be importable without side effects, as multiprocessing's
    spawn demands.

    Raises ValueError for an unknown policy, a count below 1, a checkpoint outside the run, or `compared_priors` without
    the router or beside `priors_in`; DatasetError for priors that fit nothing in the source; ConfigError where the
    router refuses the configuration made from them.
    """
    jobs = min(2, os.cpu_count() or 1) if jobs is None else jobs
    counts = {"requests": requests, "seeds": seeds, "jobs": jobs, "cost_weights": len(cost_weights), "policies": len(policies)}
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} is {count}; give at least 1")
    if unknown := [policy for policy in policies if policy not in POLICIES]:
        raise ValueError(f"unknown policies {', '.join(unknown)}; known: {', '.join(POLICIES)}")
    if outside := [str(count) for count in at if not 1 <= count <= requests]:
        raise ValueError(f"no request {', '.join(outside)} in a run of {requests}; give 1 to {requests}")
    priors = {} if priors_in is None else {ROUTER: priors_in}
    names = tuple(dict.fromkeys(policies))
    if compared_priors is not None:
        if priors_in is not None or ROUTER not in names:
            raise ValueError(f"priors are compared with a cold start: {ROUTER} must run, and without priors_in")
        priors |= {WARM: compared_priors, INVERTED: inverted(compared_priors)}
        names = (*names, WARM, INVERTED)
    checkpoints = tuple(sorted({*at, requests}))
    tasks = [_Task(weight, seed, requests, names, checkpoints, priors) for weight in cost_weights for seed in range(seeds)]
    runs: dict[int, list[_Run]] = {}
    for index, result in _run_all(source, tasks, jobs=jobs):
        runs[index] = result
        if progress is not None:
            progress(len(runs), len(tasks))
    weights = []
    for w, cost_weight in enumerate(cost_weights):
        columns = zip(*[runs[w * seeds + seed] for seed in range(seeds)], strict=True)
        found = [_summary(name, column, checkpoints) for name, column in zip(names, columns, strict=True)]
        weights.append(WeightResult(cost_weight=cost_weight, policies=tuple(found)))
    return Simulation(
        source=source.name,
        models=source.models,
        categories=source.categories,
        cost_reference_usd=_mean_reference_usd(source, seeds=seeds),
        requests=requests,
        seeds=seeds,
        with_priors=priors_in is not None,
        weights=tuple(weights),
    )


def _mean_reference_usd(source: Source | Worlds, *, seeds: int) -> float:
    if not isinstance(source, Worlds):
        return cost_reference_usd(source)
    return float(np.mean([cost_reference_usd(source.world(seed)) for seed in range(seeds)]))


def _summary(policy: str, runs: Sequence[_Run], checkpoints: Sequence[int]) -> PolicyResult:
    return PolicyResult(
        policy=policy,
        regrets=tuple(run.regret for run in runs),
        random_regrets=tuple(run.random_regret for run in runs),
        mean_scores=tuple(run.mean_score for run in runs),
        mean_costs_usd=tuple(run.mean_cost_usd for run in runs),
        regrets_at=tuple((count, tuple(run.regrets_at[i] for run in runs)) for i, count in enumerate(checkpoints)),
        coverages=tuple(run.coverage for run in runs if run.coverage is not None),
    )


def _run_all(source: Source | Worlds, tasks: Sequence[_Task], *, jobs: int) -> Iterator[tuple[int, list[_Run]]]:
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


_adopted: list[Source | Worlds] = []


def _adopt(source: Source | Worlds) -> None:
    _adopted[:] = [source]


def _run_adopted(task: _Task) -> list[_Run]:
    return _run(_adopted[0], task)


def _run(origin: Source | Worlds, task: _Task) -> list[_Run]:
    source = source_at(origin, task.seed)
    stream = make_stream(source, requests=task.requests, seed=task.seed)
    means = mean_utilities(source, cost_weight=task.cost_weight)
    gaps = (means.max(axis=1, keepdims=True) - means)[stream.categories]
    random_regret = float(gaps.mean(axis=1).sum())
    steps = np.arange(task.requests)
    runs = []
    for name in task.policies:
        with ExitStack() as stack:
            policy = _policy(name, source, stream, means, task, stack)
            picks = _play(policy, stream)
            coverage = _coverage(policy, source) if isinstance(policy, RouterPolicy) else None
        lost = gaps[steps, picks]
        runs.append(
            _Run(
                regret=float(lost.sum()),
                random_regret=random_regret,
                mean_score=float(stream.scores[steps, picks].mean()),
                mean_cost_usd=float(stream.costs_usd[steps, picks].mean()),
                regrets_at=tuple(float(lost[:count].sum()) for count in task.checkpoints),
                coverage=coverage,
            )
        )
    return runs


def _coverage(policy: RouterPolicy, source: Source) -> Covered:
    beliefs = policy.beliefs()
    inside = np.abs(source.mean_scores - beliefs.mean) <= Z90 * beliefs.stddev
    seen = beliefs.feedback_counts > 0
    return Covered(inside.size, int(inside.sum()), int(seen.sum()), int((inside & seen).sum()))


def _play(policy: baselines.Policy, stream: Stream) -> IntArray:
    picks = np.empty(len(stream.categories), dtype=np.int64)
    scores, costs_usd = stream.scores.tolist(), stream.costs_usd.tolist()
    for step, category in enumerate(stream.categories.tolist()):
        model = policy.pick(category)
        policy.update(category=category, model=model, score=scores[step][model], cost_usd=costs_usd[step][model])
        picks[step] = model
    return picks


def _policy(name: str, source: Source, stream: Stream, means: FloatArray, task: _Task, stack: ExitStack) -> baselines.Policy:
    stem = ROUTER if name in (WARM, INVERTED) else name  # the same randomness for what is to be compared
    seed = int(np.random.default_rng([task.seed, zlib.crc32(stem.encode())]).integers(2**31))
    categories, models = means.shape
    utility = baselines.Utility(task.cost_weight, cost_reference_usd(source))
    costs_usd: list[float] = model_costs_usd(source).tolist()
    rng = random.Random(seed)
    match name:
        case "epsilon-greedy":
            return baselines.EpsilonGreedy(categories=categories, models=models, utility=utility, rng=rng)
        case "ucb1":
            return baselines.UCB1(categories=categories, models=models, utility=utility)
        case "beta-ts":
            return BetaThompson(categories=categories, models=models, utility=utility, rng=rng, model_costs_usd=costs_usd)
        case "gaussian-ts":
            return GaussianThompson(categories=categories, models=models, utility=utility, rng=rng)
        case "linucb":
            return LinUCB(categories=categories, models=models, utility=utility)
        case "random":
            return baselines.Random(models=models, rng=rng)
        case "best-fixed":
            return baselines.BestFixed(model=int(means[stream.categories].sum(axis=0).argmax()))
        case "category-oracle":
            return baselines.CategoryOracle(best=means.argmax(axis=1).tolist())
        case _:
            router = RouterPolicy(
                categories=source.categories,
                models=source.models,
                model_costs_usd=costs_usd,
                utility=utility,
                seed=seed,
                priors=task.priors.get(name),
            )
            return stack.enter_context(router)

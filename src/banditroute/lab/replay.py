"""Replays requests through the production router and through baselines, and says how much each policy lost.

Every policy of a seed sees the same requests in the same order, and of each request only the outcome of the model that
it picked. Regret is pseudo-regret: at each request the mean utility of the category's best model less that of the
picked one, with means over the whole source; utility = score - cost_weight * cost / cost_reference, where the reference
is the mean cost of the priciest model. It does not reward use of the prompt beyond its category.

Of a family of worlds every seed replays its own. At the end of a run the router's beliefs are held against the truth.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from banditroute.lab.datasets import inverted
from banditroute.lab.learners import POLICIES, Begun
from banditroute.lab.outcome import Outcome
from banditroute.lab.peers import PEERS
from banditroute.lab.results import INVERTED, ROUTER, WARM, PolicyResult, Simulation, WeightResult
from banditroute.lab.router_policy import Priors
from banditroute.lab.runs import Progress, Setting, Task, default_jobs, run_tasks
from banditroute.lab.source import Source, cost_reference_usd
from banditroute.lab.worlds import Worlds


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
    jobs = default_jobs() if jobs is None else jobs
    counts = {"requests": requests, "seeds": seeds, "jobs": jobs, "cost_weights": len(cost_weights), "policies": len(policies)}
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} is {count}; give at least 1")
    known = (*POLICIES, *PEERS)
    if unknown := [policy for policy in policies if policy not in known]:
        raise ValueError(f"unknown policies {', '.join(unknown)}; known: {', '.join(known)}")
    if outside := [str(count) for count in at if not 1 <= count <= requests]:
        raise ValueError(f"no request {', '.join(outside)} in a run of {requests}; give 1 to {requests}")
    begun = {} if priors_in is None else {ROUTER: Begun(priors_in)}
    names = tuple(dict.fromkeys(policies))
    if compared_priors is not None:
        if priors_in is not None or ROUTER not in names:
            raise ValueError(f"priors are compared with a cold start: {ROUTER} must run, and without priors_in")
        begun |= {WARM: Begun(compared_priors), INVERTED: Begun(inverted(compared_priors))}
        names = (*names, WARM, INVERTED)
    checkpoints = tuple(sorted({*at, requests}))
    settings = [
        Setting(source=source, requests=requests, cost_weight=weight, policies=names, begun=begun, checkpoints=checkpoints)
        for weight in cost_weights
    ]
    runs = run_tasks([Task(setting, seed) for setting in settings for seed in range(seeds)], jobs=jobs, progress=progress)
    weights = []
    for w, cost_weight in enumerate(cost_weights):
        columns = zip(*runs[w * seeds : (w + 1) * seeds], strict=True)
        weights.append(WeightResult(cost_weight=cost_weight, policies=tuple([policy_result(c, checkpoints) for c in columns])))
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


def policy_result(runs: Sequence[Outcome], checkpoints: Sequence[int]) -> PolicyResult:
    """One policy's outcomes over the seeds, with the regret at the checkpoints."""
    return PolicyResult(
        policy=runs[0].policy,
        regrets=tuple(run.regret for run in runs),
        random_regrets=tuple(run.random_regret for run in runs),
        mean_scores=tuple(run.mean_score for run in runs),
        mean_costs_usd=tuple(run.mean_cost_usd for run in runs),
        regrets_at=tuple((count, tuple(run.regrets_at[count] for run in runs)) for count in checkpoints),
        coverages=tuple(run.coverage for run in runs if run.coverage is not None),
    )

"""How simulations are shown: progress and tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from rich.console import RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from banditroute.cli.errors import say
from banditroute.cli.output import console, percent, table, usd
from banditroute.lab.environments import Environment
from banditroute.lab.results import ROUTER, Estimate, PolicyResult, Simulation, WeightResult
from banditroute.lab.source import Source
from banditroute.lab.worlds import Worlds


def progress_bar() -> Progress:
    """Tasks done and time left, on a terminal."""
    out = console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=out, transient=True, disable=not out.is_terminal)


def say_notes(*sources: Source | Worlds) -> None:
    """What the sources' figures lack, once each, on standard error."""
    noted = [f"note: {source.name}: {note}" for source in sources if isinstance(source, Environment) for note in source.notes]
    say(*dict.fromkeys(noted))


def print_simulation(result: Simulation) -> None:
    out = console()
    size = f"{len(result.categories)} categories, {len(result.models)} models, reference {usd(result.cost_reference_usd)}"
    priors = ", with priors" if result.with_priors else ""
    out.print(f"{result.source}: {size}; {result.requests} requests, {result.seeds} seeds{priors}", markup=False)
    for weight in result.weights:
        out.print()
        out.print(weight_table(weight))


def weight_table(weight: WeightResult) -> RenderableType:
    *early, _ = weight.policies[0].regret_at
    columns = [
        "policy",
        *[f">at {count}" for count in early],
        ">regret (95 % CI)",
        f">vs {ROUTER}",
        ">p90",
        ">quality",
        ">cost",
        ">below random",
    ]
    rows = [_row(policy, weight, early) for policy in weight.policies]
    caption = [*_priors_lines(weight), *[_coverage_line(policy) for policy in weight.policies if policy.coverages]]
    return table(f"cost weight {weight.cost_weight:g}", columns, rows, caption="\n".join(caption))


def _row(policy: PolicyResult, weight: WeightResult, early: Sequence[int]) -> list[str]:
    excess = weight.excess(policy)
    return [
        policy.policy,
        *[f"{policy.regret_at[count]:.1f}" for count in early],
        _with_interval(Estimate(policy.regret, policy.regret_ci95), sign=""),
        "" if excess is None else _with_interval(excess, sign="+"),
        f"{policy.regret_p90:.1f}",
        f"{sum(policy.mean_scores) / len(policy.mean_scores):.4f}",
        usd(sum(policy.mean_costs_usd) / len(policy.mean_costs_usd)),
        "" if math.isnan(policy.share_of_random) else percent(1.0 - policy.share_of_random),
    ]


def _with_interval(estimate: Estimate, *, sign: Literal["", "+"]) -> str:
    half = "" if math.isnan(estimate.half) else f" ± {estimate.half:.1f}"
    return f"{estimate.mean:{sign}.1f}{half}"


def _priors_lines(weight: WeightResult) -> list[str]:
    return [
        f"priors, regret after {effect.requests} requests: with them {effect.warm_over_cold:.2f} of without; "
        f"inverted {effect.inverted_over_cold:.2f}, {effect.inverted_minus_cold:+.1f}"
        for effect in weight.priors_effects
    ]


def _coverage_line(policy: PolicyResult) -> str:
    cells = sum(run.cells for run in policy.coverages), sum(run.seen for run in policy.coverages)
    told = [
        f"{_percent_with_interval(share)} of {count} {what}"
        for share, count, what in zip((policy.coverage, policy.coverage_seen), cells, ("cells", "with observations"), strict=True)
    ]
    return f"{policy.policy}: 90 % intervals hold the true quality of {told[0]}, {told[1]}"


def _percent_with_interval(estimate: Estimate) -> str:
    half = "" if math.isnan(estimate.half) else f" ± {100 * estimate.half:.1f}"
    return f"{100 * estimate.mean:.1f}{half} %"

"""`banditroute simulate`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from banditroute.cli.options import AsJson
from banditroute.cli.output import console, percent, print_json, table, usd
from banditroute.config import read_priors
from banditroute.demo.scenario import find_source
from banditroute.lab.datasets import Dataset, half_of, make_priors, write_priors
from banditroute.lab.replay import Simulation, WeightResult
from banditroute.lab.replay import simulate as replay
from banditroute.lab.source import Source


def simulate(
    source: Annotated[
        str,
        typer.Argument(
            metavar="DATASET|ENVIRONMENT", help="A .parquet or .csv data set, an environment's .yaml, or a shipped one."
        ),
    ],
    cost_weight: Annotated[list[float] | None, typer.Option(min=0.0, help="Repeatable.  [default: 0.1]")] = None,
    requests: Annotated[int, typer.Option(min=1, help="Requests in each run.")] = 6000,
    seeds: Annotated[int, typer.Option(min=1, help="Runs; the interval is over them.")] = 10,
    priors_in: Annotated[Path | None, typer.Option(metavar="FILE", help="Priors to begin with.")] = None,
    priors_out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write priors made of the data set.")] = None,
    half: Annotated[
        Literal["a", "b"] | None, typer.Option(help="Only half of the data set's samples: priors from a, judged on b.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes at once.  [default: 2, or 1 on one core]")] = None,
    as_json: AsJson = False,
) -> None:
    """Replay a data set through the router that serves, beside simple policies, and say what each lost.

    Regret is what a policy lost, in quality points summed over a run, against each category's best model.
    """
    found: Source = find_source(source)
    if isinstance(found, Dataset):
        found = half_of(found, half) if half else found
    elif half or priors_out:
        raise typer.BadParameter(
            "an environment has no samples: give a data set", param_hint="--half" if half else "--priors-out"
        )
    priors = None if priors_in is None else read_priors(priors_in)
    with _progress() as progress:
        bar = progress.add_task("simulating", total=None)
        result = replay(
            found,
            cost_weights=cost_weight or [0.1],
            requests=requests,
            seeds=seeds,
            priors_in=priors,
            jobs=jobs,
            progress=lambda done, total: progress.update(bar, completed=done, total=total),
        )
    if priors_out is not None and isinstance(found, Dataset):
        write_priors(priors_out, make_priors(found), source=found.name)
    if as_json:
        print_json(result.to_json())
    else:
        _print(result)


def _progress() -> Progress:
    out = console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=out, transient=True, disable=not out.is_terminal)


def _print(result: Simulation) -> None:
    out = console()
    size = f"{len(result.categories)} categories, {len(result.models)} models, reference {usd(result.cost_reference_usd)}"
    priors = ", with priors" if result.with_priors else ""
    out.print(f"{result.source}: {size}; {result.requests} requests, {result.seeds} seeds{priors}", markup=False)
    for weight in result.weights:
        out.print()
        out.print(_table(weight))


def _table(weight: WeightResult) -> RenderableType:
    rows = []
    for policy in weight.policies:
        spread = "" if math.isnan(policy.regret_ci95) else f" ± {policy.regret_ci95:.1f}"
        below = "" if math.isnan(policy.share_of_random) else percent(1.0 - policy.share_of_random)
        quality = sum(policy.mean_scores) / len(policy.mean_scores)
        cost = sum(policy.mean_costs_usd) / len(policy.mean_costs_usd)
        regret = f"{policy.regret:.1f}{spread}"
        rows.append((policy.policy, regret, f"{policy.regret_p90:.1f}", f"{quality:.4f}", usd(cost), below))
    columns = ["policy", ">regret (95 % CI)", ">p90", ">quality", ">cost", ">below random"]
    return table(f"cost weight {weight.cost_weight:g}", columns, rows)

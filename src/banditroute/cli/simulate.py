"""`banditroute simulate`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from banditroute.cli.options import AsJson
from banditroute.cli.output import console, percent, print_json, table, usd
from banditroute.config import read_priors
from banditroute.demo.scenario import find_source_or_worlds
from banditroute.lab.datasets import Dataset, half_of, make_priors, split, write_priors
from banditroute.lab.learners import POLICIES
from banditroute.lab.replay import simulate as replay
from banditroute.lab.results import ROUTER, Estimate, PolicyResult, Simulation, WeightResult

Half = Literal["a", "b"]


def simulate(
    source: Annotated[
        str,
        typer.Argument(
            metavar="DATASET|ENVIRONMENT",
            help="A .parquet or .csv data set, the .yaml of an environment or of worlds, or a shipped one by its name.",
        ),
    ],
    cost_weight: Annotated[list[float] | None, typer.Option(min=0.0, help="Repeatable.  [default: 0.1]")] = None,
    requests: Annotated[int, typer.Option(min=1, help="Requests in each run.")] = 6000,
    seeds: Annotated[int, typer.Option(min=1, help="Runs; the interval is over them.")] = 10,
    policy: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help=f"Repeatable: {', '.join(POLICIES)}.  [default: all]")
    ] = None,
    at: Annotated[list[int] | None, typer.Option(min=1, help="Tell regret after so many requests as well. Repeatable.")] = None,
    priors_in: Annotated[Path | None, typer.Option(metavar="FILE", help="Priors to begin with.")] = None,
    priors_out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write priors made of the data set.")] = None,
    half: Annotated[Half | None, typer.Option(help="Only half of the data set's samples: priors from a, judged on b.")] = None,
    priors_from_half: Annotated[
        Half | None,
        typer.Option(help="Compare a cold start with priors made of this half, and with them inverted, on the other half."),
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes at once.  [default: 2, or 1 on one core]")] = None,
    as_json: AsJson = False,
) -> None:
    """Replay a data set through the router that serves, beside simple policies, and say what each lost.

    Regret is what a policy lost, in quality points summed over a run, against each category's best model.
    "vs banditroute" is what it lost in excess, paired by seed.
    """
    clashes = {"--priors-in": priors_in, "--priors-out": priors_out, "--half": half} if priors_from_half else {}
    _refuse_unfit(policy or POLICIES, at=at or (), requests=requests, compared=priors_from_half, clashes=clashes)
    found = find_source_or_worlds(source)
    compared = None
    if isinstance(found, Dataset):
        if priors_from_half:
            first, second = split(found)
            told, found = (first, second) if priors_from_half == "a" else (second, first)
            compared = make_priors(told)
        elif half:
            found = half_of(found, half)
    else:
        for option, given in (("--half", half), ("--priors-from-half", priors_from_half), ("--priors-out", priors_out)):
            if given is not None:
                raise typer.BadParameter("an environment has no samples: give a data set", param_hint=option)
    priors = None if priors_in is None else read_priors(priors_in)
    with _progress() as progress:
        bar = progress.add_task("simulating", total=None)
        result = replay(
            found,
            cost_weights=cost_weight or [0.1],
            requests=requests,
            seeds=seeds,
            policies=policy or POLICIES,
            at=at or (),
            priors_in=priors,
            compared_priors=compared,
            jobs=jobs,
            progress=lambda done, total: progress.update(bar, completed=done, total=total),
        )
    if priors_out is not None and isinstance(found, Dataset):
        write_priors(priors_out, make_priors(found), source=found.name)
    if as_json:
        print_json(result.to_json())
    else:
        _print(result)


def _refuse_unfit(
    policies: Sequence[str], *, at: Sequence[int], requests: int, compared: Half | None, clashes: Mapping[str, object]
) -> None:
    """What can be told to be wrong before any file is read. Raises typer.BadParameter."""
    if unknown := [name for name in policies if name not in POLICIES]:
        raise typer.BadParameter(f"no policy {', '.join(unknown)}; known: {', '.join(POLICIES)}", param_hint="--policy")
    if late := [str(count) for count in at if count > requests]:
        raise typer.BadParameter(f"{', '.join(late)} is after the last of {requests} requests", param_hint="--at")
    if compared and ROUTER not in policies:
        raise typer.BadParameter(f"it compares with a cold start: add --policy {ROUTER}", param_hint="--priors-from-half")
    if both := [option for option, given in clashes.items() if given is not None]:
        raise typer.BadParameter(f"give it or {both[0]}, not both", param_hint="--priors-from-half")


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

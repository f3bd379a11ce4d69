"""`banditroute bench changes`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from banditroute.cli.options import AsJson
from banditroute.cli.output import console, print_json, table
from banditroute.cli.simulated import progress_bar
from banditroute.lab.change_figures import BINARY, CASES, JUDGED, SIMULATED, CaseResult, ChangeFigures, Summary, measured
from banditroute.lab.finding import find_source
from banditroute.lab.loading import load_dataset
from banditroute.lab.source import Source


def changes(
    data: Annotated[
        Path,
        typer.Option(envvar="BANDITROUTE_DATA", metavar="DIR", help="Where the data sets are; what is not there is left out."),
    ] = Path("../shared/data"),
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each case; intervals are over them.")] = 20,
    only: Annotated[list[str] | None, typer.Option(metavar="CASE", help="Only these; repeatable.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes at once.  [default: 2, or 1 on one core]")] = None,
    as_json: AsJson = False,
) -> None:
    """What the router does when a model gets worse and recovers, comes, gets dearer, is slandered, or feedback is dirty.

    6,000 requests a run, the change after a third of them. A bar that is missed is marked.
    """
    known = [case.name for case in CASES]
    if unknown := [name for name in only or () if name not in known]:
        raise typer.BadParameter(f"no case {', '.join(unknown)}; known: {', '.join(known)}", param_hint="--only")
    sources: dict[str, Source] = {SIMULATED: find_source("mmlu_pro")}
    for name in (JUDGED, BINARY):
        if (path := data / f"{name}.parquet").is_file():
            sources[name] = load_dataset(path)
    with progress_bar() as progress:
        bar = progress.add_task("measuring", total=None)
        found = measured(
            sources,
            seeds=seeds,
            only=only or (),
            jobs=jobs,
            progress=lambda done, total: progress.update(bar, completed=done, total=total),
        )
    if as_json:
        print_json(found.to_json())
    else:
        _print(found, data)


def _print(found: ChangeFigures, data: Path) -> None:
    out = console()
    for case in found.cases:
        title = f"\n{case.name}: {case.source}, {found.seeds} seeds"
        out.print(table(title, ["figure", ">mean", ">95 % interval", ">p5", ">p95", "bar"], _rows(case)))
    for case_name, source in found.left_out:
        out.print(f"left out: {case_name}, since {data} has no {source}.parquet (set BANDITROUTE_DATA)", style="yellow")


def _rows(case: CaseResult) -> Iterator[list[str]]:
    for name, figure in case.figures.items():
        interval = "" if figure.ci95 is None else " to ".join(map(_shown, figure.ci95))
        yield [name, _shown(figure.mean), interval, _shown(figure.p5), _shown(figure.p95), _bars(case, name, figure)]


def _bars(case: CaseResult, name: str, figure: Summary) -> str:
    told = []
    for bar, limit, _, met in case.verdicts:
        if bar.figure == name:
            asked = "?" if limit is None else f"{bar.of} {'≥' if bar.at_least else '≤'} {_shown(limit)}"
            told.append(f"{asked}: {'?' if met is None else 'met' if met else 'MISSED'}")
    if figure.defined_count < len(figure.per_seed):
        told.append(f"{figure.defined_count} of {len(figure.per_seed)} seeds have it")
    return "; ".join(told)


def _shown(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4g}"

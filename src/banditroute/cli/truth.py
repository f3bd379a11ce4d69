"""`banditroute bench ope`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from banditroute.bench import ope
from banditroute.cli.options import AsJson
from banditroute.cli.output import console, percent, print_json, table
from banditroute.cli.simulated import progress_bar
from banditroute.lab.ope.coverage import PolicyFigures, Study


def truth(
    data: Annotated[
        Path,
        typer.Option(envvar="BANDITROUTE_DATA", metavar="DIR", help="Where the data sets are; what is not there is left out."),
    ] = Path("../shared/data"),
    runs: Annotated[int, typer.Option(min=1, help="Logs of 20,000 decisions for each data set.")] = ope.RUNS,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes at once.  [default: 2, or 1 on one core]")] = None,
    as_json: AsJson = False,
) -> None:
    """Hold the intervals of `evaluate` against the truth, on logs that the router made of data where every outcome is known."""
    with progress_bar() as progress:
        bar = progress.add_task("making logs", total=None)
        found = list(
            ope.studies(
                data, runs=runs, jobs=jobs, progress=lambda done, total: progress.update(bar, completed=done, total=total)
            )
        )
    if as_json:
        print_json({name: each if isinstance(each, str) else each.to_json() for name, each in found})
        return
    for name, each in found:
        if isinstance(each, str):
            console().print(f"{name}: {each}", style="yellow", markup=False)
        else:
            _print(name, each)


def _print(name: str, found: Study) -> None:
    made, logs = found.setting, found.policies[0].logs
    title = f"\n{name}: {logs} logs of {made.decisions} decisions, floor {made.floor:g}, cost weight {made.cost_weight:g}"
    columns = ["policy", ">truth", ">ESS", ">largest", ">verdicts", "estimator", ">coverage", ">bias", ">RMSE", ">width"]
    rows = [row for policy in found.policies for row in _rows(policy)]
    console().print(table(title, columns, rows))


def _rows(policy: PolicyFigures) -> Iterator[list[str]]:
    size, share = f"{policy.effective_sample_size:.0f}", percent(policy.largest_weight_share)
    head = [policy.policy, f"{policy.truth:.4f}", size, share, f"{policy.supported} of {policy.logs}"]
    if not policy.by_estimator:
        yield [*head, "no support", "", "", "", ""]
    for i, (name, each) in enumerate(policy.by_estimator.items()):
        coverage = f"{100 * each.coverage:.1f} ± {100 * each.coverage_error:.1f} %"
        yield [*(head if i == 0 else [""] * 5), name, coverage, f"{each.bias:+.4f}", f"{each.rmse:.4f}", f"{each.width:.4f}"]

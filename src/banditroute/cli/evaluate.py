"""`banditroute evaluate`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from banditroute.cli.options import AsJson, parse_time
from banditroute.cli.output import console, moment, percent, print_json, table, usd
from banditroute.cli.simulated import progress_bar
from banditroute.config import load
from banditroute.core.errors import EvaluationError
from banditroute.lab.ope.estimators import Estimate
from banditroute.lab.ope.evaluation import Evaluation
from banditroute.lab.ope.frontier import Frontier, evaluate_store

SWEEP = (0.0, 0.03, 0.1, 0.2, 0.3, 0.5, 1.0)
CAPTION = """Any time: holds however often one looks. ESS: decisions of the new policy's own that the log is worth.
Intervals of cost are approximate, the more so the more single requests differ."""


def evaluate(
    config: Annotated[
        Path, typer.Option("--config", metavar="FILE", help="The new configuration; its `store` is the log to learn from.")
    ],
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only decisions from then on, such as 2026-01-31 or 2026-01-31T12:00Z.")
    ] = None,
    cost_weight: Annotated[
        list[float] | None,
        typer.Option(min=0.0, max=100.0, help="In all categories, in place of the file's. Repeatable: the frontier."),
    ] = None,
    sweep: Annotated[bool, typer.Option("--sweep", help=f"Cost weights {', '.join(f'{each:g}' for each in SWEEP)}.")] = False,
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw quality and cost there, by cost weight (extra `report`).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Tell from the log what quality and cost would have been under another configuration. Reads only.

    It is the policy that serves, with the new file, at what the log had learned at each decision. Intervals hold 95 %.
    """
    if sweep and cost_weight:
        raise typer.BadParameter("give it or --cost-weight, not both", param_hint="--sweep")
    weights: tuple[float | None, ...] = SWEEP if sweep else tuple(dict.fromkeys(cost_weight or ())) or (None,)
    with progress_bar() as progress:
        bar = progress.add_task("replaying decisions", total=None)
        found = evaluate_store(
            load(config),
            since=None if since is None else parse_time(since),
            cost_weights=weights,
            progress=lambda done, total: progress.update(bar, completed=done, total=total),
        )
    if picture is not None:
        picture.write_bytes(drawn(found))
    if as_json:
        print_json(found.to_json())
    else:
        _print(console(), found)


def drawn(found: Frontier) -> bytes:
    """The picture of a sweep, as PNG.

    Raises:
        EvaluationError: matplotlib is not installed.
    """
    try:
        from banditroute.lab.report.sweep import picture_of  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise EvaluationError("a picture needs the extra: pip install 'banditroute[report]'") from error
    return picture_of(found)


def _print(out: Console, found: Frontier) -> None:
    span = f"{moment(found.first_time)} to {moment(found.last_time)}"
    out.print(f"{found.evaluations[0].support.decisions} decisions with an outcome, {span}", markup=False)
    for note in found.notes:
        out.print(f"note: {note}", markup=False, style="dim")
    for evaluation in found.evaluations:
        out.print(evaluation.verdict, markup=False, style="bold" if evaluation.is_supported else "yellow")
    out.print()
    out.print(
        table(
            "Against the log",
            ["policy", ">quality", ">95 %", ">any time", ">cost", ">95 %", ">change", ">ESS", ">largest weight"],
            [_logged_row(found.evaluations[0]), *map(_row, found.evaluations)],
            caption=CAPTION,
        )
    )
    if len(found.evaluations) == 1:
        out.print()
        out.print(
            table(
                "By estimator",
                ["estimator", ">quality", ">95 %", ">cost", ">95 %", ""],
                _estimators(found.evaluations[0]),
                caption="Approximate intervals leave out bias. The verdict is DR's.",
            )
        )


def _logged_row(evaluation: Evaluation) -> list[str]:
    quality, cost = evaluation.logged_quality, evaluation.logged_cost
    return ["as logged", f"{quality.value:.3f}", _interval(quality), "", usd(cost.value), _dollars(cost), "", "", ""]


def _row(evaluation: Evaluation) -> list[str]:
    quality, cost, support = evaluation.quality[0], evaluation.cost[0], evaluation.support
    always, change = evaluation.quality_sequence, evaluation.cost_change
    return [
        evaluation.policy if evaluation.is_supported else f"{evaluation.policy} (no support)",
        f"{quality.value:.3f}",
        _interval(quality),
        f"{always.low:.3f} to {always.high:.3f}",
        usd(cost.value),
        _dollars(cost),
        "" if math.isnan(change.value) else f"{100 * change.value:+.0f} %",
        f"{support.effective_sample_size:.0f}",
        percent(support.largest_weight_share),
    ]


def _estimators(evaluation: Evaluation) -> Iterator[list[str]]:
    for quality, cost in zip(evaluation.quality, evaluation.cost, strict=True):
        kind = "approximate" if quality.is_approximate else ""
        told = "" if math.isnan(quality.value) else f"{quality.value:.3f}"
        yield [quality.name, told, _interval(quality), _value(cost), _dollars(cost), kind]


def _interval(estimate: Estimate) -> str:
    return "" if math.isnan(estimate.low) else f"{estimate.low:.3f} to {estimate.high:.3f}"


def _value(estimate: Estimate) -> str:
    return "" if math.isnan(estimate.value) else usd(estimate.value)


def _dollars(estimate: Estimate) -> str:
    return "" if math.isnan(estimate.low) else f"{usd(estimate.low)} to {usd(estimate.high)}"

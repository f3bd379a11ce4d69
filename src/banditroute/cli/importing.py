"""`banditroute import`: the logs of a gateway as data of the lab."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich.status import Status

from banditroute.cli.options import AsJson, numbers, pairs
from banditroute.cli.output import console, print_json, table, usd
from banditroute.core.errors import DatasetError
from banditroute.lab.calibrate import render
from banditroute.lab.datasets import write_priors
from banditroute.lab.importers import langfuse, litellm
from banditroute.lab.importers.fields import Scale, label_key
from banditroute.lab.importers.figures import (
    CONFOUNDING_SD,
    METHOD,
    MIN_SCORED,
    Cell,
    cells,
    imbalances,
    log_environment,
    make_priors,
)
from banditroute.lab.importers.log import Log, load_logs, write_log

MAX_IMBALANCES = 5
MIN_INTERVAL = 10
"""Scores from which a mean's 95 % interval is shown: before, a few equal ones would look sure."""

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Make a data set, priors and an environment of a gateway's logs. They hold one model per request: none can be replayed.",
)

Files = Annotated[list[Path], typer.Argument(metavar="FILE...", help="JSONL, JSON, CSV, these with .gz, or Parquet.")]
Out = Annotated[Path | None, typer.Option("--out", metavar="DATASET", help="Write the requests, as .parquet or .csv.")]
PriorsOut = Annotated[Path | None, typer.Option(metavar="FILE", help="Write priors, as .yaml.")]
EnvironmentOut = Annotated[Path | None, typer.Option(metavar="FILE", help="Write an environment to simulate with, as .yaml.")]
CategoryFrom = Annotated[str, typer.Option(metavar="FIELD", help="Where the category is; a tag is LIST:TAG, such as tags:task.")]
ModelFrom = Annotated[str, typer.Option(metavar="FIELD", help="Where the model's name is.", show_default=False)]
Rename = Annotated[list[str] | None, typer.Option(metavar="OLD=NEW", help="A model's name in your configuration. Repeatable.")]
ScoreRange = Annotated[str | None, typer.Option(metavar="LOW:HIGH", help="What numbers in scores range over; 0:1 if not given.")]
ScoreValue = Annotated[
    list[str] | None, typer.Option(metavar="LABEL=WORTH", help="What a label among the scores is worth, 0 to 1. Repeatable.")
]
LeaveOut = Annotated[list[str] | None, typer.Option(metavar="NAME", help="A model or category to leave out. Repeatable.")]
MinScored = Annotated[int, typer.Option(min=1, help="Scored requests that an environment needs of each category and model.")]
Confounding = Annotated[
    float,
    typer.Option(
        min=0.0, max=1.0, help="Points of quality that a mean may be off because models were chosen by prompt; 0: by lot."
    ),
]


class _Wanted(NamedTuple):
    """What is to be made of a log, and where to."""

    data: Path | None
    priors: Path | None
    environment: Path | None
    min_scored: int
    confounding_sd: float


@app.command("litellm")
def from_litellm(
    files: Files,
    out: Out = None,
    priors_out: PriorsOut = None,
    environment_out: EnvironmentOut = None,
    category_from: CategoryFrom = litellm.CATEGORY,
    model_from: ModelFrom = "",
    rename: Rename = None,
    score_from: Annotated[
        str | None,
        typer.Option(metavar="FIELD", help="Where scores are; 'status': 1 for an answer, 0 for a failure; or --scores' column."),
    ] = None,
    scores: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Scores by request_id or litellm_call_id, in a column 'score'.")
    ] = None,
    score_range: ScoreRange = None,
    score_value: ScoreValue = None,
    leave_out: LeaveOut = None,
    min_scored: MinScored = MIN_SCORED,
    confounding_sd: Confounding = CONFOUNDING_SD,
    as_json: AsJson = False,
) -> None:
    """Spend logs of LiteLLM's proxy: rows of LiteLLM_SpendLogs, pages of /spend/logs/v2, StandardLoggingPayloads."""
    fields = litellm.Fields(category=category_from, model=model_from, score=score_from)
    scale, names = _scale(score_range, score_value), pairs(rename or (), option="--rename")
    with _reading():
        log = litellm.import_litellm(files, fields=fields, scores=scores, scale=scale, rename=names)
    notes = []
    if scores is None and score_from == litellm.STATUS:
        notes.append("an answer is not a good answer: these scores say only how often a model answered at all")
    wanted = _Wanted(out, priors_out, environment_out, min_scored, confounding_sd)
    _finish(log.without(leave_out or ()), wanted, notes, as_json=as_json)


@app.command("langfuse")
def from_langfuse(
    files: Files,
    out: Out = None,
    priors_out: PriorsOut = None,
    environment_out: EnvironmentOut = None,
    category_from: CategoryFrom = langfuse.CATEGORY,
    model_from: ModelFrom = "",
    rename: Rename = None,
    score_name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which scores; may be left out where all have one name.")
    ] = None,
    observation_name: Annotated[str | None, typer.Option(metavar="NAME", help="Only generations of this name.")] = None,
    score_range: ScoreRange = None,
    score_value: ScoreValue = None,
    leave_out: LeaveOut = None,
    min_scored: MinScored = MIN_SCORED,
    confounding_sd: Confounding = CONFOUNDING_SD,
    as_json: AsJson = False,
) -> None:
    """Langfuse's observations with their scores: blob storage exports, tables from the web interface, pages of the API."""
    fields = langfuse.Fields(category=category_from, model=model_from, score=score_name, observation=observation_name)
    scale, names = _scale(score_range, score_value), pairs(rename or (), option="--rename")
    with _reading():
        log = langfuse.import_langfuse(files, fields=fields, scale=scale, rename=names)
    wanted = _Wanted(out, priors_out, environment_out, min_scored, confounding_sd)
    _finish(log.without(leave_out or ()), wanted, as_json=as_json)


@app.command("logged")
def from_logged(
    files: Files,
    out: Out = None,
    priors_out: PriorsOut = None,
    environment_out: EnvironmentOut = None,
    rename: Rename = None,
    score_range: ScoreRange = None,
    score_value: ScoreValue = None,
    leave_out: LeaveOut = None,
    min_scored: MinScored = MIN_SCORED,
    confounding_sd: Confounding = CONFOUNDING_SD,
    as_json: AsJson = False,
) -> None:
    """Any log with a row per request: sample_id, category, model and, where known, score, cost_usd, input_tokens,
    output_tokens, latency_s, time. Also what --out wrote."""
    scale, names = _scale(score_range, score_value), pairs(rename or (), option="--rename")
    with _reading():
        log = load_logs(files, scale=scale, rename=names)
    wanted = _Wanted(out, priors_out, environment_out, min_scored, confounding_sd)
    _finish(log.without(leave_out or ()), wanted, as_json=as_json)


def _reading() -> Status:
    """For those who wait, on a terminal: a million rows take half a minute."""
    return console(stderr=True).status("reading the logs")


def _scale(score_range: str | None, score_value: Sequence[str] | None) -> Scale:
    low, _, high = (score_range or "0:1").partition(":")
    try:
        bounds = float(low), float(high)
    except ValueError:
        raise typer.BadParameter(f"{score_range!r}: give LOW:HIGH, such as 1:5", param_hint="--score-range") from None
    worth = {label_key(label): value for label, value in numbers(score_value or (), option="--score-value").items()}
    try:
        return Scale(*bounds, worth=worth)
    except DatasetError as error:
        raise typer.BadParameter(str(error), param_hint="--score-range or --score-value") from None


def _finish(log: Log, wanted: _Wanted, notes: Sequence[str] = (), *, as_json: bool) -> None:
    """Everything is made before anything is written: a refusal leaves no file behind."""
    priors = make_priors(log, confounding_sd=wanted.confounding_sd) if wanted.priors else {}
    environment = log_environment(log, min_scored=wanted.min_scored) if wanted.environment else None
    source = f"{len(log.samples)} requests logged by {log.by} ({log.name})"
    if wanted.data:
        write_log(wanted.data, log)
    if wanted.priors:
        write_priors(wanted.priors, priors, source=f"{source}; what the old routing chose by prompt is still in them")
    if wanted.environment and environment:
        wanted.environment.write_text(render(environment, source=source, method=METHOD), encoding="utf-8")
    found = cells(log)
    warnings = [*_warnings(log, found, wanted.confounding_sd), *notes]
    if as_json:
        print_json(_data(log, found, warnings))
    else:
        _print(log, found, warnings, written=[path for path in wanted[:3] if path])


def _warnings(log: Log, found: Sequence[Cell], confounding_sd: float) -> list[str]:
    if confounding_sd > 0.0:
        told = [
            "the old routing may have chosen models by the prompt: then they had different tasks, and these figures compare "
            "tasks too. No number of rows mends that. Priors are bounded for it (--confounding-sd "
            f"{confounding_sd:g}); an environment is not"
        ]
    else:
        told = ["models are taken to have been chosen by lot (--confounding-sd 0); if they were not, these priors claim too much"]
    uneven = imbalances(log)
    told += [f"not alike: {sign}" for sign in uneven[:MAX_IMBALANCES]]
    if len(uneven) > MAX_IMBALANCES:
        told.append(f"not alike: {len(uneven) - MAX_IMBALANCES} more")
    if len(log.models) == 1:
        told.append(f"one model only ({log.models[0]}): nothing can be compared; import logs of other models as well")
    for category in log.categories if len(log.models) > 1 else ():
        here = [cell.model for cell in found if cell.category == category]
        if len(here) == 1:
            told.append(f"{category}: answered by {here[0]} only; nothing is known of the other models there")
    if not any(cell.scored_count for cell in found):
        told.append("no request has a score: there are figures of cost and tokens, but no priors to make")
    priced = {model: [cell.cost_usd for cell in found if cell.model == model] for model in log.models}
    told += [
        f"{model}: every request cost $0 or has no cost; where it is not free, the gateway knew no price"
        for model, costs in priced.items()
        if not any(costs)
    ]
    return told


def _data(log: Log, found: Sequence[Cell], warnings: Sequence[str]) -> dict[str, Any]:
    return {
        "name": log.name,
        "logged_by": log.by,
        "request_count": len(log.samples),
        "scored_count": sum(cell.scored_count for cell in found),
        "left_out": dict(log.left_out),
        "cells": [cell._asdict() for cell in found],
        "warnings": list(warnings),
    }


def _print(log: Log, found: Sequence[Cell], warnings: Sequence[str], *, written: Sequence[Path]) -> None:
    out = console()
    scored = sum(cell.scored_count for cell in found)
    out.print(
        f"{log.name}: {len(log.samples)} requests, {scored} scored; {len(log.categories)} categories, {len(log.models)} models",
        markup=False,
    )
    columns = ["category", "model", ">requests", ">scored", ">quality", ">cost", ">tokens in", ">out", ">median latency"]
    out.print(table("", columns, [_row(cell) for cell in found]))
    for reason, count in log.left_out.items():
        out.print(f"left out: {count} {reason}", markup=False, soft_wrap=True)
    for warning in warnings:
        out.print(f"warning: {warning}", markup=False, soft_wrap=True)
    for path in written:
        out.print(f"written: {path}", markup=False, soft_wrap=True)


def _row(cell: Cell) -> list[str]:
    def shown(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    error = f" ± {1.96 * cell.quality_se:.2f}" if cell.quality_se is not None and cell.scored_count >= MIN_INTERVAL else ""
    return [
        cell.category,
        cell.model,
        str(cell.request_count),
        str(cell.scored_count),
        "" if cell.quality is None else f"{cell.quality:.3f}{error}",
        "" if cell.cost_usd is None else usd(cell.cost_usd),
        shown(cell.input_tokens, ".0f"),
        shown(cell.output_tokens, ".0f"),
        "" if cell.latency_s is None else f"{cell.latency_s:.2f} s",
    ]

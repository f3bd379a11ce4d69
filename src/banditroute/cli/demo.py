"""`banditroute demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from banditroute.cli.errors import say
from banditroute.cli.options import AsJson
from banditroute.cli.output import console, print_json
from banditroute.demo import run_demo
from banditroute.demo.scenario import DEFAULT_ENVIRONMENT
from banditroute.lab.finding import find_source

INTERRUPTED = 130


def demo(
    dataset: Annotated[Path | None, typer.Option(metavar="FILE", help="Play real rows: a .parquet or .csv data set.")] = None,
    environment: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE", help=f"Play a calibrated environment.  [default: {DEFAULT_ENVIRONMENT}]"),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.5, max=3600, help="How long to play at most, in seconds.")] = 50.0,
    requests: Annotated[int, typer.Option(min=1, help="After how many requests act one ends, if not before.")] = 8_000,
    acts: Annotated[int, typer.Option(min=1, max=2, help="1: stop before a model degrades.")] = 2,
    threads: Annotated[int, typer.Option(min=1, max=32, help="Clients at once.")] = 4,
    seed: Annotated[int | None, typer.Option(help="Of the requests; default: other ones each time.")] = None,
    as_json: AsJson = False,
) -> None:
    """Watch a real server learn which model is worth its price, then find out that one got worse, in about a minute."""
    if dataset and environment:
        raise typer.BadParameter("give --dataset or --environment, not both", param_hint="--dataset")
    source = find_source(dataset or environment or DEFAULT_ENVIRONMENT)
    out = None if as_json else console()
    report = run_demo(source, seconds=seconds, requests=requests, acts=acts, threads=threads, out=out, seed=seed)
    if report is None:
        say("interrupted")
        raise typer.Exit(INTERRUPTED)
    if as_json:
        print_json(report.to_json(source.name))
    if report.interrupted:
        raise typer.Exit(INTERRUPTED)

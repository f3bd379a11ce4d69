"""The command line: `banditroute COMMAND`, also `python -m banditroute COMMAND`."""

from __future__ import annotations

from typing import Annotated

import typer

from banditroute import __version__
from banditroute.cli import (
    apply,
    bench,
    calls,
    check,
    demo,
    evaluate,
    events,
    explain,
    export,
    health,
    importing,
    inspect,
    operate,
    priors,
    serve,
    simulate,
)
from banditroute.cli.errors import Commands

app = typer.Typer(
    cls=Commands,
    help="Routes each task to the LLM that is worth its price, and learns from feedback which one that is.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for name, command in (
    ("serve", serve.serve),
    ("check", check.check),
    ("apply", apply.apply),
    ("health", health.health),
    ("demo", demo.demo),
    ("route", calls.route),
    ("feedback", calls.feedback),
    ("categories", inspect.categories),
    ("explain", explain.explain),
    ("events", events.events),
    ("set", operate.set_weights),
    ("pause", operate.pause),
    ("resume", operate.resume),
    ("reset", operate.reset),
    ("simulate", simulate.simulate),
    ("priors", priors.priors),
    ("evaluate", evaluate.evaluate),
    ("export", export.export),
):
    app.command(name)(command)
app.add_typer(bench.app, name="bench")
app.add_typer(importing.app, name="import")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"banditroute {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    pass


def main() -> None:
    """The console script."""
    app()

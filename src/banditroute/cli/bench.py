"""`banditroute bench`."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from banditroute.cli.changes import changes
from banditroute.cli.options import AsJson
from banditroute.cli.output import console, print_json, table
from banditroute.cli.soak import soak
from banditroute.cli.truth import truth

app = typer.Typer(add_completion=False)
app.command("changes")(changes)
app.command("ope")(truth)
app.command("soak")(soak)


@app.callback(invoke_without_command=True)
def bench(
    context: typer.Context,
    quick: Annotated[bool, typer.Option("--quick", help="Shorter runs, wider spread.")] = False,
    only: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Only these; repeatable.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure this machine: ratios against ceilings taken in the same run. Or, by a command, what is learned."""
    if context.invoked_subcommand is not None:
        return
    run = importlib.import_module("banditroute.bench").main  # its setups are nobody else's to load
    try:
        found: Mapping[str, Any] = run(quick=quick, only=only or [])
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--only") from None
    if as_json:
        print_json(found)
    else:
        console().print(table("", ["figure", ">value"], _flat(found)))
        for name, part in found.items():
            if isinstance(part, Mapping) and "rows" in part:
                columns = list(part["rows"][0])
                rows = [[_shown(row[column]) for column in columns] for row in part["rows"]]
                console().print(table(name, [column.replace("_", " ") for column in columns], rows))


def _flat(data: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(data, Mapping):
        for key, value in data.items():
            if key == "rows":  # a table of its own
                continue
            yield from _flat(value, f"{path}.{key}" if path else str(key))
    elif isinstance(data, list | tuple):
        for i, value in enumerate(data):
            yield from _flat(value, f"{path}[{i}]")
    else:
        yield path, _shown(data)


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)

"""The command line: `banditroute COMMAND`, also `python -m banditroute COMMAND`."""

from __future__ import annotations

import importlib
from typing import Annotated, Any

import typer

from banditroute._version import __version__
from banditroute.cli.errors import Commands

COMMANDS = {
    "serve": ("serve", "serve"),
    "check": ("check", "check"),
    "apply": ("apply", "apply"),
    "health": ("health", "health"),
    "demo": ("demo", "demo"),
    "route": ("calls", "route"),
    "feedback": ("calls", "feedback"),
    "categories": ("inspect", "categories"),
    "explain": ("explain", "explain"),
    "events": ("events", "events"),
    "set": ("operate", "set_weights"),
    "pause": ("operate", "pause"),
    "resume": ("operate", "resume"),
    "reset": ("operate", "reset"),
    "simulate": ("simulate", "simulate"),
    "priors": ("priors", "priors"),
    "evaluate": ("evaluate", "evaluate"),
    "export": ("export", "export"),
    "bench": ("bench", "app"),
    "import": ("importing", "app"),
}
"""Module and function, or module and commands, by name; in the order of `--help`."""


class AllCommands(Commands):
    """Loads a command when it is asked for: some need seconds of libraries, those that operators call all day do not."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands: Any = dict.fromkeys(COMMANDS)

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        module, name = COMMANDS[cmd_name]
        found = getattr(importlib.import_module(f"banditroute.cli.{module}"), name)
        if not isinstance(found, typer.Typer):
            function, found = found, typer.Typer(add_completion=False)
            found.command()(function)
        command = typer.main.get_command(found)
        command.name = cmd_name
        return command


app = typer.Typer(
    cls=AllCommands,
    help="Routes each task to the LLM that is worth its price, and learns from feedback which one that is.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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

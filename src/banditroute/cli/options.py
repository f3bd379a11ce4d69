"""Options that several commands share, and what they are parsed into."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

ROUTER_ADDRESS, ADMIN_ADDRESS = "127.0.0.1:50051", "127.0.0.1:50052"

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
RouterAddress = Annotated[str, typer.Option("--server", metavar="HOST:PORT", help="The server's router listener.")]
AdminAddress = Annotated[str, typer.Option("--server", metavar="HOST:PORT", help="The server's admin listener.")]
OptionalAdminAddress = Annotated[
    str | None,
    typer.Option("--server", metavar="HOST:PORT", help="The server's admin listener.", show_default=ADMIN_ADDRESS),
]
OptionalConfig = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Read this configuration's state directory instead; no server is needed."),
]


def pairs(given: Sequence[str], *, option: str) -> dict[str, str]:
    """``name=value`` options as a dict.

    Raises:
        typer.BadParameter: one has another form, or a name occurs twice.
    """
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name or name in found:
            raise typer.BadParameter(f"{text!r}: give NAME=VALUE, each name once", param_hint=option)
        found[name] = value
    return found


def numbers(given: Sequence[str], *, option: str) -> dict[str, float]:
    """``name=number`` options as a dict.

    Raises:
        typer.BadParameter: as `pairs`, or where a value is not a number.
    """
    found = {}
    for name, value in pairs(given, option=option).items():
        try:
            found[name] = float(value)
        except ValueError:
            raise typer.BadParameter(f"{name}={value}: {value!r} is not a number", param_hint=option) from None
    return found


def address(text: str, *, option: str) -> str:
    """HOST:PORT as given.

    Raises:
        typer.BadParameter: it is none.
    """
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise typer.BadParameter(f"{text!r}: give HOST:PORT, such as 127.0.0.1:50051", param_hint=option)
    return text


def one_place(server: str | None, config: Path | None) -> None:
    """Checks that a command is to read from a server or from a state directory.

    Raises:
        typer.BadParameter: from both, or the server's address is none.
    """
    if server and config:
        raise typer.BadParameter("give --server or --config, not both", param_hint="--config")
    if server:
        address(server, option="--server")


def parse_time(text: str) -> float:
    """A date or time of ISO 8601 in Unix seconds; UTC where it says nothing else.

    Raises:
        typer.BadParameter: it is none.
    """
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no time: give one such as 2026-01-31T12:00Z", param_hint="--since") from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()

"""How commands fail: with what is wrong and how to mend it, never with a traceback.

Exit codes: 1 for what was refused or could not be done, 2 for wrong usage and for a server that cannot start.
"""

from __future__ import annotations

import sys
from typing import Any

import grpc
import typer
from typer.core import TyperGroup

from banditroute.client import RequestFailed
from banditroute.core.errors import BanditrouteError

REFUSED, UNUSABLE = 1, 2

HINTS = {
    grpc.StatusCode.UNAVAILABLE: "is a server running there? `banditroute serve --config FILE` starts one",
    grpc.StatusCode.UNIMPLEMENTED: "is --server the right listener? route and feedback ask the router's, all else the admin's",
}


class Commands(TyperGroup):
    """All commands, with one place where their errors are shown."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except RequestFailed as error:
            say(*failure_lines(error))
        except (BanditrouteError, OSError) as error:
            if isinstance(error, BrokenPipeError):
                raise
            say(f"error: {error}")
        raise typer.Exit(REFUSED)


def failure_lines(error: RequestFailed) -> list[str]:
    """A refusal in lines: code and reason, then every wrong field or else the message; a hint where none was answered."""
    head = f"error: {error.code.name}" + (f" ({error.reason})" if error.reason else "")
    if error.field_violations:
        return [head, *(f"  {v.field}: {v.description}" for v in error.field_violations)]
    hint = "" if error.reason else HINTS.get(error.code, "")
    return [f"{head}: {error.message}", *([f"  {hint}"] if hint else [])]


def say(*lines: str) -> None:
    """For people, on standard error."""
    for line in lines:
        print(line, file=sys.stderr)

"""`banditroute set`: an operator's changes, above the configuration file."""

from __future__ import annotations

import getpass
from typing import Annotated

import typer

from banditroute.cli.inspect import category_table
from banditroute.cli.options import ADMIN_ADDRESS, AdminAddress, AsJson, address
from banditroute.cli.output import console, message_data, print_json
from banditroute.client import AdminClient
from banditroute.core.fold import OVERRIDABLE


def set_weights(
    category: Annotated[str, typer.Argument(help="The task category.")],
    reason: Annotated[str, typer.Option(help="Why; kept in the journal.")],
    cost_weight: Annotated[float | None, typer.Option(help="Quality points that the cost reference is worth.")] = None,
    latency_weight: Annotated[float | None, typer.Option(help="Quality points that the latency reference is worth.")] = None,
    clear: Annotated[
        list[str] | None,
        typer.Option(metavar="FIELD", help=f"Return to the file's value: {' or '.join(OVERRIDABLE)}; repeatable."),
    ] = None,
    actor: Annotated[str | None, typer.Option(help="Who; kept in the journal.  [default: your login name]")] = None,
    server: AdminAddress = ADMIN_ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Change a category's weights at once: durable, journalled, in force from the very next Route."""
    address(server, option="--server")
    given = {"cost_weight": cost_weight, "latency_weight": latency_weight}
    changes: dict[str, float | None] = {field: value for field, value in given.items() if value is not None}
    for field in clear or ():
        if field not in OVERRIDABLE:
            raise typer.BadParameter(f"{field!r} is none of {', '.join(OVERRIDABLE)}", param_hint="--clear")
        if field in changes:
            raise typer.BadParameter(f"{field} is both set and cleared", param_hint="--clear")
        changes[field] = None
    if not changes:
        raise typer.BadParameter("give --cost-weight, --latency-weight or --clear", param_hint="--cost-weight")
    with AdminClient(server) as client:
        response = client.update_category(category, changes, reason=reason, actor=_login() if actor is None else actor)
    if as_json:
        print_json(message_data(response))
        return
    out = console()
    changed = response.HasField("state_position")
    out.print(f"In force since position {response.state_position}." if changed else "Nothing changed: it was so already.")
    out.print()
    out.print(category_table(response.category))


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in some containers
        return ""

"""`banditroute set`, `pause`, `resume` and `reset`: an operator's changes, above the configuration file."""

from __future__ import annotations

import getpass
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from banditroute.cli.errors import say
from banditroute.cli.inspect import category_table
from banditroute.cli.options import ADMIN_ADDRESS, AdminAddress, AsJson, address
from banditroute.cli.output import console, message_data, print_json
from banditroute.client import AdminClient
from banditroute.core.fold import OVERRIDABLE
from banditroute.v1 import admin_pb2 as pb

Reason = Annotated[str, typer.Option(help="Why; kept in the journal.")]
Actor = Annotated[str | None, typer.Option(help="Who; kept in the journal.", show_default="your login name")]
Model = Annotated[str, typer.Argument(help="The model.")]
OneCategory = Annotated[str, typer.Option("--category", help="Only in this one.", show_default="all that have the model")]


def set_weights(
    category: Annotated[str, typer.Argument(help="The task category.")],
    reason: Reason,
    cost_weight: Annotated[float | None, typer.Option(help="Quality points that the cost reference is worth.")] = None,
    latency_weight: Annotated[float | None, typer.Option(help="Quality points that the latency reference is worth.")] = None,
    clear: Annotated[
        list[str] | None,
        typer.Option(metavar="FIELD", help=f"Return to the file's value: {' or '.join(OVERRIDABLE)}; repeatable."),
    ] = None,
    actor: Actor = None,
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
        response = client.update_category(category, changes, reason=reason, actor=who(actor))
    if as_json:
        print_json(message_data(response))
    else:
        _show(response, [response.category])


def pause(
    model: Model,
    reason: Reason,
    category: OneCategory = "",
    actor: Actor = None,
    server: AdminAddress = ADMIN_ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Take a model out of service until it is resumed: durable, journalled, in force from the very next Route."""
    address(server, option="--server")
    with AdminClient(server) as client:
        response = client.pause_arm(model, category=category, reason=reason, actor=who(actor))
    _answer(response, as_json=as_json)


def resume(
    model: Model,
    reason: Reason,
    category: OneCategory = "",
    actor: Actor = None,
    server: AdminAddress = ADMIN_ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Put a paused model back into service."""
    address(server, option="--server")
    with AdminClient(server) as client:
        response = client.resume_arm(model, category=category, reason=reason, actor=who(actor))
    _answer(response, as_json=as_json)


def reset(
    model: Model,
    reason: Reason,
    category: OneCategory = "",
    actor: Actor = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask first.")] = False,
    server: AdminAddress = ADMIN_ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Forget what was learned of a model, such as when its provider has replaced it. Says what is lost, and asks."""
    address(server, option="--server")
    by = who(actor)
    with AdminClient(server) as client:
        if not yes:
            found = client.reset_arm(model, category=category, reason=reason, actor=by, validate_only=True)
            say(*_losses(model, found.categories))
            typer.confirm("Forget it for good?", abort=True, err=True)
        response = client.reset_arm(model, category=category, reason=reason, actor=by)
    _answer(response, as_json=as_json)


def _losses(model: str, categories: Iterable[pb.Category]) -> list[str]:
    return [
        f"{category.name}: what {arm.feedback_count} feedbacks taught about {model}, worth {arm.effective_sample_size:.1f} "
        f"observations today (quality {arm.quality_mean:.3f} ± {arm.quality_stddev:.3f})"
        for category in categories
        for arm in category.arms
        if arm.model == model
    ]


def _answer(response: pb.PauseArmResponse | pb.ResumeArmResponse | pb.ResetArmResponse, *, as_json: bool) -> None:
    if as_json:
        print_json(message_data(response))
    else:
        _show(response, response.categories)


def _show(response: Any, categories: Iterable[pb.Category]) -> None:
    out = console()
    changed = response.HasField("state_position")
    out.print(f"In force since position {response.state_position}." if changed else "Nothing changed: it was so already.")
    for category in categories:
        out.print()
        out.print(category_table(category))


def who(actor: str | None) -> str:
    """Who changes something: as given, else the login name; empty where there is none."""
    return _login() if actor is None else actor


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in some containers
        return ""

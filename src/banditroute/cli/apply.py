"""`banditroute apply`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from banditroute.cli.compared import Comparison, compared
from banditroute.cli.operate import Actor, who
from banditroute.cli.options import AsJson
from banditroute.cli.output import console, print_json
from banditroute.cli.stored import folded
from banditroute.config import Config, load
from banditroute.core.errors import ConfigReplaced, StoreInUse, StoreUnavailable
from banditroute.core.types import EventKind
from banditroute.operate import config_body
from banditroute.wiring import open_to_change, store_of


def apply(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The configuration.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask first.")] = False,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; kept in the journal.")] = "",
    actor: Actor = None,
    as_json: AsJson = False,
) -> None:
    """Put a configuration's models, categories and priors in force, for all processes that share its store.

    Shows what differs first, and asks. What was learned stays, and so does what operators set. Nothing changes where
    somebody else changed the configuration since it was shown.
    """
    if as_json and not yes:
        raise typer.BadParameter("--json does not ask: give --yes too", param_hint="--json")
    config = load(file)
    if store_of(config.local).kind == "memory":
        raise StoreUnavailable("a store in memory ends with its process: there is nothing to apply this to")
    try:
        log = open_to_change(config.local)
    except StoreInUse as error:
        raise StoreInUse(
            f"{error}\n  a server that runs on it takes its file at SIGHUP: change that file and send it one"
        ) from None
    try:
        held = folded(log)
        found = compared(config, held)
        body = config_body(config.shared, held)
        if not as_json:
            _print(config, found, changes=body is not None)
        if body is not None:
            if not yes:
                typer.confirm("Put it in force?", abort=True, err=True)
            body |= {"reason": reason, "actor": who(actor)}
            try:
                event = log.append(EventKind.CONFIG, body, replaces=held.config_position).result()
            except ConfigReplaced:
                raise ConfigReplaced(
                    "somebody else changed the configuration meanwhile: look at it again with `banditroute check`"
                ) from None
        position = None if body is None else event.position
    finally:
        log.close()
    if as_json:
        print_json({"position": position, "replaces": held.config_position, **found.data()})
    elif position is not None:
        console().print(f"In force as revision {position}.")


def _print(config: Config, found: Comparison, *, changes: bool) -> None:
    out = console()
    if found.differences:
        found.print_differences("What was learned stays.")
    elif changes:
        models, categories = (", ".join(found.document[each]) for each in ("models", "categories"))
        out.print("The log has no configuration yet: this is its first.")
        out.print(f"models: {models}\ncategories: {categories}", markup=False)
    else:
        out.print(f"{config.source} is what is in force: nothing to do.", markup=False)
    if found.hidden:
        out.print()
        found.print_hidden()

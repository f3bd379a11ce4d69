"""`banditroute check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from banditroute.cli.compared import Comparison, compared
from banditroute.cli.errors import REFUSED
from banditroute.cli.options import AsJson
from banditroute.cli.output import console, print_json, table, usd
from banditroute.cli.stored import state_in_store
from banditroute.config import Config, load
from banditroute.core.errors import BanditrouteError, ConfigError, StoreError
from banditroute.receivers import read_receivers
from banditroute.redis_address import shown
from banditroute.wiring import read_keys, state_directory, store_of


def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The configuration.")],
    as_json: AsJson = False,
) -> None:
    """Check a configuration without a server.

    Prints what it resolves to and, where there is a store of it (also while a server runs on it), which of its fields
    operators' changes hide and how it differs from what is in force.
    """
    try:
        config = load(file)
        if config.local.signing_keys_file:
            read_keys(config.local.folder / config.local.signing_keys_file)
        read_receivers(config.local.webhooks, config.local.folder)
        found, away = _found(config)
    except BanditrouteError as error:
        _refuse(error, as_json=as_json)
    if not as_json:
        _print(config, found, away)
    if away is not None:
        _refuse(away, as_json=as_json)
    if as_json:
        state, document = found.state, found.document
        print_json(
            {
                "ok": True,
                "file": str(file),
                "store": shown(config.local.store),
                "state": None if state is None else {"position": state.position, "in_force": not found.differences},
                "models": document["models"],
                "categories": document["categories"],
                "webhooks": [
                    {"name": hook.label, "url": hook.shown_url, "events": hook.events} for hook in config.local.webhooks
                ],
                **found.data(),
            }
        )


def _found(config: Config) -> tuple[Comparison, StoreError | None]:
    """The file beside its store; alone, and why, where that cannot be read."""
    try:
        return compared(config, state_in_store(config)), None
    except StoreError as error:
        return compared(config, None), error


def _refuse(error: BanditrouteError, *, as_json: bool) -> None:
    if not as_json:
        raise error
    problems = (
        [{"file": error.source, **problem._asdict()} for problem in error.problems]
        if isinstance(error, ConfigError)
        else [{"file": "", "path": "store", "line": None, "description": str(error)}]
    )
    print_json({"ok": False, "problems": problems})
    raise typer.Exit(REFUSED)


def _print(config: Config, found: Comparison, away: StoreError | None) -> None:
    out, document = console(), found.document
    models, categories = document["models"], document["categories"]
    counted = f"{len(models)} models, {len(categories)} categories, priors for {len(document['priors'])}"
    out.print(f"{config.source}: no problems ({counted})", markup=False)
    out.print()
    out.print(
        table(
            "models",
            ["model", ">input $/Mtok", ">output $/Mtok", ">context tokens", "tags"],
            [
                (
                    name,
                    f"{model['input_usd_per_mtok']:g}",
                    f"{model['output_usd_per_mtok']:g}",
                    model["context_token_limit"] or "any",
                    ", ".join(model["tags"]),
                )
                for name, model in models.items()
            ],
        )
    )
    out.print()
    out.print(
        table(
            "categories",
            ["category", "models", ">cost weight", ">cost reference", ">latency weight", "features"],
            [
                (
                    name,
                    ", ".join(category["models"]),
                    f"{category['cost_weight']:g}",
                    usd(category["cost_reference_usd"]),
                    f"{category['latency_weight']:g}",
                    ", ".join(category["features"]) or "none",
                )
                for name, category in categories.items()
            ],
            caption="A free model may score the cost weight lower than one that costs the reference per request, and still tie.",
        )
    )
    if config.local.webhooks:
        out.print()
        rows = [(hook.label, hook.shown_url, ", ".join(hook.events or ["all"])) for hook in config.local.webhooks]
        caption = "Their secrets are there. Queries of URLs are not shown."
        out.print(table("webhooks", ["name", "url", "events"], rows, caption=caption))
    out.print()
    if away is not None:
        out.print("The file has no problems. What is in force could not be read, so the two were not compared:")
    else:
        _print_state(config, found)


def _print_state(config: Config, found: Comparison) -> None:
    out, store = console(), store_of(config.local)
    directory = state_directory(config.local)
    if store.kind == "memory":
        out.print("The store is in memory: nothing to compare with.")
        return
    where = f"State directory {directory}" if directory is not None else f"Namespace {config.local.redis.namespace} in Redis"
    if found.state is None:
        out.print(f"{where}: nothing was served from there yet. The first start adopts this file.", markup=False)
        return
    out.print(f"{where}: position {found.state.position}.", markup=False)
    if found.differences:
        out.print()
        shared = (
            "`banditroute apply` puts it in force for all replicas"
            if store.kind == "redis"
            else "Adopted at the next start or SIGHUP"
        )
        found.print_differences(f"{shared}; what was learned stays.")
    else:
        out.print("The file is what is in force.")
    if found.hidden:
        out.print()
        found.print_hidden()

"""`banditroute check`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from banditroute.cli.errors import REFUSED
from banditroute.cli.options import AsJson
from banditroute.cli.output import console, print_json, table, usd
from banditroute.cli.stored import has_state, stored
from banditroute.config import Config, load, resolved
from banditroute.core.errors import BanditrouteError, ConfigError
from banditroute.core.state import State
from banditroute.receivers import read_receivers
from banditroute.redis_address import shown
from banditroute.wiring import read_keys, state_directory


class Difference(NamedTuple):
    """One place where the file and the configuration in force differ; None where one of them has nothing."""

    path: str
    file: Any
    in_force: Any


class Hidden(NamedTuple):
    """A field of the file that an operator's change hides."""

    category: str
    field: str
    file: float | None
    in_force: float


def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The configuration.")],
    as_json: AsJson = False,
) -> None:
    """Check a configuration without a server.

    Prints what it resolves to and, where its state directory exists (also while a server runs on it), which of its
    fields operators' changes hide and how it differs from what is in force.
    """
    try:
        config = load(file)
        if config.local.signing_keys_file:
            read_keys(config.local.folder / config.local.signing_keys_file)
        read_receivers(config.local.webhooks, config.local.folder)
        state = _state(config)
        document = resolved(config.shared, {} if state is None else state.document)
    except BanditrouteError as error:
        _refuse(error, as_json=as_json)
    hidden = [] if state is None else hidden_fields(document, state.overrides)
    differences = [] if state is None or not state.document else list(diff(document, state.document))
    if as_json:
        print_json(
            {
                "ok": True,
                "file": str(file),
                "store": shown(config.local.store),
                "state": None if state is None else {"position": state.position, "in_force": not differences},
                "models": document["models"],
                "categories": document["categories"],
                "webhooks": [
                    {"name": hook.label, "url": hook.shown_url, "events": hook.events} for hook in config.local.webhooks
                ],
                "hidden_fields": [entry._asdict() for entry in hidden],
                "differences": [entry._asdict() for entry in differences],
            }
        )
    else:
        _print(config, document, state, hidden, differences)


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


def _state(config: Config) -> State | None:
    if not has_state(config):
        return None
    with stored(config) as found:
        return found.state


def hidden_fields(document: Mapping[str, Any], overrides: Mapping[str, Mapping[str, float]]) -> list[Hidden]:
    """Every field that operators' changes hide; `file` is None where the file no longer has the category."""
    return [
        Hidden(category, field, document["categories"].get(category, {}).get(field), value)
        for category, layer in sorted(overrides.items())
        for field, value in sorted(layer.items())
    ]


def diff(file: Any, in_force: Any, path: str = "") -> Iterator[Difference]:
    """The places where two documents differ, deepest first named."""
    if isinstance(file, Mapping) and isinstance(in_force, Mapping):
        for key in sorted({*file, *in_force}):
            yield from diff(file.get(key), in_force.get(key), f"{path}.{key}" if path else key)
    elif file != in_force:
        yield Difference(path, file, in_force)


def _print(
    config: Config, document: Mapping[str, Any], state: State | None, hidden: list[Hidden], differences: list[Difference]
) -> None:
    out = console()
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
    _print_state(config, state, hidden, differences)


def _print_state(config: Config, state: State | None, hidden: list[Hidden], differences: list[Difference]) -> None:
    out = console()
    directory = state_directory(config.local)
    if directory is None:
        out.print("The store is in memory: nothing to compare with.")
        return
    if state is None:
        out.print(f"Nothing was served from {directory} yet: the first start adopts this file.", markup=False)
        return
    out.print(f"State directory {directory}: position {state.position}.", markup=False)
    if differences:
        out.print()
        rows = [(entry.path, _shown(entry.file), _shown(entry.in_force)) for entry in differences]
        caption = "Adopted at the next start or SIGHUP; what was learned stays."
        out.print(table("differs from what is in force", ["path", "file", "in force"], rows, caption=caption))
    else:
        out.print("The file is what is in force.")
    if hidden:
        out.print()
        fields = [(entry.category, entry.field, _shown(entry.file), f"{entry.in_force:g}") for entry in hidden]
        caption = "Set with `banditroute set`; `banditroute set CATEGORY --clear FIELD` returns to the file."
        out.print(table("hidden by operators' changes", ["category", "field", ">file", ">in force"], fields, caption=caption))


def _shown(value: Any) -> str:
    return "nothing" if value is None else str(value)

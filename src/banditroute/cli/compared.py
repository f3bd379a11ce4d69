"""A configuration beside what is in force: what `check` tells and `apply` changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from banditroute.cli.output import console, table
from banditroute.config import Config, resolved
from banditroute.core.state import State


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


class Comparison(NamedTuple):
    """`document` is what the file resolves to; `state` None where nothing was ever served."""

    document: Mapping[str, Any]
    state: State | None
    hidden: list[Hidden]
    differences: list[Difference]

    def data(self) -> dict[str, Any]:
        """As JSON data."""
        return {
            "hidden_fields": [entry._asdict() for entry in self.hidden],
            "differences": [entry._asdict() for entry in self.differences],
        }

    def print_differences(self, caption: str) -> None:
        rows = [(entry.path, _shown(entry.file), _shown(entry.in_force)) for entry in self.differences]
        columns = ["path", "file", "in force"]
        console().print(table("differs from what is in force", columns, rows, caption=caption))

    def print_hidden(self) -> None:
        fields = [(entry.category, entry.field, _shown(entry.file), f"{entry.in_force:g}") for entry in self.hidden]
        columns = ["category", "field", ">file", ">in force"]
        caption = "Set with `banditroute set`; `banditroute set CATEGORY --clear FIELD` returns to the file."
        console().print(table("hidden by operators' changes", columns, fields, caption=caption))


def compared(config: Config, state: State | None) -> Comparison:
    """The file beside a state's configuration; one that has none yet differs in nothing."""
    document = resolved(config.shared, {} if state is None else state.document)
    if state is None or not state.document:
        return Comparison(document, state, [], [])
    return Comparison(document, state, hidden_fields(document, state.overrides), list(diff(document, state.document)))


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


def _shown(value: Any) -> str:
    return "nothing" if value is None else str(value)

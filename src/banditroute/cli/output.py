"""How commands answer: tables for people, pure JSON for programs."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import typer
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

PIPE_WIDTH = 140
"""Columns of a table that goes into a file or another program."""


def console(*, stderr: bool = False) -> Console:
    """A console that is as wide as its terminal, or wide enough where there is none."""
    made = Console(stderr=stderr, highlight=False)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = PIPE_WIDTH
    return made


def print_json(data: object) -> None:
    """Standard output gets this and nothing else. Numbers that JSON has no word for become null."""
    typer.echo(json.dumps(_finite(data), indent=2, ensure_ascii=False))


def print_json_line(data: object) -> None:
    """As `print_json`, for what comes one by one: an object a line."""
    typer.echo(json.dumps(_finite(data), ensure_ascii=False))


def _finite(data: Any) -> Any:
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    return [_finite(value) for value in data] if isinstance(data, list | tuple) else data


def table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, caption: str = "", gap: int = 2
) -> RenderableType:
    """A table whose columns that begin with ``>`` are aligned to the right; `title` and `caption` may be empty."""
    made = Table(header_style="bold", box=None, pad_edge=False, padding=(0, gap, 0, 0))
    for column in columns:
        made.add_column(column.removeprefix(">"), justify="right" if column.startswith(">") else "left", overflow="fold")
    for row in rows:
        made.add_row(*[escape(str(cell)) for cell in row])
    return Group(*[Text(title, style="bold")] * bool(title), made, *[Text(caption, style="dim")] * bool(caption))


def usd(amount: float) -> str:
    """Dollars of one request, to three significant digits."""
    if amount == 0:
        return "$0"
    digits = max(2, 2 - math.floor(math.log10(abs(amount))))
    return f"${amount:.{digits}f}"


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def moment(unix_s: float) -> str:
    """A time as people and programs read it: UTC, to the second."""
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def message_data(message: Message) -> dict[str, Any]:
    """A message as JSON data: names as in the contract, enums by name, times as text, spans in seconds, numbers as
    numbers; fields that are unset are null, or left out in a oneof."""
    data: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        if field.containing_oneof is not None and len(field.containing_oneof.fields) > 1 and not message.HasField(field.name):
            continue
        value = getattr(message, field.name)
        entry = field.message_type
        if entry is not None and entry.GetOptions().map_entry:
            data[field.name] = dict(value)
        elif field.is_repeated:
            data[field.name] = [_value(field, item) for item in value]
        elif field.has_presence and not message.HasField(field.name):
            data[field.name] = None
        else:
            data[field.name] = _value(field, value)
    return data


def _value(field: Any, value: Any) -> Any:
    if isinstance(value, Timestamp):
        return value.ToJsonString()
    if isinstance(value, Duration):
        return value.seconds + value.nanos / 1e9
    if isinstance(value, Message):
        return message_data(value)
    if field.enum_type is not None:
        return word(field, value)
    return value


def word(field: Any, value: int) -> str:
    """The value of an enum field (given by its descriptor) without its prefix, such as EXPLORATION."""
    kind = field.enum_type
    found = kind.values_by_number.get(value) if kind is not None else None
    if kind is None or found is None:
        return str(value)
    prefix = "".join(f"_{c}" if c.isupper() else c.upper() for c in kind.name).lstrip("_") + "_"
    return str(found.name.removeprefix(prefix))

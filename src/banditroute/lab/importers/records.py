"""Reads what gateways export, record by record: JSONL, JSON, CSV (all of them also gzipped) and Parquet."""

from __future__ import annotations

import csv
import functools
import gzip
import io
import json
import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from banditroute.core.errors import DatasetError

KINDS = ".jsonl, .ndjson, .json, .csv (each also with .gz) or .parquet"
PARQUET_ROWS = 8192

_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


class Record(NamedTuple):
    """One row of a file. `row` is its line where the file has lines, else its place from 1.

    `fields` has the exported names and, for names in camelCase, the same in snake_case as well.
    """

    path: Path
    row: int
    fields: Mapping[str, Any]

    def wrong(self, field: str, problem: str) -> DatasetError:
        return DatasetError(f"{self.path}: row {self.row}: {field!r} {problem}")

    def first(self, *names: str) -> Any:
        """The first of these fields that is there and not empty, else None."""
        return next((value for name in names if not empty(value := self.fields.get(name))), None)

    def text(self, *names: str) -> str:
        """As `first`, as text; empty where there is none."""
        value = self.first(*names)
        return "" if value is None else str(value).strip()

    def number(self, *names: str) -> float | None:
        """As `first`, as a number of 0 or more.

        Raises:
            DatasetError: it is none.
        """
        value = self.first(*names)
        if value is None:
            return None
        name = next(name for name in names if not empty(self.fields.get(name)))
        return amount(self, name, value)

    def time(self, *names: str) -> float | None:
        """As `first`, in Unix seconds; a time without a zone is UTC.

        Raises:
            DatasetError: it is none.
        """
        value = self.first(*names)
        if value is None:
            return None
        try:
            if isinstance(value, datetime):
                moment = value
            elif isinstance(value, int | float):
                return float(value)
            else:
                text = str(value).strip()
                if re.fullmatch(r"\d+(\.\d+)?", text):
                    return float(text)
                moment = datetime.fromisoformat(text)
        except ValueError:
            raise self.wrong(names[0], f"is {str(value)[:40]!r}; give a time such as 2026-05-29 13:46:19.963") from None
        return (moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment).timestamp()

    def mapping(self, name: str) -> Mapping[str, Any]:
        """The field as an object, read from JSON where it is text; empty where there is none.

        Raises:
            DatasetError: it is something else.
        """
        value = decoded(self.fields.get(name))
        if empty(value):
            return {}
        if isinstance(value, list):  # Parquet's maps
            value = dict(value)
        if not isinstance(value, Mapping):
            raise self.wrong(name, f"is {str(value)[:40]!r}; give a JSON object")
        return value


def empty(value: object) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def amount(record: Record, name: str, value: object) -> float:
    """A finite number of 0 or more. Raises DatasetError where `value` is none."""
    try:
        number = float(str(value))
    except (TypeError, ValueError):
        raise record.wrong(name, f"is {str(value)[:40]!r}; give a number") from None
    if not 0.0 <= number < math.inf:
        raise record.wrong(name, f"is {number:g}; give a number of 0 or more")
    return number


def decoded(value: Any) -> Any:
    """JSON objects and arrays that an export holds as text; anything else as it is."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


@functools.lru_cache(maxsize=4096)
def snake(name: str) -> str:
    """``providedModelName`` as ``provided_model_name``."""
    return _HUMP.sub("_", name).lower() if _HUMP.search(name) and "_" not in name else name


def read_all(paths: Sequence[Path]) -> Iterator[Record]:
    """The records of all files, in order. Raises DatasetError as `read`, and where no file holds any."""
    any_read = False
    for path in paths:
        for record in read(path):
            any_read = True
            yield record
    if not any_read:
        raise DatasetError(f"{', '.join(map(str, paths))}: no rows; export a time span that has requests")


def read(path: Path) -> Iterator[Record]:
    """The records of one file; none where it is empty.

    A JSON file holds an array of objects, or an object whose `data` is one: a page of an API.

    Raises:
        DatasetError: no such file, of an unknown kind, or broken; names the file, the place and the remedy.
    """
    if not path.is_file():
        raise DatasetError(f"{path}: no such file; check the path")
    kinds = [suffix.lower() for suffix in path.suffixes]
    kind = kinds[-2] if len(kinds) > 1 and kinds[-1] == ".gz" else (kinds or [""])[-1]
    if kind == ".parquet":
        yield from _parquet(path)
        return
    if kind not in (".jsonl", ".ndjson", ".json", ".csv"):
        raise DatasetError(f"{path}: unknown kind of file; give {KINDS}")
    try:
        with _opened(path) as file:
            yield from (_csv(path, file) if kind == ".csv" else _json(path, file, lines=kind != ".json"))
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: cannot be read ({error}); export it anew, as UTF-8") from error


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    if path.suffix.lower() == ".gz":
        with gzip.open(path, "rb") as packed, io.TextIOWrapper(packed, encoding="utf-8-sig", newline="") as file:
            yield file
    else:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield file


def _json(path: Path, file: TextIO, *, lines: bool) -> Iterator[Record]:
    if lines:
        for row, line in enumerate(file, start=1):
            if line.strip():
                yield _record(path, row, _parsed(path, row, line), what="line")
        return
    text = file.read()
    if not text.strip():
        return
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise DatasetError(
            f"{path}: line {error.lineno}: broken JSON ({error}); export it anew, or name it .jsonl if it has an object a line"
        ) from None
    rows = found.get("data", [found]) if isinstance(found, Mapping) else found
    if not isinstance(rows, list):
        raise DatasetError(f"{path}: neither an array of objects nor a page with 'data'; give one of these")
    for row, each in enumerate(rows, start=1):
        yield _record(path, row, each, what="element")


def _parsed(path: Path, row: int, line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise DatasetError(f"{path}: line {row}: broken JSON ({error}); mend or delete the line") from None


def _record(path: Path, row: int, value: Any, *, what: str) -> Record:
    if not isinstance(value, Mapping):
        raise DatasetError(f"{path}: {what} {row}: holds no object; give one JSON object for each request")
    return Record(path, row, _named(value.items()))


def _named(items: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(items)
    for name in list(fields):
        fields.setdefault(snake(name), fields[name])
    return fields


def _csv(path: Path, file: TextIO) -> Iterator[Record]:
    limit = csv.field_size_limit(sys.maxsize)  # prompts are longer than the module's default
    try:
        reader = csv.reader(file)
        header = next(reader, None)
        if header is None:
            return
        for values in reader:
            if not values:
                continue
            if len(values) != len(header):
                found = f"row {reader.line_num}: {len(values)} values for {len(header)} columns"
                raise DatasetError(f"{path}: {found}; put values that hold commas in quotes")
            yield Record(path, reader.line_num, _named(zip(header, values, strict=True)))
    except csv.Error as error:
        raise DatasetError(f"{path}: not a readable CSV file ({error}); export it anew") from error
    finally:
        csv.field_size_limit(limit)


def _parquet(path: Path) -> Iterator[Record]:
    try:
        arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError:
        raise DatasetError(
            f"{path}: reading Parquet needs pyarrow; install banditroute[parquet], or export CSV or JSONL"
        ) from None
    row = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=PARQUET_ROWS):
                for values in batch.to_pylist():
                    row += 1
                    yield Record(path, row, _named(values.items()))
    except (arrow.ArrowException, OSError) as error:
        raise DatasetError(f"{path}: not a readable Parquet file ({error}); export it anew") from error

"""A log: requests of which one model's outcome is known each. Its own file format is the long one with a column `logged`.

One row per request: `sample_id, category, model, score, cost_usd, input_tokens, output_tokens, latency_s, time, logged`;
empty where unknown. `logged` says by what, and tells the file from a data set in which every model was scored.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from banditroute.core.errors import DatasetError
from banditroute.lab.importers.fields import Scale
from banditroute.lab.importers.records import Record, read
from banditroute.lab.loading import LOGGED_COLUMN
from banditroute.lab.source import FloatArray, IntArray

NEEDED = ("sample_id", "category", "model")
KNOWN = (*NEEDED, "score", "cost_usd", "input_tokens", "output_tokens", "latency_s", "time")
COLUMNS = (*KNOWN, LOGGED_COLUMN)


class Sample(NamedTuple):
    """One request. `score` in [0, 1], `cost_usd` in USD, `time` in Unix seconds; None where unknown. `weight`: how much it counts
    beside others of its model, where models were drawn with known probabilities; files do not hold it."""

    sample_id: str
    category: str
    model: str
    score: float | None
    cost_usd: float | None
    input_tokens: float | None
    output_tokens: float | None
    latency_s: float | None
    time: float | None
    weight: float = 1.0


@dataclass(frozen=True, eq=False, kw_only=True)
class Log:
    """`by` is what logged it; `left_out` counts the rows that are not in it, by reason."""

    name: str
    by: str
    samples: Sequence[Sample]
    left_out: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.samples:
            told = "; ".join(f"{count} {reason}" for reason, count in self.left_out.items())
            raise DatasetError(f"{self.name}: no request of use" + (f" ({told}); export or name what is missing" if told else ""))

    @cached_property
    def categories(self) -> tuple[str, ...]:
        return tuple(sorted({sample.category for sample in self.samples}))

    @cached_property
    def models(self) -> tuple[str, ...]:
        return tuple(sorted({sample.model for sample in self.samples}))

    @cached_property
    def category_index(self) -> IntArray:
        """Each request's category, of shape (requests,)."""
        return _index([sample.category for sample in self.samples], self.categories)

    @cached_property
    def model_index(self) -> IntArray:
        """Each request's model, of shape (requests,)."""
        return _index([sample.model for sample in self.samples], self.models)

    def column(self, name: str) -> FloatArray:
        """One of the numbers of all requests, of shape (requests,); NaN where unknown."""
        return np.array([np.nan if (value := getattr(each, name)) is None else value for each in self.samples], dtype=np.float64)

    def without(self, names: Iterable[str]) -> Log:
        """The log less these models and categories.

        Raises:
            DatasetError: one is neither, or nothing is left.
        """
        gone = set(names)
        if unknown := gone - {*self.categories, *self.models}:
            raise DatasetError(
                f"{self.name}: {', '.join(sorted(unknown))}: neither a category ({', '.join(self.categories)}) "
                f"nor a model ({', '.join(self.models)})"
            )
        kept = [each for each in self.samples if each.category not in gone and each.model not in gone]
        left_out = Counter(self.left_out)
        if gone:
            left_out["of a model or category that was to be left out"] += len(self.samples) - len(kept)
        return Log(name=self.name, by=self.by, samples=kept, left_out=dict(left_out))


def _index(values: Sequence[str], names: Sequence[str]) -> IntArray:
    place = {name: i for i, name in enumerate(names)}
    return np.array([place[value] for value in values], dtype=np.int64)


class Builder:
    """Collects samples; a later row with the same id replaces the earlier one, as exports of overlapping spans do."""

    def __init__(self, paths: Sequence[Path], *, by: str, rename: Mapping[str, str]) -> None:
        self._name = paths[0].stem.removesuffix(".jsonl") if len(paths) == 1 else f"{by}-log"
        self._by = by
        self._rename = dict(rename)
        self._renamed: set[str] = set()
        self._samples: dict[str, Sample] = {}
        self.left_out: Counter[str] = Counter()

    @property
    def count(self) -> int:
        """Requests so far."""
        return len(self._samples)

    def add(self, sample: Sample) -> None:
        if sample.model in self._rename:
            self._renamed.add(sample.model)
            sample = sample._replace(model=self._rename[sample.model])
        if sample.sample_id in self._samples:
            self.left_out["repeated by a later row"] += 1
        self._samples[sample.sample_id] = sample

    def finish(self) -> Log:
        """Raises DatasetError where nothing was of use or a model to be renamed does not occur."""
        log = Log(name=self._name, by=self._by, samples=list(self._samples.values()), left_out=dict(self.left_out))
        if unused := sorted(set(self._rename) - self._renamed):
            raise DatasetError(f"{log.name}: no model {', '.join(unused)} to rename; there are: {', '.join(log.models)}")
        return log


def write_log(path: Path, log: Log) -> None:
    """Write the log as .parquet or .csv.

    Raises:
        DatasetError: another kind of file, or Parquet without pyarrow.
        OSError: the file cannot be written.
    """
    if path.suffix.lower() == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            writer.writerows(["" if value is None else value for value in _row(sample, log.by)] for sample in log.samples)
        return
    if path.suffix.lower() != ".parquet":
        raise DatasetError(f"{path}: unknown kind of file to write; give a .parquet or .csv file")
    try:
        arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError:
        raise DatasetError(f"{path}: writing Parquet needs pyarrow; install banditroute[parquet], or give a .csv file") from None
    columns = zip(*(_row(sample, log.by) for sample in log.samples), strict=True)
    kinds = [arrow.string() if name in (*NEEDED, "time", LOGGED_COLUMN) else arrow.float64() for name in COLUMNS]
    arrays = [arrow.array(list(column), kind) for column, kind in zip(columns, kinds, strict=True)]
    parquet.write_table(arrow.Table.from_arrays(arrays, names=list(COLUMNS)), path)


def _row(sample: Sample, by: str) -> list[Any]:
    time = None if sample.time is None else datetime.fromtimestamp(sample.time, UTC).isoformat(timespec="milliseconds")
    return [*sample[: KNOWN.index("time")], time, by]


def load_logs(paths: Sequence[Path], *, scale: Scale | None = None, rename: Mapping[str, str] | None = None) -> Log:
    """Logs in the format of this module, from `write_log` or made by anybody; `logged` may be left out.

    Raises:
        DatasetError: names the file, the row and the remedy.
    """
    scale = scale or Scale()
    builder = Builder(paths, by="log", rename=rename or {})
    for path in paths:
        known = False
        for record in read(path):
            if not known:
                _refuse_columns(record)
                known = True
            for name in NEEDED:
                if not record.text(name):
                    raise record.wrong(name, "is empty; give every row a value")
            builder.add(
                Sample(
                    sample_id=record.text("sample_id"),
                    category=record.text("category"),
                    model=record.text("model"),
                    score=scale.of(record.fields.get("score"), record, "score"),
                    cost_usd=record.number("cost_usd"),
                    input_tokens=record.number("input_tokens"),
                    output_tokens=record.number("output_tokens"),
                    latency_s=record.number("latency_s"),
                    time=record.time("time"),
                )
            )
    return builder.finish()


def _refuse_columns(record: Record) -> None:
    if missing := [name for name in NEEDED if name not in record.fields]:
        raise DatasetError(f"{record.path}: missing columns {', '.join(map(repr, missing))}; a log needs {', '.join(NEEDED)}")
    if unknown := [name for name in record.fields if name not in COLUMNS]:
        raise DatasetError(
            f"{record.path}: unknown columns {', '.join(map(repr, unknown))}; a log may have {', '.join(COLUMNS)}: "
            "rename or leave out the others"
        )

"""Reads data sets from Parquet and CSV, in the long format and in RouterBench's wide one.

Long: one row per (sample, model) with `sample_id, category, model, score, cost_usd` and optionally `input_tokens,
output_tokens`. Wide (RouterBench, arXiv 2403.12031): one row per sample with `sample_id, eval_name` and, per model,
a score column named as the model and `<model>|total_cost`; every other column is left unread. Texts are read where asked
for: from a column `prompt`, or from `NAME.prompts.parquet` (or `.csv`) beside the data set, with `sample_id, prompt`.
"""

from __future__ import annotations

import csv
import functools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from banditroute.core.errors import DatasetError
from banditroute.lab.datasets import Dataset
from banditroute.lab.source import FloatArray

LONG_COLUMNS = ("sample_id", "category", "model", "score", "cost_usd")
TOKEN_COLUMNS = ("input_tokens", "output_tokens")
WIDE_COLUMNS = ("sample_id", "eval_name")
COST_SUFFIX = "|total_cost"
PROMPT_COLUMN = "prompt"
ANSWER_SUFFIX = "|model_response"
LOGGED_COLUMN = "logged"
"""Marks a log: a file with one model's outcome per sample, as `banditroute import` writes it."""
ONE_MODEL_EACH = (
    "a log, with one model's outcome per sample: it cannot be replayed, since nobody knows what the other models would have "
    "scored; make priors and an environment of it: banditroute import logged FILE --priors-out P.yaml --environment-out E.yaml"
)


class _Table(NamedTuple):
    """`columns` by name; `rows` holds each record's place in the file, for messages."""

    path: Path
    columns: dict[str, list[Any]]
    rows: Sequence[int]

    def wrong(self, column: str, i: int, problem: str) -> DatasetError:
        return DatasetError(f"{self.path}: column {column!r}, row {self.rows[i]}: {problem}")


Needed = Callable[[Path, Sequence[str]], list[str]]
"""The columns to read of those that a file has."""


def load_dataset(path: Path | str, *, prompts: bool = False) -> Dataset:
    """The data set in a .parquet or .csv file; models, categories and samples in sorted order. With `prompts`, their texts too.

    Raises DatasetError, which names the file, the place and the remedy, where the file cannot be read, columns are
    missing, scores leave [0, 1], costs or tokens are negative or not finite, a (sample, model) occurs twice, a sample
    has two categories, some model was not scored on every sample, there is no row, or it is a log with one model per sample;
    with `prompts` also where a sample has no text, or several.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in (".pkl", ".pickle"):
        raise DatasetError(f"{path}: pickles run code when read and are refused; save it as .parquet or .csv first")
    if suffix not in (".parquet", ".csv"):
        raise DatasetError(f"{path}: unknown kind of file; give a .parquet or .csv file")
    if not path.is_file():
        raise DatasetError(f"{path}: no such file; check the path")
    table = _read_table(path, functools.partial(_needed, prompts=prompts))
    if not table.rows:
        raise DatasetError(f"{path}: holds no rows; give at least one sample")
    wide = [c.removesuffix(COST_SUFFIX) for c in table.columns if c.endswith(COST_SUFFIX)]
    texts = _prompts(table) if prompts else None
    return _from_wide(table, sorted(wide), texts) if wide else _from_long(table, texts)


def _prompts(table: _Table) -> dict[str, str]:
    """Each sample's text, from the table or the file beside it. Raises DatasetError where there is neither, or two differ."""
    if PROMPT_COLUMN not in table.columns:
        beside = [table.path.with_suffix(f".prompts{suffix}") for suffix in (".parquet", ".csv")]
        found = next((path for path in beside if path.is_file()), None)
        if found is None:
            raise DatasetError(
                f"{table.path}: no column {PROMPT_COLUMN!r} and no {beside[0].name} beside it; features need the texts"
            )
        table = _read_table(found, _needed_of_prompts)
    texts: dict[str, str] = {}
    for i, (sample, value) in enumerate(zip(_names(table, "sample_id"), table.columns[PROMPT_COLUMN], strict=True)):
        text = "" if value is None else str(value)
        if texts.setdefault(sample, text) != text:
            raise table.wrong(PROMPT_COLUMN, i, f"sample {sample!r} has another prompt in an earlier row; give each sample one")
    return texts


def _needed_of_prompts(path: Path, names: Sequence[str]) -> list[str]:
    wanted = ["sample_id", PROMPT_COLUMN]
    if missing := [column for column in wanted if column not in names]:
        raise DatasetError(f"{path}: missing columns {', '.join(map(repr, missing))}; prompts need {' and '.join(wanted)}")
    return wanted


def _ordered(path: Path, samples: Sequence[str], texts: dict[str, str] | None) -> tuple[str, ...] | None:
    if texts is None:
        return None
    if lacking := [sample for sample in samples if sample not in texts]:
        raise DatasetError(f"{path}: {len(lacking)} of {len(samples)} samples have no prompt (such as {lacking[0]!r}); add them")
    return tuple(texts[sample] for sample in samples)


def _needed(path: Path, names: Sequence[str], *, prompts: bool = False) -> list[str]:
    """The columns to read. Raises where it is a log, or one that the format needs is missing or occurs twice."""
    if LOGGED_COLUMN in names:
        raise DatasetError(f"{path}: {ONE_MODEL_EACH}")
    wide = {name.removesuffix(suffix) for suffix in (COST_SUFFIX, ANSWER_SUFFIX) for name in names if name.endswith(suffix)}
    if wide:
        wanted = [*WIDE_COLUMNS, *(column for model in sorted(wide) for column in (model, model + COST_SUFFIX))]
        hint = "RouterBench's wide format needs sample_id, eval_name and, for each model, its score and its cost column"
    else:
        wanted = [*LONG_COLUMNS, *(c for c in TOKEN_COLUMNS if c in names)]
        hint = f"the long format needs {', '.join(LONG_COLUMNS)} (RouterBench's wide one: '<model>{COST_SUFFIX}' columns)"
    if prompts and PROMPT_COLUMN in names:
        wanted.append(PROMPT_COLUMN)
    missing = [column for column in wanted if column not in names]
    if missing:
        raise DatasetError(f"{path}: missing columns {', '.join(map(repr, missing))}; {hint}")
    twice = sorted(name for name, n in Counter(names).items() if n > 1 and name in wanted)
    if twice:
        raise DatasetError(f"{path}: columns {', '.join(map(repr, twice))} occur twice; leave one of each")
    return wanted


def _read_table(path: Path, needed: Needed) -> _Table:
    return _read_parquet(path, needed) if path.suffix.lower() == ".parquet" else _read_csv(path, needed)


def _read_parquet(path: Path, needed: Needed) -> _Table:
    try:
        arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError:
        raise DatasetError(f"{path}: reading Parquet needs pyarrow; install banditroute[parquet], or give a .csv file") from None
    try:
        with parquet.ParquetFile(path) as file:
            data = file.read(columns=needed(path, file.schema_arrow.names))
    except (arrow.ArrowException, OSError) as error:
        raise DatasetError(f"{path}: not a readable Parquet file ({error}); write it anew") from error
    return _Table(path, {name: data.column(name).to_pylist() for name in data.column_names}, range(1, data.num_rows + 1))


def _read_csv(path: Path, needed: Needed) -> _Table:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            header = next(reader, None)
            if header is None:
                raise DatasetError(f"{path}: empty file; give a header line and at least one sample")
            wanted = [(name, header.index(name)) for name in needed(path, header)]
            columns: dict[str, list[Any]] = {name: [] for name, _ in wanted}
            rows: list[int] = []
            for record in reader:
                if not record:
                    continue
                if len(record) != len(header):
                    found = f"row {reader.line_num} has {len(record)} values for {len(header)} columns"
                    raise DatasetError(f"{path}: {found}; put values that hold commas in quotes")
                rows.append(reader.line_num)
                for name, at in wanted:
                    columns[name].append(record[at])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path}: not a readable CSV file ({error}); save it as UTF-8 CSV") from error
    return _Table(path, columns, rows)


def _from_long(table: _Table, texts: dict[str, str] | None) -> Dataset:
    samples, categories, models = (_names(table, column) for column in ("sample_id", "category", "model"))
    sample_index = {name: i for i, name in enumerate(sorted(set(samples)))}
    model_index = {name: i for i, name in enumerate(sorted(set(models)))}
    category_of: dict[str, str] = {}
    place: dict[tuple[int, int], int] = {}
    for i, (sample, category, model) in enumerate(zip(samples, categories, models, strict=True)):
        if category_of.setdefault(sample, category) != category:
            raise table.wrong(
                "category", i, f"sample {sample!r} is in {category_of[sample]!r} and {category!r}; give each sample one category"
            )
        key = (sample_index[sample], model_index[model])
        if key in place:
            raise table.wrong(
                "model",
                i,
                f"sample {sample!r} with model {model!r} was already in row {table.rows[place[key]]}; keep one of the two",
            )
        place[key] = i
    _refuse_gaps(table.path, place.keys(), list(sample_index), list(model_index))

    # The matrix is full, so the rows in the order of their keys are the matrix.
    order = np.array([place[key] for key in sorted(place)])
    shape = (len(sample_index), len(model_index))

    def matrix(column: str, *, high: float = math.inf, optional: bool = False) -> FloatArray:
        values: FloatArray = _numbers(table, column, high=high, optional=optional)[order].reshape(shape)
        return values

    tokens = {column: matrix(column, optional=True) for column in TOKEN_COLUMNS if column in table.columns}
    return _dataset(
        table.path,
        categories=[category_of[sample] for sample in sample_index],
        models=tuple(model_index),
        scores=matrix("score", high=1.0),
        costs_usd=matrix("cost_usd"),
        tokens={column: values for column, values in tokens.items() if not np.isnan(values).all()},
        prompts=_ordered(table.path, list(sample_index), texts),
    )


def _from_wide(table: _Table, models: Sequence[str], texts: dict[str, str] | None) -> Dataset:
    samples, categories = _names(table, "sample_id"), _names(table, "eval_name")
    first: dict[str, int] = {}
    for i, sample in enumerate(samples):
        if sample in first:
            raise table.wrong(
                "sample_id", i, f"sample {sample!r} was already in row {table.rows[first[sample]]}; keep one of the two"
            )
        first[sample] = i
    order = np.array([first[sample] for sample in sorted(first)])
    return _dataset(
        table.path,
        categories=[categories[i] for i in order],
        models=tuple(models),
        scores=np.stack([_numbers(table, model, high=1.0)[order] for model in models], axis=1),
        costs_usd=np.stack([_numbers(table, model + COST_SUFFIX)[order] for model in models], axis=1),
        tokens={},
        prompts=_ordered(table.path, sorted(first), texts),
    )


def _dataset(
    path: Path,
    *,
    categories: Sequence[str],
    models: tuple[str, ...],
    scores: FloatArray,
    costs_usd: FloatArray,
    tokens: dict[str, FloatArray],
    prompts: tuple[str, ...] | None,
) -> Dataset:
    names = sorted(set(categories))
    index = {name: i for i, name in enumerate(names)}
    return Dataset(
        name=path.stem,
        categories=tuple(names),
        models=models,
        sample_category=np.array([index[name] for name in categories], dtype=np.int64),
        scores=scores,
        costs_usd=costs_usd,
        input_tokens=tokens.get("input_tokens"),
        output_tokens=tokens.get("output_tokens"),
        prompts=prompts,
    )


def _names(table: _Table, column: str) -> list[str]:
    names = ["" if value is None else str(value).strip() for value in table.columns[column]]
    if "" in names:
        raise table.wrong(column, names.index(""), "is empty; give every row a value")
    return names


def _numbers(table: _Table, column: str, *, high: float = math.inf, optional: bool = False) -> FloatArray:
    """The column as float64, every value in [0, high] and finite; empty ones are NaN where `optional`."""
    values = np.full(len(table.rows), math.nan)
    for i, value in enumerate(table.columns[column]):
        missing = value is None or value == "" or (isinstance(value, float) and math.isnan(value))
        if missing and optional:
            continue
        try:
            number = math.nan if missing else float(value)
        except (TypeError, ValueError):
            raise table.wrong(column, i, f"{str(value)[:40]!r} is not a number; give one") from None
        if math.isnan(number):
            raise table.wrong(column, i, "is empty or NaN; give a number, or drop the sample for all models")
        if not 0.0 <= number <= high or math.isinf(number):
            span = f"between 0 and {high:g}; rescale the column" if high < math.inf else "of 0 or more, and finite"
            raise table.wrong(column, i, f"is {number:g}; give a value {span}")
        values[i] = number
    return values


def _refuse_gaps(path: Path, present: Any, samples: Sequence[str], models: Sequence[str]) -> None:
    if len(present) == len(samples) * len(models):
        return
    if len(present) == len(samples):
        raise DatasetError(f"{path}: {ONE_MODEL_EACH}")
    lacking = [[s for i, s in enumerate(samples) if (i, k) not in present] for k in range(len(models))]
    told = "; ".join(
        f"{len(some)} of {len(samples)} samples lack {model!r} (such as {some[0]!r})"
        for model, some in zip(models, lacking, strict=True)
        if some
    )
    raise DatasetError(f"{path}: not a full matrix: {told}; score every model on every sample, or drop those samples")

"""Hand-sized files in both formats, and every way in which a file can be wrong."""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from banditroute.core.errors import DatasetError
from banditroute.lab.loading import load_dataset

Write = Callable[[Path, Sequence[str], Sequence[Sequence[Any]]], Path]

LONG = ("sample_id", "category", "model", "score", "cost_usd", "input_tokens", "output_tokens")
LONG_ROWS = [
    ("s2", "maths", "b", 1.0, 0.02, 10, 7),
    ("s1", "law", "a", 0.25, 0.001, 5, None),
    ("s1", "law", "b", 0.5, 0.03, 5, 9),
    ("s2", "maths", "a", 0.0, 0.002, None, None),
]
WIDE = (
    *("sample_id", "prompt", "eval_name", "a", "b", "a|model_response", "b|model_response", "a|total_cost", "b|total_cost"),
    "oracle_model_to_route_to",
)
WIDE_ROWS = [
    ("s2", "why, and how?", "maths", 0.0, 1.0, "no", "because", 0.002, 0.02, "b"),
    ("s1", "who?", "law", 0.25, 0.5, "me", "you", 0.001, 0.03, "b"),
]


def write_csv(folder: Path, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Path:
    path = folder / "data.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(["" if value is None else value for value in row] for row in rows)
    return path


def write_parquet(folder: Path, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Path:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = folder / "data.parquet"
    parquet.write_table(arrow.table({name: [row[i] for row in rows] for i, name in enumerate(columns)}), path)
    return path


BOTH = pytest.mark.parametrize("write", [write_csv, write_parquet], ids=["csv", "parquet"])


@BOTH
def test_long_format(write: Write, tmp_path: Path) -> None:
    data = load_dataset(write(tmp_path, LONG, LONG_ROWS))
    assert (data.name, data.categories, data.models) == ("data", ("law", "maths"), ("a", "b"))
    assert data.sample_category.tolist() == [0, 1]
    assert data.scores.tolist() == [[0.25, 0.5], [0.0, 1.0]]
    assert data.costs_usd.tolist() == [[0.001, 0.03], [0.002, 0.02]]
    assert data.input_tokens is not None
    assert data.output_tokens is not None
    np.testing.assert_array_equal(data.input_tokens, [[5, 5], [np.nan, 10]])
    np.testing.assert_array_equal(data.output_tokens, [[np.nan, 9], [np.nan, 7]])


@BOTH
def test_long_format_without_tokens(write: Write, tmp_path: Path) -> None:
    data = load_dataset(write(tmp_path, LONG[:5], [row[:5] for row in LONG_ROWS]))
    assert data.input_tokens is None
    assert data.output_tokens is None


@BOTH
def test_token_columns_that_are_empty_count_as_absent(write: Write, tmp_path: Path) -> None:
    data = load_dataset(write(tmp_path, LONG, [(*row[:5], None, None) for row in LONG_ROWS]))
    assert data.input_tokens is None


@BOTH
def test_routerbench_wide_format_holds_the_same(write: Write, tmp_path: Path) -> None:
    wide = load_dataset(write(tmp_path, WIDE, WIDE_ROWS))
    long = load_dataset(write(tmp_path, LONG, LONG_ROWS))
    assert (wide.categories, wide.models) == (long.categories, long.models)
    assert wide.sample_category.tolist() == long.sample_category.tolist()
    assert wide.scores.tolist() == long.scores.tolist()
    assert wide.costs_usd.tolist() == long.costs_usd.tolist()
    assert wide.input_tokens is None


def changed(row: int, column: str, value: Any, columns: Sequence[str] = LONG, rows: Sequence[Sequence[Any]] = LONG_ROWS) -> Any:
    edited = [list(r) for r in rows]
    edited[row][columns.index(column)] = value
    return columns, edited


def without(*gone: str) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
    """The wide table less some columns."""
    kept = [i for i, column in enumerate(WIDE) if column not in gone]
    return [WIDE[i] for i in kept], [[row[i] for i in kept] for row in WIDE_ROWS]


GAP = "not a full matrix: 1 of 2 samples lack 'a' (such as 's2'); score every model"
TWICE = "column 'model', row 6: sample 's1' with model 'a' was already in row 3"
WIDE_TWICE = "column 'sample_id', row 4: sample 's2' was already in row 2"
WRONG = {
    "columns": ((LONG[:3], [row[:3] for row in LONG_ROWS]), "missing columns 'score', 'cost_usd'; the long format"),
    "gap": ((LONG, LONG_ROWS[:3]), GAP),
    "no-rows": ((LONG, []), "holds no rows; give at least one"),
    "twice": ((LONG, [*LONG_ROWS, LONG_ROWS[1]]), TWICE),
    "two-categories": (changed(3, "category", "law"), "column 'category', row 5: sample 's2' is in 'maths' and 'law'"),
    "score-high": (changed(2, "score", 1.5), "column 'score', row 4: is 1.5; give a value between 0 and 1"),
    "score-low": (changed(2, "score", -0.1), "column 'score', row 4: is -0.1; give a value between 0 and 1"),
    "score-empty": (changed(2, "score", None), "column 'score', row 4: is empty or NaN; give a number"),
    "cost-negative": (changed(2, "cost_usd", -1.0), "column 'cost_usd', row 4: is -1; give a value of 0 or more"),
    "cost-nan": (changed(2, "cost_usd", float("nan")), "column 'cost_usd', row 4: is empty or NaN; give a number"),
    "cost-infinite": (changed(2, "cost_usd", float("inf")), "column 'cost_usd', row 4: is inf; give a value"),
    "tokens-negative": (changed(2, "output_tokens", -3), "column 'output_tokens', row 4: is -3; give a value"),
    "name-empty": (changed(2, "model", ""), "column 'model', row 4: is empty; give every row a value"),
    "wide-columns": (without("a", "eval_name"), "missing columns 'eval_name', 'a'; RouterBench's wide format needs"),
    "wide-without-cost": (without("b|total_cost"), "missing columns 'b|total_cost'; RouterBench's wide format needs"),
    "wide-score-high": (changed(0, "b", 2.0, WIDE, WIDE_ROWS), "column 'b', row 2: is 2; give a value"),
    "wide-cost-empty": (changed(0, "b|total_cost", None, WIDE, WIDE_ROWS), "column 'b|total_cost', row 2: is empty or NaN"),
    "wide-twice": ((WIDE, [*WIDE_ROWS, WIDE_ROWS[0]]), WIDE_TWICE),
}


@BOTH
@pytest.mark.parametrize("case", WRONG)
def test_errors_name_file_place_and_remedy(write: Write, tmp_path: Path, case: str) -> None:
    table, message = WRONG[case]
    path = write(tmp_path, *table)
    if path.suffix == ".parquet":  # its rows have no header line before them
        message = re.sub(r"\brow (\d)", lambda match: f"row {int(match[1]) - 1}", message)
    with pytest.raises(DatasetError) as caught:
        load_dataset(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_rows_are_lines_in_csv(tmp_path: Path) -> None:
    path = write_csv(tmp_path, *changed(1, "score", "good"))
    with pytest.raises(DatasetError, match="column 'score', row 3: 'good' is not a number"):
        load_dataset(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("data.csv", b"", "empty file"),
        ("data.csv", b"sample_id,category,model,score,cost_usd\ns,c,m,1\n", "row 2 has 4 values for 5 columns"),
        ("data.csv", b"sample_id,category,model,score,cost_usd,score\ns,c,m,1,1,1\n", "columns 'score' occur twice"),
        ("data.csv", b"sample_id,category,model,score,cost_usd\n\xff\xfe,c,m,1,1\n", "not a readable CSV file"),
        ("data.parquet", b"no parquet at all", "not a readable Parquet file"),
        ("data.pkl", b"", "pickles run code"),
        ("data.json", b"", "give a .parquet or .csv file"),
        (None, b"", "no such file"),
    ],
)
def test_unreadable_files(tmp_path: Path, name: str | None, content: bytes, message: str) -> None:
    path = tmp_path / (name or "absent.csv")
    if name:
        path.write_bytes(content)
    if path.suffix == ".parquet":
        pytest.importorskip("pyarrow")
    with pytest.raises(DatasetError, match=message):
        load_dataset(path)


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DatasetError, match=r"install banditroute\[parquet\]"):
        load_dataset(tmp_path / "data.parquet")


def test_blank_lines_and_a_byte_order_mark_are_no_error(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_bytes(b"\xef\xbb\xbfsample_id,category,model,score,cost_usd\r\ns,c,m,1,0\r\n\r\n")
    assert load_dataset(path).scores.tolist() == [[1.0]]


@BOTH
def test_prompts_are_read_where_asked_for(write: Write, tmp_path: Path) -> None:
    path = write(tmp_path, WIDE, WIDE_ROWS)
    data = load_dataset(path, prompts=True)
    assert data.prompts == ("who?", "why, and how?")  # in the order of the samples: s1, s2
    assert data.subset(np.array([1]), name="part").prompts == ("why, and how?",)
    assert load_dataset(path).prompts is None


@BOTH
def test_prompts_may_lie_beside_the_data_set(write: Write, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    texts = write(other, ("sample_id", "prompt"), [("s2", "second"), ("s1", "first"), ("s3", "of no sample")])
    path = write(tmp_path, LONG, LONG_ROWS)
    with pytest.raises(DatasetError, match=r"no column 'prompt' and no data.prompts.parquet beside it"):
        load_dataset(path, prompts=True)
    texts.rename(tmp_path / f"data.prompts{texts.suffix}")
    assert load_dataset(path, prompts=True).prompts == ("first", "second")


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ((("sample_id", "text"), [("s1", "a")]), "missing columns 'prompt'; prompts need sample_id and prompt"),
        ((("sample_id", "prompt"), [("s1", "a")]), "1 of 2 samples have no prompt (such as 's2'); add them"),
        ((("sample_id", "prompt"), [("s1", "a"), ("s1", "b"), ("s2", "c")]), "row 3: sample 's1' has another prompt"),
    ],
)
def test_prompts_that_are_wrong(tmp_path: Path, table: Any, told: str) -> None:
    write_csv(tmp_path, *table).rename(tmp_path / "data.prompts.csv")
    with pytest.raises(DatasetError, match=re.escape(told)):
        load_dataset(write_csv(tmp_path, LONG, LONG_ROWS), prompts=True)


@BOTH
def test_a_log_is_told_from_a_data_set(write: Write, tmp_path: Path) -> None:
    """By its column, also with one model only, which would be a full matrix; and by its shape where it has no such column."""
    marked = write(tmp_path, (*LONG, "logged"), [(*LONG_ROWS[0], "litellm")])
    with pytest.raises(DatasetError, match=r"cannot be replayed.*banditroute import logged FILE"):
        load_dataset(marked)
    with pytest.raises(DatasetError, match=r"cannot be replayed.*banditroute import logged FILE"):
        load_dataset(write(tmp_path, LONG, LONG_ROWS[:2]))

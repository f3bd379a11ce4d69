"""Exports: what they hold, that they go on where they stopped however that was, and what they refuse."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyarrow")

from export_stores import START, exported, rows_of, serve, write_config

from banditroute import Router
from banditroute.core.errors import ExportError, StoreUnavailable
from banditroute.export import parts as export_parts
from banditroute.export import run as export_run
from banditroute.export.manifest import LOCK_FILE, MANIFEST_FILE, locked, read_manifest
from banditroute.export.tables import schemas
from banditroute.log.base import EventLog
from banditroute.log.memory import MemoryLog
from banditroute.log.sink_sqlite import SINK_FILE, SqliteSinkReader
from banditroute.log.sqlite import LOG_FILE

TABLES = ("decisions", "feedback")
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 decisions; the state directory. Not to be changed."""
    folder = tmp_path_factory.mktemp("lived")
    serve(write_config(folder), 200)
    return folder / "state"


@pytest.fixture
def copied(lived: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    return Path(shutil.copytree(lived, tmp_path / "state"))


@pytest.fixture(scope="module")
def whole(lived: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """The rows of both tables, exported in one go."""
    out = tmp_path_factory.mktemp("whole") / "out"
    exported(lived, out)
    return {table: rows_of(out, table) for table in TABLES}


def files_of(out: Path) -> set[str]:
    return {path.name for path in out.iterdir()}


def named_in(out: Path) -> set[str]:
    manifest = read_manifest(out)
    assert manifest is not None
    return {part.file for table in manifest.tables.values() for part in table.parts} | {MANIFEST_FILE, LOCK_FILE}


# --- what it holds ---


def test_what_a_decision_and_its_feedback_look_like(tmp_path: Path) -> None:
    path = write_config(tmp_path)
    with Router.from_config(path, seed=1, clock=lambda: START) as router:
        asked: dict[str, Any] = {"features": {"length": 6.5}, "input_tokens": 900, "output_tokens": 50, "request_key": "r1"}
        decision = router.route("summarise", excluded_models=["cheap"], max_cost_usd=1.0, labels={"team": "search"}, **asked)
        token = router.engine.signer.verify(decision.id)
        router.feedback(decision.id, rating=(4, 1, 5), error="bad_output", latency_s=0.5)
        router.feedback(decision.id, rating=(5, 1, 5), source="judge", model="cheap")
        router.feedback(decision.id, rating=(2, 1, 5))
    schema = token.schema.hex()
    with closing(_log(tmp_path / "state")) as log:
        export_run.export_store(log, SqliteSinkReader(tmp_path / "state"), tmp_path / "out", features={schema: ("length",)})
    (made,) = rows_of(tmp_path / "out", "decisions")
    key = str(uuid.UUID(bytes=token.decision))
    cheap, dear = sorted(made.pop("candidates"), key=lambda each: str(each["model"]))
    assert made.pop("decision_time").timestamp() == START
    assert made == {
        "decision_id": key, "category": "summarise", "model": "dear", "propensity": 1.0, "reason": "ONLY_ELIGIBLE",
        "expected_quality": decision.expected_quality, "expected_cost_usd": decision.expected_cost_usd, "input_tokens": 900,
        "output_tokens": 50, "features": [("length", 6.5)], "allowed_models": [], "excluded_models": ["cheap"],
        "required_tags": [], "max_cost_usd": 1.0, "request_key": "r1", "labels": [("team", "search")],
    }  # fmt: skip
    assert (cheap["eligible"], cheap["exclusion_reason"], cheap["propensity"]) == (False, "EXCLUDED", 0.0)
    assert (dear["eligible"], dear["exclusion_reason"], dear["propensity"], dear["lifecycle"]) == (True, None, 1.0, "LIVE")
    first, second, third = rows_of(tmp_path / "out", "feedback")
    assert {row["decision_id"] for row in (first, second, third)} == {key}
    assert first["features"] == [("length", 6.5)]
    assert [row["corrected"] for row in (first, second, third)] == [False, False, True]
    assert [row["reward"] for row in (first, second, third)] == [0.75, 0.75, 0.25]
    assert [row["position"] for row in (first, second, third)] == [2, 3, 4]
    said = [(each["model"], each["kind"], each["source"], each["value"]) for each in third["signals"]]
    assert said == [("cheap", "rating", "judge", 1.0), ("dear", "rating", "", 0.25)]
    (attempt,) = third["attempts"]
    assert (attempt["model"], attempt["error"], attempt["shadow"], attempt["latency_s"]) == ("dear", "bad_output", False, 0.5)
    assert attempt["cost_usd"] is None


def _log(state: Path) -> EventLog:
    from banditroute.log.sqlite import SqliteLog

    return SqliteLog(state, time.time, read_only=True)


def test_every_decision_is_there_once_and_feedback_finds_its_own(whole: dict[str, list[dict[str, Any]]]) -> None:
    decisions, feedback = whole["decisions"], whole["feedback"]
    ids = {row["decision_id"]: row for row in decisions}
    assert len(ids) == len(decisions) == 200
    assert all(ids[row["decision_id"]]["model"] == row["model"] for row in feedback)
    assert all(ids[row["decision_id"]]["propensity"] == row["propensity"] for row in feedback)
    assert [row["position"] for row in feedback] == list(range(2, len(feedback) + 2))
    assert any(row["corrected"] for row in feedback)


def test_the_reference_names_every_column() -> None:
    page = (ROOT / "docs" / "reference" / "export.md").read_text(encoding="utf-8")
    decisions, feedback = page.split("## `feedback`")
    for table, part in (("decisions", decisions), ("feedback", feedback)):
        assert all(f"| `{name}` |" in part for name in schemas()[table].names)


# --- it goes on ---


def test_a_second_run_adds_what_is_new_and_nothing_else(copied: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = exported(copied, out)
    assert first.new_row_count("decisions") == 200
    files = files_of(out)
    again = exported(copied, out)
    assert [again.new_row_count(table) for table in TABLES] == [0, 0]
    assert files_of(out) == files
    path = write_config(tmp_path)
    serve(path, 30, seed=2, after_s=1000.0)
    more = exported(copied, out)
    assert more.new_row_count("decisions") == 30
    assert more.new_row_count("feedback") > 20
    exported(copied, tmp_path / "at_once")
    for table in TABLES:
        assert rows_of(out, table) == rows_of(tmp_path / "at_once", table)


def test_small_parts(lived: Path, tmp_path: Path, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_run, "PART_ROWS", 20)
    monkeypatch.setattr(export_parts, "GROUP_ROWS", 7)
    monkeypatch.setattr(export_run, "READ_EVENTS", 11)
    out = tmp_path / "out"
    seen: list[tuple[str, int, int]] = []
    made = exported(lived, out, progress=lambda *told: seen.append(told))
    assert len(made.after.tables["feedback"].parts) > 5
    assert {table: rows_of(out, table) for table in TABLES} == whole
    assert {name: done for name, done, _ in seen} == {name: total for name, _, total in seen}


class _Interrupted(BaseException):
    pass


def test_an_interruption_anywhere_loses_nothing_and_leaves_nothing_twice(
    lived: Path, tmp_path: Path, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before and after every step that changes the directory."""
    monkeypatch.setattr(export_run, "PART_ROWS", 100)
    steps = itertools.count()
    stop_at = -1

    def stopping(step: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **named: Any) -> Any:
            if next(steps) == stop_at:
                raise _Interrupted
            made = step(*arguments, **named)
            if next(steps) == stop_at:
                raise _Interrupted
            return made

        return run

    for name in ("replace", "unlink"):
        monkeypatch.setattr(Path, name, stopping(getattr(Path, name)))
    monkeypatch.setattr(os, "fsync", stopping(os.fsync))
    monkeypatch.setattr(export_parts.Part, "abandon", lambda self: self._file.close())  # a kill removes nothing
    for stop_at in itertools.count():
        steps, out = itertools.count(), tmp_path / f"out{stop_at}"
        try:
            exported(lived, out)
        except _Interrupted:
            stop_at, interrupted = -1, stop_at
            exported(lived, out)
            stop_at = interrupted
            assert {table: rows_of(out, table) for table in TABLES} == whole
            assert files_of(out) == named_in(out)
        else:
            break
    assert stop_at > 30


def test_kill_nine(lived: Path, tmp_path: Path, whole: dict[str, Any]) -> None:
    out = tmp_path / "out"
    worker = Path(__file__).with_name("export_stores.py")
    for steps in (1, 2, 3, 4):
        with subprocess.Popen([sys.executable, str(worker), str(lived), str(out)], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for _ in range(steps):
                assert process.stdout.readline()
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
    exported(lived, out)
    assert {table: rows_of(out, table) for table in TABLES} == whole
    assert files_of(out) == named_in(out)


def test_a_full_disk_leaves_an_export_that_goes_on(
    lived: Path, tmp_path: Path, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, real = tmp_path / "out", export_parts.Part._write

    def full(self: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export_parts.Part, "_write", full)
    with pytest.raises(OSError, match="No space"):
        exported(lived, out)
    assert files_of(out) == {MANIFEST_FILE, LOCK_FILE}
    monkeypatch.setattr(export_parts.Part, "_write", real)
    exported(lived, out)
    assert {table: rows_of(out, table) for table in TABLES} == whole


# --- what is missing ---


def test_rows_of_before_have_what_feedback_tells_of_them(copied: Path, tmp_path: Path, whole: dict[str, Any]) -> None:
    with sqlite3.connect(copied / SINK_FILE) as db:
        for number, rows in db.execute("SELECT batch, rows FROM batches").fetchall():
            held = json.loads(rows)
            held["rows"] = [row[:5] for row in held["rows"]]
            db.execute("UPDATE batches SET rows = ? WHERE batch = ?", (json.dumps(held), number))
    db.close()
    exported(copied, tmp_path / "out")
    told = {row["decision_id"] for row in whole["feedback"]}
    unknown = ("category", "model", "propensity", "expected_quality", "expected_cost_usd")
    assert 0 < len(told) < 200
    for row, known in zip(rows_of(tmp_path / "out", "decisions"), whole["decisions"], strict=True):
        assert row == (known if row["decision_id"] in told else {**known, **dict.fromkeys(unknown)})


def test_trimmed_events_are_counted_and_the_rest_is_exported(copied: Path, tmp_path: Path, whole: dict[str, Any]) -> None:
    with sqlite3.connect(copied / LOG_FILE) as db:
        db.execute("DELETE FROM events WHERE position <= 50")
    db.close()
    made = exported(copied, tmp_path / "out")
    assert made.after.tables["feedback"].missing_count == 50
    assert rows_of(tmp_path / "out", "feedback") == whole["feedback"][49:]
    assert exported(copied, tmp_path / "out").after.tables["feedback"].missing_count == 50


def test_events_that_were_trimmed_between_two_runs(copied: Path, tmp_path: Path) -> None:
    first = exported(copied, tmp_path / "out").after.tables["feedback"]
    serve(write_config(tmp_path), 60, seed=2, silent=0.0, after_s=1000.0)
    last = first.cursor["position"]
    with sqlite3.connect(copied / LOG_FILE) as db:
        db.execute("DELETE FROM events WHERE position <= ?", (last + 20,))
    db.close()
    again = exported(copied, tmp_path / "out")
    assert again.after.tables["feedback"].missing_count == 20
    assert rows_of(tmp_path / "out", "feedback")[first.row_count]["position"] == last + 21


def test_decisions_that_are_kept_no_longer_and_damaged_ones(tmp_path: Path) -> None:
    path, state = write_config(tmp_path), tmp_path / "state"
    for seed in range(4):
        serve(path, 5, seed=seed, after_s=1000.0 * seed)
    with sqlite3.connect(state / SINK_FILE) as db:
        db.execute("DELETE FROM batches WHERE batch = 1")
        db.execute("UPDATE batches SET numbers = substr(numbers, 1, 40) WHERE batch = 3")
    db.close()
    made = exported(state, tmp_path / "out").after.tables["decisions"]
    assert (made.row_count, made.missing_count, made.damaged_count) == (10, 1, 1)
    assert exported(state, tmp_path / "out").after.tables["decisions"] == made


def test_since_holds_for_later_runs_too(lived: Path, tmp_path: Path, whole: dict[str, Any]) -> None:
    since_ms = int(START + 150.0) * 1000
    out = tmp_path / "out"
    exported(lived, out, since_ms=since_ms)
    for table in TABLES:
        late = [row for row in whole[table] if row["decision_time"].timestamp() * 1000 >= since_ms]
        assert rows_of(out, table) == late
        assert len(late) > 30
    assert exported(lived, out).new_row_count("decisions") == 0
    with pytest.raises(ExportError, match="another --since"):
        exported(lived, out, since_ms=since_ms + 1)


def test_no_sink_and_nothing_at_all(tmp_path: Path) -> None:
    path = write_config(tmp_path, decision_sink={"enabled": False})
    with pytest.raises(StoreUnavailable, match="nothing was served"):
        exported(tmp_path / "state", tmp_path / "out")
    serve(path, 5, silent=0.0)
    made = exported(tmp_path / "state", tmp_path / "out")
    assert [made.new_row_count(table) for table in TABLES] == [0, 5]


# --- what it refuses ---


def test_another_logs_directory(lived: Path, tmp_path: Path) -> None:
    exported(lived, tmp_path / "out")
    log = MemoryLog(lambda: START)
    with pytest.raises(ExportError, match="the export of another log"):
        export_run.export_store(log, SqliteSinkReader(lived), tmp_path / "out", features={})
    log.close()


def test_a_log_that_went_back(copied: Path, tmp_path: Path) -> None:
    exported(copied, tmp_path / "out")
    with sqlite3.connect(copied / LOG_FILE) as db:
        db.execute("DELETE FROM events WHERE position > 100")
    db.close()
    with pytest.raises(ExportError, match="restored from a backup"):
        exported(copied, tmp_path / "out")


def test_a_directory_with_other_files(lived: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "decisions-000001.parquet").write_text("mine")
    with pytest.raises(ExportError, match=r"holds other files \(decisions-000001.parquet\)"):
        exported(lived, tmp_path / "out")
    assert (tmp_path / "out" / "decisions-000001.parquet").read_text() == "mine"


def test_files_of_others_in_an_export_stay(lived: Path, tmp_path: Path) -> None:
    exported(lived, tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    exported(lived, tmp_path / "out")
    assert (tmp_path / "out" / "notes.txt").exists()


@pytest.mark.parametrize("text", ["{", "[]", '{"format_version": 99, "banditroute_version": "9", "log_id": ""}'])
def test_a_manifest_that_cannot_be_read(lived: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST_FILE).write_text(text)
    with pytest.raises(ExportError, match=MANIFEST_FILE):
        exported(lived, tmp_path)


def test_two_at_once(lived: Path, tmp_path: Path) -> None:
    with locked(tmp_path / "out"), pytest.raises(ExportError, match="another export is writing"):
        exported(lived, tmp_path / "out")


def test_a_file_in_place_of_the_directory(lived: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(ExportError, match="cannot be written"):
        exported(lived, tmp_path / "out")


def test_without_pyarrow(lived: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ExportError, match=r"banditroute\[parquet\]"):
        exported(lived, tmp_path / "out")
    assert not (tmp_path / "out").exists()

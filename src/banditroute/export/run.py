"""One run of an export: whatever is new in the store becomes new parts. Reads the store only; a server may be running on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from banditroute._version import __version__
from banditroute.core.errors import EventsTrimmed, ExportError
from banditroute.core.types import EventKind
from banditroute.export.manifest import (
    Manifest,
    TableInfo,
    locked,
    read_manifest,
    refuse_other_files,
    remove_leftovers,
    write_manifest,
)
from banditroute.export.parts import Part
from banditroute.export.tables import DECISIONS, FEEDBACK, Row, decision_row, feedback_row, schemas, time_ms
from banditroute.log.base import EventLog
from banditroute.log.sink import SinkReader
from banditroute.log.sink_codec import DamagedBatch, KeptDecision, decoded

PART_ROWS = 100_000
READ_EVENTS = 1024

Progress = Callable[[str, int, int], None]
"""Called with the table's name, and how many of how many batches or events are read."""


class Exported(NamedTuple):
    """What an export holds now, and what it held before."""

    before: Manifest | None
    after: Manifest

    def new_row_count(self, table: str) -> int:
        """Rows that this run added."""
        return self.after.tables[table].row_count - (self.before.tables[table].row_count if self.before else 0)


class _Chunk(NamedTuple):
    """Rows that were read, up to `cursor`; `read_count` batches or events, which may have come to no row."""

    cursor: Any
    rows: Sequence[Row]
    read_count: int
    missing_count: int = 0
    damaged_count: int = 0


def export_store(
    log: EventLog,
    sink: SinkReader | None,
    directory: Path,
    *,
    features: Mapping[str, Sequence[str]],
    since_ms: int | None = None,
    progress: Progress = lambda table, done, total: None,
) -> Exported:
    """Adds to the export in `directory` what the store has had since; makes the export where there is none.

    Args:
        sink: None: decisions are not kept by such a store.
        features: the names of the contexts' values by their schema's fingerprint in hex.
        since_ms: only decisions from this Unix time in milliseconds on, and their feedback; None: as before, or all.

    Raises:
        ExportError: pyarrow is missing; the directory holds something else, another log's export or one since another
            time, or is being written.
        StoreError: the store cannot be read.
        OSError: the directory cannot be written. What is whole by then stays.
    """
    kinds = schemas()
    with locked(directory):
        before = read_manifest(directory)
        if before is None:
            refuse_other_files(directory)
            manifest = Manifest(banditroute_version=__version__, log_id=log.log_id, since_ms=since_ms)
            write_manifest(directory, manifest)
        else:
            _refuse_unlike(before, log, directory, since_ms)
            manifest = before.model_copy(update={"banditroute_version": __version__})
            remove_leftovers(directory, manifest)
        first_ms = manifest.since_ms or 0
        decisions, feedback = (manifest.tables[name].cursor for name in (DECISIONS, FEEDBACK))
        position = 0 if feedback is None else int(feedback["position"])
        reads = (
            (DECISIONS, _decisions(log, sink, decisions, first_ms), sink.count_after(decisions) if sink else 0),
            (FEEDBACK, _feedback(log, position, features, first_ms), log.tip().position - position),
        )
        for name, chunks, total in reads:
            for table in _appended(directory, name, kinds[name], manifest.tables[name], _told(chunks, name, total, progress)):
                manifest = manifest.with_table(name, table)
                write_manifest(directory, manifest)
    return Exported(before, manifest)


def _refuse_unlike(manifest: Manifest, log: EventLog, directory: Path, since_ms: int | None) -> None:
    if manifest.log_id != log.log_id:
        raise ExportError(
            f"{directory} holds the export of another log ({manifest.log_id}, not {log.log_id}): give another directory"
        )
    if since_ms is not None and since_ms != manifest.since_ms:
        raise ExportError(
            f"{directory} was begun with another --since: leave that out to go on with it, or give another directory"
        )
    cursor = manifest.tables[FEEDBACK].cursor
    if cursor is None:
        return
    position = int(cursor["position"])
    try:
        events = log.read(position - 1, 1)
    except EventsTrimmed:  # what proves it is kept no longer
        return
    if not events or events[0].chain.hex() != cursor["chain"]:
        raise ExportError(
            f"the log is not the one that was exported into {directory} up to position {position}: it lost events, or was "
            "restored from a backup; give another directory"
        )


def _told(chunks: Iterator[_Chunk], table: str, total: int, progress: Progress) -> Iterator[_Chunk]:
    done = 0
    progress(table, done, total)
    for chunk in chunks:
        yield chunk
        done += chunk.read_count
        progress(table, done, max(done, total))


def _appended(directory: Path, name: str, kind: Any, table: TableInfo, chunks: Iterator[_Chunk]) -> Iterator[TableInfo]:
    """The table as it is after each new part is on the disk, and at the end."""
    part: Part | None = None
    try:
        for chunk in chunks:
            if chunk.rows:
                part = part or Part(directory / table.next_file(name), kind)
                part.add(chunk.rows)
            table = _counted(table, chunk)
            if part is not None and part.row_count >= PART_ROWS:
                table, part = _with_part(table, part), None
                yield table
        if part is not None:
            table, part = _with_part(table, part), None
        yield table
    finally:
        if part is not None:
            part.abandon()


def _counted(table: TableInfo, chunk: _Chunk) -> TableInfo:
    counts = {
        "row_count": table.row_count + len(chunk.rows),
        "missing_count": table.missing_count + chunk.missing_count,
        "damaged_count": table.damaged_count + chunk.damaged_count,
    }
    return table.model_copy(update={"cursor": chunk.cursor, **counts})


def _with_part(table: TableInfo, part: Part) -> TableInfo:
    return table.model_copy(update={"parts": (*table.parts, part.finish())})


def _decisions(log: EventLog, sink: SinkReader | None, after: Any, since_ms: int) -> Iterator[_Chunk]:
    for batch in sink.batches(after, since_ms=since_ms) if sink else ():
        try:
            rows = [_decision(kept, log) for kept in decoded(batch.rows, batch.numbers) if kept.time_ms >= since_ms]
        except DamagedBatch:
            yield _Chunk(batch.cursor, (), 1, batch.lost_count, damaged_count=1)
        else:
            yield _Chunk(batch.cursor, rows, 1, batch.lost_count)


def _decision(kept: KeptDecision, log: EventLog) -> Row:
    return decision_row(kept, _told_of(kept, log) if kept.chosen is None else None)


def _told_of(kept: KeptDecision, log: EventLog) -> Mapping[str, Any] | None:
    """What the newest event about a decision says that it was."""
    record = log.record(bytes.fromhex(kept.decision))
    if record is None:
        return None
    try:
        events = log.read(record["newest"] - 1, 1)
    except EventsTrimmed:
        return None
    decision: Mapping[str, Any] = events[0].body["decision"]
    return decision


def _feedback(log: EventLog, position: int, features: Mapping[str, Sequence[str]], since_ms: int) -> Iterator[_Chunk]:
    missing, chain = 0, None
    while True:
        try:
            events = log.read(position, READ_EVENTS, chain=chain)
        except EventsTrimmed as trimmed:  # read on from the first that is left
            missing += trimmed.first_position - 1 - position
            position, chain = trimmed.first_position - 1, None
            continue
        if not events:
            return
        rows: list[Row] = []
        damaged = 0
        for event in events:
            if event.kind != EventKind.FEEDBACK:
                continue
            try:
                if time_ms(event.body["decision"]["id"]) >= since_ms:
                    rows.append(feedback_row(event, features))
            except (ValueError, KeyError, TypeError, AttributeError):
                damaged += 1
        position, chain = events[-1].position, events[-1].chain
        yield _Chunk({"position": position, "chain": chain.hex()}, rows, len(events), missing, damaged)
        missing = 0

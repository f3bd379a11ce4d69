"""What an export's directory holds, and the file that says so.

Only what the manifest names is part of the export. It is written last, and whole: whoever is killed before leaves a part that
it does not name, and the next run removes that and makes it anew.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from banditroute.core.errors import ExportError
from banditroute.export.tables import DECISIONS, FEEDBACK

MANIFEST_FILE, LOCK_FILE = "export.json", "export.lock"
FORMAT_VERSION = 1
DRAFT_SUFFIX = ".tmp"
_OURS = re.compile(rf"(({DECISIONS}|{FEEDBACK})-\d{{6,}}\.parquet|{re.escape(MANIFEST_FILE)})(\.tmp)?")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PartInfo(_Frozen):
    """One file."""

    file: str
    row_count: int


class TableInfo(_Frozen):
    """One table. `cursor` says how far the store was read; `missing_count` batches of decisions or events of the log were kept no
    longer when they were to be read, `damaged_count` could not be read."""

    cursor: Any = None
    row_count: int = 0
    missing_count: int = 0
    damaged_count: int = 0
    parts: tuple[PartInfo, ...] = ()

    def next_file(self, name: str) -> str:
        """What the next part of the table `name` is called."""
        return f"{name}-{len(self.parts) + 1:06}.parquet"


class Manifest(_Frozen):
    """`since_ms`: decisions before that Unix time in milliseconds, and their feedback, were not asked for."""

    format_version: int = FORMAT_VERSION
    banditroute_version: str
    log_id: str
    since_ms: int | None = None
    tables: dict[str, TableInfo] = Field(default_factory=lambda: {DECISIONS: TableInfo(), FEEDBACK: TableInfo()})

    def with_table(self, name: str, table: TableInfo) -> Manifest:
        return self.model_copy(update={"tables": {**self.tables, name: table}})


def read_manifest(directory: Path) -> Manifest | None:
    """The manifest of an export; None where there is none.

    Raises:
        ExportError: it cannot be read, or a newer banditroute made it.
    """
    path = directory / MANIFEST_FILE
    if not path.exists():
        return None
    try:
        text = path.read_text(encoding="utf-8")
        found = Manifest.model_validate_json(text)
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        raise ExportError(f"{path} cannot be read as an export's manifest: {error}") from error
    if found.format_version > FORMAT_VERSION:
        raise ExportError(
            f"{path} has format {found.format_version}, this banditroute knows up to {FORMAT_VERSION}: upgrade banditroute"
        )
    return found


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Replaces the manifest, at once and durably. Raises OSError."""
    draft = directory / (MANIFEST_FILE + DRAFT_SUFFIX)
    with draft.open("w", encoding="utf-8") as file:
        file.write(manifest.model_dump_json(indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    publish(draft, directory / MANIFEST_FILE)


def publish(draft: Path, path: Path) -> None:
    """Gives a file whose content is on the disk its name, durably. Raises OSError."""
    draft.replace(path)
    handle = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """The directory, made if need be, for one export at a time.

    Raises:
        ExportError: another one is at work there, or the directory cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        handle = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ExportError(f"{directory} cannot be written: {error.strerror}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise ExportError(f"another export is writing into {directory}: let it finish, or give another directory") from None
    finally:
        os.close(handle)


def refuse_other_files(directory: Path) -> None:
    """Raises ExportError where a directory without a manifest holds anything: nobody's files are touched."""
    if others := sorted(each.name for each in directory.iterdir() if each.name not in (LOCK_FILE, MANIFEST_FILE + DRAFT_SUFFIX)):
        raise ExportError(f"{directory} is no export but holds other files ({others[0]}): give a new or an empty directory")


def remove_leftovers(directory: Path, manifest: Manifest) -> None:
    """Removes what an interrupted run left: files of an export that the manifest does not name. Raises OSError."""
    named = {part.file for table in manifest.tables.values() for part in table.parts} | {MANIFEST_FILE}
    for path in directory.iterdir():
        if path.name not in named and _OURS.fullmatch(path.name):
            path.unlink()

"""Parquet files on their way: under another name until they are whole and on the disk."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from banditroute.export.manifest import DRAFT_SUFFIX, PartInfo, publish
from banditroute.export.tables import Row

GROUP_ROWS = 8192


class Part:
    """One file with the columns of `kind`, a pyarrow schema. Ends with `finish` or `abandon`. Methods raise OSError."""

    def __init__(self, path: Path, kind: Any) -> None:
        self._path, self._draft = path, path.with_name(path.name + DRAFT_SUFFIX)
        self._kind = kind
        self._arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
        self._file = self._draft.open("wb")
        self._writer = parquet.ParquetWriter(self._file, kind, compression="zstd")
        self._waiting: list[Row] = []
        self.row_count = 0

    def add(self, rows: Sequence[Row]) -> None:
        self._waiting += rows
        self.row_count += len(rows)
        if len(self._waiting) >= GROUP_ROWS:
            self._write()

    def _write(self) -> None:
        self._writer.write_table(self._arrow.Table.from_pylist(self._waiting, schema=self._kind))
        self._waiting = []

    def finish(self) -> PartInfo:
        """What was added, on the disk under its name."""
        if self._waiting:
            self._write()
        self._writer.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        publish(self._draft, self._path)
        return PartInfo(file=self._path.name, row_count=self.row_count)

    def abandon(self) -> None:
        """What was written is removed."""
        with suppress(OSError, self._arrow.ArrowException):
            self._writer.close()
        with suppress(OSError):
            self._file.close()
        self._draft.unlink(missing_ok=True)

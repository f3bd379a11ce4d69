"""The last checkpoint of a shared log on this process's own disk: something to serve from while the store is away."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NamedTuple

from banditroute import logs
from banditroute.log.base import Checkpoint

log = logs.logger("banditroute.log")


class Held(NamedTuple):
    """A checkpoint, and the log that it is of."""

    log_id: str
    epoch: int
    checkpoint: Checkpoint


class LocalCheckpoint:
    """One file, replaced whole: a crash leaves the old one or the new one."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def save(self, held: Held) -> None:
        """Keeps it; a disk that cannot is a warning, since nothing but a start without the store depends on it."""
        position, chain, version, digest, body = held.checkpoint
        head = {"log_id": held.log_id, "epoch": held.epoch, "position": position, "chain": chain.hex(), "fold_version": version}
        draft = self._path.with_suffix(f".{os.getpid()}.tmp")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with draft.open("wb") as file:
                file.write(json.dumps(head | {"digest": digest}).encode() + b"\n" + body)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self._path)
        except OSError as error:
            log.warning("no checkpoint on this machine's disk", path=str(self._path), cause=error.strerror)

    def load(self) -> Held | None:
        """What is kept; None where nothing is, or nothing that can be read."""
        try:
            line, _, body = self._path.read_bytes().partition(b"\n")
            head = json.loads(line)
            checkpoint = Checkpoint(head["position"], bytes.fromhex(head["chain"]), head["fold_version"], head["digest"], body)
            return Held(head["log_id"], head["epoch"], checkpoint)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("the checkpoint on this machine's disk cannot be read", path=str(self._path), cause=str(error))
            return None

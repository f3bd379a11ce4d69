"""A state directory has one owner: the process that holds its lock file's `flock`, which ends with the process."""

from __future__ import annotations

import fcntl
import os
from contextlib import ExitStack
from pathlib import Path

from banditroute.core.errors import StoreInUse, StoreUnavailable

LOCK_FILE = "lock"


class Ownership:
    """Makes the directory if need be, and owns it until `close`, or until whoever inherits `handle` has ended too.

    Raises:
        StoreInUse: another process owns it; says which.
        StoreUnavailable: it cannot be made or written.
    """

    def __init__(self, directory: Path) -> None:
        with ExitStack() as undo:
            try:
                directory.mkdir(parents=True, exist_ok=True)
                self.handle = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                undo.callback(os.close, self.handle)
                fcntl.flock(self.handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.truncate(self.handle, 0)
                os.write(self.handle, str(os.getpid()).encode())
            except BlockingIOError:
                holder = os.read(self.handle, 32).decode(errors="replace").strip()
                raise StoreInUse(
                    f"state directory {directory} is in use by another process{f' (pid {holder})' if holder else ''}: "
                    "stop it, or give this one another `store`"
                ) from None
            except OSError as error:
                raise StoreUnavailable(f"state directory {directory} cannot be used: {error.strerror}") from error
            undo.pop_all()

    def close(self) -> None:
        """Lets go of the directory. Once only."""
        os.close(self.handle)

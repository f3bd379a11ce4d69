"""A replica of a shared log says that it is there, so that all of them change to newer rules of folding at the same event."""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Callable, Mapping
from typing import Protocol

from banditroute import logs
from banditroute._version import __version__
from banditroute.core.errors import StoreClosed, StoreError
from banditroute.core.fold import FOLD_VERSION, OLDEST_FOLD_VERSION

INTERVAL_S = 5.0
LEASE_S = 4 * INTERVAL_S

log = logs.logger("banditroute.engine")


class Announcing(Protocol):
    """What `Presence` needs of a log: see `RedisLog.announce`."""

    def announce(self, replica: str, said: str, lease_s: float) -> tuple[int, Mapping[str, str]]: ...


class Presence:
    """Announces this process until it is closed. `position` gives how far it has folded."""

    def __init__(self, event_log: Announcing, position: Callable[[], int]) -> None:
        self._log, self._position = event_log, position
        self._name = secrets.token_hex(8)
        self._version = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="banditroute-presence", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                self._announce(LEASE_S)
            except StoreClosed:
                return
            except StoreError as error:
                log.debug("not announced", cause=str(error))
            if self._stop.wait(INTERVAL_S):
                return

    def _announce(self, lease_s: float) -> None:
        said = {"version": __version__, "fold_version": FOLD_VERSION, "position": self._position()}
        version, _ = self._log.announce(self._name, json.dumps(said), lease_s)
        if version != self._version:
            self._version = version
            log.info("the log's fold version", fold_version=version, newest_known=FOLD_VERSION)
            if not OLDEST_FOLD_VERSION <= version <= FOLD_VERSION:
                log.critical(
                    "this build does not know the log's fold version: start one that does, or stop all replicas of the older one",
                    fold_version=version,
                    known=[OLDEST_FOLD_VERSION, FOLD_VERSION],
                )

    def close(self) -> None:
        """Says that the replica is gone. Idempotent."""
        if self._stop.is_set():
            return
        self._stop.set()
        self._thread.join()
        try:
            self._announce(0.0)
        except StoreError as error:
            log.debug("not announced", cause=str(error))

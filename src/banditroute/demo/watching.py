"""The journal, as the server tells it: WatchEvents in a thread."""

from __future__ import annotations

import json
import threading
import time
from typing import Any, NamedTuple

from banditroute.client import AdminClient, RequestFailed
from banditroute.client.watch import LAST_INDEX
from banditroute.v1 import admin_pb2 as pb


class Line(NamedTuple):
    """A line of the journal; `time` is when it came in (monotonic seconds), `details` what it says to programs."""

    time: float
    position: int
    kind: str
    summary: str
    details: dict[str, Any]

    @property
    def model(self) -> str:
        """The model that it is about; empty where it is about none."""
        return str(self.details.get("model", ""))


class Watcher:
    """Follows the journal from where the log is now; `lines` grows until `stop`.

    Raises:
        RequestFailed: the server does not say where its log is.
    """

    def __init__(self, address: str) -> None:
        self.lines: list[Line] = []
        self._client = AdminClient(address)
        info = self._client.get_server_info()
        self.start_position = info.log_position
        after = info.epoch, info.log_position, LAST_INDEX
        self._thread = threading.Thread(target=self._follow, args=(after,), name="demo-watcher", daemon=True)
        self._thread.start()

    def log_position(self) -> int:
        """Where the log is now: how many events it has.

        Raises:
            RequestFailed
        """
        return self._client.get_server_info().log_position

    def categories(self) -> list[pb.Category]:
        """All of them, as they are believed to be now.

        Raises:
            RequestFailed
        """
        return self._client.list_categories()

    def stop(self) -> None:
        """Idempotent."""
        self._client.close()
        self._thread.join(10.0)

    def _follow(self, after: tuple[int, int, int]) -> None:
        try:
            for event in self._client.watch_events(after=after):
                details = json.loads(event.details_json or "{}")
                self.lines.append(Line(time.monotonic(), event.position, event.kind, event.summary, details))
        except (RequestFailed, ValueError):  # the client was closed, or the server is gone: the players see that too
            return

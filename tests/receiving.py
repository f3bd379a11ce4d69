"""A real HTTP server to send webhooks to."""

from __future__ import annotations

import json
import queue
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, NamedTuple, Self


class Received(NamedTuple):
    """One POST. Header names are in lower case."""

    headers: dict[str, str]
    body: bytes

    @property
    def data(self) -> Any:
        return json.loads(self.body)

    @property
    def key(self) -> tuple[int, int]:
        return self.data["key"]["position"], self.data["key"]["index"]


class HttpReceiver:
    """Keeps what it is sent, and answers with the next of `answers`, or 204; first it waits for `going`."""

    def __init__(self) -> None:
        self.answers: list[int] = []
        self.going = threading.Event()
        self.going.set()
        self._received: queue.SimpleQueue[Received] = queue.SimpleQueue()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer._received.put(Received({name.lower(): value for name, value in self.headers.items()}, body))
                outer.going.wait(60.0)
                status = outer.answers.pop(0) if outer.answers else 204
                try:
                    self.send_response(status)
                    if 300 <= status < 400:
                        self.send_header("Location", outer.url + "/elsewhere")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                except OSError:  # the sender was killed
                    self.close_connection = True

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def next(self) -> Received:
        """Waits for the next POST."""
        return self._received.get(timeout=60.0)

    def none_left(self) -> bool:
        return self._received.empty()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.going.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

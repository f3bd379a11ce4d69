"""A TCP proxy between replicas and Redis that can be turned against them: it cuts, holds and points elsewhere."""

from __future__ import annotations

import contextlib
import socket
import threading

CHUNK_BYTES = 65_536


class _Pair:
    """The two ends of one connection. `doomed`: its next answer is not given."""

    def __init__(self, near: socket.socket, far: socket.socket) -> None:
        self.near, self.far, self.doomed = near, far, False

    def close(self) -> None:
        for end in (self.near, self.far):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


class Proxy:
    """Forwards connections on `port` of the loopback to `target`, a port there."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self.cut_count = 0
        self._word: bytes | None = None
        self._flowing = threading.Event()
        self._flowing.set()
        self._pairs: set[_Pair] = set()
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def cut_after(self, word: bytes) -> None:
        """Cuts the connection of the next request that holds `word`, once the server has answered and before anybody hears."""
        self._word = word

    def hold(self) -> None:
        """Gives no more answers, until `release`; what was held is lost with a connection that ends meanwhile."""
        self._flowing.clear()

    def release(self) -> None:
        self._flowing.set()

    def point(self, target: int) -> None:
        """Goes elsewhere from now on, and ends all connections."""
        self._target = target
        self.drop()

    def drop(self) -> None:
        """Ends all connections."""
        with self._lock:
            pairs, self._pairs = self._pairs, set()
        for pair in pairs:
            pair.close()

    def close(self) -> None:
        self._listening.close()
        self.drop()
        self.release()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                near.close()
                continue
            pair = _Pair(near, far)
            for end in (near, far):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._pairs.add(pair)
            threading.Thread(target=self._requests, args=(pair,), daemon=True).start()
            threading.Thread(target=self._answers, args=(pair,), daemon=True).start()

    def _requests(self, pair: _Pair) -> None:
        with contextlib.suppress(OSError):
            while data := pair.near.recv(CHUNK_BYTES):
                if self._word is not None and self._word in data:
                    self._word, pair.doomed = None, True
                pair.far.sendall(data)
        self._end(pair)

    def _answers(self, pair: _Pair) -> None:
        with contextlib.suppress(OSError):
            while data := pair.far.recv(CHUNK_BYTES):
                if pair.doomed:
                    self.cut_count += 1
                    break
                self._flowing.wait()
                pair.near.sendall(data)
        self._end(pair)

    def _end(self, pair: _Pair) -> None:
        with self._lock:
            self._pairs.discard(pair)
        pair.close()

"""Ports that several processes listen on: one process finds and holds them, so that all get the same."""

from __future__ import annotations

import socket
from contextlib import ExitStack

from banditroute.server.lifecycle import ListenFailed

ANY_PORT = 0


class HeldPort:
    """HOST:PORT, bound for sharing and not listened on, until `close`. Port 0 takes a free one.

    Raises:
        ListenFailed: it is in use, also by another service that shares its ports; or it is not an address of this machine.
    """

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        if not hasattr(socket, "SO_REUSEPORT"):
            raise ListenFailed("workers need SO_REUSEPORT, which this system has not")
        self.port = int(port)
        with ExitStack() as undo:
            try:
                self._bind(host.strip("[]"), undo)
            except (OSError, OverflowError) as error:
                raise ListenFailed(f"cannot listen on {address!r}: {getattr(error, 'strerror', None) or error}") from error
            self._held = undo.pop_all()
        self.address = f"{host}:{self.port}"

    def _bind(self, host: str, undo: ExitStack) -> None:
        found = dict.fromkeys(
            (family, place[:2]) for family, _, _, _, place in socket.getaddrinfo(host, self.port, type=socket.SOCK_STREAM)
        )
        for family, (name, _) in found:
            if self.port != ANY_PORT:  # who shares a port gets it also where another service has it
                with socket.socket(family, socket.SOCK_STREAM) as probe:
                    _prepare(probe, family, socket.SO_REUSEADDR)
                    probe.bind((name, self.port))
            held = undo.enter_context(socket.socket(family, socket.SOCK_STREAM))
            _prepare(held, family, socket.SO_REUSEPORT)
            held.bind((name, self.port))
            self.port = held.getsockname()[1]

    def close(self) -> None:
        """Lets go of it. Idempotent."""
        self._held.close()


def _prepare(bound: socket.socket, family: int, option: int) -> None:
    bound.setsockopt(socket.SOL_SOCKET, option, 1)
    if family == socket.AF_INET6:
        bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)

"""Commands on one connection, the first of which are at work while the last are still being made.

redis-py's pipeline sends when all are there, so that server and client wait for each other in turn.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import redis
from redis.exceptions import ResponseError

SEND_EVERY = 16
"""Commands that are sent at once. Their answers, some 30 bytes each, wait in the socket until all are sent."""


def packed(command: Sequence[str | bytes | int | float]) -> bytes:
    """A command in Redis's protocol; redis-py's own packing takes three times as long, and was a quarter of a feedback."""
    raws = [each if type(each) is bytes else str(each).encode() for each in command]
    parts: list[bytes | int] = [len(raws)]
    for raw in raws:
        parts += (len(raw), raw)
    return _form(len(raws)) % tuple(parts)


@functools.lru_cache(64)
def _form(count: int) -> bytes:
    return b"*%d\r\n" + b"$%d\r\n%b\r\n" * count


class Pipe:
    """Keeps one connection of `client`'s. What raises a redis.RedisError or OSError leaves it of no more use."""

    def __init__(self, client: redis.Redis) -> None:
        self._client: Any = client.client()  # type: ignore[no-untyped-call]
        self._packed: list[bytes] = []
        self._count = 0

    def execute_command(self, *command: Any) -> None:
        """Puts a command on its way."""
        self._packed.append(packed(command))
        self._count += 1
        if self._count % SEND_EVERY == 0:
            self._send()

    def evalsha(self, *arguments: Any) -> None:
        """See `execute_command`."""
        self.execute_command("EVALSHA", *arguments)

    def _send(self) -> None:
        if self._packed:
            self._client.connection.send_packed_command([b"".join(self._packed)])  # a system call for each item
            self._packed = []

    def replies(self) -> list[Any]:
        """The answers to all commands since the last call, errors of single commands among them."""
        self._send()
        count, self._count = self._count, 0
        return [self._reply() for _ in range(count)]

    def _reply(self) -> Any:
        try:
            return self._client.connection.read_response()
        except ResponseError as error:
            return error

    def close(self) -> None:
        self._client.close()

"""One call: how it fails, when it is tried again, and over what."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import grpc
import grpc.aio
from google.rpc import error_details_pb2, status_pb2

BACKOFF_S = 0.05
MAX_BACKOFF_S = 2.0

_DETAILS = "grpc-status-details-bin"
_OPTIONS = (
    # One connection each: connections, not calls, are spread over servers.
    ("grpc.use_local_subchannel_pool", 1),
    # An address may stand for several servers: calls take turns, so a retry reaches another one.
    ("grpc.lb_policy_name", "round_robin"),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # Else a stream whose server is gone without a word waits for ever.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
)

_A = TypeVar("_A")


class FieldViolation(NamedTuple):
    """One wrong field of a request. `field` is a path such as ``signals[1].rating.value``."""

    field: str
    description: str


class RequestFailed(Exception):
    """A call that the server refused or that never reached it.

    `code` is gRPC's; `reason` the server's stable word for it, such as ``UNKNOWN_CATEGORY`` (empty where the server did
    not answer); `field_violations` all wrong fields; `metadata` particulars; `retry_delay_s` when the server asks to wait.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        *,
        reason: str = "",
        field_violations: tuple[FieldViolation, ...] = (),
        metadata: Mapping[str, str] | None = None,
        retry_delay_s: float = 0.0,
    ) -> None:
        super().__init__(f"{reason or code.name}: {message}")
        self.code = code
        self.message = message
        self.reason = reason
        self.field_violations = field_violations
        self.metadata = dict(metadata or {})
        self.retry_delay_s = retry_delay_s

    @classmethod
    def from_status(cls, status: status_pb2.Status) -> RequestFailed:
        """From a google.rpc.Status, such as that of a batch's item."""
        info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
        for detail in status.details:
            for known in (info, bad, retry):
                detail.Unpack(known)
        return cls(
            _CODES.get(status.code, grpc.StatusCode.UNKNOWN),
            status.message,
            reason=info.reason,
            field_violations=tuple(FieldViolation(v.field, v.description) for v in bad.field_violations),
            metadata=dict(info.metadata),
            retry_delay_s=retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9,
        )

    @classmethod
    def from_error(cls, error: grpc.RpcError) -> RequestFailed:
        """From what a stub raised."""
        call: Any = error  # What stubs raise is a Call too, which their types do not say.
        for key, value in call.trailing_metadata() or ():
            if key == _DETAILS:
                return cls.from_status(status_pb2.Status.FromString(value))
        return cls(call.code(), call.details() or "")


_CODES: Mapping[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


class Attempts:
    """One call's deadline and attempts: the retry policy, for whoever does the waiting."""

    def __init__(self, timeout_s: float, max_attempts: int) -> None:
        self._end = time.monotonic() + timeout_s
        self._left = max_attempts
        self._backoff_s = BACKOFF_S

    def remaining_s(self) -> float:
        return max(0.0, self._end - time.monotonic())

    def pause_after(self, error: grpc.RpcError) -> float:
        """Seconds to wait before the next attempt. Raises RequestFailed where there should be none."""
        failure = RequestFailed.from_error(error)
        self._left -= 1
        pause_s = max(self._backoff_s * random.uniform(0.5, 1.0), failure.retry_delay_s)
        self._backoff_s = min(2 * self._backoff_s, MAX_BACKOFF_S)
        if failure.code is not grpc.StatusCode.UNAVAILABLE or self._left < 1 or pause_s >= self.remaining_s():
            raise failure from None
        return pause_s


def send(method: Callable[..., _A], request: object, call: Attempts) -> _A:
    while True:
        try:
            return method(request, timeout=call.remaining_s())
        except grpc.RpcError as error:
            failed = error
        time.sleep(call.pause_after(failed))


async def asend(method: Callable[..., Awaitable[_A]], request: object, call: Attempts) -> _A:
    while True:
        try:
            return await method(request, timeout=call.remaining_s())
        except grpc.RpcError as error:
            failed = error
        await asyncio.sleep(call.pause_after(failed))


def channel(address: str, credentials: grpc.ChannelCredentials | None) -> grpc.Channel:
    if credentials is None:
        return grpc.insecure_channel(address, options=_OPTIONS)
    return grpc.secure_channel(address, credentials, options=_OPTIONS)


def aio_channel(address: str, credentials: grpc.ChannelCredentials | None) -> grpc.aio.Channel:
    if credentials is None:
        return grpc.aio.insecure_channel(address, options=_OPTIONS)
    return grpc.aio.secure_channel(address, credentials, options=_OPTIONS)

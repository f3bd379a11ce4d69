"""Clients of the RouterService."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from types import TracebackType
from typing import Self, Unpack

import grpc

from banditroute.client.calls import Attempts, aio_channel, asend, channel, send
from banditroute.client.requests import FeedbackFields, RouteFields, feedback_request, keyed_batch, route_request
from banditroute.v1 import router_pb2, router_pb2_grpc


class Client:
    """A client for threads; share one. `channels` connections are taken in turn.

    `timeout_s` is a call's whole time, retries included. Without `credentials` the connection is plain text.
    Every method raises RequestFailed.
    """

    def __init__(
        self,
        address: str,
        *,
        channels: int = 2,
        timeout_s: float = 5.0,
        credentials: grpc.ChannelCredentials | None = None,
        max_attempts: int = 4,
    ) -> None:
        self._channels = [channel(address, credentials) for _ in range(channels)]
        self._stubs = itertools.cycle([router_pb2_grpc.RouterServiceStub(each) for each in self._channels])
        self._timeout_s = timeout_s
        self._max_attempts = max_attempts

    def route(self, category: str, *, timeout_s: float | None = None, **fields: Unpack[RouteFields]) -> router_pb2.RouteResponse:
        """Chooses the model for one task."""
        return send(next(self._stubs).Route, route_request(category, **fields), self._call(timeout_s))

    def feedback(
        self, decision_id: str, *, timeout_s: float | None = None, **fields: Unpack[FeedbackFields]
    ) -> router_pb2.FeedbackResponse:
        """Reports how a decision went; returns when that is durable."""
        return send(next(self._stubs).Feedback, feedback_request(decision_id, **fields), self._call(timeout_s))

    def batch_route(
        self, requests: Iterable[router_pb2.RouteRequest], *, timeout_s: float | None = None
    ) -> router_pb2.BatchRouteResponse:
        """`route` for up to 100 `route_request`s; see `RequestFailed.from_status` for an item's failure."""
        return send(next(self._stubs).BatchRoute, keyed_batch(requests), self._call(timeout_s))

    def batch_feedback(
        self, requests: Iterable[router_pb2.FeedbackRequest], *, timeout_s: float | None = None
    ) -> router_pb2.BatchFeedbackResponse:
        """`feedback` for up to 100 `feedback_request`s; see `RequestFailed.from_status` for an item's failure."""
        batch = router_pb2.BatchFeedbackRequest(requests=requests)
        return send(next(self._stubs).BatchFeedback, batch, self._call(timeout_s))

    def close(self) -> None:
        for each in self._channels:
            each.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _call(self, timeout_s: float | None) -> Attempts:
        return Attempts(self._timeout_s if timeout_s is None else timeout_s, self._max_attempts)


class AsyncClient:
    """`Client` for asyncio. Make it where its event loop runs."""

    def __init__(
        self,
        address: str,
        *,
        channels: int = 2,
        timeout_s: float = 5.0,
        credentials: grpc.ChannelCredentials | None = None,
        max_attempts: int = 4,
    ) -> None:
        self._channels = [aio_channel(address, credentials) for _ in range(channels)]
        self._stubs = itertools.cycle([router_pb2_grpc.RouterServiceStub(each) for each in self._channels])
        self._timeout_s = timeout_s
        self._max_attempts = max_attempts

    async def route(
        self, category: str, *, timeout_s: float | None = None, **fields: Unpack[RouteFields]
    ) -> router_pb2.RouteResponse:
        """Chooses the model for one task."""
        return await asend(next(self._stubs).Route, route_request(category, **fields), self._call(timeout_s))

    async def feedback(
        self, decision_id: str, *, timeout_s: float | None = None, **fields: Unpack[FeedbackFields]
    ) -> router_pb2.FeedbackResponse:
        """Reports how a decision went; returns when that is durable."""
        return await asend(next(self._stubs).Feedback, feedback_request(decision_id, **fields), self._call(timeout_s))

    async def batch_route(
        self, requests: Iterable[router_pb2.RouteRequest], *, timeout_s: float | None = None
    ) -> router_pb2.BatchRouteResponse:
        """`route` for up to 100 `route_request`s; see `RequestFailed.from_status` for an item's failure."""
        return await asend(next(self._stubs).BatchRoute, keyed_batch(requests), self._call(timeout_s))

    async def batch_feedback(
        self, requests: Iterable[router_pb2.FeedbackRequest], *, timeout_s: float | None = None
    ) -> router_pb2.BatchFeedbackResponse:
        """`feedback` for up to 100 `feedback_request`s; see `RequestFailed.from_status` for an item's failure."""
        batch = router_pb2.BatchFeedbackRequest(requests=requests)
        return await asend(next(self._stubs).BatchFeedback, batch, self._call(timeout_s))

    async def close(self) -> None:
        for each in self._channels:
            await each.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    def _call(self, timeout_s: float | None) -> Attempts:
        return Attempts(self._timeout_s if timeout_s is None else timeout_s, self._max_attempts)

"""RouterService: decode, one call of the engine, encode."""

# ruff: noqa: N802 - the contract names the methods

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import TypeVar

import grpc
from google.rpc import status_pb2

from banditroute.core.errors import StaleState
from banditroute.core.types import FeedbackReceipt
from banditroute.server import convert
from banditroute.server.admission import Deadline, Permits
from banditroute.server.port import EnginePort
from banditroute.server.status import NotConfirmed, abort, status_of
from banditroute.v1 import router_pb2 as pb
from banditroute.v1 import router_pb2_grpc

MAX_STATE_WAIT_S = 1.0
# For calls without a deadline of their own, which would else hold their permit for as long as a store hangs.
MAX_FEEDBACK_WAIT_S = 60.0

_S = TypeVar("_S")
_Q = TypeVar("_Q")
_A = TypeVar("_A")


def answered(handler: Callable[[_S, _Q, grpc.ServicerContext], _A]) -> Callable[[_S, _Q, grpc.ServicerContext], _A]:
    """Turns whatever the handler raises into the error table's status. Cheaper than an interceptor."""
    method = handler.__name__

    @functools.wraps(handler)
    def answer(self: _S, request: _Q, context: grpc.ServicerContext) -> _A:
        try:
            return handler(self, request, context)
        except Exception as error:  # nothing of it may reach the client
            return abort(context, error, method=method)

    return answer


def streamed(
    handler: Callable[[_S, _Q, grpc.ServicerContext], Iterator[_A]],
) -> Callable[[_S, _Q, grpc.ServicerContext], Iterator[_A]]:
    """`answered` for a handler that answers with a stream."""
    method = handler.__name__

    @functools.wraps(handler)
    def answer(self: _S, request: _Q, context: grpc.ServicerContext) -> Iterator[_A]:
        try:
            yield from handler(self, request, context)
        except Exception as error:  # nothing of it may reach the client
            if context.is_active():
                abort(context, error, method=method)

    return answer


class RouterService(router_pb2_grpc.RouterServiceServicer):
    """`max_concurrent_requests` bounds all calls, `max_concurrent_feedback` those of them that may wait for something.

    A call beyond either is refused at once (RESOURCE_EXHAUSTED), so a stuck store never takes Route's threads.
    """

    def __init__(self, engine: EnginePort, *, max_concurrent_requests: int, max_concurrent_feedback: int) -> None:
        self._engine = engine
        self._requests = Permits(
            max_concurrent_requests,
            refusal=f"all {max_concurrent_requests} requests that may run at once are running; retry, or send fewer at once",
        )
        self._waiting = Permits(
            max_concurrent_feedback,
            refusal=f"all {max_concurrent_feedback} calls that may wait for the log are waiting; retry, or send fewer at once",
        )

    @answered
    def Route(self, request: pb.RouteRequest, context: grpc.ServicerContext) -> pb.RouteResponse:
        with self._requests:
            if request.min_state_position:
                return self._route_after(request, Deadline(context.time_remaining(), limit_s=MAX_STATE_WAIT_S))
            return convert.encode_decision(self._engine.route(convert.decode_route(request)), explain=request.explain)

    @answered
    def BatchRoute(self, request: pb.BatchRouteRequest, context: grpc.ServicerContext) -> pb.BatchRouteResponse:
        with self._requests:
            convert.check_batch(len(request.requests))
            deadline = Deadline(context.time_remaining(), limit_s=MAX_STATE_WAIT_S)
            return pb.BatchRouteResponse(results=[self._route_item(item, deadline) for item in request.requests])

    def _route_item(self, item: pb.RouteRequest, deadline: Deadline) -> pb.BatchRouteResult:
        try:
            return pb.BatchRouteResult(response=self._route_after(item, deadline))
        except Exception as error:  # each item fails on its own
            return pb.BatchRouteResult(status=status_of(error, method="BatchRoute"))

    def _route_after(self, request: pb.RouteRequest, deadline: Deadline) -> pb.RouteResponse:
        """Route, waiting for its `min_state_position` until `deadline`. Only a call that has to wait takes a permit."""
        query, position = convert.decode_route(request), request.min_state_position
        try:
            decision = self._engine.route(query, min_state_position=position, timeout_s=0.0)
        except StaleState:
            with self._waiting:
                decision = self._engine.route(query, min_state_position=position, timeout_s=deadline.remaining_s())
        return convert.encode_decision(decision, explain=request.explain)

    @answered
    def Feedback(self, request: pb.FeedbackRequest, context: grpc.ServicerContext) -> pb.FeedbackResponse:
        with self._requests, self._waiting:
            deadline = Deadline(context.time_remaining(), limit_s=MAX_FEEDBACK_WAIT_S)
            return _await(self._engine.submit(convert.decode_feedback(request)), deadline)

    @answered
    def BatchFeedback(self, request: pb.BatchFeedbackRequest, context: grpc.ServicerContext) -> pb.BatchFeedbackResponse:
        with self._requests, self._waiting:
            convert.check_batch(len(request.requests))
            deadline = Deadline(context.time_remaining(), limit_s=MAX_FEEDBACK_WAIT_S)
            # All are handed over before any is waited for, so that the log commits them together.
            submitted = [self._submit_item(item) for item in request.requests]
            return pb.BatchFeedbackResponse(results=[_feedback_result(item, deadline) for item in submitted])

    def _submit_item(self, item: pb.FeedbackRequest) -> Future[FeedbackReceipt] | status_pb2.Status:
        try:
            return self._engine.submit(convert.decode_feedback(item))
        except Exception as error:  # each item fails on its own
            return status_of(error, method="BatchFeedback")


def _feedback_result(item: Future[FeedbackReceipt] | status_pb2.Status, deadline: Deadline) -> pb.BatchFeedbackResult:
    if not isinstance(item, Future):
        return pb.BatchFeedbackResult(status=item)
    try:
        return pb.BatchFeedbackResult(response=_await(item, deadline))
    except Exception as error:  # each item fails on its own
        return pb.BatchFeedbackResult(status=status_of(error, method="BatchFeedback"))


def _await(future: Future[FeedbackReceipt], deadline: Deadline) -> pb.FeedbackResponse:
    """Raises NotConfirmed where the feedback is not durable by `deadline`, and what the log raises."""
    try:
        receipt = future.result(deadline.remaining_s())
    except TimeoutError:
        if not future.done():
            raise NotConfirmed("not known to be durable within the call's deadline; it may yet be: send it again") from None
        receipt = future.result()
    return convert.encode_receipt(receipt)

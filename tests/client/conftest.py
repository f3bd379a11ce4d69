"""A server that says what the test told it to: the client knows the contract only, and so does this."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from banditroute.v1 import admin_pb2, admin_pb2_grpc, router_pb2, router_pb2_grpc


def refusal(
    code: grpc.StatusCode, *, reason: str = "REASON", retry_s: float | None = None, details: tuple[Message, ...] = ()
) -> status_pb2.Status:
    status = status_pb2.Status(code=code.value[0], message="because")
    info = error_details_pb2.ErrorInfo(reason=reason, domain="banditroute", metadata={"key": "value"})
    status.details.add().Pack(info)
    for detail in details:
        status.details.add().Pack(detail)
    if retry_s is not None:
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=Duration(nanos=int(retry_s * 1e9))))
    return status


UNAVAILABLE = refusal(grpc.StatusCode.UNAVAILABLE, retry_s=0.001)


class Scripted(router_pb2_grpc.RouterServiceServicer, admin_pb2_grpc.AdminServiceServicer):
    """Answers the next calls with `refusals`, in turn, and then well."""

    def __init__(self) -> None:
        self.port = 0
        self.refusals: list[status_pb2.Status] = []
        self.requests: list[Message] = []
        self.peers: list[str] = []

    def _take(self, request: Message, context: grpc.ServicerContext) -> None:
        self.requests.append(request)
        self.peers.append(context.peer())
        if self.refusals:
            context.abort_with_status(rpc_status.to_status(self.refusals.pop(0)))

    def Route(self, request: router_pb2.RouteRequest, context: grpc.ServicerContext) -> router_pb2.RouteResponse:
        self._take(request, context)
        return router_pb2.RouteResponse(model="m")

    def BatchRoute(self, request: router_pb2.BatchRouteRequest, context: grpc.ServicerContext) -> router_pb2.BatchRouteResponse:
        self._take(request, context)
        status = refusal(grpc.StatusCode.NOT_FOUND, reason="UNKNOWN_CATEGORY")
        return router_pb2.BatchRouteResponse(results=[router_pb2.BatchRouteResult(status=status)])

    def Feedback(self, request: router_pb2.FeedbackRequest, context: grpc.ServicerContext) -> router_pb2.FeedbackResponse:
        self._take(request, context)
        return router_pb2.FeedbackResponse(state_position=7)

    def BatchFeedback(
        self, request: router_pb2.BatchFeedbackRequest, context: grpc.ServicerContext
    ) -> router_pb2.BatchFeedbackResponse:
        self._take(request, context)
        return router_pb2.BatchFeedbackResponse()

    def ListCategories(
        self, request: admin_pb2.ListCategoriesRequest, context: grpc.ServicerContext
    ) -> admin_pb2.ListCategoriesResponse:
        self._take(request, context)
        name, token = ("b", "") if request.page_token else ("a", "next")
        return admin_pb2.ListCategoriesResponse(categories=[admin_pb2.Category(name=name)], next_page_token=token)

    def GetCategory(self, request: admin_pb2.GetCategoryRequest, context: grpc.ServicerContext) -> admin_pb2.GetCategoryResponse:
        self._take(request, context)
        return admin_pb2.GetCategoryResponse(category=admin_pb2.Category(name=request.name))

    def UpdateCategory(
        self, request: admin_pb2.UpdateCategoryRequest, context: grpc.ServicerContext
    ) -> admin_pb2.UpdateCategoryResponse:
        self._take(request, context)
        return admin_pb2.UpdateCategoryResponse(category=request.category, state_position=9)

    def ListEvents(self, request: admin_pb2.ListEventsRequest, context: grpc.ServicerContext) -> admin_pb2.ListEventsResponse:
        self._take(request, context)
        start = int(request.page_token or 2500)
        last = max(0, start - min(request.page_size, 700))  # pages may be shorter than asked for
        events = [admin_pb2.JournalEntry(position=position) for position in range(start, last, -1)]
        return admin_pb2.ListEventsResponse(events=events, next_page_token=str(last) if last else "")

    def WatchEvents(
        self, request: admin_pb2.WatchEventsRequest, context: grpc.ServicerContext
    ) -> Iterator[admin_pb2.WatchEventsResponse]:
        """One event, and then the end of the stream."""
        self._take(request, context)
        position = request.start_after.position + 1
        yield admin_pb2.WatchEventsResponse(event=admin_pb2.JournalEntry(epoch=1, position=position))

    def PauseArm(self, request: admin_pb2.PauseArmRequest, context: grpc.ServicerContext) -> admin_pb2.PauseArmResponse:
        self._take(request, context)
        return admin_pb2.PauseArmResponse(state_position=9)

    def ResumeArm(self, request: admin_pb2.ResumeArmRequest, context: grpc.ServicerContext) -> admin_pb2.ResumeArmResponse:
        self._take(request, context)
        return admin_pb2.ResumeArmResponse(state_position=9)

    def ResetArm(self, request: admin_pb2.ResetArmRequest, context: grpc.ServicerContext) -> admin_pb2.ResetArmResponse:
        self._take(request, context)
        return admin_pb2.ResetArmResponse(state_position=9)

    def GetServerInfo(
        self, request: admin_pb2.GetServerInfoRequest, context: grpc.ServicerContext
    ) -> admin_pb2.GetServerInfoResponse:
        self._take(request, context)
        return admin_pb2.GetServerInfoResponse(version="1.2.3", epoch=1, state_position=6)


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    service = Scripted()
    server = grpc.server(ThreadPoolExecutor(4))
    router_pb2_grpc.add_RouterServiceServicer_to_server(service, server)
    admin_pb2_grpc.add_AdminServiceServicer_to_server(service, server)
    service.port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield service
    server.stop(None).wait()


@pytest.fixture
def address(scripted: Scripted) -> str:
    return f"127.0.0.1:{scripted.port}"

"""AdminService: decode, one call of the engine, encode."""

# ruff: noqa: N802 - the contract names the methods

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar, cast

import grpc
from google.protobuf.message import Message

from banditroute.core.errors import FieldViolation, InvalidRequest
from banditroute.core.types import CategoryReport
from banditroute.server import convert_admin as convert
from banditroute.server.admission import Permits
from banditroute.server.port import EnginePort
from banditroute.server.servicer import answered, streamed
from banditroute.server.status import ShuttingDown
from banditroute.v1 import admin_pb2 as pb
from banditroute.v1 import admin_pb2_grpc

# A page ends early here, so that no response outgrows the 4 MiB that gRPC clients take by default.
PAGE_BYTES = 3_000_000
WATCH_ROWS = 100

_FIELDS = {"cost_weight": "category.cost_weight", "latency_weight": "category.latency_weight", "reason": "change_reason"}

_T = TypeVar("_T")
_M = TypeVar("_M", bound=Message)


class AdminService(admin_pb2_grpc.AdminServiceServicer):
    """`max_watches` bounds the calls of WatchEvents, each of which holds a thread for as long as it lives."""

    def __init__(self, engine: EnginePort, *, max_watches: int) -> None:
        self._engine = engine
        self._watches = Permits(
            max_watches,
            refusal=f"all {max_watches} callers that may watch events at once are watching: end one, or read ListEvents",
        )
        self._stopping = False

    @answered
    def ListCategories(self, request: pb.ListCategoriesRequest, context: grpc.ServicerContext) -> pb.ListCategoriesResponse:
        size, after = convert.decode_page(request.page_size, request.page_token, kind="categories", shape=(str,))
        rows = [report for report in self._engine.categories() if after is None or report.name > after[0]]
        page, more = _page(rows, size, convert.encode_category)
        token = convert.encode_page_token("categories", page[-1].name) if more else ""
        return pb.ListCategoriesResponse(categories=page, next_page_token=token)

    @answered
    def GetCategory(self, request: pb.GetCategoryRequest, context: grpc.ServicerContext) -> pb.GetCategoryResponse:
        return pb.GetCategoryResponse(category=convert.encode_category(self._engine.category(request.name)))

    @answered
    def UpdateCategory(self, request: pb.UpdateCategoryRequest, context: grpc.ServicerContext) -> pb.UpdateCategoryResponse:
        change = convert.decode_update(request, peer=context.peer())
        report, position = self._set_weights(change)
        return pb.UpdateCategoryResponse(category=convert.encode_category(report), state_position=position)

    def _set_weights(self, change: convert.WeightChange) -> tuple[CategoryReport, int | None]:
        try:
            return self._engine.set_weights(
                change.category,
                change.changes,
                reason=change.reason,
                actor=change.actor,
                etag=change.etag,
                validate_only=change.validate_only,
            )
        except InvalidRequest as error:
            # The engine names its own arguments; the client knows the message's fields.
            raise InvalidRequest(
                [FieldViolation(_FIELDS.get(v.field, v.field), v.description) for v in error.violations]
            ) from error

    @answered
    def ListEvents(self, request: pb.ListEventsRequest, context: grpc.ServicerContext) -> pb.ListEventsResponse:
        size, after = convert.decode_page(request.page_size, request.page_token, kind="events", shape=(int, int, int))
        rows = self._engine.journal(before=cast("tuple[int, int, int] | None", after), limit=size + 1)
        page, more = _page(rows, size, convert.encode_journal_row)
        last = page[-1] if more else None
        token = convert.encode_page_token("events", last.epoch, last.position, last.index) if last else ""
        return pb.ListEventsResponse(events=page, next_page_token=token)

    @streamed
    def WatchEvents(self, request: pb.WatchEventsRequest, context: grpc.ServicerContext) -> Iterator[pb.WatchEventsResponse]:
        after = convert.decode_watch(request)
        gone = threading.Event()

        def leave() -> None:
            gone.set()
            self._engine.wake_journal()

        def ended() -> bool:
            return self._stopping or gone.is_set()

        with self._watches:
            if not context.add_callback(leave):
                return
            key = after or self._engine.journal_end(ended)
            context.send_initial_metadata(())  # from here on the caller misses nothing
            while key is not None and not ended():
                for row in self._engine.journal_after(key, limit=WATCH_ROWS, ended=ended):
                    yield pb.WatchEventsResponse(event=convert.encode_journal_row(row))
                    key = row.epoch, row.position, row.index
        if self._stopping:
            raise ShuttingDown("the server is shutting down: watch again from the last event's key")

    def end_watches(self) -> None:
        """Ends every WatchEvents, and those that are yet to come."""
        self._stopping = True
        self._engine.wake_journal()

    @answered
    def PauseArm(self, request: pb.PauseArmRequest, context: grpc.ServicerContext) -> pb.PauseArmResponse:
        change = convert.decode_arm_change(request, peer=context.peer())
        found, position = self._engine.pause_arm(**change._asdict())
        return pb.PauseArmResponse(categories=map(convert.encode_category, found), state_position=position)

    @answered
    def ResumeArm(self, request: pb.ResumeArmRequest, context: grpc.ServicerContext) -> pb.ResumeArmResponse:
        change = convert.decode_arm_change(request, peer=context.peer())
        found, position = self._engine.resume_arm(**change._asdict())
        return pb.ResumeArmResponse(categories=map(convert.encode_category, found), state_position=position)

    @answered
    def ResetArm(self, request: pb.ResetArmRequest, context: grpc.ServicerContext) -> pb.ResetArmResponse:
        change = convert.decode_arm_change(request, peer=context.peer())
        found, position = self._engine.reset_arm(**change._asdict())
        return pb.ResetArmResponse(categories=map(convert.encode_category, found), state_position=position)

    @answered
    def GetServerInfo(self, request: pb.GetServerInfoRequest, context: grpc.ServicerContext) -> pb.GetServerInfoResponse:
        return convert.encode_info(self._engine.info())


def _page(rows: Sequence[_T], size: int, encode: Callable[[_T], _M]) -> tuple[list[_M], bool]:
    """The first rows, at most `size` and PAGE_BYTES of them but at least one, and whether more follow."""
    page: list[_M] = []
    taken = 0
    for row in rows[:size]:
        message = encode(row)
        taken += message.ByteSize()
        if page and taken > PAGE_BYTES:
            break
        page.append(message)
    return page, len(page) < len(rows)

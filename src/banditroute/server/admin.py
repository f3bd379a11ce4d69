"""AdminService: decode, one call of the engine, encode."""

# ruff: noqa: N802 - the contract names the methods

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar, cast

import grpc
from google.protobuf.message import Message

from banditroute.core.errors import FieldViolation, InvalidRequest
from banditroute.core.types import CategoryReport
from banditroute.server import convert_admin as convert
from banditroute.server.port import EnginePort
from banditroute.server.servicer import answered
from banditroute.v1 import admin_pb2 as pb
from banditroute.v1 import admin_pb2_grpc

# A page ends early here, so that no response outgrows the 4 MiB that gRPC clients take by default.
PAGE_BYTES = 3_000_000

_FIELDS = {"cost_weight": "category.cost_weight", "latency_weight": "category.latency_weight", "reason": "change_reason"}

_T = TypeVar("_T")
_M = TypeVar("_M", bound=Message)


class AdminService(admin_pb2_grpc.AdminServiceServicer):
    def __init__(self, engine: EnginePort) -> None:
        self._engine = engine

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

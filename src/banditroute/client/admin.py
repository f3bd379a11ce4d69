"""A client of the AdminService."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
from google.protobuf.field_mask_pb2 import FieldMask

from banditroute.client.calls import Attempts, RequestFailed, channel, send
from banditroute.client.watch import LAST_INDEX, EventKey, watch
from banditroute.v1 import admin_pb2, admin_pb2_grpc

_A = TypeVar("_A")


class AdminClient:
    """A client of the admin listener. Every method raises RequestFailed. Reads are retried, changes are not."""

    def __init__(
        self,
        address: str,
        *,
        timeout_s: float = 5.0,
        credentials: grpc.ChannelCredentials | None = None,
        max_attempts: int = 4,
    ) -> None:
        self._channel = channel(address, credentials)
        self._stub = admin_pb2_grpc.AdminServiceStub(self._channel)
        self._timeout_s = timeout_s
        self._max_attempts = max_attempts

    def list_categories(self) -> list[admin_pb2.Category]:
        """All of them, sorted by name."""
        found: list[admin_pb2.Category] = []
        request = admin_pb2.ListCategoriesRequest()
        while True:
            page = self._read(self._stub.ListCategories, request)
            found.extend(page.categories)
            request.page_token = page.next_page_token
            if not request.page_token:
                return found

    def get_category(self, name: str) -> admin_pb2.Category:
        return self._read(self._stub.GetCategory, admin_pb2.GetCategoryRequest(name=name)).category

    def update_category(
        self,
        name: str,
        changes: Mapping[str, float | None],
        *,
        reason: str,
        actor: str = "",
        etag: str = "",
        validate_only: bool = False,
    ) -> admin_pb2.UpdateCategoryResponse:
        """Sets cost_weight and latency_weight; None returns one to the configuration file's value."""
        given: dict[str, Any] = {field: value for field, value in changes.items() if value is not None}
        request = admin_pb2.UpdateCategoryRequest(
            category=admin_pb2.Category(name=name, **given),
            update_mask=FieldMask(paths=changes),
            change_reason=reason,
            actor=actor,
            etag=etag,
            validate_only=validate_only,
        )
        return send(self._stub.UpdateCategory, request, Attempts(self._timeout_s, max_attempts=1))

    def list_events(self, *, limit: int = 100) -> list[admin_pb2.JournalEntry]:
        """The newest `limit` lines of the journal, newest first."""
        found: list[admin_pb2.JournalEntry] = []
        token = ""
        while (left := limit - len(found)) > 0:
            request = admin_pb2.ListEventsRequest(page_size=min(left, 1000), page_token=token)
            page = self._read(self._stub.ListEvents, request)
            found.extend(page.events)
            token = page.next_page_token
            if not token:
                break
        return found

    def watch_events(
        self, *, after: EventKey | None = None, lost: Callable[[RequestFailed], object] = lambda failure: None
    ) -> Generator[admin_pb2.JournalEntry, None, None]:
        """The journal's lines as they come, oldest first, each once; goes on over lost connections and restarts.

        Args:
            after: the key (epoch, position, index) to start behind; None: only what comes from now on.
            lost: called when a lost connection could not be regained at once, and is tried again.
        """
        if after is None:
            info = self.get_server_info()
            after = info.epoch, info.state_position, LAST_INDEX
        return watch(self._stub.WatchEvents, after, lost)

    def pause_arm(
        self, model: str, *, category: str = "", reason: str, actor: str = "", validate_only: bool = False
    ) -> admin_pb2.PauseArmResponse:
        """Takes a model out of service in a category, or in all that have it, until it is resumed."""
        request = admin_pb2.PauseArmRequest(
            category=category, model=model, change_reason=reason, actor=actor, validate_only=validate_only
        )
        return send(self._stub.PauseArm, request, Attempts(self._timeout_s, max_attempts=1))

    def resume_arm(
        self, model: str, *, category: str = "", reason: str, actor: str = "", validate_only: bool = False
    ) -> admin_pb2.ResumeArmResponse:
        """Undoes `pause_arm`."""
        request = admin_pb2.ResumeArmRequest(
            category=category, model=model, change_reason=reason, actor=actor, validate_only=validate_only
        )
        return send(self._stub.ResumeArm, request, Attempts(self._timeout_s, max_attempts=1))

    def reset_arm(
        self, model: str, *, category: str = "", reason: str, actor: str = "", validate_only: bool = False
    ) -> admin_pb2.ResetArmResponse:
        """Forgets what was learned of a model in a category, or in all that have it."""
        request = admin_pb2.ResetArmRequest(
            category=category, model=model, change_reason=reason, actor=actor, validate_only=validate_only
        )
        return send(self._stub.ResetArm, request, Attempts(self._timeout_s, max_attempts=1))

    def get_server_info(self) -> admin_pb2.GetServerInfoResponse:
        return self._read(self._stub.GetServerInfo, admin_pb2.GetServerInfoRequest())

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _read(self, method: Callable[..., _A], request: object) -> _A:
        return send(method, request, Attempts(self._timeout_s, self._max_attempts))

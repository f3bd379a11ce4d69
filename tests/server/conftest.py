from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from banditroute.server import Server, ServerSettings
from banditroute.v1 import admin_pb2_grpc, router_pb2_grpc

from .fake import FakeEngine

QUICK = ServerSettings(drain_s=0.0, grace_s=5.0)
Serve = Callable[..., Server]


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def serve(engine: FakeEngine) -> Iterator[Serve]:
    """Starts servers over `engine` on free ports; stops them at the end."""
    servers: list[Server] = []

    def start(**changes: Any) -> Server:
        given = {"listen": "127.0.0.1:0", "admin_listen": "127.0.0.1:0", "settings": QUICK, **changes}
        server = Server(engine, **given)
        server.start()
        servers.append(server)
        return server

    yield start
    engine.settle()
    engine.advance.set()
    for server in servers:
        server.stop()


@pytest.fixture
def connect() -> Iterator[Callable[[int], grpc.Channel]]:
    """Opens channels to local ports; closes them at the end."""
    channels: list[grpc.Channel] = []

    def dial(port: int) -> grpc.Channel:
        channels.append(grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)]))
        return channels[-1]

    yield dial
    for channel in channels:
        channel.close()


@pytest.fixture
def router(serve: Serve, connect: Callable[[int], grpc.Channel]) -> router_pb2_grpc.RouterServiceStub:
    return router_pb2_grpc.RouterServiceStub(connect(serve().port))


@pytest.fixture
def admin(serve: Serve, connect: Callable[[int], grpc.Channel]) -> admin_pb2_grpc.AdminServiceStub:
    return admin_pb2_grpc.AdminServiceStub(connect(serve().admin_port))


class Failure:
    """What a client saw of a failed call, or of a batch's failed item."""

    def __init__(self, status: status_pb2.Status) -> None:
        self.code = status.code
        self.message = status.message
        self.details: dict[str, Any] = {}
        for detail in status.details:
            kind = getattr(error_details_pb2, detail.type_url.rpartition(".")[2])()
            detail.Unpack(kind)
            self.details[type(kind).__name__] = kind
        self.info = self.details.get("ErrorInfo")
        self.reason = self.info.reason if self.info else ""
        self.fields = [v.field for v in self.details["BadRequest"].field_violations] if "BadRequest" in self.details else []


def failure(call: Callable[..., object], request: object, **options: Any) -> Failure:
    """The failure of `call`, which must fail."""
    with pytest.raises(grpc.RpcError) as caught:
        call(request, **{"timeout": 10, **options})
    error: Any = caught.value
    status = rpc_status.from_call(error)
    return Failure(status or status_pb2.Status(code=error.code().value[0], message=error.details()))

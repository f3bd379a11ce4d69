"""`banditroute health`."""

from __future__ import annotations

from typing import Annotated, Any

import grpc
import typer
from grpc_health.v1 import health_pb2, health_pb2_grpc

from banditroute.cli.errors import REFUSED, say
from banditroute.cli.options import ROUTER_ADDRESS, RouterAddress, address


def health(
    server: RouterAddress = ROUTER_ADDRESS,
    service: Annotated[
        str, typer.Option(help="live, fold, log or banditroute.v1.RouterService; empty: whether Route is answered.")
    ] = "",
    timeout_s: Annotated[float, typer.Option(min=0.001, help="The call's whole time, in seconds.")] = 2.0,
) -> None:
    """Ask a server whether it is well: for probes of containers. Ends with 0 where it is, else with 1."""
    address(server, option="--server")
    with grpc.insecure_channel(server) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        try:
            reply = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=timeout_s)
        except grpc.RpcError as error:
            failed: Any = error
            unknown = failed.code() is grpc.StatusCode.NOT_FOUND
            say(f"error: the server knows no {service!r}" if unknown else f"error: no answer ({failed.code().name})")
            raise typer.Exit(REFUSED) from None
    name = health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)
    typer.echo(name)
    if reply.status != health_pb2.HealthCheckResponse.SERVING:
        raise typer.Exit(REFUSED)

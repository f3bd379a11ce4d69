"""`banditroute health`: what a server's health service says."""

from __future__ import annotations

from typing import Annotated, Any

import grpc
import typer
from grpc_health.v1 import health_pb2, health_pb2_grpc

from banditroute.cli.errors import REFUSED, say
from banditroute.cli.options import ROUTER_ADDRESS, AsJson, address
from banditroute.cli.output import console, print_json, table
from banditroute.client import RequestFailed
from banditroute.client.calls import channel
from banditroute.server.health import SERVICES

SERVING, UNKNOWN = "SERVING", "SERVICE_UNKNOWN"

MEANINGS = {
    "": "the server as a whole: Route can be answered",
    "banditroute.v1.RouterService": "Route can be answered",
    "process": "the process answers and is not draining",
    "log": "the store takes feedback",
    "fold": "what was learned is there, and grows",
}


def health(
    at: Annotated[str, typer.Option("--address", metavar="HOST:PORT", help="Either of the server's listeners.")] = ROUTER_ADDRESS,
    service: Annotated[
        str, typer.Option(metavar="NAME", help="Whose status decides the exit code; default: the server's.", show_default=False)
    ] = "",
    timeout_s: Annotated[float, typer.Option(help="Seconds for all of it.", min=0.1)] = 5.0,
    as_json: AsJson = False,
) -> None:
    """Ask a server for its health: exit code 0 where it is SERVING, else 1.

    A store that is away does not make a server unhealthy, since Route goes on; `--service log` asks for the store.
    """
    address(at, option="--address")
    try:
        found = _statuses(at, list(dict.fromkeys([*SERVICES, service])), timeout_s)
    except RequestFailed as failure:
        if failure.code is not grpc.StatusCode.DEADLINE_EXCEEDED:
            raise
        say(f"error: nobody answered at {at} within {timeout_s:g} s")
        raise typer.Exit(REFUSED) from None
    if as_json:
        print_json({"address": at, "service": service, "status": found[service], "services": found})
    else:
        rows = [(name or '""', status, MEANINGS.get(name, "")) for name, status in found.items()]
        console().print(table(f"{at}: {found[service]}", ["service", "status", "SERVING means"], rows))
    if found[service] != SERVING:
        raise typer.Exit(REFUSED)


def _statuses(at: str, services: list[str], timeout_s: float) -> dict[str, str]:
    """Service to status. Raises RequestFailed."""
    with channel(at, None) as dialled:
        stub: Any = health_pb2_grpc.HealthStub(dialled)
        asked = {name: stub.Check.future(health_pb2.HealthCheckRequest(service=name), timeout=timeout_s) for name in services}
        return {name: _status(answer) for name, answer in asked.items()}


def _status(answer: Any) -> str:
    try:
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.result().status))
    except grpc.RpcError as error:
        failure = RequestFailed.from_error(error)
        if failure.code is grpc.StatusCode.NOT_FOUND:
            return UNKNOWN
        raise failure from None

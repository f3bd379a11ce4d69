"""`banditroute serve`."""

from __future__ import annotations

import functools
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer

from banditroute import logs
from banditroute.cli.errors import UNUSABLE, say
from banditroute.cli.options import ADMIN_ADDRESS, ROUTER_ADDRESS, address
from banditroute.cli.workers import run_workers
from banditroute.config import Config, load
from banditroute.core.errors import ConfigError, StoreError
from banditroute.engine import Engine
from banditroute.server import ListenFailed, Server, ServerSettings, serve_until_signalled
from banditroute.server.supervisor import WorkersFailed
from banditroute.serving import CAN_PIN, adopt, warn_of_waiting, when_ready
from banditroute.serving import pin as keep_on_one_core
from banditroute.wiring import open_engine


def serve(
    config: Annotated[Path, typer.Option("--config", metavar="FILE", help="The configuration.")],
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where to take Route and Feedback; port 0 takes a free one.")
    ] = ROUTER_ADDRESS,
    admin_listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where to take AdminService; keep it private.")
    ] = ADMIN_ADDRESS,
    workers: Annotated[int, typer.Option(min=1, metavar="N", help="Processes that serve together, on one port and one log.")] = 1,
    pin: Annotated[
        bool, typer.Option("--pin", help="Keep each worker on one core: faster, where nobody else needs that core. Linux only.")
    ] = False,
    reflection: Annotated[bool, typer.Option("--reflection", help="Let tools such as grpcurl ask for the contract.")] = False,
) -> None:
    """Run the server.

    SIGTERM drains and stops. SIGHUP reloads the configuration and the signing keys; a wrong file is refused and the
    old one stays. When ready it prints one line, `serving router=HOST:PORT admin=HOST:PORT`; its log goes to standard
    error.
    """
    address(listen, option="--listen")
    address(admin_listen, option="--admin-listen")
    if pin and not CAN_PIN:
        raise typer.BadParameter("this system cannot keep a process on one core", param_hint="--pin")
    logs.configure(json=not sys.stderr.isatty())
    try:
        if workers > 1:
            run_workers(
                config, count=workers, listen=listen, admin_listen=admin_listen, reflection=reflection, pin=pin, ready=_announce
            )
        else:
            if pin:
                keep_on_one_core(0)
            _serve_alone(config, listen, admin_listen, reflection)
    except (ConfigError, StoreError, ListenFailed, WorkersFailed) as error:
        say(f"error: {error}")
        raise typer.Exit(getattr(error, "exit_code", UNUSABLE)) from None


def _serve_alone(config: Path, listen: str, admin_listen: str, reflection: bool) -> None:
    held = load(config)
    engine = open_engine(held, threaded=True)
    closing = threading.Event()
    try:
        server = Server(
            engine,
            listen=listen,
            admin_listen=admin_listen,
            settings=ServerSettings(**held.local.server.model_dump()),
            reflection=reflection,
        )

        def started(server: Server) -> None:
            bound = _bound(listen, server.port), _bound(admin_listen, server.admin_port)
            when_ready(engine, closing, lambda: _announce(*bound))

        serve_until_signalled(server, reload=functools.partial(_reload, engine, config, held), started=started)
    finally:
        closing.set()
        engine.close()


def _announce(router: str, admin: str) -> None:
    print(f"serving router={router} admin={admin}", flush=True)


def _bound(asked: str, port: int) -> str:
    return f"{asked.rpartition(':')[0]}:{port}"


def _reload(engine: Engine, path: Path, started_with: Config) -> None:
    fresh = load(path)
    adopt(engine, fresh, started_with)
    warn_of_waiting(fresh, started_with)

"""`banditroute serve`."""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from banditroute import logs
from banditroute.cli.errors import UNUSABLE, say
from banditroute.cli.options import ADMIN_ADDRESS, ROUTER_ADDRESS, address
from banditroute.config import Config, load
from banditroute.core.errors import ConfigError, StoreError
from banditroute.engine import Engine
from banditroute.server import ListenFailed, Server, ServerSettings, serve_until_signalled
from banditroute.tokens import TokenSigner
from banditroute.wiring import held_keys, open_engine

READY_POLL_S = 0.05

log = logs.logger("banditroute.serve")


def serve(
    config: Annotated[Path, typer.Option("--config", metavar="FILE", help="The configuration.")],
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where to take Route and Feedback; port 0 takes a free one.")
    ] = ROUTER_ADDRESS,
    admin_listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where to take AdminService; keep it private.")
    ] = ADMIN_ADDRESS,
    reflection: Annotated[bool, typer.Option("--reflection", help="Let tools such as grpcurl ask for the contract.")] = False,
) -> None:
    """Run the server.

    SIGTERM drains and stops. SIGHUP reloads the configuration and the signing keys; a wrong file is refused and the
    old one stays. When ready it prints one line, `serving router=HOST:PORT admin=HOST:PORT`; its log goes to standard
    error.
    """
    address(listen, option="--listen")
    address(admin_listen, option="--admin-listen")
    logs.configure(json=not sys.stderr.isatty())
    try:
        held = load(config)
        engine = open_engine(held, threaded=True)
    except (ConfigError, StoreError) as error:
        say(f"error: {error}")
        raise typer.Exit(UNUSABLE) from None
    server = Server(
        engine,
        listen=listen,
        admin_listen=admin_listen,
        settings=ServerSettings(**held.local.server.model_dump()),
        reflection=reflection,
    )
    closing = threading.Event()

    def announce(started: Server) -> None:
        line = f"serving router={_bound(listen, started.port)} admin={_bound(admin_listen, started.admin_port)}"
        threading.Thread(target=_when_ready, args=(engine, closing, line), name="banditroute-announce", daemon=True).start()

    try:
        serve_until_signalled(server, reload=_reloader(engine, config, held), started=announce)
    except ListenFailed as error:
        engine.close()
        say(f"error: {error}")
        raise typer.Exit(UNUSABLE) from None
    finally:
        closing.set()


def _bound(asked: str, port: int) -> str:
    return f"{asked.rpartition(':')[0]}:{port}"


def _when_ready(engine: Engine, closing: threading.Event, line: str) -> None:
    while not closing.is_set():
        if engine.wait_ready(READY_POLL_S):
            print(line, flush=True)
            return


def _reloader(engine: Engine, path: Path, started_with: Config) -> Callable[[], None]:
    """What SIGHUP does. Raises ConfigError and StoreError, and then nothing has changed."""

    return functools.partial(_reload, engine, path, started_with)


def _reload(engine: Engine, path: Path, started_with: Config) -> None:
    fresh = load(path)
    keys = held_keys(fresh.local._replace(store=started_with.local.store, folder=started_with.local.folder))
    signer = TokenSigner(keys, engine.info().log_id) if keys else engine.signer
    held = engine.signer
    engine.replace_signer(signer)
    try:
        engine.reload(fresh.shared)
    except BaseException:
        engine.signer = held
        raise
    before, now = started_with.local._asdict(), fresh.local._asdict()
    waiting = sorted(field for field, value in now.items() if value != before[field] and field != "signing_keys_file")
    if waiting:
        log.warning("these settings take effect at the next start", fields=waiting)

"""`banditroute events`: what was changed and what the fold noted."""

from __future__ import annotations

from datetime import UTC
from typing import Annotated

import typer

from banditroute.cli.errors import say
from banditroute.cli.options import ADMIN_ADDRESS, AsJson, OptionalAdminAddress, OptionalConfig, one_place
from banditroute.cli.output import console, message_data, print_json, print_json_line, table
from banditroute.cli.stored import stored
from banditroute.client import AdminClient, RequestFailed
from banditroute.config import load
from banditroute.journal import LAST_INDEX
from banditroute.server.convert_admin import encode_journal_row
from banditroute.v1 import admin_pb2 as pb


def events(
    server: OptionalAdminAddress = None,
    config: OptionalConfig = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many of those that were.")] = 50,
    follow: Annotated[
        bool, typer.Option("--follow", help="Then show what comes, until Ctrl-C: oldest first, with --json an object a line.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the journal: configurations, operators' changes and what the fold noted, newest first."""
    one_place(server, config)
    if follow:
        if config:
            raise typer.BadParameter("only a server can be followed: give --server", param_hint="--follow")
        _follow(server or ADMIN_ADDRESS, limit, as_json=as_json)
        return
    if config:
        with stored(load(config)) as found:
            lines = [encode_journal_row(row) for row in found.log.journal(before=None, limit=limit)]
    else:
        with AdminClient(server or ADMIN_ADDRESS) as client:
            lines = client.list_events(limit=limit)
    if as_json:
        print_json([message_data(line) for line in lines])
        return
    console().print(
        table(
            "",
            ["time (UTC)", ">position", "kind", "what", "who", "why"],
            [(_time(line), line.position, line.kind, line.summary, line.actor, line.change_reason) for line in lines],
        )
    )


def _follow(server: str, limit: int, *, as_json: bool) -> None:
    try:
        with AdminClient(server) as client:
            info = client.get_server_info()
            now = info.epoch, info.state_position
            # What the fold has yet to note may belong before newer lines, so those come with what follows.
            past = [line for line in client.list_events(limit=limit) if (line.epoch, line.position) <= now]
            for line in reversed(past):
                _show(line, as_json=as_json)
            for line in client.watch_events(after=(*now, LAST_INDEX), lost=_say_lost):
                _show(line, as_json=as_json)
    except KeyboardInterrupt:  # how one stops following
        return


def _show(line: pb.JournalEntry, *, as_json: bool) -> None:
    if as_json:
        print_json_line(message_data(line))
        return
    why = f" ({line.change_reason})" if line.change_reason else ""
    typer.echo(f"{_time(line)}  {line.position:>8}  {line.kind:<13}  {line.summary}{why}")


def _say_lost(failure: RequestFailed) -> None:
    say(f"connection lost, trying again: {failure}")


def _time(line: pb.JournalEntry) -> str:
    return f"{line.append_time.ToDatetime(UTC):%Y-%m-%d %H:%M:%S}"

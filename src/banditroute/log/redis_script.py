"""The script that does everything to a log in Redis, and how it is run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import Any, NamedTuple

from redis.exceptions import NoScriptError

SCRIPT = (files("banditroute.log") / "scripts" / "log.lua").read_text(encoding="utf-8")
SHA = hashlib.sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()

KEYS = (
    "meta", "events", "ordinals", "journal", "lines", "checkpoints", "states", "leases", "cursors", "checks", "replicas",
)  # fmt: skip
"""The log's own keys, in the order of the script's KEYS; decisions' records are `{namespace}:r:` and the id's 16 bytes."""

Argument = str | bytes | int | float


class Command(NamedTuple):
    """One run of the script: its name and what it needs; for feedback also its decision's record's key."""

    name: str
    arguments: Sequence[Argument]
    record: bytes | None = None


def run(client: Any, keys: Sequence[bytes], command: Command, now: Callable[[], int] | None) -> Any:
    """Has the script run once: by a client, or in a pipe."""
    time_us: Argument = "" if now is None else now()
    if command.record is not None:
        keys = (*keys[:3], command.record)
    return client.evalsha(SHA, len(keys), *keys, command.name, time_us, *command.arguments)


def run_loaded(client: Any, keys: Sequence[bytes], command: Command, now: Callable[[], int] | None) -> Any:
    """As `run`, by a client; a server that does not have the script gets it."""
    try:
        return run(client, keys, command, now)
    except NoScriptError:
        client.script_load(SCRIPT)
        return run(client, keys, command, now)

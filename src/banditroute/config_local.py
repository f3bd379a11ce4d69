"""A process's own settings, which never enter the log: store, sink, server. And the number types of all settings."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from banditroute.receivers import WebhookConfig
from banditroute.redis_address import SCHEMES, Address, Durability, parse_address

MEMORY, SQLITE_SCHEME = "memory:", "sqlite:///"

Positive = Annotated[float, Field(ge=1e-12, le=1e9, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=1e-3, le=1e9, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=10**9)]


class Strict(BaseModel):
    """Frozen; a field that is not known is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SinkConfig(Strict):
    """Where decisions are kept for `explain`, `evaluate` and `export`; never slows Route."""

    enabled: bool = Field(True, description="keep decisions")
    queue_rows: Count = Field(10_000, description="rows that may wait; more are dropped and counted")
    retention_days: Positive = Field(30.0, description="days that rows are kept")


class ServerConfig(Strict):
    """Limits of the gRPC server."""

    max_concurrent_requests: Count = Field(128, description="calls served at once; more are refused with RESOURCE_EXHAUSTED")
    max_concurrent_feedback: Count = Field(64, description="of those, how many may wait for the log")
    max_message_bytes: Count = Field(1_048_576, description="bytes of the largest request and response")
    drain_s: NonNegative = Field(2.0, description="seconds between NOT_SERVING and the stop")
    grace_s: NonNegative = Field(10.0, description="seconds that running calls get after the stop")
    max_connection_age_s: Positive = Field(300.0, description="seconds after which a connection is asked to reconnect")

    @model_validator(mode="after")
    def _leave_room(self) -> ServerConfig:
        if self.max_concurrent_feedback >= self.max_concurrent_requests:
            raise ValueError("max_concurrent_feedback must be below max_concurrent_requests, so that Route always finds a thread")
        return self


class RedisConfig(Strict):
    """How a log in Redis is used."""

    namespace: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")] = Field(
        "banditroute", description="names the log; all of its keys begin with it in braces"
    )
    durability: str = Field(
        "aof", description="feedback is answered when it is in the server's `memory`, on its disk (`aof`), or on `replicas=N`"
    )
    timeout_s: Annotated[float, Field(ge=0.05, le=60)] = Field(2.0, description="seconds that one command may take")
    stale_start: Literal["allow", "refuse"] = Field(
        "refuse", description="whether a process may start from its last checkpoint on its own disk while the server is away"
    )
    checkpoint_folder: str = Field("./.banditroute", description="where that checkpoint is kept (relative to this file)")
    sink_megabytes: Count = Field(
        64, description="what the decisions that are kept for `explain` may come to; the oldest go first"
    )

    @field_validator("durability")
    @classmethod
    def _known(cls, value: str) -> str:
        Durability.parse(value)
        return value


class Store(NamedTuple):
    """A parsed `store`: `folder` for sqlite, `address` for redis."""

    kind: Literal["memory", "sqlite", "redis"]
    folder: str = ""
    address: Address | None = None


def parse_store(url: str) -> Store:
    """Takes a store's URL apart, with the environment's variables put in.

    Raises:
        ValueError: it is of no known kind, or a variable is not set; never shows a password.
    """
    url = _expanded(url)
    if url == MEMORY:
        return Store("memory")
    if url.startswith(SQLITE_SCHEME) and len(url) > len(SQLITE_SCHEME):
        return Store("sqlite", folder=url.removeprefix(SQLITE_SCHEME))
    if url.partition("://")[0] in SCHEMES:
        return Store("redis", address=parse_address(url))
    raise ValueError(
        f"{url.rsplit('@', maxsplit=1)[-1]!r} is no store: use {SQLITE_SCHEME}FOLDER, redis://HOST:PORT/DB or {MEMORY}"
    )


def _expanded(url: str) -> str:
    def value(found: re.Match[str]) -> str:
        name = found[1]
        if name not in os.environ:
            raise ValueError(f"the environment has no variable {name}")
        return os.environ[name]

    return re.sub(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}", value, url)


class LocalConfig(NamedTuple):
    """This process's own settings; paths as written, relative to `folder`."""

    store: str
    redis: RedisConfig
    signing_keys_file: str | None
    decision_sink: SinkConfig
    server: ServerConfig
    webhooks: tuple[WebhookConfig, ...]
    checkpoint_every: int
    log_retention_events: int
    folder: Path

"""The configuration's `webhooks`: who is told, of what, and with which secret. No message here shows a URL or a secret."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field

from banditroute.core.errors import ConfigError, ConfigProblem

MAX_WEBHOOKS = 16
MAX_URL_CHARACTERS = 2048
MIN_SECRET_BYTES = 16


class WebhookConfig(BaseModel):
    """A receiver of the journal's lines, each a signed POST that is repeated until it is taken: docs/howto/webhooks.md."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(description="where to, `https://` or `http://`, without user and password")
    name: str | None = Field(
        None, description="what logs call it, and what it left off at is kept by; default: the URL's host and port"
    )
    secret_file: str | None = Field(None, description="the file (relative to this one) with the signing secret, 16 bytes or more")
    secret_env: str | None = Field(None, description="or the environment variable with the secret")
    events: Annotated[list[str], Field(min_length=1)] | None = Field(
        None, description="kinds of lines, such as `operator` and `event_skipped`; default: all"
    )

    @property
    def label(self) -> str:
        """Its name, given or not."""
        return self.name or urlsplit(self.url).netloc

    @property
    def shown_url(self) -> str:
        """The URL without its query, which may hold a secret."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}{parts.path}"


class Receiver(NamedTuple):
    """A webhook with its secret. `events` is None for all kinds."""

    name: str
    url: str
    secret: bytes
    events: frozenset[str] | None


def webhook_problems(hooks: Sequence[WebhookConfig]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """What is wrong with them, each with its place."""
    if len(hooks) > MAX_WEBHOOKS:
        yield ("webhooks",), f"are {len(hooks)}, of at most {MAX_WEBHOOKS}"
    labels: set[str] = set()
    for i, hook in enumerate(hooks):
        fault = _url_fault(hook.url)
        if fault:
            yield ("webhooks", i, "url"), fault
            continue
        if (hook.secret_file is None) == (hook.secret_env is None):
            yield ("webhooks", i), "give secret_file or secret_env, and only one of them"
        if hook.name is not None and not (hook.name.isprintable() and 0 < len(hook.name) <= 64):
            yield ("webhooks", i, "name"), "names are printable and have 1 to 64 characters"
        if hook.label in labels:
            yield ("webhooks", i), f"{hook.label!r} is there twice: give each a `name` of its own"
        labels.add(hook.label)


def _url_fault(url: str) -> str:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "is no URL"
    if parts.scheme not in ("http", "https"):
        return "must begin with https:// or http://"
    if not host or not url.isascii() or not url.isprintable() or " " in url or len(url) > MAX_URL_CHARACTERS:
        return f"is no URL of a host, in ASCII and at most {MAX_URL_CHARACTERS} characters"
    if parts.username is not None or parts.password is not None:
        return "holds a user or password: leave them out, the signature says who sends"
    return ""


def read_receivers(hooks: Sequence[WebhookConfig], folder: Path) -> list[Receiver]:
    """The webhooks with their secrets; files are relative to `folder`.

    Raises:
        ConfigError: with every secret that is not there or too short.
    """
    found, problems = [], []
    for i, hook in enumerate(hooks):
        try:
            secret = _secret(hook, folder)
        except ValueError as error:
            field = "secret_env" if hook.secret_file is None else "secret_file"
            problems.append(ConfigProblem(f"webhooks.{i}.{field}", None, str(error)))
        else:
            found.append(Receiver(hook.label, hook.url, secret, None if hook.events is None else frozenset(hook.events)))
    if problems:
        raise ConfigError("<secrets>", problems)
    return found


def _secret(hook: WebhookConfig, folder: Path) -> bytes:
    """Raises ValueError, which says neither the secret nor what was given in its stead."""
    if hook.secret_file is not None:
        try:
            secret = (folder / hook.secret_file).read_bytes().strip()
        except OSError as error:
            raise ValueError(f"the file cannot be read: {error.strerror}") from None
    else:
        given = os.environ.get(hook.secret_env or "")
        if given is None:
            raise ValueError("the environment variable is not set")
        secret = given.strip().encode()
    if len(secret) < MIN_SECRET_BYTES:
        raise ValueError(f"the secret has fewer than {MIN_SECRET_BYTES} bytes: make one with `openssl rand -hex 32`")
    return secret

"""Log lines: structured, through the standard library's logging, so that a host application decides where they go.

`configure` is for banditroute's own processes: to standard error, as JSON or in colours.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import cast

import structlog

_SHARED: list[structlog.typing.Processor] = [
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]


_quiet: ContextVar[bool] = ContextVar("quiet", default=False)
_HEARD = frozenset({"error", "critical", "exception"})


@contextmanager
def quiet() -> Iterator[None]:
    """Meanwhile nothing below an error is logged of what this thread does itself; other threads log as ever. For simulations:
    what befalls their models is a result, and nobody's alarm."""
    before = _quiet.set(True)
    try:
        yield
    finally:
        _quiet.reset(before)


def _unless_quiet(_: object, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    if _quiet.get() and method not in _HEARD:
        raise structlog.DropEvent
    return event


def logger(name: str) -> structlog.stdlib.BoundLogger:
    """A structured logger over `logging.getLogger(name)`."""
    return cast(
        structlog.stdlib.BoundLogger,
        structlog.wrap_logger(
            logging.getLogger(name),
            processors=[
                structlog.stdlib.filter_by_level,
                _unless_quiet,
                *_SHARED,
                structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
            ],
            wrapper_class=structlog.stdlib.BoundLogger,
        ),
    )


def _named(worker: int) -> structlog.typing.Processor:
    def name(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        event.update(worker=worker, pid=os.getpid())
        return event

    return name


def configure(*, json: bool, level: str = "INFO", worker: int | None = None) -> None:
    """Sends this process's log lines to standard error, one JSON object a line or for a terminal; a worker's say whose they
    are."""
    # Tracebacks without local variables: those may hold keys.
    if json:
        frames = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        last: list[structlog.typing.Processor] = [structlog.processors.ExceptionRenderer(frames)]
        renderer: structlog.typing.Processor = structlog.processors.JSONRenderer()
    else:
        last, renderer = [], structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    if worker is not None:
        last.insert(0, _named(worker))
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last, renderer], foreign_pre_chain=_SHARED
        )
    )
    logging.basicConfig(handlers=[handler], level=level, force=True)
    for chatty in ("httpx", "httpcore"):  # they log whole URLs, which may hold secrets
        logging.getLogger(chatty).setLevel(logging.WARNING)

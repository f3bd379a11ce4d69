"""Following the journal over lost connections."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator
from typing import Any

import grpc

from banditroute.client.calls import BACKOFF_S, MAX_BACKOFF_S, RequestFailed
from banditroute.v1 import admin_pb2

EventKey = tuple[int, int, int]
"""(epoch, position, index) of an event."""
LAST_INDEX = 2**32 - 1
"""Behind every event of its position."""

# A connection that held for so long was no failure, even if nothing came.
STEADY_S = 5.0


def watch(method: Any, after: EventKey, lost: Callable[[RequestFailed], object]) -> Generator[admin_pb2.JournalEntry, None, None]:
    """Calls `method`, a stub's WatchEvents, again and again, each time from the last event's key."""
    failures, backoff_s = 0, BACKOFF_S
    while True:
        began = time.monotonic()
        epoch, position, index = after
        key = admin_pb2.EventKey(epoch=epoch, position=position, index=index)
        call = method(admin_pb2.WatchEventsRequest(start_after=key))
        try:
            for response in call:
                event = response.event
                after = event.epoch, event.position, event.index
                failures, backoff_s = 0, BACKOFF_S
                yield event
            failure = RequestFailed(grpc.StatusCode.UNAVAILABLE, "the stream ended")
        except grpc.RpcError as error:
            failure = RequestFailed.from_error(error)
        finally:
            call.cancel()
        if time.monotonic() - began > STEADY_S:
            failures, backoff_s = 0, BACKOFF_S
        failures += 1
        # The place of a lost connection may be taken still; but who was never let in is told so.
        taken = failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED and failures > 1
        if failure.code is not grpc.StatusCode.UNAVAILABLE and not taken:
            raise failure from None
        if failures == 2:  # a connection is renewed now and then; what fails again is worth a word
            lost(failure)
        time.sleep(max(backoff_s * random.uniform(0.5, 1.0), failure.retry_delay_s))
        backoff_s = min(2 * backoff_s, MAX_BACKOFF_S)

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from conformance import LogSuite
from suite import DURABLE

from banditroute.log.base import EventLog
from banditroute.log.memory import MemoryLog


class TestMemoryLog(LogSuite):
    MISSING: ClassVar = {DURABLE: "it lives as long as its process"}

    def open(self, place: Path, clock: Callable[[], float]) -> EventLog:
        return MemoryLog(clock)

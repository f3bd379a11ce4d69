"""A server in a process of its own, started and stopped for sure."""

from __future__ import annotations

import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from banditroute.core.errors import BanditrouteError

_SERVING = re.compile(r"serving router=(\S+) admin=(\S+)")


class ServerFailed(BanditrouteError):
    """The server process did not come up, or is gone."""


class ServerProcess:
    """`banditroute serve` as a subprocess on free ports of the loopback; use as a context manager.

    Args:
        config: written to `folder`/banditroute.yaml, where the server reads it; None: it is there already.
        folder: also takes the server's log and, where the store is relative, the state directory.
        arguments: more arguments for `serve`.
    """

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any] | None = None,
        *,
        arguments: Sequence[str] = (),
        start_timeout_s: float = 30.0,
    ) -> None:
        self.config_path = folder / "banditroute.yaml"
        self.log_path = folder / "server.log"
        self.router = self.admin = ""
        self._config, self._arguments, self._start_timeout_s = config, arguments, start_timeout_s
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        if self._config is not None:
            self.config_path.write_text(yaml.safe_dump(dict(self._config), sort_keys=False), encoding="utf-8")
        command = [sys.executable, "-m", "banditroute", "serve", "--config", str(self.config_path)]
        command += ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", *self._arguments]
        with self.log_path.open("ab") as log:
            # A session of its own: Ctrl-C in the terminal is for whoever started this, who then stops it.
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, start_new_session=True)
        try:
            self.router, self.admin = self._await_serving(self._process)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _await_serving(self, process: subprocess.Popen[bytes]) -> tuple[str, str]:
        assert process.stdout is not None
        end = time.monotonic() + self._start_timeout_s
        said = b""
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while (left := end - time.monotonic()) > 0:
                if not selector.select(left):
                    continue
                chunk = os.read(process.stdout.fileno(), 4096)
                if not chunk:
                    raise ServerFailed(f"the server did not start:\n{self.log_tail()}")
                said += chunk
                if found := _SERVING.search(said.decode(errors="replace")):
                    return found[1], found[2]
        raise ServerFailed(f"the server was not ready within {self._start_timeout_s:g} s:\n{self.log_tail()}")

    def log_tail(self, lines: int = 20) -> str:
        """The last lines of what the server wrote to standard error."""
        return "\n".join(self.log_path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

    @property
    def pid(self) -> int:
        """The process's id; 0 before it was started."""
        return self._process.pid if self._process else 0

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the server."""
        if self._process is not None:
            self._process.send_signal(number)

    def wait(self, timeout_s: float) -> int:
        """Waits for the server to end by itself, and gives its exit code.

        Raises:
            subprocess.TimeoutExpired: it did not.
        """
        assert self._process is not None
        return self._process.wait(timeout_s)

    def stop(self, timeout_s: float = 15.0) -> int:
        """Drains and ends the server, by force where it does not end in time; its exit code. Idempotent."""
        process = self._process
        if process is None:
            return 0
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if process.stdout is not None:
            process.stdout.close()
        return process.returncode

"""Secrets never reach a log, not even as a local variable of a traceback."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
from banditroute import logs
logs.configure(json={json})
def fail(secret):
    raise RuntimeError("broken")
try:
    fail("hush" + "-hush")
except RuntimeError:
    logs.logger("test").exception("it broke", answer=42)
"""


@pytest.mark.parametrize("json", [True, False])
def test_tracebacks_hold_no_local_variables(json: bool) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT.format(json=json)], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert "it broke" in done.stderr and "RuntimeError" in done.stderr and "42" in done.stderr
    assert "hush-hush" not in done.stderr


CHATTY = """
import httpx
from banditroute import logs
logs.configure(json=True, level="DEBUG")
transport = httpx.MockTransport(lambda request: httpx.Response(204))
httpx.Client(transport=transport).post("https://host/hook?token=hush-hush")
logs.logger("test").debug("said")
"""


def test_urls_of_webhooks_are_not_logged() -> None:
    done = subprocess.run([sys.executable, "-c", CHATTY], capture_output=True, text=True, check=True)
    assert "said" in done.stderr
    assert "hush-hush" not in done.stderr


QUIET = """
import threading
from banditroute import logs
logs.configure(json=True)
log = logs.logger("test")
with logs.quiet():
    log.warning("of a simulation")
    log.error("but errors are heard")
    other = threading.Thread(target=lambda: log.warning("of another thread"))
    other.start()
    other.join()
log.warning("afterwards")
"""


def test_quiet_is_about_warnings_of_one_thread() -> None:
    done = subprocess.run([sys.executable, "-c", QUIET], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert "of a simulation" not in done.stderr
    assert all(said in done.stderr for said in ("but errors are heard", "of another thread", "afterwards"))

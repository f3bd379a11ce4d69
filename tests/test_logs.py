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

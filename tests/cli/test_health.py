"""`banditroute health` against a server in this process."""

from __future__ import annotations

import pytest
from server.fake import FakeEngine

from banditroute.server import Server, ServerSettings
from cli.conftest import Run


def test_well_or_not_by_its_exit_code(run: Run) -> None:
    engine = FakeEngine()
    engine.components = {"log": False, "fold": True}
    server = Server(engine, listen="127.0.0.1:0", settings=ServerSettings(drain_s=0.0, grace_s=1.0))
    server.start()
    try:
        where = ("--server", f"127.0.0.1:{server.port}")
        assert run("health", *where) == (0, "SERVING\n", "")
        assert run("health", *where, "--service", "live").code == 0
        assert run("health", *where, "--service", "log") == (1, "NOT_SERVING\n", "")
        unknown = run("health", *where, "--service", "nonsense")
        assert unknown.code == 1
        assert "knows no 'nonsense'" in unknown.err
    finally:
        server.stop()
    gone = run("health", *where, "--timeout-s", 0.2)
    assert gone.code == 1
    assert "no answer" in gone.err


@pytest.mark.parametrize("wrong", ["nonsense", "127.0.0.1"])
def test_an_address_that_is_none_is_wrong_usage(run: Run, wrong: str) -> None:
    assert run("health", "--server", wrong).code == 2

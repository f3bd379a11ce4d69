"""A server that delivers webhooks and is killed in the middle of one."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from receiving import HttpReceiver

from banditroute.client import AdminClient
from banditroute.demo.process import ServerProcess

SECRET = "0123456789abcdef-a-secret"
CONFIG: Mapping[str, Any] = {
    "store": "sqlite:///./state",
    "decision_sink": {"enabled": False},
    "server": {"drain_s": 0.0},
    "models": {"a": {}, "b": {}},
    "categories": {"chat": {"models": ["a", "b"]}},
}


def set_weight(server: ServerProcess, weight: float) -> int:
    with AdminClient(server.admin) as admin:
        return admin.update_category("chat", {"cost_weight": weight}, reason="budget").state_position


def test_over_kill_and_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    (tmp_path / "hook.secret").write_text(SECRET)
    with HttpReceiver() as receiver:
        hook = {"url": receiver.url + "/?token=hunter2", "secret_file": "hook.secret", "events": ["operator"]}
        with ServerProcess(tmp_path, {**CONFIG, "webhooks": [hook]}) as server:
            # The first start begins at the journal's end, which is after the first configuration.
            assert receiver_gets(receiver, set_weight(server, 1))
            assert receiver_gets(receiver, set_weight(server, 2))
            receiver.going.clear()
            position = set_weight(server, 3)
            killed = receiver.next()
            assert killed.key == (position, 0)
            unsent = set_weight(server, 4)  # in the journal, behind the one on its way
            server.signal(signal.SIGKILL)
            assert server.wait(60.0) == -signal.SIGKILL
        receiver.going.set()
        with ServerProcess(tmp_path) as server:
            again = receiver.next()
            assert again.headers["idempotency-key"] == killed.headers["idempotency-key"]
            assert again.body == killed.body
            assert receiver.next().key == (unsent, 0)
            assert receiver_gets(receiver, set_weight(server, 5))
            assert server.stop() == 0
        assert receiver.none_left()
    told = (tmp_path / "server.log").read_text()
    assert SECRET not in told
    assert "hunter2" not in told


def receiver_gets(receiver: HttpReceiver, position: int) -> bool:
    return receiver.next().key == (position, 0)

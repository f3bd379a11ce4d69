"""What deploy/redis.acl allows is what the log needs: all of it, and no more."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis
from engines import DOCUMENT, report
from redis_servers import RedisServer, binaries, serving

from banditroute.cli.stored import stored
from banditroute.config import load
from banditroute.core.errors import StoreUnavailable, StoreUnfit
from banditroute.core.types import RouteQuery
from banditroute.log.redis import RedisLog
from banditroute.redis_address import Durability, parse_address
from banditroute.wiring import open_engine

ROOT = Path(__file__).resolve().parents[2]
SERVERS = binaries()
FILE = (ROOT / "deploy" / "redis.acl").read_text()
AOF = ("--appendonly", "yes", "--appendfsync", "always")


def users() -> dict[str, list[str]]:
    """The file's users and their rules, with a plain password in place of a hash."""
    found = {name: rules.split() for name, rules in re.findall(r"^user (\w+) (.*)$", FILE, flags=re.MULTILINE)}
    return {name: [re.sub(r"^#\w+$", f">{name}", rule) for rule in rules] for name, rules in found.items()}


RULES = users()["banditroute"]


@pytest.fixture(params=["redis-6.2", "redis-8", "valkey"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RedisServer]:
    if request.param not in SERVERS:
        pytest.skip(f"no {request.param} server is installed here")
    with serving(SERVERS[request.param], tmp_path / "redis", *AOF) as server:
        yield server


def rules_for(server: RedisServer) -> list[str]:
    """6.2 has neither WAITAOF nor ACL DRYRUN, and is asked how it writes to its disk instead."""
    if server.binary != SERVERS.get("redis-6.2"):
        return RULES
    return [*(rule for rule in RULES if rule not in ("+waitaof", "+acl|dryrun")), "+config|get"]


def address(server: RedisServer, user: str = "banditroute") -> str:
    return server.url.replace("redis://", f"redis://{user}:{user}@")


def allow(server: RedisServer, rules: list[str]) -> None:
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "banditroute", "reset", *rules)


def live(server: RedisServer, folder: Path) -> None:
    """Everything that a replica and the commands that read a store do with one."""
    (folder / "keys.json").write_text(json.dumps({"keys": [{"id": "k", "secret": "ab" * 32}]}))
    document: dict[str, Any] = {
        **DOCUMENT,
        "store": address(server),
        "signing_keys_file": str(folder / "keys.json"),
        "redis": {"durability": "aof", "timeout_s": 5.0},
        "decision_sink": {"enabled": True, "retention_days": 1e-9},
        "checkpoint_every": 10,
        "log_retention_events": 1,
    }
    config = load(document)
    for _ in range(2):  # the second time, the first one's decisions are too old to keep
        with closing(open_engine(config, threaded=True)) as engine:
            assert engine.wait_ready(30.0)
            for each in range(15):
                decision = engine.route(RouteQuery("chat"))
                for value in (0.5, 0.5 + each / 100):  # the second one is a correction
                    engine.submit(report(decision.id, value)).result()
            engine.set_weights("chat", {"cost_weight": 0.9}, reason="r", actor="a")
            assert engine.journal()
            log = engine._log
            assert isinstance(log, RedisLog)
            assert log.record(bytes(16)) is None
            assert log.claim("hook", "me", 1.0)
            log.save_cursor("hook", (1, 1, 0))
            assert log.cursor("hook") == (1, 1, 0)
            assert log.journal_after(None, 10)
            log.announce("other", "", 0.0)
            log.rewound()
    with stored(config) as found:
        assert found.sink is not None
        assert found.sink.exists
        found.sink.count_after(None)
        list(found.sink.batches(None))


def test_it_is_enough(server: RedisServer, tmp_path: Path) -> None:
    allow(server, rules_for(server))
    live(server, tmp_path)
    with server.client() as client:
        denied: Any = client.execute_command("ACL", "LOG")
        assert denied == []
        assert all(key.startswith(b"{banditroute}:") for key in client.scan_iter())
    other = load({**DOCUMENT, "store": address(server), "signing_keys_file": str(tmp_path / "keys.json"),
                  "redis": {"namespace": "staging"}})  # fmt: skip
    with pytest.raises(StoreUnavailable, match="does not allow them what the log needs"):
        open_engine(other, threaded=True)


def test_nothing_of_it_is_for_nothing(server: RedisServer, tmp_path: Path) -> None:
    """But WAIT, which only `durability: replicas=N` sends."""
    rules = rules_for(server)
    allow(server, rules)
    if "+config|get" in rules:
        pytest.skip("6.2 does not count subcommands apart")
    live(server, tmp_path)
    with server.client() as client:
        counted = client.info("commandstats")
    used = {f"+{name.removeprefix('cmdstat_')}" for name, stats in counted.items() if stats["calls"]}
    assert {rule for rule in rules if rule.startswith("+")} - used == {"+wait"}


def test_what_was_acknowledged_outlives_a_crash(tmp_path: Path) -> None:
    """With the whole file. A default user without rights costs Redis 7.0 to 8.2 all that scripts wrote (redis/redis#14541)."""
    for name in ("redis-8", "valkey"):
        if name not in SERVERS:
            continue
        path = tmp_path / f"{name}.acl"
        path.write_text("".join(f"user {user} {' '.join(rules)}\n" for user, rules in users().items()))
        with serving(SERVERS[name], tmp_path / name, *AOF, "--aclfile", str(path)) as server:
            live(server, tmp_path)
            with redis.Redis(port=server.port, username="operator", password="operator", protocol=2) as client:
                before = client.hgetall("{banditroute}:meta")
                assert before
                server.kill()
                server.start()
                client.ping()
                assert client.hgetall("{banditroute}:meta") == before


@pytest.mark.parametrize("default", ["off", "off ~* -@all +ping", "off ~other:* +@all"])
def test_a_server_that_would_forget_the_log_is_refused(tmp_path: Path, default: str) -> None:
    if "redis-8" not in SERVERS:
        pytest.skip("no redis-8 server is installed here")
    path = tmp_path / "users.acl"
    path.write_text(f"user default {default}\nuser banditroute {' '.join(RULES)}\n")
    with serving(SERVERS["redis-8"], tmp_path / "redis", *AOF, "--aclfile", str(path)) as server:

        def opened(durability: str) -> RedisLog:
            where = parse_address(address(server))
            return RedisLog(where, namespace="banditroute", durability=Durability.parse(durability), timeout_s=5.0)

        with pytest.raises(StoreUnfit, match=r"user default off ~\* &\* \+@all"):
            opened("aof")
        opened("memory").close()  # promises nothing about the disk

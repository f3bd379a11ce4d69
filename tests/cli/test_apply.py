"""`banditroute apply`, and `check` on a store that replicas share."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from redis_servers import RedisServer, binaries, serving

from banditroute import Router
from cli.conftest import CONFIG, Run, write_config

SERVERS = binaries()
DEARER: Mapping[str, Any] = {
    **CONFIG["models"],
    "dear": {"input_usd_per_mtok": 20.0, "output_usd_per_mtok": 10.0, "tags": ["tools"]},
}
DIFFERENCES = [
    {"path": f"models.dear.{field}", "file": 20.0, "in_force": 10.0}
    for field in ("cached_input_usd_per_mtok", "input_usd_per_mtok")
]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    if "redis-8" not in SERVERS:
        pytest.skip("no redis-8 server is installed here")
    with serving(SERVERS["redis-8"], tmp_path / "redis", "--appendonly", "yes") as server:
        yield server


@pytest.fixture(params=["redis", "sqlite"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """The local part of a configuration on a fresh store."""
    if request.param == "sqlite":
        return {}
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [{"id": "k", "secret": "ab" * 32}]}))
    server: RedisServer = request.getfixturevalue("server")
    return {"store": server.url, "signing_keys_file": "keys.json", "redis": {"durability": "memory", "timeout_s": 2.0}}


def test_shows_asks_and_puts_in_force(run: Run, tmp_path: Path, shared: dict[str, Any]) -> None:
    path = write_config(tmp_path, **shared)
    assert "nothing was served from there yet" in run("check", path).out
    first = run("apply", path, stdin="y\n")
    assert first.code == 0
    assert "this is its first" in first.out
    assert "In force as revision 1." in first.out
    assert "Put it in force? [y/N]" in first.err
    assert "nothing to do" in run("apply", path).out
    with Router.from_config(path) as router:
        router.feedback(router.route("classify").id, eval_score=0.5)
        router.set_weights("summarise", cost_weight=2.5, reason="budget", actor="ops")

    write_config(tmp_path, models=DEARER, **shared)
    refused = run("apply", path, stdin="n\n")
    assert refused.code == 1
    assert "models.dear.input_usd_per_mtok" in refused.out
    assert "hidden by operators' changes" in refused.out
    assert run("check", path, "--json").data["differences"] == DIFFERENCES

    done = run("apply", path, "--yes", "--json", "--reason", "new prices", "--actor", "ada").data
    hidden = {"category": "summarise", "field": "cost_weight", "file": 0.3, "in_force": 2.5}
    assert done == {"position": 4, "replaces": 1, "differences": DIFFERENCES, "hidden_fields": [hidden]}
    assert run("apply", path, "--yes", "--json").data["position"] is None
    line = run("events", "--config", path, "--json").data[0]
    assert (line["kind"], line["actor"], line["change_reason"]) == ("config", "ada", "new prices")
    assert line["summary"].endswith("took effect as revision 4, replacing revision 1.")
    with Router.from_config(path) as router:  # what was learned and what operators set is still there
        assert router.category("classify").feedback_count == 1
        assert router.category("summarise").cost_weight == 2.5


def test_what_somebody_else_changed_meanwhile_stays(
    run: Run, tmp_path: Path, shared: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    if "store" not in shared:
        pytest.skip("a state directory has one owner")
    path = write_config(tmp_path, **shared)
    run("apply", path, "--yes")
    other = tmp_path / "other"
    other.mkdir()
    (other / "keys.json").write_bytes((tmp_path / "keys.json").read_bytes())

    def meanwhile(text: str, **_: object) -> bool:
        cheaper = {**CONFIG["models"], "dear": {"input_usd_per_mtok": 5.0, "output_usd_per_mtok": 10.0}}
        assert run("apply", write_config(other, models=cheaper, **shared), "--yes").code == 0
        return True

    write_config(tmp_path, models=DEARER, **shared)
    with monkeypatch.context() as patched:
        patched.setattr("typer.confirm", meanwhile)
        ran = run("apply", path)
    assert ran.code == 1
    assert "somebody else changed the configuration meanwhile" in ran.err
    assert "banditroute check" in ran.err
    price = {entry["path"]: entry["in_force"] for entry in run("check", path, "--json").data["differences"]}
    assert price["models.dear.input_usd_per_mtok"] == 5.0


def test_a_running_replica_takes_it(run: Run, tmp_path: Path, server: RedisServer) -> None:
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [{"id": "k", "secret": "ab" * 32}]}))
    local: dict[str, Any] = {
        "store": server.url,
        "signing_keys_file": "keys.json",
        "redis": {"durability": "aof", "timeout_s": 5.0},
    }
    path = write_config(tmp_path, **local)
    with Router.from_config(path) as router:
        before = router.route("classify", input_tokens=1000, allowed_models=["dear"]).expected_cost_usd
        write_config(tmp_path, models=DEARER, **local)
        position = run("apply", path, "--yes", "--json").data["position"]
        router.engine._follower.reach(position, 30.0)
        after = router.route("classify", input_tokens=1000, allowed_models=["dear"]).expected_cost_usd
    assert after > 1.2 * before


def test_a_state_directory_that_a_server_owns(run: Run, tmp_path: Path) -> None:
    path = write_config(tmp_path)
    with Router.from_config(path):
        ran = run("apply", path, "--yes")
    assert ran.code == 1
    assert "takes its file at SIGHUP" in ran.err


def test_where_nothing_can_be_applied(run: Run, tmp_path: Path, server: RedisServer) -> None:
    memory = run("apply", write_config(tmp_path, store="memory:"), "--yes")
    assert memory.code == 1
    assert "nothing to apply this to" in memory.err
    assert run("apply", write_config(tmp_path), "--json").code == 2

    (tmp_path / "keys.json").write_text(json.dumps({"keys": [{"id": "k", "secret": "ab" * 32}]}))
    local: dict[str, Any] = {"signing_keys_file": "keys.json", "redis": {"durability": "memory", "timeout_s": 0.5}}
    path = write_config(tmp_path, store=server.url, **local)
    assert run("apply", path, "--yes").code == 0
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [{"id": "k", "secret": "cd" * 32}]}))
    other = run("apply", path, "--yes")
    assert other.code == 1
    assert "other signing keys" in other.err


def test_check_says_that_the_server_is_away_and_shows_no_password(run: Run, tmp_path: Path, server: RedisServer) -> None:
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [{"id": "k", "secret": "ab" * 32}]}))
    local: dict[str, Any] = {"signing_keys_file": "keys.json", "redis": {"durability": "memory", "timeout_s": 0.5}}
    store = server.url.replace("redis://", "redis://default:hush@")
    with server.client() as client:
        client.config_set("requirepass", "hush")
    path = write_config(tmp_path, store=store, **local)
    assert run("apply", path, "--yes").code == 0
    ran = run("check", path, "--json")
    assert ran.data["store"] == server.url
    assert ran.data["state"] == {"position": 1, "in_force": True}
    assert "Namespace banditroute in Redis: position 1." in run("check", path).out
    server.kill()
    away = run("check", path)
    assert away.code == 1
    assert "no problems" in away.out
    assert "could not be read" in away.out
    assert "the Redis server cannot be reached" in away.err
    assert run("check", path, "--json").data["problems"][0]["path"] == "store"
    for each in (ran, away):
        assert "hush" not in each.out + each.err

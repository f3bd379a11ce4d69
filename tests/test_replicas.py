"""Engines that share a log on a real Redis server: several replicas, here in one process."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from engines import DOCUMENT, report
from redis_servers import RedisServer, binaries, serving

from banditroute.config import load
from banditroute.core.errors import ConfigError, ConfigReplaced, ForeignDecisionId, StoreKeyMismatch, StoreUnavailable
from banditroute.core.fold import FOLD_VERSION
from banditroute.core.types import Disposition, EventKind, RouteQuery
from banditroute.engine import Engine
from banditroute.log.checkpoint import encode
from banditroute.log.redis import RedisLog
from banditroute.redis_address import Durability, parse_address
from banditroute.router import Router
from banditroute.snapshot import Snapshot
from banditroute.wiring import open_engine

SERVERS = binaries()
pytestmark = pytest.mark.skipif("redis-8" not in SERVERS, reason="no redis-8 server is installed here")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with serving(SERVERS["redis-8"], tmp_path / "redis", "--appendonly", "yes", "--appendfsync", "always") as server:
        yield server


class Replicas:
    """Opens engines on one server, and closes them."""

    def __init__(self, server: RedisServer, folder: Path, stack: ExitStack) -> None:
        self._server, self._folder, self._stack = server, folder, stack
        self._keys("keys.json", "ab")

    def _keys(self, name: str, secret: str) -> Path:
        path = self._folder / name
        path.write_text(json.dumps({"keys": [{"id": name, "secret": secret * 32}]}))
        return path

    def document(self, **more: Any) -> dict[str, Any]:
        keys = {"store": self._server.url, "signing_keys_file": str(self._folder / "keys.json"), "redis": {"timeout_s": 1.0}}
        return {**DOCUMENT, **keys, **more}

    def open(self, **more: Any) -> Engine:
        engine = self._stack.enter_context(closing(open_engine(load(self.document(**more)), threaded=True)))
        assert engine.wait_ready(30.0)
        return engine

    def other_keys(self) -> Path:
        return self._keys("other.json", "cd")


@pytest.fixture
def replicas(server: RedisServer, tmp_path: Path) -> Iterator[Replicas]:
    with ExitStack() as stack:
        yield Replicas(server, tmp_path, stack)


def until(held: Callable[[], bool]) -> None:
    """Waits for what a thread does; fails after a minute."""
    end = time.monotonic() + 60.0
    while not held():
        assert time.monotonic() < end
        time.sleep(0.005)


def same_position(*engines: Engine) -> None:
    until(lambda: len({engine.snapshot.state.position for engine in engines} | {engines[0].info().log_position}) == 1)


def taught(rng: random.Random, engines: list[Engine], count: int) -> list[str]:
    """Each decision is made on one replica, and judged on any."""
    ids = []
    for _ in range(count):
        category = rng.choice(["chat", "code"])
        ids.append(rng.choice(engines).route(RouteQuery(category)).id)
        rng.choice(engines).submit(report(ids[-1], rng.random())).result()
    return ids


def test_replicas_fold_one_stream_to_one_state(replicas: Replicas) -> None:
    rng = random.Random(1)
    engines = [replicas.open(checkpoint_every=100) for _ in range(3)]
    assert [engine.info().log_position for engine in engines] == [1, 1, 1]  # one of them adopted the configuration
    ids = taught(rng, engines, 250)
    for decision_id in rng.sample(ids, 50):  # corrections, and the same again, anywhere
        rng.choice(engines).submit(report(decision_id, 0.25)).result()
        assert rng.choice(engines).submit(report(decision_id, 0.25)).result().disposition is Disposition.DUPLICATE
    same_position(*engines)
    engines.append(replicas.open())  # from a checkpoint
    same_position(*engines)
    assert len({encode(engine.snapshot.state) for engine in engines}) == 1
    assert [engine._follower.divergence_count for engine in engines] == [0, 0, 0, 0]
    assert engines[0].snapshot.state.position == 301


def test_an_operators_change_and_a_reading_position_hold_everywhere(replicas: Replicas) -> None:
    one, two = replicas.open(), replicas.open()
    _, position = one.set_weights("chat", {"cost_weight": 0.9}, reason="dear", actor="me")
    assert position == 2
    assert two.route(RouteQuery("chat"), min_state_position=position, timeout_s=30.0).state_position >= position
    assert two.category("chat").cost_weight == 0.9
    same_position(one, two)
    assert [row.kind for row in two.journal()] == ["operator", "config"]


def test_a_file_that_differs_is_not_adopted_but_applied(replicas: Replicas) -> None:
    one = replicas.open()
    changed = {**DOCUMENT["models"], "a": {"input_usd_per_mtok": 7.0}}
    two = replicas.open(models=changed)
    assert two.info().config_fingerprint == one.info().config_fingerprint
    shared = load(replicas.document(models=changed)).shared
    assert one.reload(shared) is None
    position = two.apply(shared)
    assert position == 2
    until(lambda: one.snapshot.state.position == 2)
    assert one.info().config_fingerprint == two.info().config_fingerprint
    assert two.apply(shared) is None


def test_of_two_changes_at_once_one_is_told(replicas: Replicas, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = replicas.open(), replicas.open()
    held = two._follower.snapshot.state
    first, second = (load(replicas.document(feedback_window_s=seconds)).shared for seconds in (3600.0, 7200.0))
    one.apply(first)
    until(lambda: two.snapshot.state.position == 2)
    stale = two.snapshot.state._replace(config_position=held.config_position)
    monkeypatch.setattr(two._follower.snapshot, "state", stale)
    with pytest.raises(ConfigReplaced, match="position 2"):
        two.apply(second)
    assert one.snapshot.state.settings.feedback_window_us == 3600 * 10**6


def test_a_replica_with_other_keys_is_refused(replicas: Replicas) -> None:
    one = replicas.open()
    decision_id = one.route(RouteQuery("chat")).id
    with pytest.raises(StoreKeyMismatch, match="same signing_keys_file"):
        replicas.open(signing_keys_file=str(replicas.other_keys()))
    staging = replicas.open(redis={"namespace": "staging", "timeout_s": 1.0})
    with pytest.raises(ForeignDecisionId):
        staging.submit(report(decision_id, 0.5))


def test_a_shared_store_needs_keys_of_its_own(replicas: Replicas) -> None:
    document = replicas.document()
    del document["signing_keys_file"]
    with pytest.raises(ConfigError, match="signing_keys_file"):
        load(document)


def test_while_the_store_is_away_route_goes_on_and_feedback_says_so(replicas: Replicas, server: RedisServer) -> None:
    one, two = replicas.open(), replicas.open()
    taught(random.Random(2), [one, two], 20)
    same_position(one, two)
    assert not one.route(RouteQuery("chat")).state_stale
    server.kill()
    decision = one.route(RouteQuery("chat"))
    with pytest.raises(StoreUnavailable):
        one.submit(report(decision.id, 0.5)).result()
    until(lambda: not one.health()["log"])
    assert one.health()["fold"]
    assert one.route(RouteQuery("chat")).state_stale
    server.start()
    until(lambda: one.health()["log"] and two.health()["log"])
    assert two.submit(report(decision.id, 0.5)).result().state_position == 22
    same_position(one, two)
    assert encode(one.snapshot.state) == encode(two.snapshot.state)
    assert one._follower.rewind_count == two._follower.rewind_count == 0


def test_events_that_vanish_are_noticed_and_unlearned(replicas: Replicas, server: RedisServer) -> None:
    """As after the promotion of a server that lacked them: here the log is emptied."""
    one, two = replicas.open(), replicas.open()
    ids = taught(random.Random(3), [one, two], 20)
    same_position(one, two)
    assert isinstance(one._log, RedisLog)
    one._log._client("read").flushall()
    until(lambda: one._follower.rewind_count == two._follower.rewind_count == 1)
    until(lambda: one.snapshot.state.feedback_count == two.snapshot.state.feedback_count == 0)
    assert one._log.epoch == two._log.epoch == 2
    assert one.snapshot.state.document == two.snapshot.state.document != {}  # the configuration is put back, once
    assert two.submit(report(ids[0], 0.5)).result().disposition is Disposition.APPLIED  # ids that were given out stay good
    same_position(one, two)
    assert encode(one.snapshot.state) == encode(two.snapshot.state)
    assert one.snapshot.state.position == 2


def test_a_start_without_the_store_serves_what_it_last_knew(replicas: Replicas, server: RedisServer, tmp_path: Path) -> None:
    allowed = {"timeout_s": 1.0, "stale_start": "allow", "checkpoint_folder": str(tmp_path / "here")}
    one = replicas.open(redis=allowed)
    taught(random.Random(4), [one], 20)
    same_position(one)
    state = one.snapshot.state
    one.close()
    server.kill()
    with pytest.raises(StoreUnavailable):
        replicas.open()
    again = replicas.open(redis=allowed)
    assert encode(again.snapshot.state) == encode(state)
    decision = again.route(RouteQuery("chat"))
    assert decision.state_stale
    with pytest.raises(StoreUnavailable):
        again.submit(report(decision.id, 0.5)).result()
    server.start()
    until(lambda: again._follower.ready and again.health()["log"])
    assert again.submit(report(decision.id, 0.5)).result().disposition is Disposition.APPLIED


def test_newer_rules_of_folding_begin_once_all_replicas_know_them(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened() -> RedisLog:
        return RedisLog(parse_address(server.url), namespace="n", durability=Durability(), timeout_s=5.0)

    old, new = opened(), opened()
    version = FOLD_VERSION
    assert old.announce("old", "1.0", 60.0) == (version, {"old": "1.0"})
    monkeypatch.setattr("banditroute.log.redis.FOLD_VERSION", version + 1)
    assert new.announce("new", "2.0", 60.0) == (version, {"old": "1.0", "new": "2.0"})
    assert new.append(EventKind.OPERATOR, {}).result().fold_version == version
    assert new.announce("old", "", 0.0)[0] == version + 1  # it is gone
    assert old.append(EventKind.OPERATOR, {}).result().fold_version == version + 1
    assert [event.fold_version for event in old.read(0, 9)] == [version, version + 1]
    old.close()
    new.close()


def test_routers_in_two_processes_share_what_they_learn(server: RedisServer, replicas: Replicas) -> None:
    with Router.from_config(replicas.document()) as one, Router.from_config(replicas.document()) as two:
        decision = one.route("chat")
        receipt = two.feedback(decision.id, eval_score=0.9)
        until(lambda: one.engine.snapshot.state.position == receipt.state_position)
        assert two.category("chat").arms == one.category("chat").arms


def test_a_state_that_differs_at_a_checkpoint_is_counted_and_replaced(replicas: Replicas) -> None:
    one, two = replicas.open(checkpoint_every=50), replicas.open(checkpoint_every=50)
    rng = random.Random(5)
    taught(rng, [one, two], 20)
    same_position(one, two)
    held = two.snapshot
    two._follower.snapshot = Snapshot(held.state._replace(feedback_count=999), held)  # as a fault in one build would do
    taught(rng, [one], 40)
    until(lambda: one._follower.divergence_count + two._follower.divergence_count == 1)
    same_position(one, two)
    assert encode(one.snapshot.state) == encode(two.snapshot.state)
    assert one.info().divergence_count + two.info().divergence_count == 1


def test_a_replica_that_fell_behind_what_is_kept_goes_on_from_a_checkpoint(replicas: Replicas) -> None:
    local = {"checkpoint_every": 50, "log_retention_events": 1}
    one, two = replicas.open(**local), replicas.open(**local)
    with two._follower._folding:  # it does not come to fold
        taught(random.Random(6), [one], 120)
        until(lambda: one._follower._checkpointed == 100)
    same_position(one, two)
    assert encode(one.snapshot.state) == encode(two.snapshot.state)
    assert two._follower.rewind_count == 0
    late = replicas.open(**local)
    assert encode(late.snapshot.state) == encode(one.snapshot.state)

"""Engines that share a SQLite log as workers do, here in one process."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from engines import DOCUMENT, report

from banditroute.config import load
from banditroute.core.types import Disposition, RouteQuery
from banditroute.engine import Engine
from banditroute.log.checkpoint import encode
from banditroute.wiring import open_engine

Open = Callable[..., Engine]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    with ExitStack() as stack:

        def open_one(*, adopt: bool = True, **more: Any) -> Engine:
            config = load({**DOCUMENT, "store": f"sqlite:///{tmp_path}", **more})
            engine = stack.enter_context(closing(open_engine(config, threaded=True, worker=True, adopt=adopt)))
            assert engine.wait_ready(30.0)
            return engine

        yield open_one


def until(held: Callable[[], bool]) -> None:
    end = time.monotonic() + 60.0
    while not held():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_workers_fold_one_log_to_one_state(opened: Open) -> None:
    rng = random.Random(1)
    engines = [opened(checkpoint_every=50, adopt=i == 0) for i in range(3)]
    ids = []
    for _ in range(200):
        ids.append(rng.choice(engines).route(RouteQuery(rng.choice(["chat", "code"]))).id)
        rng.choice(engines).submit(report(ids[-1], rng.random())).result()
    for decision_id in ids[:50]:
        rng.choice(engines).submit(report(decision_id, 0.25)).result()
        assert rng.choice(engines).submit(report(decision_id, 0.25)).result().disposition is Disposition.DUPLICATE
    until(lambda: {engine.snapshot.state.position for engine in engines} == {engines[0].info().log_position})
    assert len({encode(engine.snapshot.state) for engine in engines}) == 1
    assert [engine.info().divergence_count for engine in engines] == [0, 0, 0]
    assert [row.kind for row in engines[2].journal(limit=999)].count("config") == 1


def test_a_configuration_that_all_reload_at_once_is_adopted_once(opened: Open) -> None:
    engines = [opened(adopt=i == 0) for i in range(4)]
    for price in (3.0, 4.0, 5.0):
        changed = load({**DOCUMENT, "models": {**DOCUMENT["models"], "a": {"input_usd_per_mtok": price}}}).shared
        with ThreadPoolExecutor(4) as pool:
            positions = list(pool.map(lambda engine, shared=changed: engine.reload(shared), engines))
        assert len([position for position in positions if position is not None]) == 1
        assert len({engine.info().config_fingerprint for engine in engines}) == 1
    assert engines[0].info().log_position == 4


def test_who_joins_takes_the_logs_configuration(opened: Open) -> None:
    one = opened()
    other = opened(adopt=False, models={**DOCUMENT["models"], "a": {"input_usd_per_mtok": 9.0}})
    assert other.info().config_fingerprint == one.info().config_fingerprint
    assert one.info().log_position == 1

"""What breaks, and that nothing is lost that was promised: real servers, real processes, real kills.

`banditroute bench --only faults` does the same at length, for every level of durability.
"""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from redis_servers import binaries, serving

from banditroute.bench.many.faults import Sizes, suffered
from banditroute.bench.many.setups import write_config
from banditroute.bench.many.site import Site, until
from banditroute.client import Client, RequestFailed
from banditroute.demo.process import ServerProcess
from banditroute.v1 import router_pb2 as pb

SERVERS = binaries()
pytestmark = pytest.mark.skipif("redis-8" not in SERVERS, reason="no redis-8 server is installed here")
SIZES = Sizes(feedbacks=40, pause_s=1.0, timeout_s=0.5)


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Site]]:
    """Made where a test asks for them, one per level: every fault leaves a site whole."""
    with ExitStack() as stack:

        class Sites(dict[str, Site]):
            def __missing__(self, level: str) -> Site:
                folder = tmp_path_factory.mktemp("site")
                self[level] = stack.enter_context(Site(SERVERS["redis-8"], folder, durability=level, timeout_s=SIZES.timeout_s))
                return self[level]

        yield Sites()


def suffers(site: Site, fault: str) -> dict[str, Any]:
    """What holds at every level and after every fault."""
    found = suffered(site, fault, SIZES)
    assert found["states_equal"], found
    assert (found["double_counted"], found["never_acknowledged"]) == (0, 0), found
    if fault != "kill_all":
        assert found["route_errors"] == 0, found
    return found


@pytest.mark.parametrize("fault", ["kill_one", "pause_redis", "cut_network", "full_redis", "kill_redis"])
def test_what_is_on_the_disk_is_not_lost(sites: dict[str, Site], fault: str) -> None:
    found = suffers(sites["aof"], fault)
    assert (found["lost"], found["vanished_noticed_by"]) == (0, 0)


@pytest.mark.parametrize("level", ["aof", "memory"])
def test_a_promotion_that_loses_events_is_noticed_and_healed_everywhere(sites: dict[str, Site], level: str) -> None:
    found = suffers(sites[level], "promote_lagging")
    assert found["vanished_noticed_by"] == 2
    assert found["lost"] > 0  # neither level promises more than this one server


def test_a_server_that_comes_back_empty_is_noticed_and_healed_everywhere(sites: dict[str, Site]) -> None:
    found = suffers(sites["memory"], "kill_redis")
    assert found["vanished_noticed_by"] == 2
    assert found["lost"] > 0


def test_what_replicas_keep_is_not_lost_with_the_primary(sites: dict[str, Site]) -> None:
    assert suffers(sites["replicas=1"], "kill_redis")["lost"] == 0


def test_all_replicas_may_die(sites: dict[str, Site]) -> None:
    assert suffers(sites["memory"], "kill_all")["lost"] == 0


def test_served_routing_goes_on_through_the_death_of_a_replica_and_of_redis(tmp_path: Path) -> None:
    """`banditroute serve`, twice, and a client that knows both."""
    with ExitStack() as stack:
        folder = tmp_path / "redis"
        redis = stack.enter_context(serving(SERVERS["redis-8"], folder, "--appendonly", "yes", "--appendfsync", "always"))
        config = json.loads(write_config(tmp_path, redis.url, redis={"timeout_s": 0.5}, server={"drain_s": 0.0}).read_text())
        places = [tmp_path / name for name in ("one", "two")]
        for place in places:
            place.mkdir()
        one, two = [stack.enter_context(ServerProcess(place, config)) for place in places]
        client = stack.enter_context(Client(f"ipv4:{one.router},{two.router}"))
        answers, failed, stop = [], [], threading.Event()

        def route() -> None:
            while not stop.is_set():
                try:
                    answers.append(client.route("chat"))
                except RequestFailed as error:
                    failed.append(error)

        thread = threading.Thread(target=route)
        thread.start()
        try:
            until(lambda: len(answers) > 50, "routing")
            one.signal(signal.SIGKILL)
            count = len(answers)
            until(lambda: len(answers) > count + 50, "routing with one replica")
            redis.kill()
            until(lambda: answers[-1].state_stale, "answers that say they are stale")
            with pytest.raises(RequestFailed, match="STORE_UNAVAILABLE"):
                client.feedback(answers[0].decision_id, eval_score=0.5, timeout_s=1.0)
            redis.start()
            until(lambda: not answers[-1].state_stale, "answers that are not")
            for _ in range(2):
                said = client.feedback(answers[0].decision_id, eval_score=0.5, timeout_s=30.0)
        finally:
            stop.set()
            thread.join()
        assert said.disposition == pb.DISPOSITION_DUPLICATE
        assert failed == []

"""Commands that read a store, on one in Redis, while a server could be running on it."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import yaml
from redis_servers import binaries, serving
from typer.testing import CliRunner

from banditroute import Router
from banditroute.cli import app

SERVERS = binaries()
pytestmark = pytest.mark.skipif("redis-8" not in SERVERS, reason="no redis-8 server is installed here")

CONFIG = {
    "signing_keys_file": "keys.json",
    "redis": {"durability": "memory", "timeout_s": 1.0},
    "models": {"a": {"output_usd_per_mtok": 1.0}, "b": {"output_usd_per_mtok": 9.0}},
    "categories": {"c": {"models": ["a", "b"], "propensity_floor": 0.1}},
}


def run(*arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == code, done.output
    return done.output


def test_what_a_store_in_redis_tells(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [{"id": "k", "secret": "ab" * 32}]}))
    path, rng = tmp_path / "banditroute.yaml", random.Random(1)
    with serving(SERVERS["redis-8"], tmp_path / "redis") as server:
        path.write_text(yaml.safe_dump({**CONFIG, "store": server.url}))
        with Router.from_config(path) as router:
            for _ in range(300):
                decision = router.route("c")
                router.feedback(decision.id, eval_score=min(1.0, rng.random() + 0.3 * (decision.model == "b")))
        told = json.loads(run("explain", decision.id, "--config", str(path), "--json"))
        assert told["model"] == decision.model
        assert {option["model"] for option in told["options"]} == {"a", "b"}
        out = str(tmp_path / "out")
        made = json.loads(run("export", "--config", str(path), "--out", out, "--json"))
        assert {name: table["row_count"] for name, table in made["tables"].items()} == {"decisions": 300, "feedback": 300}
        again = json.loads(run("export", "--config", str(path), "--out", out, "--json"))
        assert {name: table["new_row_count"] for name, table in again["tables"].items()} == {"decisions": 0, "feedback": 0}
        changed = tmp_path / "changed.yaml"
        dearer = {"c": {"models": ["a", "b"], "propensity_floor": 0.1, "cost_weight": 0.5}}
        changed.write_text(yaml.safe_dump({**CONFIG, "store": server.url, "categories": dearer}))
        assert "0.5" in run("check", str(changed))
        assert run("evaluate", "--config", str(changed))
        assert "config" in run("events", "--config", str(path))
    assert "cannot be reached" in run("explain", decision.id, "--config", str(path), code=1)

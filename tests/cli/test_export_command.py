"""`banditroute export`, also of a server's store while it runs, and `banditroute simulate` on what it wrote."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("pyarrow")

from export_stores import CONFIG, rows_of, serve, write_config
from redis_servers import binaries, serving

from banditroute import Router
from banditroute.client import Client
from banditroute.demo.process import ServerProcess
from cli.conftest import Run
from cli.test_cli_server import eventually

SERVERS = binaries()


def test_counts(run: Run, tmp_path: Path) -> None:
    path = write_config(tmp_path)
    serve(path, 300)
    out = tmp_path / "out"
    first = run("export", "--config", path, "--out", out)
    assert first.code == 0, first.err
    assert [line.split() for line in first.out.splitlines()[1:3]] == [
        ["table", "new", "rows", "rows", "in", "all", "files"],
        ["decisions", "300", "300", "1"],
    ]
    serve(path, 40, seed=2, after_s=1000.0)
    data = run("export", "--config", path, "--out", out, "--json").data
    decisions = data["tables"]["decisions"]
    assert (decisions["new_row_count"], decisions["row_count"], decisions["missing_count"]) == (40, 340, 0)
    assert decisions["files"] == ["decisions-000001.parquet", "decisions-000002.parquet"]
    assert data["notes"] == []
    features = [row["features"] for row in rows_of(out, "feedback") if row["category"] == "summarise"]
    assert {name for pairs in features for name, _ in pairs} == {"length"}

    played = run("simulate", out, "--requests", 200, "--seeds", 2, "--policy", "banditroute", "--jobs", 1, "--json")
    assert played.code == 0, played.err
    assert played.data["models"] == ["cheap", "dear"]
    assert "decisions have no outcome" in played.err
    kept = run("simulate", out, "--requests", 50, "--seeds", 1, "--policy", "random", "--out", tmp_path / "played", "--jobs", 1)
    assert kept.code == 0, kept.err
    assert "decisions have no outcome" in kept.err
    assert "an environment has no samples" in run("simulate", out, "--half", "a").err


def test_what_was_missed_is_said(run: Run, tmp_path: Path) -> None:
    path = write_config(tmp_path, decision_sink={"enabled": False})
    serve(path, 5, silent=0.0)
    ran = run("export", "--config", path, "--out", tmp_path / "out")
    assert ran.code == 0
    assert "note: there is no decision sink" in ran.out


def test_a_servers_store_while_it_runs(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with ServerProcess(tmp_path, CONFIG) as server, Client(server.router) as client:

        def counts() -> list[int]:
            ran = run("export", "--config", server.config_path, "--out", out, "--json")
            assert ran.code == 0, ran.err
            return [ran.data["tables"][table]["row_count"] for table in ("decisions", "feedback")]

        def has_decisions(count: int) -> bool:
            return counts()[0] == count

        for total in (40, 80):
            for _ in range(40):
                client.feedback(client.route("classify", input_tokens=900).decision_id, eval_score=0.5)
            assert counts()[1] == total
            eventually(partial(has_decisions, total))  # the sink writes a little later
    decisions, feedback = rows_of(out, "decisions"), rows_of(out, "feedback")
    assert len({row["decision_id"] for row in decisions}) == 80
    assert {row["decision_id"] for row in decisions} == {row["decision_id"] for row in feedback}


@pytest.mark.skipif("redis-8" not in SERVERS, reason="no redis-8 server is installed here")
def test_a_store_in_redis_is_exported_and_exported_on(run: Run, tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [{"id": "k", "secret": "ab" * 32}]}))
    out = tmp_path / "out"
    with serving(SERVERS["redis-8"], tmp_path / "redis") as server:
        path = write_config(tmp_path, store=server.url, signing_keys_file="keys.json", redis={"durability": "memory"})
        for new, total in ((3, 3), (2, 5)):
            with Router.from_config(path, seed=total) as router:
                for _ in range(new):
                    router.feedback(router.route("classify").id, eval_score=1.0)
            ran = run("export", "--config", path, "--out", out, "--json")
            assert ran.code == 0, ran.err
            assert [ran.data["tables"][table]["row_count"] for table in ("decisions", "feedback")] == [total, total]


def test_wrong_usage(run: Run, tmp_path: Path) -> None:
    path = write_config(tmp_path)
    nothing = run("export", "--config", path, "--out", tmp_path / "out")
    assert (nothing.code, nothing.out) == (1, "")
    assert "nothing was served from there yet" in nothing.err
    memory = run("export", "--config", write_config(tmp_path, store="memory:"), "--out", tmp_path / "out")
    assert memory.code == 1
    assert "store in memory" in memory.err
    assert run("export", "--config", path, "--out", tmp_path / "out", "--since", "yesterday").code == 2
    assert not (tmp_path / "out").exists()

"""`banditroute demo` as a person runs it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = Path(__file__).with_name("small.yaml")
REQUESTS = 2000
DEMO = (sys.executable, "-m", "banditroute", "demo", "--seed", "1", "--seconds", "60", "--requests", str(REQUESTS))


def demo(*arguments: str) -> Any:
    done = subprocess.run([*DEMO, *arguments, "--json"], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def check(report: Any) -> None:
    summary = report["summary"]
    assert summary["requests"] >= REQUESTS
    assert summary["cost_weight"] == 0.3
    assert summary["router"]["utility"] > summary["random"]["utility"]
    assert summary["router"]["cost_usd"] < summary["best"]["cost_usd"]
    assert summary["quality_kept"] == pytest.approx(summary["router"]["quality"] / summary["best"]["quality"])
    assert summary["lost_second_half"] < 0.5  # of what random choice loses: it learned; which half lost more is luck
    explained = report["explained"]
    assert explained["sources"] == ["id", "sink", "log"]
    assert explained["why"]
    assert explained["attempts"]


def test_the_shipped_environment() -> None:
    report = demo("--acts", "1")
    assert (report["source"], report["decline"]) == ("mmlu_pro", None)
    check(report)


def test_real_rows() -> None:
    folder = (REPOSITORY / os.environ.get("BANDITROUTE_DATA", "../shared/data")).resolve()
    path = folder / "mmlu_pro.parquet"
    if not path.is_file():
        pytest.skip(f"no {path.name} in BANDITROUTE_DATA={folder}")
    check(demo("--dataset", str(path), "--acts", "1"))


def test_a_model_that_degrades_is_demoted_and_comes_back() -> None:
    report = demo("--environment", str(SMALL), "--seconds", "110")
    check(report)
    decline = report["decline"]
    events = [(event["kind"], event["at"]) for event in decline["events"]]
    kinds = [kind for kind, _ in events]
    # The first and the third are what the clients did, the others are from the journal.
    first = [kinds.index(kind) for kind in ("degrades", "demoted", "recovers", "promoted")]
    assert first == sorted(first)
    assert [at for _, at in events] == sorted(at for _, at in events)
    assert 0 < decline["demoted_after_feedbacks"] < 500
    assert 0 < decline["back_after_requests"] < 3000
    assert decline["share_before"] > 0.8
    assert decline["share_demoted"] < 0.2
    assert decline["share_after"] > 0.8
    assert 0.0 < decline["lost"] < 0.5 * decline["lost_if_kept"]


def test_ctrl_c_stops_the_server_too() -> None:
    with subprocess.Popen(DEMO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        started = re.search(r"pid (\d+)", process.stdout.readline())
        assert started
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in told
    with pytest.raises(ProcessLookupError):
        os.kill(int(started[1]), 0)


def test_a_missing_data_set() -> None:
    done = subprocess.run([*DEMO, "--dataset", "none.parquet"], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "no such file" in done.stderr
    assert "Traceback" not in done.stderr

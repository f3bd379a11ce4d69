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
    report = demo()
    assert report["source"] == "mmlu_pro"
    check(report)


def test_real_rows() -> None:
    folder = (REPOSITORY / os.environ.get("BANDITROUTE_DATA", "../shared/data")).resolve()
    path = folder / "mmlu_pro.parquet"
    if not path.is_file():
        pytest.skip(f"no {path.name} in BANDITROUTE_DATA={folder}")
    check(demo("--dataset", str(path)))


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

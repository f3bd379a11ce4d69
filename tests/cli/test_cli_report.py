from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from banditroute.lab.report import PAGE, PICTURES
from cli.conftest import Run

SMALL = ("--requests", 20, "--seeds", 1, "--jobs", 1, "--policy", "banditroute", "--policy", "random")


def test_a_report_beside_the_results(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    ran = run("simulate", "routellm_mmlu", *SMALL, "--out", tmp_path)
    assert ran.code == 0
    assert ran.err == ""
    assert json.loads((tmp_path / "results.json").read_text())["seeds"] == 1
    assert "routellm_mmlu, cost weight 0.1" in (tmp_path / PAGE).read_text(encoding="utf-8")
    assert (tmp_path / PICTURES / "01-routellm_mmlu-regret.png").read_bytes().startswith(b"\x89PNG")


def test_without_the_extra_there_are_results_and_a_word(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "banditroute.lab.report.page", raising=False)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    ran = run("simulate", "routellm_mmlu", *SMALL, "--out", tmp_path)
    assert ran.code == 0
    assert ran.err.strip().endswith("the report needs an extra: pip install 'banditroute[report]'")
    assert (tmp_path / "results.json").is_file()
    assert not (tmp_path / PAGE).exists()

from __future__ import annotations

from pathlib import Path

from cli.conftest import Run


def test_what_needs_a_data_set_that_is_not_there_is_left_out(run: Run, tmp_path: Path) -> None:
    ran = run("bench", "changes", "--data", tmp_path, "--only", "judged-0.18", "--json")
    assert ran.code == 0
    assert ran.data == {
        "requests": 6000,
        "seeds": 20,
        "cases": [],
        "left_out": [{"case": "judged-0.18", "needs": "paretobandit_k4_val"}],
    }
    told = run("bench", "changes", "--data", tmp_path, "--only", "judged-0.18")
    assert told.code == 0 and "left out: judged-0.18" in told.out


def test_a_case_that_there_is_not(run: Run) -> None:
    ran = run("bench", "changes", "--only", "nothing")
    assert ran.code == 2
    assert "known: judged-0.18" in ran.err

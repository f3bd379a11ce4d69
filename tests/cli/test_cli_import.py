"""`banditroute import`, and each command of the how-to, over a month made of the fixtures."""

from __future__ import annotations

import csv
import json
import re
import shlex
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from banditroute.config import read_priors
from banditroute.lab.environments import load_environment
from cli.conftest import Run

ROOT = Path(__file__).resolve().parents[2]
EXPORTS = ROOT / "tests" / "exports"
HOWTO = (ROOT / "docs" / "howto" / "from-your-logs.md").read_text(encoding="utf-8")
STARS = ("--score-from", "metadata.spend_logs_metadata.stars", "--score-range", "1:5")
SPEND = EXPORTS / "spend_logs.jsonl"


def repeated(path: Path, out: Path, *, times: int) -> None:
    """The fixture's rows so many times, each time 2.5 days later and with ids of their own; as JSONL or CSV."""
    once = [json.loads(line) for line in path.read_text().splitlines()]
    rows = [shifted(row, i) for i in range(times) for row in once]
    out.parent.mkdir(exist_ok=True)
    with out.open("w", encoding="utf-8", newline="") as file:
        if out.suffix == ".jsonl":
            file.writelines(json.dumps(row) + "\n" for row in rows)
            return
        writer = csv.writer(file)
        writer.writerow(once[0])
        writer.writerows([json.dumps(cell) if isinstance(cell, dict | list) else cell for cell in row.values()] for row in rows)


def shifted(row: Mapping[str, Any], i: int) -> dict[str, Any]:
    changed = dict(row)
    for name, value in row.items():
        if name in ("id", "trace_id", "observation_id", "request_id") and value:
            changed[name] = f"{value}-{i}"
        if name in ("startTime", "endTime", "start_time", "end_time", "timestamp") and value:
            changed[name] = (datetime.fromisoformat(value) + timedelta(days=2.5 * i)).isoformat()
    return changed


@pytest.fixture
def month(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the how-to has exported, as the working directory."""
    monkeypatch.chdir(tmp_path)
    repeated(SPEND, tmp_path / "spend_logs.csv", times=12)
    repeated(EXPORTS / "langfuse" / "observations_v2.jsonl", tmp_path / "observations_v2" / "2026-05.jsonl", times=12)
    repeated(EXPORTS / "langfuse" / "scores.jsonl", tmp_path / "scores" / "2026-05.jsonl", times=12)
    ratings = (EXPORTS / "ratings.csv").read_text().splitlines()
    rated = [f"{key}-{i},{stars}" for i in range(12) for key, stars in (line.split(",") for line in ratings[1:])]
    (tmp_path / "ratings.csv").write_text("\n".join([ratings[0], *rated]) + "\n")
    (files,) = re.findall(r"```yaml\n(.*?)```", HOWTO, flags=re.DOTALL)
    (tmp_path / "banditroute.yaml").write_text(files)
    return tmp_path


def commands() -> list[tuple[list[str], list[str]]]:
    """Each command of the how-to's console blocks with the lines shown below it."""
    found: list[tuple[list[str], list[str]]] = []
    for block in re.findall(r"```console\n(.*?)```", HOWTO, flags=re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("$ "):
                found.append((shlex.split(line[2:]), []))
            elif line.strip() not in ("", "..."):
                found[-1][1].append(line.rstrip())
    return found


def test_every_command_of_the_howto(run: Run, month: Path) -> None:
    told = commands()
    assert len(told) > 5
    for (program, *arguments), lines in told:
        assert program == "banditroute"
        expanded = [path for each in arguments for path in (sorted(map(str, Path().glob(each))) if "*" in each else [each])]
        ran = run(*expanded)
        assert (ran.code, ran.err) == (0, ""), shlex.join(arguments)
        output = [line.rstrip() for line in ran.out.splitlines()]
        assert [line for line in lines if line not in output] == [], ran.out
    assert read_priors(month / "priors.yaml")
    assert load_environment(month / "environment.yaml").models == ("large", "small")


def test_json_is_pure_and_says_all(run: Run) -> None:
    ran = run("import", "litellm", SPEND, *STARS, "--json")
    assert ran.code == 0
    assert (ran.data["logged_by"], ran.data["request_count"], ran.data["scored_count"]) == ("litellm", 12, 12)
    assert ran.data["left_out"]["failed"] == 2
    assert len(ran.data["cells"]) == 4
    assert "the old routing may have chosen models by the prompt" in ran.data["warnings"][0]


def test_warnings_for_people(run: Run, tmp_path: Path) -> None:
    ran = run("import", "litellm", SPEND, "--leave-out", "small", "--score-from", "status")
    assert "warning: the old routing may have chosen models by the prompt" in ran.out
    assert "warning: one model only (large)" in ran.out
    assert "warning: an answer is not a good answer" in ran.out
    drawn = run("import", "litellm", SPEND, "--confounding-sd", 0)
    assert "warning: models are taken to have been chosen by lot" in drawn.out
    assert "warning: no request has a score" in drawn.out
    mine = tmp_path / "mine.csv"
    mine.write_text("sample_id,category,model,cost_usd\n1,sums,a,0\n2,sums,b,1\n3,law,a,0\n")
    ran = run("import", "logged", mine)
    assert "warning: law: answered by a only" in ran.out
    assert "warning: a: every request cost $0 or has no cost" in ran.out


def test_priors_made_of_a_log_are_what_a_configuration_takes(run: Run, tmp_path: Path) -> None:
    data, priors = tmp_path / "log.csv", tmp_path / "priors.yaml"
    assert run("import", "litellm", SPEND, *STARS, "--rename", "large=gpt-4o", "--out", data).code == 0
    assert run("import", "logged", data, "--priors-out", priors).code == 0
    assert set(yaml.safe_load(priors.read_text())["sums" if "sums" in priors.read_text() else "classify"]) == {"gpt-4o", "small"}
    assert "what the old routing chose by prompt is still in them" in priors.read_text().replace("\n#   ", " ")
    assert read_priors(priors)


def test_a_log_is_not_replayed(run: Run, tmp_path: Path) -> None:
    data = tmp_path / "log.csv"
    run("import", "litellm", SPEND, "--out", data)
    ran = run("simulate", data)
    assert (ran.code, ran.out) == (1, "")
    assert "cannot be replayed" in ran.err
    assert "banditroute import logged FILE --priors-out P.yaml --environment-out E.yaml" in ran.err


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        ((SPEND, "--priors-out", "p.yaml"), 1, "no request has a score"),
        ((SPEND, *STARS, "--out", "o.csv", "--environment-out", "e.yaml"), 1, "needs 20 scored requests"),
        ((SPEND, "--out", "o.json"), 1, "give a .parquet or .csv file"),
        ((SPEND, *STARS[:2]), 1, "not between 0 and 1; give --score-range"),
        ((SPEND, "--score-range", "five"), 2, "give LOW:HIGH"),
        ((SPEND, "--score-range", "5:1"), 2, "give LOW:HIGH"),
        ((SPEND, "--score-value", "good=2"), 2, "give a value between 0 and 1"),
        ((SPEND, "--score-value", "good"), 2, "give NAME=VALUE"),
        ((SPEND, "--rename", "large"), 2, "give NAME=VALUE"),
        ((SPEND, "--leave-out", "huge"), 1, "neither a category"),
        (("absent.jsonl",), 1, "no such file"),
        ((), 2, "FILE..."),
    ],
)
def test_what_is_refused_writes_nothing(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[Any, ...], code: int, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = run("import", "litellm", *arguments)
    assert (ran.code, ran.out) == (code, "")
    assert told in ran.err
    assert list(tmp_path.iterdir()) == []

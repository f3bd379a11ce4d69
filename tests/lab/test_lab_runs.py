"""Runs: the same numbers whoever works, and nothing is done twice."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest

from banditroute.core.errors import DatasetError
from banditroute.lab.datasets import Dataset
from banditroute.lab.learners import POLICIES
from banditroute.lab.outcome import BINS, Outcome
from banditroute.lab.results import ROUTER
from banditroute.lab.runs import Backend, Setting, Task, bins, run_tasks


def tasks_of(source: Dataset, seeds: int = 4) -> list[Task]:
    setting = Setting(source=source, requests=50, cost_weight=0.1, policies=(ROUTER, "linucb", "random"))
    return [Task(setting, seed) for seed in range(seeds)]


def told(runs: list[list[Outcome]]) -> str:
    return json.dumps([[outcome.to_json() for outcome in each] for each in runs])


def test_outcomes_survive_json(toy: Dataset) -> None:
    for outcome in run_tasks(tasks_of(toy, 1))[0]:
        raw = json.loads(json.dumps(outcome.to_json(), allow_nan=False))
        again = Outcome.from_json(raw)
        assert json.loads(json.dumps(again.to_json())) == raw
        assert (again.coverage, again.regrets_at, again.beliefs) == (outcome.coverage, outcome.regrets_at, outcome.beliefs)


def test_parts_of_a_run() -> None:
    assert bins(5).tolist() == [1, 2, 3, 4, 5]
    assert len(bins(6000)) == BINS
    assert bins(6000)[[0, -1]].tolist() == [100, 6000]
    assert bins(100)[-1] == 100


def test_what_a_run_comes_to_adds_up(toy: Dataset) -> None:
    setting = Setting(source=toy, requests=130, cost_weight=0.1, policies=POLICIES, checkpoints=(7,))
    sizes = np.diff([0, *bins(130).tolist()])
    for outcome in run_tasks([Task(setting, 3)])[0]:
        assert outcome.regrets_at[130] == outcome.regret
        assert 0.0 <= outcome.regrets_at[7] <= outcome.regret
        np.testing.assert_allclose(np.sum(outcome.shares, axis=1), 1.0)
        assert sizes @ outcome.scores / 130 == pytest.approx(outcome.mean_score)
        assert sizes @ outcome.costs_usd / 130 == pytest.approx(outcome.mean_cost_usd)
        assert (outcome.beliefs is not None) == (outcome.policy == ROUTER)


def test_an_interrupted_run_is_resumed(toy: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = importlib.import_module("banditroute.lab.runs")
    whole, done = told(run_tasks(tasks_of(toy))), list[int]()
    original = runs.run_task

    def until_the_third(task: Task) -> list[Outcome]:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(task.seed)
        found: list[Outcome] = original(task)
        return found

    monkeypatch.setattr(runs, "run_task", until_the_third)
    with pytest.raises(KeyboardInterrupt):
        run_tasks(tasks_of(toy), kept=tmp_path)
    assert done == [0, 1]

    def counted(task: Task) -> list[Outcome]:
        done.append(task.seed)
        found: list[Outcome] = original(task)
        return found

    monkeypatch.setattr(runs, "run_task", counted)
    ticks: list[tuple[int, int]] = []
    resumed = run_tasks(tasks_of(toy), kept=tmp_path, progress=lambda *tick: ticks.append(tick))
    assert done == [0, 1, 2, 3]
    assert ticks == [(2, 4), (3, 4), (4, 4)]
    assert told(resumed) == whole
    assert not list(tmp_path.glob("*.part"))


def test_other_settings_are_other_runs(toy: Dataset, tmp_path: Path) -> None:
    run_tasks(tasks_of(toy, 1), kept=tmp_path)
    other = Setting(source=toy, requests=50, cost_weight=0.2, policies=(ROUTER, "linucb", "random"))
    run_tasks([Task(other, 0)], kept=tmp_path)
    assert len(list(tmp_path.glob("*.json"))) == 2


def test_a_spoiled_file_is_told(toy: Dataset, tmp_path: Path) -> None:
    run_tasks(tasks_of(toy, 1), kept=tmp_path)
    (path,) = tmp_path.glob("*.json")
    path.write_text("{")
    with pytest.raises(DatasetError, match="delete it"):
        run_tasks(tasks_of(toy, 1), kept=tmp_path)


@pytest.mark.parametrize("backend", ["local", "dask", "ray"])
def test_the_numbers_are_those_of_one_process_whoever_works(toy: Dataset, backend: Backend) -> None:
    if backend != "local":
        pytest.importorskip({"dask": "distributed", "ray": "ray"}[backend])
    assert told(run_tasks(tasks_of(toy), jobs=2, backend=backend)) == told(run_tasks(tasks_of(toy)))


def test_jobs_below_one(toy: Dataset) -> None:
    with pytest.raises(ValueError, match="give at least 1"):
        run_tasks(tasks_of(toy), jobs=0)

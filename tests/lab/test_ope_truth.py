"""Logs whose truth is known: the same as the router's, and their study."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from banditroute.bench import ope
from banditroute.cli import app
from banditroute.core.baselines import Utility
from banditroute.core.types import RouteQuery
from banditroute.lab.datasets import Dataset
from banditroute.lab.ope import coverage
from banditroute.lab.ope.coverage import Told, Trial, study, summed_up, trials
from banditroute.lab.ope.truth import Setting, logging_policy, made_log, policies
from banditroute.lab.router_policy import INPUT_TOKENS, RouterPolicy
from banditroute.lab.source import cost_reference_usd, model_costs_usd

SMALL = Setting(decisions=300, batch=20, floor=0.05)


class Scripted(random.Random):
    """Draws what it is told to."""

    wanted = 0.0

    def random(self) -> float:
        return self.wanted


def test_a_made_log_is_the_routers_own(toy: Dataset) -> None:
    """The same picks through the router, one by one: the same probabilities, bit for bit."""
    setting = Setting(decisions=150, batch=1, floor=0.05)
    logged = made_log(toy, setting, seed=3).logged
    rng = Scripted(0)
    with RouterPolicy(
        categories=toy.categories,
        models=toy.models,
        model_costs_usd=model_costs_usd(toy).tolist(),
        utility=Utility(setting.cost_weight, cost_reference_usd(toy)),
        seed=0,
        of_category={"propensity_floor": 0.05, "half_life_count": None, "max_effective_sample_size": 1e9},
        recording=True,
    ) as policy:
        policy.engine._rng = rng
        for i in range(len(logged)):
            category, wanted = int(logged.category[i]), int(logged.chosen[i])
            plan = policy.engine.snapshot.view(f"c{category}").plan(RouteQuery(f"c{category}", {}, INPUT_TOKENS, 0))
            place = plan.models.index(f"m{wanted}")
            rng.wanted = sum(plan.propensities[:place]) + plan.propensities[place] / 2.0
            assert policy.pick(i, category) == wanted
            policy.tell(i, score=float(logged.quality[i]), cost_usd=float(logged.cost_usd[i]))
        assert policy.propensities().tolist() == logged.propensities.tolist()


def test_a_log_is_made_of_the_data_and_depends_on_its_seed_only(toy: Dataset) -> None:
    first, again, other = [made_log(toy, SMALL, seed=seed) for seed in (1, 1, 2)]
    assert np.array_equal(first.logged.chosen, again.logged.chosen)
    assert not np.array_equal(first.logged.category, other.logged.category)
    assert first.logged.propensities.min() >= 0.05
    assert set(np.unique(first.logged.quality)) <= set(np.unique(toy.scores))
    np.testing.assert_allclose(first.own_rows(first.tables), first.logged.propensities)


def test_what_is_true_of_the_policies(toy: Dataset) -> None:
    made = made_log(toy, SMALL, seed=1)
    found = {policy.name: policy for policy in policies(toy, made, SMALL)}
    assert list(found) == ["best fixed", "cheapest", "uniform", "best per category", "router at 0.5"]
    assert found["cheapest"].qualities == pytest.approx(0.5)
    assert found["uniform"].costs_usd == pytest.approx((0.001 + 0.01 + 0.002 + 0.01) / 4.0)
    assert found["best per category"].qualities == pytest.approx(0.9)
    assert logging_policy(toy, made).qualities.mean() < 0.9


def test_trials_hold_every_estimator_beside_the_truth(toy: Dataset) -> None:
    found = trials(toy, Setting(decisions=1500, floor=0.2), seed=1)
    assert [trial.policy for trial in found][:2] == ["best fixed", "cheapest"]
    names = [told.estimator for told in found[0].told]
    assert names[0] == "DR"
    assert names[-4:] == [coverage.DIFFERENCE, coverage.CHANGE, coverage.SEQUENCE, coverage.SEQUENCE_DIFFERENCE]
    assert all(trial.is_supported for trial in found)
    assert all(abs(told.error) < 0.1 for trial in found for told in trial.told if told.estimator == "DR")


def trial(*, supported: bool, error: float, covers: bool) -> Trial:
    return Trial("p", supported, 300.0, 0.01, 0.5, (Told("DR", error, 0.2, covers),))


def test_figures_count_supported_logs_only() -> None:
    runs = [
        [trial(supported=True, error=0.1, covers=True)],
        [trial(supported=True, error=-0.3, covers=False)],
        [trial(supported=False, error=9.0, covers=False)],
    ]
    (figures,) = summed_up(runs)
    assert (figures.logs, figures.supported) == (3, 2)
    dr = figures.by_estimator["DR"]
    assert (dr.coverage, dr.bias, dr.width) == pytest.approx((0.5, -0.1, 0.2))
    assert dr.rmse == pytest.approx(0.05**0.5)
    (none,) = summed_up(runs[2:])
    assert dict(none.by_estimator) == {}


@pytest.fixture
def folder(toy: Dataset, tmp_path: Path) -> Path:
    """A data folder with a toy in place of one of the data sets."""
    import pyarrow as pa
    from pyarrow import parquet

    rows: list[dict[str, Any]] = [
        {
            "sample_id": f"s{i}",
            "category": toy.categories[toy.sample_category[i]],
            "model": model,
            "score": toy.scores[i, k],
            "cost_usd": toy.costs_usd[i, k],
        }
        for i in range(4)
        for k, model in enumerate(toy.models)
    ]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "mmlu_pro.parquet")
    return tmp_path


def test_a_study_and_its_tables(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ope, "SETTING", Setting(decisions=1100, floor=0.2))
    monkeypatch.setattr(ope, "THIN", {"short": Setting(decisions=100)})
    monkeypatch.setenv("BANDITROUTE_DATA", str(folder))
    ran = CliRunner().invoke(app, ["bench", "ope", "--runs", "2", "--jobs", "1"], env={"COLUMNS": "160"})
    assert ran.exit_code == 0, ran.output
    assert "mmlu_pro: 2 logs of 1100 decisions" in ran.stdout
    assert "no support" in ran.stdout
    assert "paretobandit_k4_val: left out" in ran.stdout
    monkeypatch.setattr(ope, "QUICK_RUNS", 1)
    told = ope.run(quick=True)
    assert list(told) == ["mmlu_pro", "mmlu_pro, short", "paretobandit_k4_val"]
    assert told["mmlu_pro"]["policies"][0]["by_estimator"]["DR"]["coverage"] in (0.0, 1.0)


def test_the_number_of_processes_changes_nothing(folder: Path) -> None:
    setting = Setting(decisions=200, floor=0.2)
    one, two = [study(folder / "mmlu_pro.parquet", setting, runs=2, jobs=jobs).to_json() for jobs in (1, 2)]
    assert one == two


@pytest.mark.parametrize("name", ["mmlu_pro", "paretobandit_k4_val"])
def test_intervals_on_real_data(real_data: Callable[[str], Dataset], name: str) -> None:
    """One log each: DR is unbiased within five of its standard errors for all policies; the measured coverage is the bench's."""
    for each in trials(real_data(name), Setting(decisions=1000, floor=0.05), seed=1):
        (dr,) = [told for told in each.told if told.estimator == "DR"]
        assert abs(dr.error) < 5.0 * dr.width / 3.92

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cli.conftest import Run

SMALL = ("--requests", 40, "--seeds", 2, "--jobs", 1)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    rows = ["sample_id,category,model,score,cost_usd,input_tokens,output_tokens"]
    for i in range(8):
        rows += [f"s{i},sums,dear,1.0,0.010,900,100", f"s{i},sums,cheap,{0.9 if i % 2 else 0.7},0.001,900,100"]
    path = tmp_path / "toy.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def test_a_data_set_beside_the_baselines(run: Run, dataset: Path) -> None:
    ran = run("simulate", dataset, "--cost-weight", 0.1, "--cost-weight", 0.3, *SMALL, "--json")
    assert ran.code == 0
    assert [result["cost_weight"] for result in ran.data["results"]] == [0.1, 0.3]
    policies = {policy["policy"]: policy for policy in ran.data["results"][0]["policies"]}
    assert policies["category-oracle"]["regret_mean"] == 0.0
    assert policies["random"]["regret_mean"] > 0.0
    assert {"banditroute", "ucb1", "epsilon-greedy"} <= policies.keys()


def test_the_same_for_people(run: Run, dataset: Path) -> None:
    ran = run("simulate", dataset, *SMALL)
    assert ran.code == 0
    assert "cost weight 0.1" in ran.out
    assert "below random" in ran.out
    assert ran.err == ""


def test_priors_out_of_one_half_into_the_other(run: Run, dataset: Path, tmp_path: Path) -> None:
    priors = tmp_path / "priors.yaml"
    ran = run("simulate", dataset, "--half", "a", "--priors-out", priors, *SMALL, "--json")
    assert ran.code == 0
    assert ran.data["source"] == "toy[a]"
    assert yaml.safe_load(priors.read_text())["sums"]["dear"]["quality"] == 1.0
    ran = run("simulate", dataset, "--half", "b", "--priors-in", priors, *SMALL, "--json")
    assert ran.data["with_priors"] is True


def test_a_shipped_environment(run: Run) -> None:
    assert run("simulate", "paretobandit_k4_val", *SMALL, "--json").data["source"] == "paretobandit_k4_val"


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("none.csv",), 1, "no such file"),
        (("nowhere",), 1, "mmlu_pro"),
        (("rows.pkl",), 1, "pickles"),
        (("paretobandit_k4_val", "--half", "a"), 2, "environment"),
        (("paretobandit_k4_val", "--priors-out", "p.yaml"), 2, "environment"),
        (("paretobandit_k4_val", "--priors-in", "none.yaml"), 1, "cannot be read"),
        (("paretobandit_k4_val", "--requests", "0"), 2, "--requests"),
    ],
)
def test_what_is_refused(run: Run, arguments: tuple[str, ...], code: int, told: str) -> None:
    ran = run("simulate", *arguments)
    assert (ran.code, ran.out) == (code, "")
    assert told in ran.err

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


def test_chosen_policies_and_checkpoints(run: Run, dataset: Path) -> None:
    ran = run("simulate", dataset, "--policy", "random", "--policy", "banditroute", "--at", 10, *SMALL, "--json")
    assert ran.code == 0
    policies = ran.data["results"][0]["policies"]
    assert [policy["policy"] for policy in policies] == ["random", "banditroute"]
    assert policies[0]["regret_at"].keys() == {"10", "40"}
    assert policies[0]["vs_banditroute"]["ci95"] is not None
    assert policies[1]["coverage90"]["all"]["cells"] == 4
    shown = run("simulate", dataset, "--policy", "banditroute", "--at", 10, *SMALL)
    assert "at 10" in shown.out
    assert "90 % intervals hold the true quality of" in shown.out


def test_shipped_worlds(run: Run) -> None:
    ran = run("simulate", "specialists", *SMALL, "--json")
    assert (ran.code, ran.data["source"]) == (0, "specialists")
    policies = {policy["policy"]: policy for policy in ran.data["results"][0]["policies"]}
    assert {"beta-ts", "gaussian-ts", "linucb"} <= policies.keys()
    assert policies["banditroute"]["coverage90"]["all"]["cells"] == 2 * 48


def test_priors_of_one_half_against_a_cold_start_on_the_other(run: Run, dataset: Path) -> None:
    arguments = ("simulate", dataset, "--priors-from-half", "a", "--policy", "banditroute", "--at", 20, *SMALL)
    ran = run(*arguments, "--json")
    assert ran.code == 0
    assert ran.data["source"] == "toy[b]"
    found = ran.data["results"][0]
    assert [policy["policy"] for policy in found["policies"]][1:] == [
        "banditroute-with-priors",
        "banditroute-with-inverted-priors",
    ]
    assert found["priors_effect"].keys() == {"20", "40"}
    shown = run(*arguments).out
    assert "priors, regret after 20 requests: with them" in shown
    assert "inverted" in shown


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("none.csv",), 1, "no such file"),
        (("nowhere",), 1, "mmlu_pro"),
        (("rows.pkl",), 1, "pickles"),
        (("paretobandit_k4_val", "--half", "a"), 2, "environment"),
        (("paretobandit_k4_val", "--priors-out", "p.yaml"), 2, "environment"),
        (("paretobandit_k4_val", "--priors-in", "none.yaml"), 1, "cannot be read"),
        (("paretobandit_k4_val", "--priors-from-half", "a"), 2, "environment"),
        (("specialists", "--priors-from-half", "a"), 2, "environment"),
        (("specialists", "--priors-from-half", "a", "--half", "b"), 2, "not both"),
        (("specialists", "--priors-from-half", "a", "--priors-in", "p.yaml"), 2, "not both"),
        (("specialists", "--priors-from-half", "a", "--priors-out", "p.yaml"), 2, "not both"),
        (("specialists", "--priors-from-half", "a", "--policy", "random"), 2, "--policy banditroute"),
        (("specialists", "--policy", "sorcery"), 2, "gaussian-ts"),
        (("specialists", "--at", "50", "--requests", "40"), 2, "--at"),
        (("paretobandit_k4_val", "--requests", "0"), 2, "--requests"),
    ],
)
def test_what_is_refused(run: Run, arguments: tuple[str, ...], code: int, told: str) -> None:
    ran = run("simulate", *arguments)
    assert (ran.code, ran.out) == (code, "")
    assert told in ran.err

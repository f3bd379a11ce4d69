"""`banditroute evaluate` on stores that a router made."""

from __future__ import annotations

import copy
import random
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from banditroute import Router
from cli.conftest import CONFIG, Run, write_config

OLD: dict[str, Any] = {
    **copy.deepcopy(dict(CONFIG)),
    "categories": {
        "summarise": {
            "models": ["dear", "cheap"],
            "cost_weight": 0.02,
            "propensity_floor": 0.2,
            "features": {"length": {"mean": 5.0, "stddev": 2.0}},
        },
        "classify": {"models": ["dear", "cheap"], "cost_weight": 0.02, "propensity_floor": 0.2},
    },
}
START = 1_800_000_000.0
EVERY_S = 60.0
LATE = ("--since", "2027-01-15T17:00Z")
"""The last 160 of 700 decisions."""


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


def serve(path: Path, count: int, *, silent: float = 0.1, only: str = "") -> None:
    """So many decisions a minute apart, each with feedback but for a share of `silent`; one in ten answers of `dear` is
    unusable, and `cheap` answers instead."""
    rng, clock = random.Random(1), Clock()
    with Router.from_config(path, seed=2, clock=clock) as router:
        for i in range(count):
            clock.now = START + EVERY_S * i
            category = only or rng.choice(["summarise", "classify"])
            features = {"length": rng.gauss(5.0, 2.0)} if category == "summarise" and not only else {}
            decision = router.route(category, features=features, input_tokens=rng.randrange(500, 1500))
            if rng.random() < silent:
                continue
            score = float(rng.random() < (0.9 if decision.model == "dear" else 0.7))
            if decision.model == "dear" and not only and rng.random() < 0.1:
                router.feedback(decision.id, error="bad_output", cost_usd=0.001)
                router.feedback(decision.id, model="cheap", eval_score=score, cost_usd=0.002, input_tokens=900, output_tokens=300)
            else:
                router.feedback(decision.id, eval_score=score)


def changed(path: Path, *, name: str = "new.yaml", models: Mapping[str, Any] | None = None, **category: Any) -> Path:
    """Another configuration of the same store, its categories changed alike."""
    config = copy.deepcopy(OLD)
    for each in config["categories"].values():
        each.update(category)
    config["models"].update(models or {})
    made = write_config(path.parent, config)
    return made.rename(path.parent / name)


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """700 decisions; the file that served them."""
    folder = tmp_path_factory.mktemp("lived")
    path = write_config(folder, OLD).rename(folder / "old.yaml")
    serve(path, 700)
    return path


def test_the_same_configuration_would_have_done_the_same(run: Run, lived: Path) -> None:
    ran = run("evaluate", "--config", lived, "--json")
    assert ran.code == 0, ran.err
    (found,) = ran.data["evaluations"]
    assert found["supported"] is True
    assert found["support"]["largest_weight"] == pytest.approx(1.0, abs=1e-6)
    assert found["support"]["effective_sample_size"] == pytest.approx(ran.data["decision_count"])
    assert found["quality_difference"]["value"] == pytest.approx(0.0, abs=1e-9)
    assert found["cost_change"]["value"] == pytest.approx(0.0, abs=1e-9)
    assert found["quality"]["SNIPS"]["value"] == pytest.approx(found["logged"]["quality"]["value"])
    assert found["verdict"].endswith("at cost weight 0.02")
    assert ran.data["answered_share"] == pytest.approx(0.9, abs=0.03)
    assert found["support"]["sampling_rate"] == 1.0
    assert found["support"]["feedback_rates"]["uneven"] is False


def test_a_higher_cost_weight_is_cheaper_and_worse_and_says_so(run: Run, lived: Path) -> None:
    new = changed(lived, cost_weight=0.9)
    ran = run("evaluate", "--config", new)
    assert ran.code == 0, ran.err
    assert "quality −0." in ran.out
    assert "and cost −" in ran.out
    assert "at cost weight 0.9" in ran.out
    assert "DR-stabilised" in ran.out
    assert "have no outcome" in ran.out


def test_cost_weights_give_the_frontier(run: Run, lived: Path) -> None:
    ran = run("evaluate", "--config", lived, "--cost-weight", 0.0, "--cost-weight", 0.9, "--json")
    assert [each["cost_weight"] for each in ran.data["evaluations"]] == [0.0, 0.9]
    dear, cheap = ran.data["evaluations"]
    assert dear["cost_usd"]["DR"]["value"] > 2.0 * cheap["cost_usd"]["DR"]["value"]
    assert cheap["verdict"].endswith("at cost weight 0.9")
    assert cheap["cost_change"]["ci95"][1] < -0.5
    low, high = cheap["quality"]["DR"]["ci95"]
    assert low < 0.7 < high
    always = cheap["anytime"]["quality"]
    assert always["width"] > high - low
    assert always["asymptotic"] is False


def test_a_sweep(run: Run, lived: Path) -> None:
    shown = run("evaluate", "--config", lived, "--sweep", *LATE)
    assert shown.code == 0
    assert all(f"at cost weight {each}" in shown.out for each in ("0.03", "0.1", "0.5", "1"))
    assert "as logged" in shown.out


def test_since_leaves_out_what_was_earlier(run: Run, lived: Path) -> None:
    half = run("evaluate", "--config", lived, "--since", "2027-01-15T13:50:00Z", "--json")
    assert half.code == 0, half.err
    assert half.data["first_time"] >= START + EVERY_S * 350
    assert 250 < half.data["decision_count"] < 350
    too_late = run("evaluate", "--config", lived, "--since", "2040-01-01")
    assert (too_late.code, too_late.out) == (1, "")
    assert "no decision with an outcome" in too_late.err
    assert run("evaluate", "--config", lived, "--since", "yesterday").code == 2
    assert run("evaluate", "--config", lived, "--sweep", "--cost-weight", 0.1).code == 2


def test_a_picture_of_a_sweep(run: Run, lived: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    files = [tmp_path / name for name in ("one.png", "again.png", "single.png")]
    for file in files[:2]:
        assert run("evaluate", "--config", lived, "--cost-weight", 0.1, "--cost-weight", 0.5, "--picture", file, *LATE).code == 0
    assert run("evaluate", "--config", lived, "--picture", files[2], *LATE).code == 0
    one, again, single = [file.read_bytes() for file in files]
    assert one == again != single
    assert one.startswith(b"\x89PNG")


def test_few_decisions_are_no_support_and_the_words_say_what_to_do(run: Run, lived: Path) -> None:
    new = changed(lived, cost_weight=0.9)
    ran = run("evaluate", "--config", new, *LATE)
    assert ran.code == 0
    assert "no support for the policy at cost weight 0.9" in ran.out
    assert "200 are needed" in ran.out.replace("\n", " ")


def test_prices_change_both_sides_and_nothing_but_the_choices_counts(run: Run, lived: Path) -> None:
    """All prices doubled and half the weight: the same choices at twice the cost, which the reference in the log keeps apart."""
    before = run("evaluate", "--config", lived, *LATE, "--json").data["evaluations"][0]
    doubled = {
        name: {key: 2.0 * value if key.endswith("mtok") else value for key, value in model.items()}
        for name, model in OLD["models"].items()
    }
    after = run("evaluate", "--config", changed(lived, models=doubled, cost_weight=0.01), *LATE, "--json").data["evaluations"][0]
    assert after["logged"]["cost_usd"]["value"] == pytest.approx(2.0 * before["logged"]["cost_usd"]["value"])
    assert after["cost_change"]["value"] == pytest.approx(0.0, abs=1e-6)


def test_other_features_can_still_read_the_log(run: Run, lived: Path) -> None:
    config = copy.deepcopy(OLD)
    config["categories"]["summarise"]["features"] = {"size": {"mean": 0.0, "stddev": 1.0}}
    path = write_config(lived.parent, config).rename(lived.parent / "features.yaml")
    ran = run("evaluate", "--config", path, *LATE, "--json")
    assert ran.code == 0, ran.err
    assert ran.data["evaluations"][0]["support"]["effective_sample_size"] > 50


def test_a_category_that_is_dropped_and_one_that_is_new_are_noted(run: Run, lived: Path) -> None:
    config = copy.deepcopy(OLD)
    config["categories"]["translate"] = config["categories"].pop("classify")
    path = write_config(lived.parent, config).rename(lived.parent / "categories.yaml")
    notes = " ".join(run("evaluate", "--config", path, *LATE, "--json").data["notes"])
    assert "are of categories that the new configuration has not" in notes
    assert "nothing is known of translate" in notes
    del config["categories"]["summarise"]
    path = write_config(lived.parent, config).rename(path)
    assert "none of the log's categories (classify, summarise)" in run("evaluate", "--config", path).err


def test_a_model_that_was_never_logged_is_named(run: Run, lived: Path) -> None:
    fresh = {"fresh": {"input_usd_per_mtok": 1.0, "output_usd_per_mtok": 1.0}}
    ran = run("evaluate", "--config", _with_model(lived, fresh))
    assert (ran.code, ran.out) == (1, "")
    assert "fresh in classify, fresh in summarise" in ran.err
    assert "let it serve at its floor first" in ran.err


def _with_model(lived: Path, model: Mapping[str, Any]) -> Path:
    config = copy.deepcopy(OLD)
    config["models"].update(model)
    for each in config["categories"].values():
        each["models"] = [*each["models"], *model]
    return write_config(lived.parent, config).rename(lived.parent / "fresh.yaml")


class TestBadLogs:
    def test_nothing_was_served(self, run: Run, tmp_path: Path) -> None:
        ran = run("evaluate", "--config", write_config(tmp_path, OLD))
        assert ran.code == 1
        assert "nothing was served from there yet" in ran.err

    def test_a_store_in_memory(self, run: Run, tmp_path: Path) -> None:
        assert "store in memory" in run("evaluate", "--config", write_config(tmp_path, OLD, store="memory:")).err

    def test_no_feedback(self, run: Run, tmp_path: Path) -> None:
        path = write_config(tmp_path, OLD)
        serve(path, 5, silent=1.0)
        ran = run("evaluate", "--config", path)
        assert ran.code == 1
        assert "no decision with an outcome" in ran.err

    def test_one_decision_while_a_router_goes_on(self, run: Run, tmp_path: Path) -> None:
        path = write_config(tmp_path, OLD)
        serve(path, 1, silent=0.0)
        with Router.from_config(path, seed=5, clock=lambda: START + EVERY_S):
            assert "no support" in run("evaluate", "--config", path).out
            assert run("evaluate", "--config", path, "--json").data["decision_count"] == 1

    def test_no_sink(self, run: Run, tmp_path: Path) -> None:
        path = write_config(tmp_path, OLD, decision_sink={"enabled": False})
        serve(path, 5, silent=0.0)
        ran = run("evaluate", "--config", path)
        assert ran.code == 1
        assert "no decision sink" in ran.err

    def test_one_arm(self, run: Run, tmp_path: Path) -> None:
        path = write_config(tmp_path, OLD, categories={"classify": {"models": ["dear"]}})
        serve(path, 5, silent=0.0, only="classify")
        ran = run("evaluate", "--config", path)
        assert ran.code == 1
        assert "one possible model (dear)" in ran.err

    def test_a_damaged_sink(self, run: Run, tmp_path: Path) -> None:
        path = write_config(tmp_path, OLD)
        serve(path, 12, silent=0.0)
        sink = tmp_path / "state" / "decisions.db"
        with sqlite3.connect(sink) as db:
            db.execute("UPDATE batches SET numbers = substr(numbers, 1, 40)")
        ran = run("evaluate", "--config", path)
        assert ran.code == 1
        assert "damaged row (candidates are missing)" in ran.err

    def test_rows_that_were_dropped_are_a_sampling_rate(self, run: Run, tmp_path: Path) -> None:
        path = write_config(tmp_path, OLD)
        serve(path, 40, silent=0.0)
        with Router.from_config(path, seed=4, clock=lambda: START + 41 * EVERY_S) as router:
            router.engine._sink.put = lambda row: None  # type: ignore[union-attr,method-assign]
            for _ in range(10):
                router.feedback(router.route("classify").id, eval_score=1.0)
        data = run("evaluate", "--config", path, "--json").data
        assert data["evaluations"][0]["support"]["sampling_rate"] == pytest.approx(0.8)
        assert any("dropped 10 decisions" in note for note in data["notes"])
        assert "no support" in data["evaluations"][0]["verdict"]

    def test_weights_that_operators_set_are_left_out(self, run: Run, tmp_path: Path) -> None:
        path = write_config(tmp_path, OLD)
        serve(path, 20, silent=0.0)
        with Router.from_config(path, seed=4, clock=lambda: START + 21 * EVERY_S) as router:
            router.set_weights("classify", cost_weight=3.0, reason="budget")
            for _ in range(5):
                router.feedback(router.route("classify").id, eval_score=1.0)
        data = run("evaluate", "--config", path, "--json").data
        assert any("weights that operators set are left out" in note for note in data["notes"])
        assert data["evaluations"][0]["support"]["largest_weight"] > 1.0

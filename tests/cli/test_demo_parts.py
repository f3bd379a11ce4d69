"""The demo's parts, without a server; tests/e2e has the whole."""

from __future__ import annotations

import io
import random
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from banditroute.config import load
from banditroute.core.errors import DatasetError
from banditroute.demo.play import KINDS, Played, judgement
from banditroute.demo.scenario import COST_WEIGHT, make_scenario
from banditroute.demo.screen import Frame, bar, result, sparks
from banditroute.demo.summary import summarise
from banditroute.demo.tally import Tally
from banditroute.lab.datasets import Dataset
from banditroute.lab.finding import find_source
from banditroute.v1 import admin_pb2 as pb

TOY = Dataset(
    name="toy",
    categories=("easy", "hard"),
    models=("cheap", "dear"),
    sample_category=np.array([0, 1]),
    scores=np.array([[0.9, 0.9], [0.2, 0.9]]),
    costs_usd=np.array([[0.001, 0.010], [0.001, 0.010]]),
)


def played(*choices: tuple[int, int]) -> list[Played]:
    return [Played(c, m, TOY.scores[c], TOY.costs_usd[c], float(i)) for i, (c, m) in enumerate(choices)]


class TestScenario:
    @pytest.mark.parametrize("name", ["mmlu_pro", "paretobandit_k4_val", "routellm_mmlu"])
    def test_shipped_environments_make_valid_configurations(self, name: str) -> None:
        source = find_source(name)
        config = load(make_scenario(source).config)
        assert set(config.shared["categories"]) == set(source.categories)

    def test_list_prices_are_found_again(self) -> None:
        rng = np.random.default_rng(1)
        into, out = rng.integers(50, 2000, (40, 2)).astype(float), rng.integers(10, 900, (40, 2)).astype(float)
        prices = np.array([[2.5, 10.0], [0.1, 0.4]])
        costs = (into * prices[:, 0] + out * prices[:, 1]) / 1e6
        source = Dataset(
            name="priced",
            categories=("x",),
            models=("a", "b"),
            sample_category=np.zeros(40, dtype=np.int64),
            scores=rng.random((40, 2)),
            costs_usd=costs,
            input_tokens=into,
            output_tokens=out,
        )
        scenario = make_scenario(source)
        assert scenario.by_token
        found = scenario.config["models"]["a"]
        assert (found["input_usd_per_mtok"], found["output_usd_per_mtok"]) == pytest.approx((2.5, 10.0))

    def test_without_tokens_a_request_costs_its_models_mean(self) -> None:
        scenario = make_scenario(TOY)
        assert not scenario.by_token
        assert scenario.config["models"]["dear"] == {"input_usd_per_mtok": 10.0, "output_usd_per_mtok": 0.0}

    def test_an_unknown_name(self) -> None:
        with pytest.raises(DatasetError, match="mmlu_pro"):
            find_source("nowhere")


class TestJudgement:
    @pytest.mark.parametrize("score", [0.0, 0.3, 0.625, 1.0])
    def test_every_kind_is_worth_the_score_on_average(self, score: float) -> None:
        rng = random.Random(3)
        values: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for _ in range(40_000):
            given = judgement(score, rng)
            kind = next(iter(given), "none")
            value: Any = given.get(kind, 0.0)
            match kind:
                case "rating":
                    values[kind].append((value[0] - value[1]) / (value[2] - value[1]))
                case "retried":
                    values[kind].append(1.0 - value)
                case _:
                    values[kind].append(float(value))
        for kind in KINDS[:4]:
            bound = 4.0 * 0.5 / np.sqrt(len(values[kind])) if 0.0 < score < 1.0 else 1e-12
            assert abs(np.mean(values[kind]) - score) <= bound, kind
        assert values["none"]


class TestSummary:
    def test_by_hand(self) -> None:
        found = summarise(played((0, 1), (1, 0), (0, 0), (1, 1)), TOY, cost_weight=0.3, seconds=2.0)
        assert (found.requests, found.requests_per_s, found.best_model) == (4, 2.0, "dear")
        assert found.router.quality == pytest.approx((0.9 + 0.2 + 0.9 + 0.9) / 4)
        assert found.router.cost_usd == pytest.approx(0.0055)
        assert found.best.quality == pytest.approx(0.9)
        assert found.quality_kept == pytest.approx(0.725 / 0.9)
        assert found.money_saved == pytest.approx(0.45)
        assert found.random.quality == pytest.approx(0.725)
        assert found.money_saved_against_random == pytest.approx(0.0)
        # Utility at weight 0.3: easy 0.87 and 0.60, hard 0.17 and 0.60. So gaps of 0.27 and 0.43, half of them at random.
        assert found.lost_first_half == pytest.approx(2.0)
        assert found.lost_second_half == 0.0
        assert found.oracle.quality == pytest.approx(0.9)

    def test_one_request(self) -> None:
        found = summarise(played((0, 0)), TOY, cost_weight=0.3, seconds=0.0)
        assert found.second_half == found.router

    def test_the_tally_agrees(self) -> None:
        all_of_them = played((0, 1), (1, 0), (0, 0), (1, 1))
        tally = Tally(TOY, cost_weight=COST_WEIGHT)
        tally.take(all_of_them[:2])
        tally.take(all_of_them)
        assert tally.count == 4
        assert tally.quality / 4 == pytest.approx(0.725)
        assert tally.regrets == pytest.approx([2.0, 0.0])
        assert tally.best == 1


class TestScreen:
    @pytest.mark.parametrize(("width", "height"), [(80, 24), (100, 40), (200, 60), (60, 12)])
    def test_a_frame_fits_its_terminal(self, width: int, height: int) -> None:
        source = find_source("mmlu_pro")
        arms = [
            pb.Arm(model=model, quality_mean=0.5, quality_stddev=0.1, expected_cost_usd=0.0012, share=1 / 9)
            for model in source.models
        ]
        categories = [pb.Category(name=name, arms=arms) for name in source.categories]
        tally = Tally(source, cost_weight=COST_WEIGHT)
        tally.take([Played(c, 0, source.mean_scores[c], source.mean_costs_usd[c], 0.0) for c in range(14)])
        out = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)
        frame = Frame(make_scenario(source), tally, categories, elapsed_s=3.0, share_done=0.5)
        lines = ["".join(segment.text for segment in line) for line in out.render_lines(frame)]
        assert len(lines) < height
        assert max(map(len, lines)) <= width
        if width >= 80:
            assert any("0.500 ± 0.100 $0.001200" in line for line in lines)
            assert any("11 %" in line for line in lines)

    def test_the_result_fits_eighty_columns(self) -> None:
        out = Console(file=io.StringIO(), width=80, color_system=None, record=True)
        out.print(result(summarise(played((0, 1), (1, 0), (0, 0)), TOY, cost_weight=0.3, seconds=1.0), name="toy"))
        text = out.export_text()
        assert "of the quality kept" in text
        assert "against random" in text

    def test_bars_and_sparks(self) -> None:
        assert (bar(0.5, 4), bar(0.0, 2), bar(2.0, 2), bar(0.125, 1)) == ("██  ", "  ", "██", "▏")
        assert sparks([0.0, 0.5, 9.0], 2) == "▅█"

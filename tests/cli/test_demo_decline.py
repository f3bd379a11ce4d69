"""Act two of the demo, without a server; tests/e2e has the whole."""

from __future__ import annotations

import io
import math
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from rich.console import Console

from banditroute.demo import decline as acts
from banditroute.demo.decline import AFTER, BEFORE, PROBES, Decline, Step
from banditroute.demo.decline_screen import DeclineFrame, columns, decline_line, decline_result
from banditroute.demo.degraded import Degraded
from banditroute.demo.play import Played
from banditroute.demo.scenario import make_scenario
from banditroute.demo.screen import area, result
from banditroute.demo.summary import summarise
from banditroute.demo.watching import Line
from banditroute.lab.finding import find_source
from banditroute.v1 import admin_pb2 as pb
from banditroute.v1.router_pb2 import Lifecycle

SOURCE = find_source("mmlu_pro")
SCENARIO = make_scenario(SOURCE)
GOOD = SOURCE.models.index("gemini-1.5-flash-002")
RIVAL = SOURCE.models.index("Meta-Llama-3_1-70B-Instruct")


class Play:
    """A decline with players and a journal that do what the test says."""

    def __init__(self) -> None:
        self.played: list[Played] = []
        self.players: Any = SimpleNamespace(played=self.played, source=SOURCE, pace=math.inf)
        self.lines: list[Line] = []
        self.watcher: Any = SimpleNamespace(lines=self.lines, start_position=1)
        self.play(GOOD, BEFORE)
        self.decline = Decline(SCENARIO, cast(Any, self.players), cast(Any, self.watcher), watched=False)

    def play(self, model: int, count: int) -> None:
        source = self.players.source
        for _ in range(count):
            self.played.append(Played(0, model, source.mean_scores[0], source.mean_costs_usd[0], 0.0, source is not SOURCE))

    def tell(self, kind: str, **details: Any) -> None:
        about = {"model": SOURCE.models[GOOD], **details}
        self.lines.append(Line(self.decline.began + 1.0, 1 + len(self.played), kind, f"It is {kind}.", about))

    def advance(self) -> Step:
        self.decline.advance()
        return self.decline.step

    def to_demotion(self) -> None:
        self.play(GOOD, BEFORE)
        assert self.advance() is Step.DEGRADED
        self.play(GOOD, 40)
        self.tell("demoted", evidence=2e5, evidence_needed=1e5)
        assert self.advance() is Step.DEMOTED

    def to_recovery(self) -> None:
        self.play(RIVAL, 425)
        assert self.advance() is Step.DEMOTED
        self.play(GOOD, PROBES)
        assert self.advance() is Step.RECOVERED


class TestDegraded:
    def test_one_model_gives_fewer_good_answers(self) -> None:
        worse, rng = Degraded(SOURCE, model=GOOD, kept=0.5), np.random.default_rng(1)
        assert worse.mean_scores[:, GOOD] == pytest.approx(0.5 * SOURCE.mean_scores[:, GOOD])
        others = [k for k in range(len(SOURCE.models)) if k != GOOD]
        assert (worse.mean_scores[:, others] == SOURCE.mean_scores[:, others]).all()
        draws = [worse.draw(rng) for _ in range(4000)]
        scores = np.array([draw.scores for draw in draws])
        assert set(scores[:, GOOD]) == {0.0, 1.0}  # what is right or wrong stays so
        mean = float(SOURCE.weights @ worse.mean_scores[:, GOOD])
        assert abs(scores[:, GOOD].mean() - mean) < 4.0 * math.sqrt(mean * (1.0 - mean) / len(draws))

    def test_a_mark_is_scaled(self) -> None:
        source = find_source("paretobandit_k4_val")
        usual, worse = source.draw(np.random.default_rng(3)), Degraded(source, model=0, kept=0.25).draw(np.random.default_rng(3))
        assert 0.0 < usual.scores[0] < 1.0
        assert worse.scores.tolist() == [0.25 * usual.scores[0], *usual.scores[1:]]


class TestSteps:
    def test_the_whole_act(self) -> None:
        play = Play()
        assert play.advance() is Step.BEFORE
        play.to_demotion()
        assert play.players.source is play.decline.degraded
        play.to_recovery()
        assert play.players.source is SOURCE
        play.play(GOOD, 30)
        play.tell("promoted")
        assert play.advance() is Step.BACK
        play.play(GOOD, AFTER)
        assert play.advance() is Step.OVER
        report = play.decline.report()
        assert (report.demoted_after_feedbacks, report.back_after_requests) == (40, 30)
        assert report.share_before == 1.0
        assert report.share_demoted == pytest.approx(PROBES / (425 + PROBES))
        assert report.share_after == 1.0
        assert [event["kind"] for event in report.events] == ["degrades", "demoted", "recovers", "promoted"]
        assert report.events[1]["text"] == "It is demoted (evidence 200,000 of 100,000)."
        worth = {
            model: SOURCE.mean_scores[0, model] - 0.3 * SOURCE.mean_costs_usd[0, model] / reference() for model in (GOOD, RIVAL)
        }
        bad = worth[GOOD] - 0.5 * SOURCE.mean_scores[0, GOOD]
        best = max(bad, best_of_others())
        # Bad were 40 + PROBES requests that it got and 425 that a rival got; 30 more were right again.
        expected = (40 + PROBES) * (best - bad) + 425 * (best - worth[RIVAL])
        assert report.lost == pytest.approx(expected)
        assert report.lost_if_kept == pytest.approx((40 + PROBES + 425) * (best - bad))

    def test_a_false_promotion_is_waited_out(self) -> None:
        play = Play()
        play.to_demotion()
        play.tell("promoted")
        assert play.advance() is Step.DEGRADED
        play.play(GOOD, 60)
        play.tell("demoted")
        assert play.advance() is Step.DEMOTED
        assert play.decline.report().demoted_after_feedbacks == 40

    def test_what_is_settled_ends_it(self) -> None:
        play = Play()
        play.to_demotion()
        play.tell("settled")
        assert play.advance() is Step.BACK
        assert play.players.source is SOURCE
        assert play.decline.report().share_after is None

    def test_nothing_is_noticed(self) -> None:
        play = Play()
        play.play(GOOD, BEFORE)
        play.advance()
        play.play(GOOD, acts.MOST_UNNOTICED)
        play.tell("demoted", model="another")
        assert play.advance() is Step.RECOVERED
        play.play(GOOD, acts.MOST_UNTIL_BACK)
        assert play.advance() is Step.BACK
        report = play.decline.report()
        assert (report.demoted_after_feedbacks, report.back_after_requests, report.share_demoted) == (None, None, None)
        assert "not noticed" in decline_result(report)[0].plain


def reference() -> float:
    return float((SOURCE.weights @ SOURCE.mean_costs_usd).max())


def best_of_others() -> float:
    worth = SOURCE.mean_scores[0] - 0.3 * SOURCE.mean_costs_usd[0] / reference()
    return float(np.delete(worth, GOOD).max())


class TestScreen:
    def test_areas(self) -> None:
        assert area([0.0, 0.01, 0.5, 1.0], 1) == [" ▁▄█"]
        assert area([0.0, 0.01, 0.5, 0.75, 2.0], 2) == ["   ▄█", " ▁███"]

    def test_columns_have_room(self) -> None:
        shares, size = columns([0] * 25 + [1] * 25 + [0] * 24, count=2, room=10)
        assert (size, shares.tolist()) == (25, [[1.0, 0.0], [0.0, 1.0]])
        for count in (0, 24, 250, 299, 300, 1000, 5000):
            shares, size = columns([0] * count, count=1, room=10)
            assert len(shares) == count // size <= 10

    @pytest.mark.parametrize(("width", "height"), [(80, 24), (100, 40), (200, 60), (60, 15)])
    def test_a_frame_fits_its_terminal(self, width: int, height: int) -> None:
        play = Play()
        play.to_demotion()
        for _ in range(20):
            play.tell("released")
        play.to_recovery()
        arms = [
            pb.Arm(model=model, quality_mean=0.5, share=1 / 9, lifecycle=Lifecycle.LIFECYCLE_LIVE, lifecycle_reason="")
            for model in SOURCE.models
        ]
        arms[GOOD].MergeFrom(pb.Arm(lifecycle=Lifecycle.LIFECYCLE_DEMOTED, lifecycle_reason="worse than it was by 0.3"))
        categories = [pb.Category(name=name, arms=arms) for name in SOURCE.categories]
        out = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)
        lines = ["".join(segment.text for segment in line) for line in out.render_lines(DeclineFrame(play.decline, categories))]
        assert len(lines) < height
        assert max(map(len, lines)) <= width
        text = "\n".join(lines)
        assert "worse than it was by 0.3" in text
        assert ("DEMOTED" in text) is (height >= 20)
        if height >= 40:  # there is room for minor ones too
            assert any(line.startswith("·  1.0 s It is released") for line in lines)
        if width >= 80:
            for each in ("1 ", "2 ", "3 "):
                assert any(line.startswith(each) for line in lines)
            marks = next(line for line in lines if set(line.split()) == {"1", "2", "3"} or "12" in line.split())
            assert marks.split()[-1] == "3"

    def test_without_a_terminal(self) -> None:
        play = Play()
        play.to_demotion()
        play.play(RIVAL, BEFORE)
        assert "got 0 % of the last 300 requests: it is demoted" in decline_line(play.decline)

    def test_the_result_fits_eighty_columns(self) -> None:
        play = Play()
        play.to_demotion()
        out = Console(file=io.StringIO(), width=80, color_system=None, record=True)
        summary = summarise(play.played, SOURCE, cost_weight=0.3, seconds=1.0)
        out.print(result(summary, name="toy", more=decline_result(play.decline.report())))
        text = out.export_text()
        assert "a model got worse       demoted after 40 feedbacks, not back" in text
        assert "with it kept in use\n" in text

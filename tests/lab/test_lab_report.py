"""The report: it says what the JSON says, whatever models are called, and says it in the same bytes."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from banditroute.lab.datasets import Dataset
from banditroute.lab.finding import find_source_or_worlds
from banditroute.lab.report import write_report
from banditroute.lab.report.cells import shown
from banditroute.lab.report.labels import short, spread
from banditroute.lab.report.palette import model_colours
from banditroute.lab.runs import Z90, run_tasks
from banditroute.lab.scenario import ScenarioSpec, settings_of
from banditroute.lab.scenario_results import scenario_result, tasks_of
from banditroute.lab.source import Source
from banditroute.lab.worlds import Worlds

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

POLICIES = ("banditroute", "linucb", "random", "best-fixed")
DEGRADED = ({"model": "@best", "degrade": 0.5, "at": 20, "until": 40},)


def simulated(source: Source | Worlds, **fields: Any) -> Any:
    """The JSON of a small scenario."""
    given: dict[str, Any] = {"requests": 60, "seeds": 2, "policies": POLICIES, "timeline": DEGRADED}
    spec = ScenarioSpec.model_validate({"name": "small", "sources": ("any",), **given, **fields})
    settings = settings_of(spec, find=lambda _: source)
    result = scenario_result(spec, settings, run_tasks(tasks_of(settings, seeds=spec.seeds)), seeds=spec.seeds)
    return json.loads(json.dumps(result.to_json(), allow_nan=False))


class Read(HTMLParser):
    """A page as people see it: text, table rows, and alt texts. Fails where a tag is not closed, or not its own."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.rows, self.alts, self.tags = "", list[list[str]](), list[str](), set[str]()
        self._open: list[str] = []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in ("meta", "img"):
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "img":
            told = dict(attrs)
            assert (told["src"] or "").startswith("data:image/png;base64,")
            self.alts.append(told["alt"] or "")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.text += data
            if self._open and self._open[-1] in ("td", "th"):
                self.rows[-1][-1] += data


@pytest.fixture
def read(tmp_path: Path) -> Callable[[Any], Read]:
    return lambda data: Read(write_report(data, tmp_path).read_text(encoding="utf-8"))


def test_it_says_what_the_json_says(toy: Dataset, read: Callable[[Any], Read], tmp_path: Path) -> None:
    data = simulated(toy)
    (scene,) = data["scenes"]
    policies = {policy["policy"]: policy for policy in scene["policies"]}
    policies["banditroute"] |= {"regret_mean": 4321.54, "regret_ci95": [4000.04, 4643.04], "share_of_random_regret": 0.4249}
    policies["linucb"]["vs_banditroute"] = {"mean": -17.26, "ci95": [-20.0, -14.52]}
    page = read(data)

    lost = "banditroute lost 4321.5 [4000.0, 4643.0] quality points over 60 requests, 42 % of what random picks are expected"
    assert lost in page.text
    assert any(alt.endswith("linucb lost least: -17.3 [-20.0, -14.5] against it, paired by seed.") for alt in page.alts)
    assert ["toy", "0.1", "4321.5 [4000.0, 4643.0]", "42 %", f"linucb, {policies['linucb']['regret_mean']:.1f}"] in page.rows
    assert any(row[:3] == ["banditroute", "4321.5", "[4000.0, 4643.0]"] for row in page.rows)
    curve = policies["random"]["curve"]
    assert any(row[0] == "random" and row[-1] == f"{curve[-1]['mean']:.1f} ± {curve[-1]['half']:.1f}" for row in page.rows)

    first_tenth = [sum(share[k] for share in policies["banditroute"]["shares"][:6]) / 6 for k in range(2)]
    assert ["1 to 6", *[f"{100 * share:.1f} %" for share in first_tenth]] in page.rows
    random = policies["random"]
    low, high = random["score_ci95"]
    quality, cost = f"{random['score_mean']:.4f} [{low:.4f}, {high:.4f}]", f"${1000 * random['cost_mean_usd']:.3g}"
    assert any(row[:4] == ["random", "policy", quality, cost] for row in page.rows)
    believed = scene["beliefs"]
    mean, half = believed["mean"][1][0], Z90 * believed["stddev"][1][0]
    row = next(row for row in page.rows if row[:2] == ["hard", "cheap"])
    assert row[2:5] == [f"{mean:.3f}", f"[{mean - half:.3f}, {mean + half:.3f}]", "0.200"]
    assert row[6] == str(believed["feedback_counts"][1][0])
    (noticed,) = scene["noticed"]
    times = ", ".join("never" if time is None else f"{time:.0f}" for time in noticed["requests_to_demotion"])
    assert ["dear", "worse at 20", "demoted", times] in page.rows
    (aiq,) = data["aiq"]
    assert ["mixtures of fixed models", f"{aiq['fixed_models']:.4f}", ""] in page.rows
    assert "Requests 20 to 40: dear worse" in page.text

    drawn = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert drawn == [f"01-toy-{kind}.png" for kind in ("beliefs", "noticed", "plane", "regret", "shares")]
    assert len(page.alts) == len(drawn)
    assert "script" not in page.tags


def test_the_same_data_give_the_same_bytes(toy: Dataset, tmp_path: Path) -> None:
    data = simulated(toy, policies=("banditroute", "random"), requests=20)
    found = []
    for place in ("one", "other"):
        write_report(data, tmp_path / place)
        found.append({path.name: path.read_bytes() for path in (tmp_path / place).rglob("*") if path.is_file()})
    assert found[0] == found[1]


HOSTILE = ("<script>alert('x')</script>&amp;", "$\\frac{1", "_hidden", "模型 é", "two\nlines", "x" * 200, '" onerror="alert(1)')


def test_names_cannot_do_harm(toy: Dataset, read: Callable[[Any], Read]) -> None:
    many = len(HOSTILE)
    scores, costs = toy.scores[:, [1] * many].copy(), toy.costs_usd[:, [1] * many]
    scores[:, 1:] -= 0.1
    nasty = dataclasses.replace(
        toy, name="<b>{{ 7 * 7 }}", models=HOSTILE, categories=("<i>", "$x^"), scores=scores, costs_usd=costs, output_tokens=None
    )
    page = read(simulated(nasty, name="</title><script>", about="<u>", timeline=({**DEGRADED[0], "model": HOSTILE[0]},)))
    assert not page.tags & {"script", "b", "i", "u"}
    for name in (*HOSTILE, *nasty.categories):
        assert any(name in row for row in page.rows)
    assert "<b>{{ 7 * 7 }}" in page.text


def test_one_seed_has_no_interval(toy: Dataset, read: Callable[[Any], Read]) -> None:
    page = read(simulated(toy, seeds=1))
    assert "1 seed, so there are no intervals" in page.text
    assert re.search(r"banditroute lost \d+\.\d quality points", page.text)
    assert "nan" not in page.text.lower()


def test_one_model_and_nothing_to_lose(toy: Dataset, read: Callable[[Any], Read]) -> None:
    alone = dataclasses.replace(
        toy, models=("only",), scores=toy.scores[:, :1], costs_usd=0.0 * toy.costs_usd[:, :1], output_tokens=None
    )
    data = simulated(alone, timeline=(), requests=5)
    page = read(data)
    assert "sent 100 % to only." in page.text
    assert data["aiq"][0]["fixed_models"] is None
    assert len(page.alts) == 4  # nothing was to be noticed


def test_a_model_that_is_gone_at_the_end(toy: Dataset, read: Callable[[Any], Read]) -> None:
    data = simulated(toy, timeline=({"model": "dear", "absent": True, "at": 30},))
    (scene,) = data["scenes"]
    assert scene["beliefs"]["mean"][0][1] is None
    assert scene["beliefs"]["over_all_seeds"]["cells"] == 4
    assert [point["score"] for point in scene["frontier"]] == [pytest.approx(0.5)]
    page = read(data)
    assert any(row[:2] == ["dear", "model, not always there"] for row in page.rows)
    assert not any(row[:2] == ["easy", "dear"] for row in page.rows)


def test_without_the_router(toy: Dataset, read: Callable[[Any], Read]) -> None:
    page = read(simulated(toy, policies=("random", "best-fixed")))
    assert "best-fixed lost" in page.text
    assert len(page.alts) == 2  # what was lost, and at what cost


def test_worlds_and_cost_weights(read: Callable[[Any], Read]) -> None:
    worlds = find_source_or_worlds("specialists")
    assert isinstance(worlds, Worlds)
    data = simulated(worlds, cost_weights=(0.05, 0.5), policies=("banditroute", "random"), requests=30, timeline=())
    scene = data["scenes"][0]
    first, second = worlds.world(0), worlds.world(1)
    assert scene["beliefs"]["truth"] == first.mean_scores.tolist()
    score = (first.weights @ first.mean_scores[:, 2] + second.weights @ second.mean_scores[:, 2]) / 2
    assert scene["fixed_models"][2]["score"] == pytest.approx(score)
    assert data["aiq"][0]["policies"]["random"]["alone"] is not None
    page = read(data)
    assert "specialists, cost weight 0.05" in page.text and "specialists, cost weight 0.5" in page.text
    assert ["", "alone", "in mixtures with fixed models", "gain"] in page.rows


def test_too_many_cells_to_look_at_are_cut_to_the_busiest(toy: Dataset) -> None:
    data = simulated(toy, policies=("banditroute",))
    (scene,) = data["scenes"]
    wide = {
        "categories": [f"c{i}" for i in range(70)],
        "models": ["m"],
        "beliefs": {
            "mean": [[0.5]] * 70,
            "stddev": [[0.1]] * 70,
            "truth": [[0.5]] * 70,
            "feedback_counts": [[0]] * 9 + [[5]] * 61,
        },
    }
    categories, models, cells = shown(scene | wide)
    assert categories == [f"c{i}" for i in range(9, 69)]
    assert models == ["m"]
    assert len(cells) == 60


def test_labels_keep_their_order_and_distance() -> None:
    assert spread([], 0.1) == []
    assert spread([0.2, 0.8], 0.1) == pytest.approx([0.2, 0.8])
    assert spread([0.5, 0.5, 0.5], 0.1) == pytest.approx([0.4, 0.5, 0.6])
    assert spread([0.0, 0.0], 0.1) == pytest.approx([0.0, 0.1])
    assert spread([1.0, 1.0], 0.1) == pytest.approx([0.9, 1.0])
    crowd = spread([1.0] * 50, 0.1)
    assert crowd[0] >= 0.0 and crowd[-1] <= 1.0 and crowd == sorted(crowd)
    assert short("a\nb") == "a b"
    assert len(short("x" * 99)) == 34


def test_a_model_has_one_colour_and_no_two_in_a_scene_the_same() -> None:
    colours = model_colours([{"models": ["a", "b"]}, {"models": ["c", "b", "d"]}])
    assert len({colours[name] for name in "bcd"}) == 3
    assert colours["a"] == colours["c"]

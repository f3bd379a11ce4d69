"""The page of a report: one HTML file that needs no other."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from banditroute.lab.report import words
from banditroute.lab.report.cells import shown
from banditroute.lab.report.palette import model_colours
from banditroute.lab.report.pictures import PER, pictures_of
from banditroute.lab.results import ROUTER

PARTS = 10
"""Of a run, in the tables behind the pictures over time; the JSON has them finer."""
HEADINGS = {
    "regret": "What was lost",
    "shares": "Where the traffic went",
    "plane": "Cost and quality",
    "beliefs": "What is believed, and what is true",
    "noticed": "Degradations noticed",
}


def page_of(data: Mapping[str, Any]) -> tuple[str, dict[str, bytes]]:
    """HTML, and PNGs by file name, of a scenario's JSON data. The same data give the same bytes."""
    colours = model_colours(data["scenes"])
    scenes, files = [], {}
    for number, scene in enumerate(data["scenes"], start=1):
        figures = []
        for picture in pictures_of(scene, colours):
            kind = picture.kind
            files[f"{number:02d}-{_slug(scene['source'])}-{kind}.png"] = picture.png
            figures.append(
                {
                    "kind": kind,
                    "heading": HEADINGS[kind],
                    "says": words.SAYS[kind](scene),
                    "alt": words.ALT[kind],
                    "png": base64.b64encode(picture.png).decode("ascii"),
                    "tables": [table(scene) for table in _TABLES[kind]],
                }
            )
        scenes.append({"id": f"scene-{number}", "data": scene, "figures": figures})
    environment = Environment(
        loader=PackageLoader(__package__, "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.lstrip_blocks = True
    html = environment.get_template("page.html.jinja").render(
        data=data,
        scenes=scenes,
        overview=_overview(data),
        aiq=[_aiq(each) for each in data["aiq"]],
        per=PER,
        router=ROUTER,
    )
    return html, files


def _slug(name: str) -> str:
    return "".join([char if char.isascii() and (char.isalnum() or char in "._-") else "-" for char in name])[:60]


class _Table(dict[str, Any]):
    """`caption`, `columns` (those that begin with ">" are numbers) and `rows` of texts."""

    def __init__(self, caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        super().__init__(caption=caption, columns=list(columns), rows=[list(row) for row in rows])


def _overview(data: Mapping[str, Any]) -> _Table:
    rows = []
    for scene in data["scenes"]:
        router = words.policy_of(scene)
        best = words.by_regret(scene)
        mine = "" if router is None else f"{words.points(router['regret_mean'])}{words.interval(router['regret_ci95'])}"
        share = "" if router is None else _share(router["share_of_random_regret"])
        others = [each for each in best if each["policy"] not in (*words.OURS, *words.TOLD)]
        rival = f"{others[0]['policy']}, {words.points(others[0]['regret_mean'])}" if others else ""
        rows.append([scene["source"], f"{scene['cost_weight']:g}", mine, share, rival])
    columns = ["source", ">cost weight", f">regret of {ROUTER}", ">of random's", "best of the others, its regret"]
    return _Table("", columns, rows)


def _share(value: float | None) -> str:
    return "" if value is None else words.percent(value)


def _aiq(aiq: Mapping[str, Any]) -> _Table:
    fixed = aiq["fixed_models"]
    is_curve = any(each["alone"] is not None for each in aiq["policies"].values())
    rows = [["mixtures of fixed models", *[""] * is_curve, _aiq_text(fixed), ""]]
    for name, each in sorted(aiq["policies"].items(), key=lambda item: -(item[1]["with_fixed_models"] or 0.0)):
        both = each["with_fixed_models"]
        gain = "" if both is None or fixed is None else f"{both - fixed:+.4f}"
        rows.append([name, *[_aiq_text(each["alone"])] * is_curve, _aiq_text(both), gain])
    low, high = words.dollars(aiq["low_usd"]), words.dollars(aiq["high_usd"])
    caption = f"{aiq['source']}: AIQ from {low} to {high} per {PER:,} requests"
    return _Table(caption, ["", *[">alone"] * is_curve, ">in mixtures with fixed models", ">gain"], rows)


def _aiq_text(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


# --- the tables behind the pictures -------------------------------------------------------------------


def _regrets(scene: words.Scene) -> _Table:
    columns = ["policy", ">regret", ">95 % interval", f">vs {ROUTER}", ">90th percentile", ">of random's"]
    rows = []
    for policy in words.by_regret(scene):
        excess = policy["vs_banditroute"]
        rows.append(
            [
                policy["policy"],
                words.points(policy["regret_mean"]),
                words.interval(policy["regret_ci95"]).strip(),
                "" if excess is None else f"{excess['mean']:+.1f}{words.interval(excess['ci95'])}",
                words.points(policy["regret_p90"]),
                _share(policy["share_of_random_regret"]),
            ]
        )
    return _Table("Regret at the end, quality points", columns, rows)


def _parts(scene: words.Scene) -> list[int]:
    """Indices of bins: the ends of PARTS parts of the run."""
    bins = len(scene["ends"])
    return np.unique(np.linspace(0, bins, min(PARTS, bins) + 1).round().astype(int))[1:].tolist()  # type: ignore[no-any-return]


def _curves(scene: words.Scene) -> _Table:
    ends = [index - 1 for index in _parts(scene)]
    rows = []
    for policy in words.by_regret(scene):
        told = [policy["curve"][index] for index in ends]
        halves = ["" if point["half"] is None else f" ± {point['half']:.1f}" for point in told]
        rows.append([policy["policy"], *[f"{point['mean']:.1f}{half}" for point, half in zip(told, halves, strict=True)]])
    columns = ["policy", *[f">{scene['ends'][index]:,}" for index in ends]]
    return _Table("Regret after so many requests, ± half the 95 % interval", columns, rows)


def _shares(scene: words.Scene) -> _Table:
    router = words.policy_of(scene)
    assert router is not None
    shares, starts = np.array(router["shares"]), [0, *scene["ends"]]
    sizes = np.diff(starts)
    rows, begin = [], 0
    for end in _parts(scene):
        means = sizes[begin:end] @ shares[begin:end] / sizes[begin:end].sum()
        rows.append([f"{starts[begin] + 1:,} to {starts[end]:,}", *[f"{100 * share:.1f} %" for share in means.tolist()]])
        begin = end
    return _Table(f"Shares of {ROUTER}'s requests", ["requests", *[f">{model}" for model in scene["models"]]], rows)


def _points(scene: words.Scene) -> _Table:
    on_it = {(point["cost_usd"], point["score"]) for point in scene["frontier"]}
    rows = []
    for policy in sorted(scene["policies"], key=lambda each: -each["score_mean"]):
        mixed = words.mixed_score(scene, policy["cost_mean_usd"])
        above = "" if mixed is None else f"{policy['score_mean'] - mixed:+.4f}"
        score = f"{policy['score_mean']:.4f}{words.interval(policy['score_ci95'], 4)}"
        rows.append([policy["policy"], "policy", score, words.dollars(policy["cost_mean_usd"]), above])
    for model in sorted(scene["fixed_models"], key=lambda each: -each["score"]):
        place = "on the line" if (model["cost_usd"], model["score"]) in on_it else ""
        kind = "model" if model["always_there"] else "model, not always there"
        rows.append([model["model"], kind, f"{model['score']:.4f}", words.dollars(model["cost_usd"]), place])
    columns = ["", "", ">quality", f">cost per {PER:,} requests", ">above the best constant mixture"]
    return _Table("Policies by what came of their picks, models by their exact means", columns, rows)


def _cells(scene: words.Scene) -> _Table:
    _, _, cells = shown(scene)
    rows = [
        [
            cell.category,
            cell.model,
            f"{cell.mean:.3f}",
            f"[{cell.low:.3f}, {cell.high:.3f}]",
            f"{cell.truth:.3f}",
            "yes" if cell.holds else "no",
            f"{cell.feedback_count:,}",
        ]
        for cell in cells.values()
    ]
    columns = ["category", "model", ">belief", ">90 % interval", ">truth", "holds it", ">feedback"]
    return _Table("Beliefs at the end of the first seed's run, and the true mean score then", columns, rows)


def _notices(scene: words.Scene) -> _Table:
    rows = []
    for each in scene["noticed"]:
        mark = each["mark"]
        kinds = [("worse", mark["start"], "demoted", each["requests_to_demotion"])]
        if mark["end"] < scene["requests"]:
            kinds.append(("better", mark["end"], "promoted", each["requests_to_promotion"]))
        for what, at, done, times in kinds:
            told = ", ".join(["never" if time is None else f"{time:,.0f}" for time in times])
            rows.append([mark["model"], f"{what} at {at:,}", done, told])
    return _Table("Requests until it was noticed, by seed", ["model", "change", "router's answer", "after"], rows)


_TABLES = {
    "regret": (_regrets, _curves),
    "shares": (_shares,),
    "plane": (_points,),
    "beliefs": (_cells,),
    "noticed": (_notices,),
}

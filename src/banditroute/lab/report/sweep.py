"""The picture of a sweep over cost weights: quality and cost with their intervals, to choose a weight by."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from banditroute.lab.ope.estimators import Estimate
from banditroute.lab.ope.evaluation import Evaluation
from banditroute.lab.ope.frontier import Frontier
from banditroute.lab.report.labels import Tag, tag_points
from banditroute.lab.report.palette import FAINT, INK, QUIET, ROUTER_COLOUR
from banditroute.lab.report.pictures import PER, png_of, styled


def picture_of(frontier: Frontier) -> bytes:
    """PNG. Weights that the log cannot tell are hollow, and their intervals are not to be concluded from."""
    with styled():
        figure = Figure(figsize=(8.2, 5.0), dpi=mpl.rcParams["figure.dpi"])
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0.1, 0.12, 0.86, 0.72))
        figure.text(0.012, 0.98, "Quality and cost by cost weight, on the decisions that were logged", va="top",
                    fontsize=10.5, fontweight="bold", color=INK)  # fmt: skip
        figure.text(0.012, 0.925, "95 % intervals; hollow: no support in this log", va="top", fontsize=8.5, color=QUIET)
        logged = frontier.evaluations[0]
        _point(axes, logged.logged_quality, logged.logged_cost, colour=INK, marker="D", is_supported=True)
        told = sorted((each for each in frontier.evaluations if each.is_supported), key=_cost)
        axes.plot([_cost(each) * PER for each in told], [each.quality[0].value for each in told], color=FAINT, zorder=1)
        tags = [Tag(logged.logged_cost.value * PER, logged.logged_quality.value, "as logged", INK)]
        for each in frontier.evaluations:
            quality, cost = each.quality[0], each.cost[0]
            _point(axes, quality, cost, colour=ROUTER_COLOUR, marker="o", is_supported=each.is_supported)
            tags.append(Tag(cost.value * PER, quality.value, _name(each), ROUTER_COLOUR, bold=each.is_supported))
        axes.set_xlabel(f"cost, USD per {PER:,} requests")
        axes.set_ylabel("quality, mean score")
        axes.grid(color=FAINT, linewidth=0.6)
        axes.set_axisbelow(True)
        figure.canvas.draw()
        tag_points(axes, tags, fontsize=9.0, avoid=_bars(frontier))
        return png_of(figure)


def _bars(frontier: Frontier) -> list[tuple[float, float]]:
    """Places on the intervals, which names keep off."""
    return [
        (each.cost[0].value * PER, each.quality[0].low + (each.quality[0].high - each.quality[0].low) * part)
        for each in frontier.evaluations
        for part in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    ]


def _cost(evaluation: Evaluation) -> float:
    return evaluation.cost[0].value


def _name(evaluation: Evaluation) -> str:
    return evaluation.policy.removeprefix("at cost weight ")


def _point(axes: Any, quality: Estimate, cost: Estimate, *, colour: str, marker: str, is_supported: bool) -> None:
    x, y = cost.value * PER, quality.value
    axes.errorbar(
        x,
        y,
        xerr=[[x - cost.low * PER], [cost.high * PER - x]],
        yerr=[[y - quality.low], [quality.high - y]],
        fmt=marker,
        markersize=6,
        color=colour,
        elinewidth=1.0,
        alpha=1.0 if is_supported else 0.5,
        markerfacecolor=colour if is_supported else "white",
    )

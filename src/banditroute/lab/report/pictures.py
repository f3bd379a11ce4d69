"""The pictures of a report, as PNG. They are made of the JSON data of a scene, and the same data give the same bytes."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from banditroute.lab.report.cells import shown
from banditroute.lab.report.labels import Tag, short, spread, tag_points
from banditroute.lab.report.palette import FAINT, INK, OUTSIDE, QUIET, ROUTER_COLOUR, stroke
from banditroute.lab.results import ROUTER

Scene = Mapping[str, Any]
PER = 1000
"""Requests whose cost is shown: that of one is too small to read."""
FAR_OFF = 4.0
"""Policies that lose so many times as much as the router leave the picture, so that the others can be told apart."""
LAST = 0.1
"""The share of the run whose traffic is written beside the areas."""
_STYLE: Any = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9.5,
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.formatter.use_mathtext": False,
    "axes.formatter.useoffset": False,
    "axes.unicode_minus": True,
}
_DPI = 130
_WIDTH = 9.6
_SMALL = 8.5


class Picture(NamedTuple):
    """`kind` is one of KINDS."""

    kind: str
    png: bytes


def pictures_of(scene: Scene, colours: Mapping[str, str]) -> list[Picture]:
    """All that there is something to show for."""
    with styled():
        drawn = [(kind, draw(scene, colours)) for kind, draw in KINDS.items()]
        return [Picture(kind, png_of(figure)) for kind, figure in drawn if figure is not None]


@contextmanager
def styled() -> Iterator[None]:
    """The project's look, whatever the user's own settings are."""
    with warnings.catch_warnings(), mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a name may be in any script
        yield


def png_of(figure: Figure) -> bytes:
    """The same bytes for the same figure."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=_DPI, facecolor="white", metadata={"Software": None})
    return out.getvalue()


def _figure(height: float, scene: Scene, what: str) -> Figure:
    figure = Figure(figsize=(_WIDTH, height), dpi=_DPI)
    FigureCanvasAgg(figure)
    title = f"{short(scene['source'])}, cost weight {scene['cost_weight']:g}: {what}"
    figure.text(0.012, 1.0 - 0.1 / height, title, va="top", fontsize=10.5, fontweight="bold", color=INK)
    return figure


def _box(figure: Figure, *, left: float, right: float, top: float, bottom: float) -> Axes:
    """Axes with margins in inches."""
    width, height = figure.get_size_inches()
    return figure.add_axes((left / width, bottom / height, 1 - (left + right) / width, 1 - (top + bottom) / height))


def _legend(figure: Figure, keys: Sequence[Line2D]) -> None:
    """Under the title."""
    figure.legend(
        handles=keys,
        loc="upper left",
        bbox_to_anchor=(0.012, 1 - 0.32 / figure.get_size_inches()[1]),
        ncols=len(keys),
        frameon=False,
        fontsize=_SMALL,
        borderpad=0,
        borderaxespad=0,
    )


# --- what happens ---------------------------------------------------------------------------------


def _lanes(scene: Scene) -> list[tuple[Mapping[str, Any], int]]:
    """Each mark with the row that it is written in, counted from below."""
    per_character = 0.0125 * scene["requests"]
    free: list[float] = []
    placed = []
    for mark in sorted(scene["marks"], key=lambda each: (each["start"], each["end"])):
        width = per_character * len(_said(mark))
        begin = min(mark["start"], scene["requests"] - width)
        lane = next((lane for lane, end in enumerate(free) if end <= begin), len(free))
        free[lane : lane + 1] = [max(mark["end"], begin + width)]
        placed.append((mark, lane))
    return placed


def _said(mark: Mapping[str, Any]) -> str:
    return f"{short(mark['model'], 28)} {mark['text']}".strip()


def _marks_height(scene: Scene) -> float:
    """Inches above the axes."""
    return 0.27 * (1 + max([lane for _, lane in _lanes(scene)], default=-1))


def _draw_marks(axes: Axes, scene: Scene) -> None:
    requests = scene["requests"]
    height = axes.get_window_extent().height / _DPI
    across = axes.get_xaxis_transform()
    for mark, lane in _lanes(scene):
        start, end = mark["start"], mark["end"]
        bottom = 1 + (0.05 + 0.27 * lane) / height
        axes.axvspan(start, end, color="black", alpha=0.07, linewidth=0)
        for edge in (start, end):
            if 0 < edge < requests:
                axes.axvline(edge, color=INK, linewidth=0.8, dashes=(4, 3))
        bar = Rectangle((start, bottom), end - start, 0.045 / height, transform=across, clip_on=False, color=INK)
        axes.add_patch(bar)
        late = start + 0.0125 * requests * len(_said(mark)) > requests
        axes.text(
            requests if late else start,
            bottom + 0.065 / height,
            _said(mark),
            transform=across,
            ha="right" if late else "left",
            va="bottom",
            fontsize=_SMALL,
            color=INK,
        )


def _requests_axis(axes: Axes, scene: Scene) -> None:
    axes.set_xlim(0, scene["requests"])
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_xlabel("requests")


class _Side(NamedTuple):
    """A text beside the axes, and where on their right edge it belongs (0 to 1)."""

    at: float
    text: str
    colour: str
    dashes: str = "-"
    bold: bool = False
    off: bool = False


def _write_beside(axes: Axes, sides: Sequence[_Side]) -> None:
    """Writes texts to the right, from below, each with a line to where it belongs."""
    height = axes.get_window_extent().height / _DPI
    sides = sorted(sides, key=lambda side: side.at)
    for side, place in zip(sides, spread([side.at for side in sides], 0.185 / height), strict=True):
        if not side.off:
            axes.plot([1.004, 1.03], [side.at, place], transform=axes.transAxes, color=side.colour, linewidth=0.8, clip_on=False)
        axes.plot(
            [1.033, 1.063],
            [place, place],
            transform=axes.transAxes,
            color=side.colour,
            linestyle=side.dashes,
            linewidth=2.6 if side.bold else 1.8,
            clip_on=False,
            solid_capstyle="butt",
        )
        weight = "bold" if side.bold else "normal"
        axes.text(1.072, place, side.text, transform=axes.transAxes, va="center", fontsize=_SMALL, color=INK, fontweight=weight)


# --- the pictures -----------------------------------------------------------------------------------


def _regret(scene: Scene, _: Mapping[str, str]) -> Figure:
    figure = _figure(4.6 + _marks_height(scene), scene, "cumulative regret, mean and 95 % interval over the seeds")
    axes = _box(figure, left=0.75, right=2.75, top=0.42 + _marks_height(scene), bottom=0.55)
    policies = {policy["policy"]: policy for policy in scene["policies"]}
    top = _regret_top(list(policies.values()))
    sides = []
    for name, policy in policies.items():
        colour, dashes = stroke(name, list(policies))
        x = np.array([0, *scene["ends"]])
        mean = np.array([0.0, *[point["mean"] for point in policy["curve"]]])
        half = np.array([0.0, *[point["half"] or 0.0 for point in policy["curve"]]])
        ours = name == ROUTER
        axes.plot(x, mean, color=colour, linestyle=dashes, linewidth=2.8 if ours else 1.3, zorder=3 if ours else 2)
        if half.any():
            low, high = mean - half, mean + half
            axes.fill_between(x, low, high, color=colour, alpha=0.22 if ours else 0.07, linewidth=0, zorder=1.5)
        digits = 0 if top > 100 else 1
        interval = f" ± {half[-1]:.{digits}f}" if half.any() else ""
        off = mean[-1] > top
        text = f"{short(name, 26)}  {mean[-1]:.{digits}f}{interval}{' ↑' if off else ''}"
        place = 1.0 + 1e-3 * float(mean[-1]) / top if off else max(0.0, float(mean[-1]) / top)
        sides.append(_Side(place, text, colour, dashes, ours, bool(off)))
    axes.set_ylim(0, top)
    axes.set_ylabel("regret, quality points")
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    _requests_axis(axes, scene)
    _draw_marks(axes, scene)
    _write_beside(axes, sides)
    return figure


def _regret_top(policies: Sequence[Mapping[str, Any]]) -> float:
    final = {policy["policy"]: policy["curve"][-1] for policy in policies}
    most = FAR_OFF * final[ROUTER]["mean"] if ROUTER in final and final[ROUTER]["mean"] > 0 else math.inf
    near = [point["mean"] + min(point["half"] or 0.0, point["mean"]) for point in final.values() if point["mean"] <= most]
    return 1.06 * max(near, default=0.0) or 1.0


def _shares(scene: Scene, colours: Mapping[str, str]) -> Figure | None:
    shares = next((policy["shares"] for policy in scene["policies"] if policy["policy"] == ROUTER), None)
    if shares is None:
        return None
    figure = _figure(4.1 + _marks_height(scene), scene, f"traffic shares of {ROUTER}, means over the seeds")
    axes = _box(figure, left=0.75, right=2.95, top=0.42 + _marks_height(scene), bottom=0.55)
    areas = np.array(shares).T
    ends = np.array(scene["ends"])
    starts = np.concatenate([[0], ends[:-1]])
    order = np.argsort(-(areas @ (ends - starts)), kind="stable")
    x = [0, *ends.tolist()]
    stacked = np.column_stack([areas, areas[:, -1]])[order]
    models = [scene["models"][k] for k in order]
    axes.stackplot(x, stacked, colors=[colours[model] for model in models], edgecolor="white", linewidth=0.4, step="post")
    tops = np.cumsum(stacked[:, -1])
    late = last_shares(scene, shares)[order]
    sides = [
        _Side(float(high - own / 2), f"{short(model, 28)}  {100 * share:.0f} %", colours[model])
        for model, high, own, share in zip(models, tops, stacked[:, -1], late, strict=True)
    ]
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    axes.set_ylabel("share of requests")
    _requests_axis(axes, scene)
    _draw_marks(axes, scene)
    _write_beside(axes, sides)
    return figure


def last_shares(scene: Scene, shares: Sequence[Sequence[float]]) -> np.typing.NDArray[np.float64]:
    """Of the traffic by model, over the LAST part of the run."""
    ends = np.array(scene["ends"])
    sizes = np.diff(np.concatenate([[0], ends]))
    late = ends > (1.0 - LAST) * scene["requests"]
    return np.asarray(sizes[late] @ np.array(shares)[late] / sizes[late].sum(), dtype=np.float64)


def _plane(scene: Scene, _: Mapping[str, str]) -> Figure:
    figure = _figure(5.4, scene, "cost and quality")
    axes = _box(figure, left=0.75, right=0.25, top=0.68, bottom=0.58)
    names = [policy["policy"] for policy in scene["policies"]]
    fixed = [model for model in scene["fixed_models"] if model["always_there"]]
    costs = [PER * model["cost_usd"] for model in fixed] + [PER * policy["cost_mean_usd"] for policy in scene["policies"]]
    low, high = min(costs), max(costs)
    if low > 0.0 and high > 12.0 * low:
        axes.set_xscale("log")
        axes.set_xlim(low / 1.35, high * 1.35)
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        margin = 0.08 * (high - low) or 0.1 * high or 1.0
        axes.set_xlim(low - margin, high + margin)
    frontier = [(PER * point["cost_usd"], point["score"]) for point in scene["frontier"]]
    if frontier:
        x = [point[0] for point in frontier]
        y = [point[1] for point in frontier]
        fine = np.linspace(x[0], max(x[-1], axes.get_xlim()[1]), 2000)
        axes.plot(fine, np.interp(fine, x, y), color=QUIET, linewidth=1.2, zorder=1)
    tags = []
    for model in fixed:
        axes.plot(PER * model["cost_usd"], model["score"], "D", markersize=5, mfc="white", mec=QUIET, zorder=2)
        tags.append(Tag(PER * model["cost_usd"], model["score"], short(model["model"], 30), QUIET))
    for policy in scene["policies"]:
        colour = stroke(policy["policy"], names).colour
        ours = policy["policy"] == ROUTER
        place = PER * policy["cost_mean_usd"], policy["score_mean"]
        for axis, bounds in (("x", policy["cost_ci95_usd"]), ("y", policy["score_ci95"])):
            if bounds is not None:
                scale = PER if axis == "x" else 1.0
                ends = [scale * bounds[0], scale * bounds[1]]
                line = (ends, [place[1]] * 2) if axis == "x" else ([place[0]] * 2, ends)
                axes.plot(*line, color=colour, linewidth=0.8, alpha=0.55, zorder=2.5)
        axes.plot(*place, "o", markersize=9 if ours else 5.5, color=colour, mec="white", mew=0.8, zorder=4 if ours else 3)
        tags.append(Tag(*place, policy["policy"], ROUTER_COLOUR if ours else INK, ours))
    scores = [model["score"] for model in fixed] + [policy["score_mean"] for policy in scene["policies"]]
    margin = 0.08 * (max(scores) - min(scores)) or 0.05
    axes.set_ylim(min(scores) - margin, max(scores) + margin)
    axes.set_xlabel(f"cost, USD per {PER:,} requests{' (logarithmic)' if axes.get_xscale() == 'log' else ''}")
    axes.set_ylabel("quality, mean score")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.grid(color=FAINT, linewidth=0.5)
    axes.set_axisbelow(True)
    keys = [
        Line2D([], [], marker="o", color=INK, linestyle="", markersize=5.5, label="policy"),
        Line2D([], [], marker="D", mfc="white", mec=QUIET, linestyle="", markersize=5, label="one model for all"),
        Line2D([], [], color=QUIET, linewidth=1.2, label="best constant mixtures of models"),
    ]
    _legend(figure, keys)
    figure.canvas.draw()
    first = sorted(tags, key=lambda tag: (not tag.bold, tag.colour == QUIET))
    tag_points(axes, first, fontsize=_SMALL, avoid=list(zip(fine, np.interp(fine, x, y), strict=True)) if frontier else [])
    return figure


def _beliefs(scene: Scene, _: Mapping[str, str]) -> Figure | None:
    if scene["beliefs"] is None:
        return None
    categories, models, cells = shown(scene)
    across = min(5, len(models))
    down = math.ceil(len(models) / across)
    left = 0.35 + 0.075 * max(len(short(name, 24)) for name in categories)
    tall = 0.17 * len(categories) + 0.1
    top, between, bottom = 0.85, 0.35, 0.55
    height = top + down * tall + (down - 1) * between + bottom
    figure = _figure(height, scene, "what is believed of quality at the end of the first seed's run")
    keys = [
        Line2D([], [], color=ROUTER_COLOUR, marker="o", markersize=3.5, linewidth=1.6, label="belief, 90 % interval"),
        Line2D([], [], color=OUTSIDE, marker="o", markersize=3.5, linewidth=1.6, label="the same, without the truth"),
        Line2D([], [], color="#a6a6a6", marker="o", markersize=3.5, linewidth=1.6, label="no feedback yet"),
        Line2D([], [], color="black", marker="|", markersize=8, mew=1.8, linestyle="", label="truth"),
    ]
    _legend(figure, keys)
    wide = (_WIDTH - left - 0.2 - 0.16 * (across - 1)) / across
    limits = (
        max(-0.1, min(0.0, *[cell.low for cell in cells.values()])),
        min(1.1, max(1.0, *[cell.high for cell in cells.values()])),
    )
    for index, model in enumerate(models):
        row, column = divmod(index, across)
        x = (left + column * (wide + 0.16)) / _WIDTH
        y = (height - top - row * (tall + between) - tall) / height
        axes = figure.add_axes((x, y, wide / _WIDTH, tall / height))
        for line, category in enumerate(categories):
            cell = cells[category, model]
            colour = ROUTER_COLOUR if cell.holds else OUTSIDE
            if cell.feedback_count == 0:
                colour = "#a6a6a6"
            axes.plot([cell.low, cell.high], [line, line], color=colour, linewidth=1.6, solid_capstyle="butt")
            axes.plot(cell.mean, line, "o", color=colour, markersize=3.5)
            axes.plot(cell.truth, line, "|", color="black", markersize=8, mew=1.8)
        axes.set_title(short(model, int(wide * 14.5)), fontsize=8, color=INK, pad=3)
        axes.set_ylim(len(categories) - 0.4, -0.6)
        axes.set_xlim(*limits)
        axes.set_yticks(range(len(categories)), [short(name, 24) for name in categories] if column == 0 else [])
        axes.set_xticks([0.0, 0.5, 1.0], ["0", ".5", "1"])
        axes.tick_params(axis="both", length=2, labelsize=_SMALL)
        axes.grid(axis="x", color=FAINT, linewidth=0.5)
        axes.set_axisbelow(True)
        if index + across >= len(models):
            axes.set_xlabel("quality, mean score", fontsize=_SMALL)
    return figure


def _noticed(scene: Scene, _: Mapping[str, str]) -> Figure | None:
    rows = notices(scene)
    if not rows:
        return None
    figure = _figure(1.2 + 0.36 * len(rows), scene, "how soon a degradation was noticed, and its end")
    axes = _box(figure, left=3.3, right=1.35, top=0.42, bottom=0.55)
    for line, (text, times) in enumerate(rows):
        found = [time for time in times if time is not None]
        axes.plot(found, [line] * len(found), "o", color=ROUTER_COLOUR, alpha=0.45, markersize=7, mew=0)
        if found:
            axes.plot([float(np.median(found))] * 2, [line - 0.32, line + 0.32], color=INK, linewidth=2)
        told = f"{len(found)} of {len(times)} runs"
        axes.text(1.02, line, told, transform=axes.get_yaxis_transform(), va="center", fontsize=_SMALL, color=INK)
        axes.text(-0.02, line, text, transform=axes.get_yaxis_transform(), ha="right", va="center", fontsize=_SMALL, color=INK)
    axes.set_yticks([])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(left=0, right=1.05 * max([t for _, times in rows for t in times if t is not None], default=0.0) or 100.0)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.grid(axis="x", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel("requests after the change; a dot is a run, the bar their median")
    return figure


def notices(scene: Scene) -> list[tuple[str, Sequence[float | None]]]:
    """What was to be noticed, and after how many requests it was, by seed."""
    rows: list[tuple[str, Sequence[float | None]]] = []
    for each in scene["noticed"]:
        model, start, end = short(each["mark"]["model"], 24), each["mark"]["start"], each["mark"]["end"]
        rows.append((f"{model} worse at {start:,}: demoted", each["requests_to_demotion"]))
        if end < scene["requests"]:
            rows.append((f"{model} better at {end:,}: promoted", each["requests_to_promotion"]))
    return rows


KINDS: dict[str, Callable[[Scene, Mapping[str, str]], Figure | None]] = {
    "regret": _regret,
    "shares": _shares,
    "plane": _plane,
    "beliefs": _beliefs,
    "noticed": _noticed,
}

"""Texts in pictures that neither overlap nor are cut."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.optimize import isotonic_regression

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.transforms import Bbox

LONGEST = 34
"""Characters of a name in a picture; tables have it in full."""


def short(name: str, longest: int = LONGEST) -> str:
    """A name in one line of printable characters."""
    clean = "".join([char if char.isprintable() else " " for char in name])
    return clean if len(clean) <= longest else f"{clean[: longest - 1]}…"


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Places in [0, 1], as near as can be to those `wanted` (ascending), and `gap` apart where there is room."""
    if not wanted:
        return []
    gap = min(gap, 1.0 / len(wanted))
    steps = gap * np.arange(len(wanted))
    level = isotonic_regression(np.asarray(wanted) - steps).x
    places: list[float] = (np.clip(level, 0.0, 1.0 - steps[-1]) + steps).tolist()
    return places


class Tag(NamedTuple):
    """A point's name."""

    x: float
    y: float
    text: str
    colour: str
    bold: bool = False


_DIRECTIONS = [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1)]
_PLACES = [(dx * reach, dy * reach) for reach, (dx, dy) in product((7, 14, 24, 36, 52, 70), _DIRECTIONS)]
"""In points, from the nearest to the farthest."""


def tag_points(axes: Axes, tags: Sequence[Tag], *, fontsize: float, avoid: Sequence[tuple[float, float]]) -> None:
    """Writes each name where it covers no point, no other name and nothing to `avoid`, the first ones first, with a thin line
    where it is far."""
    from matplotlib.patheffects import withStroke  # noqa: PLC0415 - an extra

    figure = axes.figure
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    inside = axes.get_window_extent(renderer)
    points = axes.transData.transform([(tag.x, tag.y) for tag in tags])
    shunned = axes.transData.transform(avoid) if len(avoid) else np.empty((0, 2))
    taken: list[Bbox] = []
    for tag, place in zip(tags, points, strict=True):
        note = axes.annotate(
            tag.text,
            (tag.x, tag.y),
            xytext=(0, 0),
            textcoords="offset points",
            fontsize=fontsize,
            color=tag.colour,
            fontweight="bold" if tag.bold else "normal",
            path_effects=[withStroke(linewidth=2.5, foreground="white", alpha=0.85)],
            arrowprops={"arrowstyle": "-", "color": tag.colour, "linewidth": 0.5, "alpha": 0.6, "shrinkA": 0, "shrinkB": 3},
        )
        best: tuple[float, tuple[int, int], Bbox] | None = None
        for rank, (dx, dy) in enumerate(_PLACES):
            _move(note, dx, dy)
            box = _text_box(note, renderer)
            bad = sum(_overlap(box, other) for other in taken) + _outside(box, inside)
            bad += 40.0 * sum(box.padded(3).contains(*other) for other in points if (other != place).any())
            bad += 5.0 * bool(((box.min <= shunned) & (shunned <= box.max)).all(axis=1).any())
            cost = bad + 0.01 * rank
            if best is None or cost < best[0]:
                best = cost, (dx, dy), box
            if bad == 0.0:
                break
        assert best is not None
        _, (dx, dy), box = best
        _move(note, dx, dy)
        if max(abs(dx), abs(dy)) < 14:
            note.arrow_patch.set_visible(False)  # type: ignore[union-attr]
        taken.append(box)


def _move(note: object, dx: int, dy: int) -> None:
    note.set_position((dx, dy))  # type: ignore[attr-defined]
    note.set_horizontalalignment("left" if dx > 0 else "right" if dx < 0 else "center")  # type: ignore[attr-defined]
    note.set_verticalalignment("bottom" if dy > 0 else "top" if dy < 0 else "center")  # type: ignore[attr-defined]


def _text_box(note: object, renderer: object) -> Bbox:
    from matplotlib.text import Text  # noqa: PLC0415 - an extra

    note.update_positions(renderer)  # type: ignore[attr-defined]
    return Text.get_window_extent(note, renderer)  # type: ignore[arg-type]


def _overlap(one: Bbox, other: Bbox) -> float:
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return float(width * height) / 10.0 if width > 0 and height > 0 else 0.0


def _outside(box: Bbox, frame: Bbox) -> float:
    over = max(0.0, frame.x0 - box.x0) + max(0.0, box.x1 - frame.x1) + max(0.0, frame.y0 - box.y0) + max(0.0, box.y1 - frame.y1)
    return 10.0 * float(over)

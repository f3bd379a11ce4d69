"""What act two shows: each model's traffic over time with the happenings marked, its lifecycle, and the journal as it comes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.table import Table
from rich.text import Text

from banditroute.demo.decline import BEFORE, Decline, DeclineReport, Happening, Step
from banditroute.demo.screen import area
from banditroute.lab.source import FloatArray
from banditroute.v1 import admin_pb2 as pb
from banditroute.v1.router_pb2 import Lifecycle

LEAST_COLUMN = 25
COLUMNS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
"""Requests in a column of the picture, at least; times one of these, so that there is room for all."""
MARKS = "123456789"
_COLOURS = {"LIVE": "green", "DEMOTED": "bold red", "PROBING": "yellow", "ONBOARDING": "cyan", "DISABLED": "dim"}


class DeclineFrame:
    """One picture of act two, laid out for whatever size the terminal has now."""

    def __init__(self, decline: Decline, categories: Sequence[pb.Category]) -> None:
        self._decline, self._categories = decline, categories
        self._first = max(0, decline.begin - BEFORE)
        self._models = [each.model for each in decline.players.played[self._first :]]
        self._happenings = list(decline.happenings)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, height = options.max_width, console.size.height
        tall, shown = (3, 6) if height >= 44 else (2, 5) if height >= 32 else (2, 3) if height >= 20 else (1, 2)
        marks = dict(zip([i for i, each in enumerate(self._happenings) if not each.minor], MARKS, strict=False))
        head, chart = self._head(), self._chart(width, tall=tall, shown=shown, marks=marks)
        events = self._events(console, width, height - len(head) - len(chart) - 3, marks)
        yield Group(*head, Text(), *chart, Text(), *events)

    def _head(self) -> list[Text]:
        decline = self._decline
        count = len(self._models) - (decline.begin - self._first)
        rate = count / decline.seconds if decline.seconds > 0.0 else 0.0
        lines = [
            Text.assemble(("act two", "bold cyan"), f"  {decline.name} silently gets worse"),
            Text.assemble(f"{count:,} requests, {rate:,.0f}/s, {decline.seconds:.0f} s   ", (_status(decline), "bold")),
            Text(_reason(self._categories, decline.name) or "as far as the server knows, it is what it was", style="dim"),
        ]
        for line in lines:
            line.no_wrap, line.overflow = True, "ellipsis"
        return lines

    def _chart(self, width: int, *, tall: int, shown: int, marks: dict[int, str]) -> list[Text]:
        named, told = 28 if width >= 110 else 20, 20
        room = max(10, min(120, width - named - told - 2))
        shares, size = columns(self._models, count=len(self._decline.source.models), room=room)
        top = [" "] * room
        for i, mark in marks.items():
            at = min(room - 1, (self._happenings[i].at - self._first) // size)
            free = next((each for each in range(at, room) if top[each] == " "), at)
            top[free] = mark
        lines = [Text.assemble(" " * (named + 1), ("".join(top), "bold"))]
        hurt = self._decline.demoted_from_to
        for model in self._order()[:shown]:
            own = model == self._decline.model
            colours = ["green" if own else "blue"] * len(shares)
            if own and hurt is not None:
                start, end = [(at - self._first) // size for at in hurt]
                colours[start:end] = ["red"] * len(colours[start:end])
            beside = _beside(self._categories, self._decline.source.models[model], self._weights())
            for row, blocks in enumerate(area(shares[:, model].tolist(), tall)):
                line = Text(no_wrap=True)
                name = self._decline.source.models[model] if row == tall - 1 else ""
                line.append(f"{_cut(name, named):<{named}} ", style="bold" if own else "")
                for block, colour in zip(blocks, colours, strict=True):
                    line.append(block, style=colour)
                line.append(" " * (room - len(blocks) + 1))
                line.append_text(beside[row - tall + 2] if row >= tall - 2 else Text())
                lines.append(line)
        what = f"share of the traffic, {size} requests a column; lifecycle; share now; quality as believed"
        lines.append(Text(what, style="dim", no_wrap=True, overflow="ellipsis"))
        return lines

    def _order(self) -> list[int]:
        """The models as they are shown: the one that degrades, then those with the most traffic."""
        counts = Counter(self._models)
        counts[self._decline.model] = len(self._models) + 1
        return [model for model, _ in counts.most_common()]

    def _weights(self) -> dict[str, float]:
        return dict(zip(self._decline.source.categories, self._decline.source.weights.tolist(), strict=True))

    def _events(self, console: Console, width: int, room: int, marks: dict[int, str]) -> list[Table]:
        """As many as there is room for: first those that are marked, of each kind the newest."""
        picked: dict[int, Table] = {}
        for i in sorted(range(len(self._happenings)), key=lambda i: (i not in marks, -i)):
            line = _event(self._happenings[i], marks.get(i, "·"))
            taken = len(console.render_lines(line, console.options.update(width=width), pad=False))
            if taken > room:
                break
            room -= taken
            picked[i] = line
        return [line for _, line in sorted(picked.items())]


def columns(models: Sequence[int], *, count: int, room: int) -> tuple[FloatArray, int]:
    """Each model's share of the traffic over time, of shape (columns, count) with at most `room` columns, and how many
    requests a column stands for. The last, unfinished one is left out."""
    size = LEAST_COLUMN * next((each for each in COLUMNS if len(models) < LEAST_COLUMN * each * (room + 1)), 10**6)
    full = len(models) // size
    taken = np.asarray(models[: full * size], dtype=np.int64).reshape(full, size)
    found = np.stack([np.bincount(row, minlength=count) for row in taken]) if full else np.zeros((0, count))
    return np.asarray(found / size, dtype=np.float64), size


def _event(happening: Happening, mark: str) -> Table:
    line = Table.grid(padding=(0, 1, 0, 0), expand=True)
    line.add_column(width=1, style="bold")
    line.add_column(width=6, justify="right", style="dim")
    line.add_column(ratio=1, overflow="ellipsis" if happening.minor else "fold", no_wrap=happening.minor)
    style = "dim" if happening.minor else _STYLES.get(happening.kind, "")
    line.add_row(mark, f"{happening.seconds:.1f} s", Text(happening.text, style=style))
    return line


_STYLES = {"degrades": "italic", "recovers": "italic", "demoted": "red", "probing": "yellow", "promoted": "green"}


def _status(decline: Decline) -> str:
    match decline.step:
        case Step.BEFORE:
            return "all is well"
        case Step.DEGRADED:
            return "it is worse, and was not found out yet"
        case Step.DEMOTED:
            return "it is demoted: only probes go there"
        case Step.RECOVERED:
            return "it is good again, and was not found out yet"
        case Step.BACK | Step.OVER:
            return "it is back" if decline.back is not None else "it is what it was"


def _arms(categories: Sequence[pb.Category], model: str) -> dict[str, pb.Arm]:
    return {category.name: arm for category in categories for arm in category.arms if arm.model == model}


def _reason(categories: Sequence[pb.Category], model: str) -> str:
    return max((arm.lifecycle_reason for arm in _arms(categories, model).values()), key=len, default="")


def _beside(categories: Sequence[pb.Category], model: str, weights: dict[str, float]) -> tuple[Text, Text]:
    """Two lines about a model: its lifecycle and where, its share now and its quality, over all categories."""
    arms = _arms(categories, model)
    states = Counter(Lifecycle.Name(arm.lifecycle).removeprefix("LIFECYCLE_") for arm in arms.values())
    if not states:
        return Text(), Text()
    # What is not live anywhere is worth saying first.
    name = next((state for state in ("PROBING", "DEMOTED", "DISABLED", "ONBOARDING") if states[state]), "LIVE")
    where = f" {states[name]}/{len(arms)}" if states[name] < len(arms) else ""
    share = sum(weights[category] * arm.share for category, arm in arms.items())
    quality = sum(weights[category] * arm.quality_mean for category, arm in arms.items())
    return (
        Text.assemble((name, _COLOURS[name]), where),
        Text.assemble(f"{100 * share:3.0f} %", (f"  quality {quality:.2f}", "dim")),
    )


def _cut(name: str, width: int) -> str:
    return name if len(name) <= width else name[: width - 1] + "…"


def decline_line(decline: Decline) -> str:
    """For where there is no terminal."""
    lately = decline.players.played[-BEFORE:]
    share = sum(each.model == decline.model for each in lately) / max(1, len(lately))
    return (
        f"{decline.seconds:5.1f} s  {decline.name} got {100 * share:.0f} % of the last {len(lately)} requests: {_status(decline)}"
    )


def decline_result(report: DeclineReport) -> list[Text]:
    """Act two for people, in two lines."""
    after, back = report.demoted_after_feedbacks, report.back_after_requests
    if after is None:
        first = "not noticed while this was played"
    else:
        first = f"demoted after {after} feedbacks, " + (
            f"back after {back} requests" if back is not None else "not back in this time"
        )
    cost = f"{report.lost:.0f} points of utility lost; {report.lost_if_kept:.0f} with it kept in use"
    return [Text.assemble("a model got worse       ", (first, "bold green")), Text(f"{'':24}{cost}")]

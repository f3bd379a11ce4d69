"""What the demo shows: a live frame on a terminal, a line now and then elsewhere, and the result."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from banditroute.demo.scenario import Scenario
from banditroute.demo.summary import Outcome, Summary
from banditroute.demo.tally import Tally
from banditroute.v1 import admin_pb2 as pb

MAX_CATEGORIES = 8
SHARE_WIDTH = 6
_BLOCKS = " ▏▎▍▌▋▊▉█"
_SPARKS = "▁▂▃▄▅▆▇█"


def bar(share: float, width: int) -> str:
    """A bar of `width` characters, filled to eighths."""
    eighths = round(max(0.0, min(1.0, share)) * width * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (_BLOCKS[rest] if rest else "")).ljust(width)


def sparks(values: Sequence[float], width: int) -> str:
    """The last `width` values as a line of blocks, 1 and above being full."""
    return "".join(_SPARKS[min(7, max(0, int(value * 8)))] for value in values[-width:])


def area(shares: Sequence[float], height: int) -> list[str]:
    """Values from 0 to 1 as columns of blocks, `height` lines of them, top first. What is not 0 can be seen."""
    eighths = [max(1, round(min(1.0, share) * height * 8)) if share > 0.0 else 0 for share in shares]
    levels = " " + _SPARKS
    return ["".join(levels[min(8, max(0, each - 8 * row))] for each in eighths) for row in reversed(range(height))]


def dollars(amount: float) -> str:
    """Of a request; four digits are enough for a screen."""
    return f"${amount:.6f}" if amount < 0.1 else f"${amount:.3f}"


class Frame:
    """One picture of the running demo, laid out for whatever size the terminal has now."""

    def __init__(
        self, scenario: Scenario, tally: Tally, categories: Sequence[pb.Category], *, elapsed_s: float, share_done: float
    ) -> None:
        self._scenario, self._tally, self._categories = scenario, tally, categories
        self._elapsed_s, self._done = elapsed_s, share_done

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, height = options.max_width, console.size.height
        roomy = height >= 36
        arms = 3 if roomy else 2
        shown = max(1, min(MAX_CATEGORIES, (height - 10) // (arms + roomy)))
        yield Group(*self._head(width), Text(), self._arms(width, shown=shown, arms=arms, roomy=roomy), self._foot(shown, arms))

    def _head(self, width: int) -> list[Text]:
        source, tally = self._scenario.source, self._tally
        rate = tally.count / self._elapsed_s if self._elapsed_s > 0 else 0.0
        size = f"{_plural(len(source.categories), 'category', 'categories')}, {_plural(len(source.models), 'model', 'models')}"
        weight = next(iter(self._scenario.config["categories"].values()))["cost_weight"]
        length = max(10, width - 44)
        lines = [
            Text.assemble(("banditroute demo", "bold cyan"), f"  {source.name}: {size}; cost weight {weight:g}"),
            Text.assemble(
                (bar(self._done, length).replace(" ", "░"), "cyan"),
                f"  {tally.count:,} requests, {rate:,.0f}/s, {self._elapsed_s:.0f} s",
            ),
        ]
        if tally.count:
            n, best = tally.count, tally.best
            lines += [
                _compare(
                    "quality", f"{tally.quality / n:.3f}", f"{tally.scores[best] / n:.3f}", f"{tally.scores.mean() / n:.3f}"
                ),
                _compare(
                    "cost", dollars(tally.cost_usd / n), dollars(tally.costs_usd[best] / n), dollars(tally.costs_usd.mean() / n)
                ),
                Text.assemble(
                    ("regret   ", "dim"),
                    (sparks(tally.regrets, max(10, width - 40)), "magenta"),
                    f"  {100 * tally.regrets[-1]:.0f} %",
                    (" of random's", "dim"),
                ),
            ]
        for line in lines:
            line.no_wrap, line.overflow = True, "ellipsis"
        return lines

    def _arms(self, width: int, *, shown: int, arms: int, roomy: bool) -> Table:
        wide = width >= 96
        widths = {"category": 22 if wide else 14, "model": 27 if wide else 20, "quality": 13, "cost": 9}
        bars = max(8, min(24, width - sum(widths.values()) - len(widths) - SHARE_WIDTH))
        made = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim", expand=False)
        made.add_column("category", width=widths["category"], no_wrap=True)
        made.add_column("model", width=widths["model"], no_wrap=True)
        made.add_column("traffic share", width=bars + SHARE_WIDTH, no_wrap=True)
        made.add_column("quality", width=widths["quality"], justify="right", no_wrap=True)
        made.add_column("cost", width=widths["cost"], justify="right", no_wrap=True)
        order = {name: i for i, name in enumerate(self._scenario.source.categories)}
        count = self._tally.by_category
        busiest = sorted(self._categories, key=lambda c: (-count[order[c.name]], c.name))[:shown]
        for c, category in enumerate(busiest):
            if roomy and c:
                made.add_row()
            for i, arm in enumerate(sorted(category.arms, key=lambda arm: -arm.share)[:arms]):
                first, second = Text(category.name, style="bold"), Text(f"{count[order[category.name]]:,} requests", style="dim")
                share = Text.assemble(
                    (bar(arm.share, bars), "green" if i == 0 else "blue"), f"{100 * arm.share:{SHARE_WIDTH - 2}.0f} %"
                )
                made.add_row(
                    first if i == 0 else second if i == 1 else "",
                    Text(arm.model, style="green" if i == 0 else ""),
                    share,
                    f"{arm.quality_mean:.3f} ± {arm.quality_stddev:.3f}",
                    dollars(arm.expected_cost_usd),
                )
        return made

    def _foot(self, shown: int, arms: int) -> Text:
        source = self._scenario.source
        total = len(source.categories)
        which = f"busiest {shown} of {total} categories" if shown < total else "all categories"
        text = f"{which}, top {min(arms, len(source.models))} models; quality learned ± sd; cost per request"
        return Text(text, style="dim", no_wrap=True, overflow="ellipsis")


def _plural(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _compare(name: str, mine: str, best: str, random: str) -> Text:
    return Text.assemble(
        (f"{name:<9}", "dim"), (mine, "bold green"), ("   best model ", "dim"), best, ("   random ", "dim"), random
    )


def progress_line(tally: Tally, *, elapsed_s: float) -> str:
    """For where there is no terminal."""
    n = max(1, tally.count)
    regret = f"{100 * tally.regrets[-1]:.0f} %" if tally.regrets else "-"
    return (
        f"{elapsed_s:5.1f} s  {tally.count:6,} requests  quality {tally.quality / n:.3f}  cost {dollars(tally.cost_usd / n)}  "
        f"regret {regret} of random's"
    )


def result(summary: Summary, *, name: str, more: Sequence[Text] = ()) -> Group:
    """The summary for people, with `more` lines of the same kind."""
    made = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    made.add_column("", no_wrap=True, overflow="ellipsis")
    for column in ("quality", "cost / request"):
        made.add_column(column, justify="right", no_wrap=True)

    def row(label: str, outcome: Outcome, style: str = "") -> None:
        made.add_row(escape(label), f"{outcome.quality:.4f}", dollars(outcome.cost_usd), style=style)

    row("banditroute", summary.router, "bold green")
    row("  first half, while it learned", summary.first_half, "dim")
    row("  second half", summary.second_half)
    row(f"always {summary.best_model} (best quality)", summary.best)
    row("random", summary.random)
    row("always right (best utility per category)", summary.oracle, "dim")
    cheaper = _money(summary.money_saved_against_random)
    lines = [
        Text.assemble(
            "against the best model  ",
            (f"{100 * summary.quality_kept:.1f} % of the quality kept", "bold green"),
            ", ",
            (_money(summary.money_saved), "bold green"),
        ),
        Text(f"against random          {_more(summary.quality_against_random)}, {cheaper}"),
        Text(
            f"regret, of random's     {100 * summary.lost_first_half:.1f} % in the first half, "
            f"{100 * summary.lost_second_half:.1f} % in the second"
        ),
    ]
    head = (
        f"{name}: {summary.requests:,} requests in {summary.seconds:.1f} s ({summary.requests_per_s:.0f}/s), "
        f"cost weight {summary.cost_weight:g}"
    )
    note = (
        f"Cost weight {summary.cost_weight:g}: a free model may score so much lower than the priciest and still tie. "
        "Figures are true means of the requests played, not estimates."
    )
    return Group(Text(head, style="bold"), Text(), made, Text(), *lines, *more, Text(), Text(note, style="dim"))


def _money(saved: float) -> str:
    return f"{100 * saved:.1f} % of the money saved" if saved >= 0 else f"{-100 * saved:.1f} % more money spent"


def _more(share: float) -> str:
    return f"{100 * abs(share):.1f} % {'more' if share >= 0 else 'less'} quality"

"""Act two: a model silently gets worse, is demoted, recovers, and gets its traffic back. What happens when, and what it cost.

The clients change what they draw from, nothing else: the server is told by feedback alone. What it makes of that is read
from its journal.
"""

from __future__ import annotations

import enum
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from banditroute.demo.degraded import Degraded
from banditroute.demo.play import Played, Players
from banditroute.demo.scenario import COST_WEIGHT, Scenario
from banditroute.demo.watching import Line, Watcher
from banditroute.lab.source import FloatArray, Source, cost_reference_usd

KEPT = 0.5
"""Of the good answers of the model that degrades, the share that is left."""
BEFORE, AFTER = 300, 700
"""Requests that are played before it degrades, and after it is back."""
PROBES, MOST_DEMOTED = 65, 2500
"""It recovers after so many probes, or requests: the test of recovery first asks up to 40 probes how bad the model is."""
MOST_UNNOTICED, MOST_UNTIL_BACK = 3000, 5000
"""Requests after which the next step comes even if nothing was noticed."""
WATCHABLE = 300.0, 120.0
"""Requests per second where people look on: usually, and from the degradation to the demotion."""


class Step(enum.Enum):
    BEFORE = enum.auto()
    DEGRADED = enum.auto()
    DEMOTED = enum.auto()
    RECOVERED = enum.auto()
    BACK = enum.auto()
    OVER = enum.auto()


class Happening(NamedTuple):
    """Something that happened `at` a request (its place in what was played), and `seconds` after the act began. `told`: it is
    from the journal; else it is what the clients did, which nobody tells the server. `minor`: it changed little."""

    at: int
    seconds: float
    kind: str
    text: str
    told: bool
    minor: bool = False


@dataclass(frozen=True, kw_only=True)
class DeclineReport:
    """What became of `model`. None: that did not happen while it was played.

    Shares are of 1, of all requests: in the stretch before it degraded, between demotion and recovery, after it was back.
    `lost` is utility lost against always choosing right, from the degradation until the model was back; `lost_if_kept` is
    what all requests would have lost with the model as long as it was bad. Both in points of quality, all requests together.
    """

    model: str
    requests: int
    seconds: float
    demoted_after_feedbacks: int | None
    back_after_requests: int | None
    share_before: float
    share_demoted: float | None
    share_after: float | None
    lost: float
    lost_if_kept: float
    events: tuple[dict[str, Any], ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Decline:
    """Act two, one `advance` after the other while `players` play; `watcher` has watched since before they began."""

    def __init__(self, scenario: Scenario, players: Players, watcher: Watcher, *, watched: bool) -> None:
        self.source, self.players, self.watcher = scenario.source, players, watcher
        self.begin = len(players.played)
        self.began = time.monotonic()
        lately = players.played[-BEFORE:]
        self.model = Counter(each.model for each in lately).most_common(1)[0][0]
        self.degraded: Source = Degraded(scenario.source, model=self.model, kept=KEPT)
        self.step = Step.BEFORE
        self.happenings: list[Happening] = []
        self.demotion: int | None = None
        self.back: int | None = None
        self._usual, self._slow = WATCHABLE if watched else (float("inf"), float("inf"))
        self._read = len(watcher.lines)
        self._since = self.begin
        self._places: dict[Step, int] = {}
        players.pace = self._usual

    @property
    def name(self) -> str:
        """The model's."""
        return self.source.models[self.model]

    @property
    def demoted_from_to(self) -> tuple[int, int] | None:
        """The requests, by their place in what was played, between which the model was demoted; None: it was not."""
        if self.demotion is None:
            return None
        return self._places[Step.DEMOTED], self._places.get(Step.BACK, len(self.players.played))

    @property
    def seconds(self) -> float:
        """Since the act began."""
        return time.monotonic() - self.began

    def advance(self) -> bool:
        """Takes in what the journal has told, makes the next thing happen where it is time, and says whether all is over."""
        lines, now = self.watcher.lines, len(self.players.played)
        for line in lines[self._read :]:
            self._read += 1
            self._hear(line)
        since = now - self._since
        match self.step:
            case Step.BEFORE if since >= BEFORE:
                self.players.source, self.players.pace = self.degraded, self._slow
                self._do("degrades", f"{100 * (1.0 - KEPT):.0f} % of {self.name}'s good answers turn bad; nobody says so.")
                self._enter(Step.DEGRADED)
            case Step.DEGRADED if since >= MOST_UNNOTICED:
                self._recover()
            case Step.DEMOTED if since >= MOST_DEMOTED or self._probes() >= PROBES:
                self._recover()
            case Step.RECOVERED if since >= MOST_UNTIL_BACK:
                self._enter(Step.BACK)
            case Step.BACK if since >= AFTER:
                self.step = Step.OVER
            case _:
                pass
        return self.step is Step.OVER

    def _hear(self, line: Line) -> None:
        text, judged_anew = line.summary, line.kind in ("demoted", "released") and "evidence" not in line.details
        if line.kind == "demoted" and not judged_anew:
            text = f"{text[:-1]} (evidence {line.details['evidence']:,.0f} of {line.details['evidence_needed']:,.0f})."
        at = max(self.begin, line.position - self.watcher.start_position)  # each request has one event, its feedback
        self.happenings.append(Happening(at, line.time - self.began, line.kind, text, told=True, minor=judged_anew))
        if line.model != self.name:
            return
        match line.kind, self.step:
            case "demoted", Step.DEGRADED:
                if self.demotion is None:
                    self.demotion = at - self._places[Step.DEGRADED]
                self._enter(Step.DEMOTED)
            case "promoted", Step.DEMOTED:  # wrongly, which is rare, and found out again
                self._enter(Step.DEGRADED)
            case "promoted" | "settled", Step.RECOVERED:  # settled: every category had let it go before
                self.back = at - self._places[Step.RECOVERED]
                self._enter(Step.BACK)
            case "settled", Step.DEGRADED | Step.DEMOTED:  # what it is now was taken as what it is
                self._recover()
                self._enter(Step.BACK)
            case _:
                pass

    def _recover(self) -> None:
        self.players.source = self.source
        self._do("recovers", f"{self.name} is as good as it was; nobody says so.")
        self._enter(Step.RECOVERED)

    def _do(self, kind: str, text: str) -> None:
        self.happenings.append(Happening(len(self.players.played), self.seconds, kind, text, told=False))

    def _enter(self, step: Step) -> None:
        self.step, self._since = step, len(self.players.played)
        if step is not Step.DEGRADED:
            self.players.pace = self._usual
        self._places.setdefault(step, self._since)

    def _probes(self) -> int:
        return sum(each.model == self.model for each in self.players.played[self._since :])

    def report(self) -> DeclineReport:
        """What has come of it so far."""
        played = self.players.played
        degraded, recovered = self._places.get(Step.DEGRADED), self._places.get(Step.RECOVERED)
        demoted, back = self._places.get(Step.DEMOTED), self._places.get(Step.BACK)
        end = len(played) if back is None else back
        lost = [] if degraded is None else played[degraded:end]
        bad = [each for each in lost if each.degraded]
        return DeclineReport(
            model=self.name,
            requests=len(played) - self.begin,
            seconds=self.seconds,
            demoted_after_feedbacks=self.demotion,
            back_after_requests=self.back,
            share_before=_share(played[self.begin - BEFORE if self.begin > BEFORE else 0 : degraded], self.model),
            share_demoted=None if self.demotion is None else _share(played[demoted:recovered], self.model),
            share_after=None if self.back is None or back is None else _share(played[back + AFTER // 2 :], self.model),
            lost=self._lost(lost, [each.model for each in lost]),
            lost_if_kept=self._lost(bad, [self.model] * len(bad)),
            events=tuple({"kind": each.kind, "at": each.at - self.begin, "text": each.text} for each in self.happenings),
        )

    def _lost(self, played: Sequence[Played], chosen: Sequence[int]) -> float:
        """Utility that `chosen` models lose on these requests against the best ones, as things then were."""
        if not played:
            return 0.0
        tables = np.stack([_gaps(self.source), _gaps(self.degraded)])
        when, where = [int(each.degraded) for each in played], [each.category for each in played]
        return float(tables[when, where, chosen].sum())


def _gaps(source: Source) -> FloatArray:
    """Utility of each category's best model less each model's; shape (categories, models)."""
    worth = source.mean_scores - COST_WEIGHT * source.mean_costs_usd / cost_reference_usd(source)
    return np.asarray(worth.max(axis=1, keepdims=True) - worth, dtype=np.float64)


def _share(played: Sequence[Played], model: int) -> float:
    return sum(each.model == model for each in played) / len(played) if played else 0.0

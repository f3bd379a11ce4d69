"""Logs that are folded as they are written, so that decisions know the state that they were made from."""

from __future__ import annotations

import copy
import functools
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from core_logs import category_entry, decided, document, event, model_entry, signals

from banditroute.core.drift import LAG, LEAST_ALONE, LEAST_OF_MODEL, QUALIFYING
from banditroute.core.fold import learn
from banditroute.core.state import INITIAL, State
from banditroute.core.types import Event, EventKind, Transition

START_US = 10**12
FREE = model_entry(into=0.0, out=0.0)


@dataclass
class Said:
    """A decision and all that was said of it; `position` is that of its first feedback, 0 before there is one."""

    decision: dict[str, Any]
    position: int = 0
    ordinal: int = 0
    time_us: int = 0
    signals: dict[str, Any] = field(default_factory=dict)
    attempts: dict[str, Any] = field(default_factory=dict)


class Story:
    """A log and its fold."""

    def __init__(self, categories: Mapping[str, Mapping[str, Any]], **shared: Any) -> None:
        self.state: State = INITIAL
        self.events: list[Event] = []
        self.notes: list[Transition] = []
        self._ordinals: Counter[str] = Counter()
        self.configure(categories, **shared)

    def copy(self) -> Story:
        """Another story with the same beginning."""
        other = copy.copy(self)
        other.events, other.notes, other._ordinals = [*self.events], [*self.notes], Counter(self._ordinals)
        return other

    @property
    def kinds(self) -> list[str]:
        return [note.kind for note in self.notes]

    def push(self, kind: str, body: Mapping[str, Any]) -> list[Transition]:
        position = self.state.position + 1
        made = event(position, body, kind=kind, time_us=START_US + position * 10**6)
        self.state, found = learn(self.state, made)
        self.events.append(made)
        self.notes += found
        return list(found)

    def configure(self, categories: Mapping[str, Mapping[str, Any]], **shared: Any) -> list[Transition]:
        """Models without an entry in `models` are free, so that utility is quality."""
        names = sorted({model for entry in categories.values() for model in entry["models"]})
        models = dict.fromkeys(names, FREE) | dict(shared.pop("models", {}))
        priors = shared.pop("priors", None)
        return self.push(EventKind.CONFIG, {"document": document(categories, models=models, priors=priors) | shared})

    def operate(self, action: str, model: str, category: str = "") -> list[Transition]:
        return self.push(EventKind.OPERATOR, {"action": action, "model": model, "category": category})

    def decide(self, category: str, model: str, *, features: Mapping[str, float] | None = None, made: int | None = None) -> Said:
        decision = decided(category, model, features=features)
        return Said(decision | {"state_position": self.state.position if made is None else made})

    def say(
        self,
        said: Said,
        *entries: tuple[str, str, float],
        weight: float = 1.0,
        source: str = "",
        attempts: Mapping[str, Any] | None = None,
    ) -> list[Transition]:
        """Feedback from (model, kind, value), merged into what was said as the log does it."""
        before = {"signals": dict(said.signals), "attempts": dict(said.attempts)} if said.position else None
        if not said.position:
            self._ordinals[said.decision["category"]] += 1
            said.position = self.state.position + 1
            said.ordinal = self._ordinals[said.decision["category"]]
            said.time_us = START_US + said.position * 10**6
        for key, (value, fresh_weight, time_us) in signals(*entries, weight=weight, source=source).items():
            said.signals[key] = [value, said.signals.get(key, (0, fresh_weight))[1], time_us]
        said.attempts.update(attempts or {})
        after = {
            "ordinal": said.ordinal,
            "position": said.position,
            "time_us": said.time_us,
            "signals": dict(said.signals),
            "attempts": dict(said.attempts),
        }
        return self.push(EventKind.FEEDBACK, {"decision": said.decision, "before": before, "after": after})

    def feed(
        self, category: str, model: str, value: float, *, kind: str = "eval_score", source: str = "", weight: float = 1.0
    ) -> Said:
        """A decision and its first feedback."""
        said = self.decide(category, model)
        self.say(said, (model, kind, value), source=source, weight=weight)
        return said

    def run(
        self, count: int, *arms: tuple[str, str, float], seed: int = 0, until: str = "", features: Sequence[str] = ()
    ) -> list[Said]:
        """`count` feedbacks, in turn on each (category, model, mean quality); stops behind a line of the kind `until`."""
        rng = random.Random(seed)
        found = []
        for i in range(count):
            category, model, mean = arms[i % len(arms)]
            seen = len(self.notes)
            said = self.decide(category, model, features={name: round(rng.gauss(0.0, 1.0), 2) for name in features})
            self.say(said, (model, "eval_score", near(rng, mean)))
            found.append(said)
            if until and any(note.kind == until for note in self.notes[seen:]):
                return found
        assert not until, f"no {until} in {count} feedbacks: {self.kinds}"
        return found


def near(rng: random.Random, mean: float) -> float:
    """A value in [0, 1] about `mean`."""
    return min(1.0, max(0.0, round(rng.gauss(mean, 0.08), 3)))


def without(events: Iterable[Event], *, model: str, behind: int, until: int) -> list[Event]:
    """The events but for feedback on decisions for `model` whose first was behind one position and up to another."""
    return [
        each
        for each in events
        if each.kind != EventKind.FEEDBACK
        or each.body["decision"]["model"] != model
        or not behind < each.body["after"]["position"] <= until
    ]


# --- two models in two categories ------------------------------------------------------------------

TWO = ["ant", "bee"]
KNOWN_AFTER = QUALIFYING + LAG + 2 * max(LEAST_OF_MODEL, 2 * LEAST_ALONE)
"""Values of a model in two categories after which all its tests run."""
ARMS = (("chat", "ant", 0.6), ("chat", "bee", 0.8), ("code", "ant", 0.2), ("code", "bee", 0.8))
DOWN = (("chat", "bee", 0.4), ("code", "bee", 0.4))


@functools.cache
def _steady(min_sources: int, changes: tuple[tuple[str, Any], ...], features: tuple[str, ...]) -> Story:
    schema = {name: {"mean": 0.0, "stddev": 1.0} for name in features}
    entry = category_entry(models=TWO, min_sources=min_sources, features=schema, **dict(changes))
    story = Story({"chat": entry, "code": entry})
    story.run(2 * KNOWN_AFTER, *ARMS, features=features)
    assert not story.notes
    return story


def steady(*, min_sources: int = 1, features: tuple[str, ...] = (), **changes: Any) -> Story:
    """Two models in two categories, well known: bee is the better one in both, by less in chat."""
    return _steady(min_sources, tuple(changes.items()), features).copy()


@functools.cache
def _fallen() -> Story:
    story = steady()
    story.run(200, *DOWN, until="demoted")
    return story


def fallen() -> Story:
    """bee fell to .4 everywhere: in chat ant is better now, in code it is not."""
    return _fallen().copy()

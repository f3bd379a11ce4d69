"""A scenario file: what requests come, what happens, how feedback comes, who plays. See simulations/README.md."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from banditroute.core.errors import DatasetError
from banditroute.lab.datasets import Dataset, inverted, make_priors, sampled, split
from banditroute.lab.delivery import Delivery
from banditroute.lab.environments import Frozen, Name, Positive, Unit, parsed, read_document
from banditroute.lab.extract import FeaturesSpec, features
from banditroute.lab.happenings import Absent, Degraded, Down, Happening, Repriced, Reweighted
from banditroute.lab.learners import POLICIES, Begun
from banditroute.lab.peers import PEERS
from banditroute.lab.results import INVERTED, ROUTER, WARM
from banditroute.lab.runs import Setting
from banditroute.lab.source import Source, mean_utilities, model_costs_usd
from banditroute.lab.traffic import Traffic
from banditroute.lab.worlds import Worlds

When = Annotated[float, Field(ge=0.0)]
SELECTORS = ("@best", "@second", "@worst", "@cheapest", "@priciest")
"""Models by what they are in the source: by mean utility over its traffic, or by mean cost."""
PRIOR_REQUESTS = 2000
"""Drawn from an environment to make priors of."""
Find = Callable[[str], Source | Worlds]


class EventSpec(Frozen):
    """One thing that happens. Times are numbers of requests, or below 1 shares of all requests."""

    at: When = Field(description="from this request on")
    until: When | None = Field(default=None, description="up to this request; null: to the last")
    model: Name | None = Field(default=None, description=f"its name, or {', '.join(SELECTORS)}")
    degrade: Unit | None = Field(default=None, description="its scores are worse by so much")
    categories: tuple[Name, ...] = Field(default=(), description="only there; for `degrade`")
    price_factor: Positive | None = Field(default=None, description="it costs so many times as much; the router is told")
    absent: bool = Field(default=False, description="it is not configured meanwhile: it arrives at `until`, or leaves at `at`")
    outage: bool = Field(default=False, description="its calls time out")
    cost_weight: Positive | None = Field(default=None, description="the cost weight meanwhile; the router is told")

    @model_validator(mode="after")
    def _one_thing(self) -> EventSpec:
        given = {
            "degrade": self.degrade is not None,
            "price_factor": self.price_factor is not None,
            "absent": self.absent,
            "outage": self.outage,
            "cost_weight": self.cost_weight is not None,
        }
        said = [name for name, is_given in given.items() if is_given]
        if len(said) != 1:
            raise ValueError(f"say one of {', '.join(given)}; this says {' and '.join(said) or 'none'}")
        if (self.model is None) != (said == ["cost_weight"]):
            raise ValueError("cost_weight is for all models" if self.model else f"{said[0]} needs a model")
        if self.categories and self.degrade is None:
            raise ValueError("categories go with degrade only")
        if self.until is not None and (self.until < 1.0) == (self.at < 1.0) and self.until <= self.at:
            raise ValueError(f"until {self.until:g} is not after at {self.at:g}")
        return self

    def happening(self, source: Source, requests: int, cost_weight: float) -> Happening:
        """Of a source. Raises DatasetError where it has no such model or category."""
        start = _request(self.at, requests)
        end = None if self.until is None else _request(self.until, requests)
        if self.cost_weight is not None:
            return Reweighted(start=start, end=end, cost_weight=self.cost_weight)
        assert self.model is not None
        model = named_model(source, self.model, cost_weight=cost_weight)
        if self.degrade is not None:
            if unknown := [name for name in self.categories if name not in source.categories]:
                raise DatasetError(f"{source.name}: no category {', '.join(unknown)}; there are {', '.join(source.categories)}")
            return Degraded(model=model, start=start, end=end, loss=self.degrade, categories=self.categories)
        if self.price_factor is not None:
            return Repriced(model=model, start=start, end=end, factor=self.price_factor)
        return Absent(model=model, start=start, end=end) if self.absent else Down(model=model, start=start, end=end)


def _request(when: float, requests: int) -> int:
    return round(when * requests) if when < 1.0 else int(when)


def named_model(source: Source, name: str, *, cost_weight: float) -> str:
    """The model that a name or one of SELECTORS means. Raises DatasetError where there is none."""
    if not name.startswith("@"):
        if name not in source.models:
            raise DatasetError(f"{source.name}: no model {name!r}; there are {', '.join(source.models)}")
        return name
    if name not in SELECTORS:
        raise DatasetError(f"no selector {name!r}; known: {', '.join(SELECTORS)}")
    if name in ("@cheapest", "@priciest"):
        costs_usd = model_costs_usd(source)
        return source.models[int(costs_usd.argmin() if name == "@cheapest" else costs_usd.argmax())]
    ranked = np.argsort(-(source.weights @ mean_utilities(source, cost_weight=cost_weight)), kind="stable")
    place = {"@best": 0, "@second": min(1, len(ranked) - 1), "@worst": -1}[name]
    return source.models[int(ranked[place])]


class TrafficSpec(Frozen):
    """How often each category comes, and when."""

    mix: dict[Name, Positive] = Field(default={}, description="weights by category; not named: none. Empty: as in the source")
    later: dict[Name, Positive] = Field(default={}, description="weights at the last request, which the mix drifts to evenly")
    period: Annotated[int, Field(ge=2)] | None = Field(default=None, description="requests from season to season")
    swing: Annotated[float, Field(ge=0.0, le=20.0)] = Field(
        default=1.0, description="of seasons: a category has e^swing of its weight at best, e^-swing at worst"
    )

    def made(self) -> Traffic:
        """As the course needs it."""
        return Traffic(mix=self.mix, later=self.later, period=self.period, swing=self.swing)


class FeedbackSpec(Frozen):
    """How feedback comes. Shares are of requests, independent of one another."""

    late: Annotated[int, Field(ge=0)] = Field(default=0, description="requests after its own")
    missing: Unit = Field(default=0.0, description="share that never comes")
    duplicated: Unit = Field(default=0.0, description="share that comes twice")
    corrected: Unit = Field(default=0.0, description="share that is wrong at first, and right later")
    noise: Unit = Field(default=0.0, description="standard deviation of what is told about the score")
    signal: Literal["score", "thumbs"] = Field(default="score", description="thumbs: 1 with the score as probability, else 0")

    def made(self) -> Delivery:
        """As the plays need it."""
        return Delivery(
            late=self.late,
            missing=self.missing,
            duplicated=self.duplicated,
            corrected=self.corrected,
            noise=self.noise,
            as_thumbs=self.signal == "thumbs",
        )


class ScenarioSpec(Frozen):
    """A scenario file."""

    name: Name = Field(description="shown in reports")
    about: str = Field(default="", description="what is asked, in a sentence or two")
    sources: tuple[Name, ...] = Field(
        min_length=1,
        description="each a shipped environment or shared data set by name, or a file or an export's folder beside the scenario",
    )
    requests: Annotated[int, Field(ge=1, le=10_000_000)] = Field(default=6000, description="in each run")
    seeds: Annotated[int, Field(ge=1, le=10_000)] = Field(default=10, description="runs; intervals are over them")
    cost_weights: tuple[Positive, ...] = Field(default=(0.1,), min_length=1, description="one after the other")
    traffic: TrafficSpec | None = Field(default=None, description="which categories come, and when; none: as in the source")
    feedback: FeedbackSpec = Field(default=FeedbackSpec(), description="how it comes")
    timeline: tuple[EventSpec, ...] = Field(default=(), description="what happens; what overlaps adds up")
    policies: tuple[Name, ...] = Field(default=POLICIES, min_length=1, description="who plays")
    features: FeaturesSpec | None = Field(
        default=None, description="context that the router is given: what is computed of the data sets' prompts"
    )
    priors: Literal["none", "compare"] = Field(
        default="none",
        description="compare: the router is played cold, with priors from half of the data set's samples, and with these "
        "inverted, on the other half",
    )
    router: dict[str, Any] = Field(default={}, description="goes into the router's configuration as it is")
    category: dict[str, Any] = Field(default={}, description="goes into each of its categories as it is")

    @field_validator("policies")
    @classmethod
    def _known(cls, policies: tuple[str, ...]) -> tuple[str, ...]:
        known = (*POLICIES, *PEERS)
        if unknown := [name for name in policies if name not in known]:
            raise ValueError(f"no policy {', '.join(unknown)}; known: {', '.join(known)}")
        return tuple(dict.fromkeys(policies))

    @model_validator(mode="after")
    def _comparable(self) -> ScenarioSpec:
        if self.priors == "compare" and ROUTER not in self.policies:
            raise ValueError(f"priors are compared with a cold start: add {ROUTER} to the policies")
        return self


@dataclass(frozen=True)
class Timetable:
    """The timeline of a scenario, as runs need it."""

    events: tuple[EventSpec, ...]

    def __call__(self, source: Source, requests: int, cost_weight: float) -> Sequence[Happening]:
        return [event.happening(source, requests, cost_weight) for event in self.events]


def is_scenario(document: object) -> bool:
    """Whether a YAML document is meant as a scenario."""
    return isinstance(document, Mapping) and "sources" in document


def load_scenario(path: Path | str) -> ScenarioSpec:
    """Raises DatasetError, which names the file and every wrong field."""
    return parsed(ScenarioSpec, read_document(path), where=str(path), what="a scenario")


def _with_features(source: Source | Worlds, spec: FeaturesSpec | None) -> Source | Worlds:
    if spec is None:
        return source
    if not isinstance(source, Dataset) or source.prompts is None:
        raise DatasetError(f"{source.name}: no prompts to compute features of; give a data set that has a column `prompt`")
    names, values = features(source.prompts, spec)
    return dataclasses.replace(source, features=values, feature_names=names)


def _told_apart(source: Source | Worlds) -> tuple[Dataset, Source]:
    """What priors are made of, and what they are judged by: halves of a data set, or requests of an environment that are drawn
    apart."""
    if isinstance(source, Dataset):
        return split(source)
    if isinstance(source, Worlds):
        raise DatasetError(f"{source.name}: each seed has a world of its own, which no priors can know; give a data set")
    return sampled(source, PRIOR_REQUESTS, seed=0), source


def settings_of(spec: ScenarioSpec, *, find: Find) -> list[Setting]:
    """What is to be played: a setting for each source and cost weight, in that order. `find` makes a source of its name.

    Raises DatasetError where a source, or something in it, is not there.
    """
    settings = []
    for name in spec.sources:
        source = _with_features(find(name), spec.features)
        begun = Begun(of_all=spec.router, of_category=spec.category)
        starts, policies = {ROUTER: begun}, spec.policies
        if spec.priors == "compare":
            told, source = _told_apart(source)
            priors = make_priors(told)
            starts |= {WARM: begun._replace(priors=priors), INVERTED: begun._replace(priors=inverted(priors))}
            policies = (*policies, WARM, INVERTED)
        settings += [
            Setting(
                source=source,
                requests=spec.requests,
                cost_weight=weight,
                policies=policies,
                timeline=Timetable(spec.timeline),
                traffic=None if spec.traffic is None else spec.traffic.made(),
                delivery=spec.feedback.made(),
                begun=starts,
            )
            for weight in spec.cost_weights
        ]
    return settings

"""What a scenario came to: tables, detection and recovery times, JSON; pictures are made of it elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from banditroute.lab.happenings import Absent, Degraded, Down, Happening, Repriced, Reweighted
from banditroute.lab.outcome import Outcome
from banditroute.lab.replay import policy_result
from banditroute.lab.results import ROUTER, Estimate, PolicyResult, WeightResult, defined, estimate
from banditroute.lab.runs import Setting, Task, bins
from banditroute.lab.scenario import ScenarioSpec
from banditroute.lab.source import FloatArray, cost_reference_usd
from banditroute.lab.worlds import source_at


class Mark(NamedTuple):
    """Something that happens, for a picture's time axis: from one request to another (the run's last where it stays so)."""

    start: int
    end: int
    model: str
    text: str


class Noticed(NamedTuple):
    """How soon the router acted on one degradation: requests from its begin to the demotion, and from its end to the
    promotion, by seed; NaN where there was none."""

    mark: Mark
    to_demotion: tuple[float, ...]
    to_promotion: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One source at one cost weight, over all seeds. Cost reference in USD; of worlds, all names and marks are the first's."""

    source: str
    categories: tuple[str, ...]
    models: tuple[str, ...]
    cost_weight: float
    cost_reference_usd: float
    requests: int
    marks: tuple[Mark, ...]
    outcomes: Mapping[str, Sequence[Outcome]]
    """By policy, in the order asked for; over the seeds."""

    @property
    def ends(self) -> Sequence[int]:
        """The requests at which the parts of the run end, of which outcomes have means."""
        ends: list[int] = bins(self.requests).tolist()
        return ends

    @property
    def result(self) -> WeightResult:
        """All policies, as a table has them."""
        found = [policy_result(outcomes, [self.requests]) for outcomes in self.outcomes.values()]
        return WeightResult(cost_weight=self.cost_weight, policies=tuple(found))

    def curve(self, policy: str) -> list[Estimate]:
        """Regret after each part of the run: mean over the seeds, and half its 95 % interval."""
        return [estimate([outcome.regrets_at[end] for outcome in self.outcomes[policy]]) for end in self.ends]

    def shares(self, policy: str) -> FloatArray:
        """Of the traffic, by part of the run and model: means over the seeds, of shape (bins, models)."""
        return np.asarray(np.mean([outcome.shares for outcome in self.outcomes[policy]], axis=0), dtype=np.float64)

    @property
    def noticed(self) -> tuple[Noticed, ...]:
        """Each degradation, where the router played."""
        found = []
        for mark in self.marks:
            if mark.text != "worse" or ROUTER not in self.outcomes:
                continue
            k = self.models.index(mark.model)
            runs = [[line for line in outcome.transitions if line.model == k] for outcome in self.outcomes[ROUTER]]
            out = [_first([t.request for t in lines if t.kind == "demoted"], mark.start, mark.end) for lines in runs]
            back = [_first([t.request for t in lines if t.kind == "promoted"], mark.end, self.requests) for lines in runs]
            found.append(Noticed(mark, tuple(out), tuple(back)))
        return tuple(found)

    def to_json(self) -> dict[str, Any]:
        """JSON data; null stands for what is not defined."""
        result = self.result
        policies = []
        for policy in result.policies:
            excess = result.excess(policy)
            told = policy.to_json() | {"vs_banditroute": None if excess is None else excess.to_json()}
            told["curve"] = [{"mean": each.mean, "half": defined(each.half)} for each in self.curve(policy.policy)]
            told["shares"] = self.shares(policy.policy).tolist()
            told["frontier"] = _frontier(policy)
            policies.append(told)
        return {
            "source": self.source,
            "categories": list(self.categories),
            "models": list(self.models),
            "cost_weight": self.cost_weight,
            "cost_reference_usd": self.cost_reference_usd,
            "requests": self.requests,
            "ends": list(self.ends),
            "marks": [mark._asdict() for mark in self.marks],
            "noticed": [
                {
                    "mark": each.mark._asdict(),
                    "requests_to_demotion": [defined(value) for value in each.to_demotion],
                    "requests_to_promotion": [defined(value) for value in each.to_promotion],
                }
                for each in self.noticed
            ],
            "policies": policies,
        }


def _first(requests: Sequence[int], start: int, end: int) -> float:
    return next((float(request - start) for request in sorted(requests) if start <= request < end), math.nan)


def _frontier(policy: PolicyResult) -> dict[str, float]:
    return {"score": float(np.mean(policy.mean_scores)), "cost_usd": float(np.mean(policy.mean_costs_usd))}


@dataclass(frozen=True, kw_only=True)
class ScenarioResult:
    """All of a scenario."""

    spec: ScenarioSpec
    seeds: int
    scenes: tuple[Scene, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON data with everything that the report shows."""
        return {
            "scenario": self.spec.model_dump(mode="json"),
            "seeds": self.seeds,
            "scenes": [scene.to_json() for scene in self.scenes],
        }


def tasks_of(settings: Sequence[Setting], *, seeds: int) -> list[Task]:
    """Each setting with each seed, in the order that `scenario_result` takes them."""
    return [Task(setting, seed) for setting in settings for seed in range(seeds)]


def scenario_result(
    spec: ScenarioSpec, settings: Sequence[Setting], runs: Sequence[Sequence[Outcome]], *, seeds: int
) -> ScenarioResult:
    """What the outcomes of `tasks_of` come to."""
    scenes = [_scene(setting, runs[i * seeds : (i + 1) * seeds]) for i, setting in enumerate(settings)]
    return ScenarioResult(spec=spec, seeds=seeds, scenes=tuple(scenes))


def _scene(setting: Setting, runs: Sequence[Sequence[Outcome]]) -> Scene:
    source = source_at(setting.source, 0)
    happenings = setting.timeline(source, setting.requests, setting.cost_weight)
    return Scene(
        source=setting.source.name,
        categories=source.categories,
        models=source.models,
        cost_weight=setting.cost_weight,
        cost_reference_usd=cost_reference_usd(source),
        requests=setting.requests,
        marks=tuple([_mark(happening, setting.requests) for happening in happenings]),
        outcomes={column[0].policy: column for column in zip(*runs, strict=True)},
    )


def _mark(happening: Happening, requests: int) -> Mark:
    end = requests if happening.end is None else min(requests, happening.end)
    match happening:
        case Degraded():
            text = "worse"
        case Repriced(factor=factor):
            text = f"price × {factor:g}"
        case Absent():
            text = "absent"
        case Down():
            text = "outage"
        case Reweighted(cost_weight=weight):
            text = f"cost weight {weight:g}"
        case _:
            text = ""
    return Mark(happening.start, end, happening.model, text)

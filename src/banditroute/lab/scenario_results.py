"""What a scenario came to: tables, detection and recovery times, JSON; pictures are made of it elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from banditroute.lab.course import states_of
from banditroute.lab.frontier import FixedModel, Point, aiq, fixed_models, hull
from banditroute.lab.happenings import Absent, Degraded, Down, Happening, Repriced, Reweighted
from banditroute.lab.outcome import Outcome
from banditroute.lab.replay import policy_result
from banditroute.lab.results import ROUTER, Estimate, WeightResult, bounds, defined, estimate
from banditroute.lab.runs import Z90, Setting, Task, bins
from banditroute.lab.scenario import ScenarioSpec
from banditroute.lab.source import FloatArray, cost_reference_usd
from banditroute.lab.worlds import Worlds, source_at


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
    fixed: tuple[FixedModel, ...]
    """What each model comes to if it is given every request; of worlds, means over the seeds."""
    true_scores: Sequence[FloatArray]
    """After the last request, of shape (categories, models); one for each seed."""

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
    def frontier(self) -> list[Point]:
        """What constant mixtures of the models reach that were there all the time."""
        return hull([Point(each.cost_usd, each.score) for each in self.fixed if each.always_there])

    def beliefs(self) -> dict[str, Any] | None:
        """JSON data: what the router believes at the end of the first seed's run, beside the truth; and in how many cells of
        all runs its 90 % interval holds the truth. None where the router did not play."""
        believed = [outcome.beliefs for outcome in self.outcomes.get(ROUTER, ())]
        runs = [(cells, truth) for cells, truth in zip(believed, self.true_scores, strict=False) if cells is not None]
        if not runs:
            return None
        count = held = seen = seen_held = 0
        for cells, truth in runs:
            mean = np.array(cells.mean, dtype=np.float64)
            inside = np.abs(truth - mean) <= Z90 * np.array(cells.stddev, dtype=np.float64)
            told = np.array(cells.feedback_counts) > 0
            count, held = count + int(np.isfinite(mean).sum()), held + int(inside.sum())
            seen, seen_held = seen + int(told.sum()), seen_held + int((inside & told).sum())
        (first, truth), *_ = runs
        return {
            **first._asdict(),
            "truth": truth.tolist(),
            "over_all_seeds": {"cells": count, "held": held, "with_feedback": seen, "of_these_held": seen_held},
        }

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
            told["score_ci95"] = bounds(estimate(policy.mean_scores))
            told["cost_ci95_usd"] = bounds(estimate(policy.mean_costs_usd))
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
            "fixed_models": [each._asdict() for each in self.fixed],
            "frontier": [point._asdict() for point in self.frontier],
            "beliefs": self.beliefs(),
        }


def _first(requests: Sequence[int], start: int, end: int) -> float:
    return next((float(request - start) for request in sorted(requests) if start <= request < end), math.nan)


@dataclass(frozen=True, kw_only=True)
class ScenarioResult:
    """All of a scenario."""

    spec: ScenarioSpec
    seeds: int
    scenes: tuple[Scene, ...]

    @property
    def _sources(self) -> list[str]:
        return list(dict.fromkeys(scene.source for scene in self.scenes))

    def to_json(self) -> dict[str, Any]:
        """JSON data with everything that the report shows."""
        return {
            "scenario": self.spec.model_dump(mode="json"),
            "seeds": self.seeds,
            "scenes": [scene.to_json() for scene in self.scenes],
            "aiq": [_aiq([scene for scene in self.scenes if scene.source == name]) for name in self._sources],
        }


def _aiq(scenes: Sequence[Scene]) -> dict[str, Any]:
    """Over the costs from the cheapest fixed model's to the dearest's (at the first cost weight): of the fixed models; of each
    policy, by its points at all cost weights, `alone` (where there are two: one point is no curve) and in mixtures
    `with_fixed_models`. JSON data; null stands for what is not defined."""
    fixed = [Point(each.cost_usd, each.score) for each in scenes[0].fixed if each.always_there]
    costs_usd = [point.cost_usd for point in fixed] or [0.0]
    low, high = min(costs_usd), max(costs_usd)
    found = {}
    for policy in scenes[0].outcomes:
        results = [scene.result[policy] for scene in scenes]
        points = [Point(float(np.mean(each.mean_costs_usd)), float(np.mean(each.mean_scores))) for each in results]
        found[policy] = {
            "alone": aiq(points, low_usd=low, high_usd=high) if len(points) > 1 else None,
            "with_fixed_models": aiq([*fixed, *points], low_usd=low, high_usd=high),
        }
    return {
        "source": scenes[0].source,
        "low_usd": low,
        "high_usd": high,
        "fixed_models": aiq(fixed, low_usd=low, high_usd=high),
        "policies": found,
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
    fixed, true_scores = _truth(setting, seeds=len(runs))
    return Scene(
        source=setting.source.name,
        categories=source.categories,
        models=source.models,
        cost_weight=setting.cost_weight,
        cost_reference_usd=cost_reference_usd(source),
        requests=setting.requests,
        marks=tuple([_mark(each, setting.requests) for each in happenings if each.start < setting.requests]),
        outcomes={column[0].policy: column for column in zip(*runs, strict=True)},
        fixed=fixed,
        true_scores=true_scores,
    )


def _truth(setting: Setting, *, seeds: int) -> tuple[tuple[FixedModel, ...], Sequence[FloatArray]]:
    """The fixed models, and each seed's true scores after the last request."""
    drawn = seeds if isinstance(setting.source, Worlds) else 1
    fixed, truths = [], []
    for seed in range(drawn):
        source = source_at(setting.source, seed)
        happenings = setting.timeline(source, setting.requests, setting.cost_weight)
        fixed.append(fixed_models(source, happenings, requests=setting.requests, traffic=setting.traffic))
        states = states_of(source, happenings, requests=setting.requests, cost_weight=setting.cost_weight)
        truths.append(states[-1].source.mean_scores)
    means = [_mean_of(each) for each in zip(*fixed, strict=True)]
    return tuple(means), truths if drawn == seeds else truths * seeds


def _mean_of(each: Sequence[FixedModel]) -> FixedModel:
    cost_usd, score = (float(np.mean(values)) for values in zip(*[(one.cost_usd, one.score) for one in each], strict=True))
    return FixedModel(each[0].model, cost_usd, score, all(one.always_there for one in each))


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

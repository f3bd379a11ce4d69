"""What the router does about changes, measured: one run of 6,000 requests per case and seed, through the router that serves.

The leader is the model of the highest mean utility over the whole traffic, at a cost weight of 0.1. Whatever happens to it, or to
a newcomer, begins after a third of the requests, and is over after two thirds where it ends at all. Regret and losses are
expectations over the router's own draws: its exact propensities times the true gaps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from banditroute.core.policy import probe_share
from banditroute.lab.course import Course, make_course
from banditroute.lab.delivery import PROMPT, Delivery
from banditroute.lab.happenings import Absent, Degraded, Down, Repriced
from banditroute.lab.plays import NEVER, Played, Voice, play
from banditroute.lab.router_policy import SECONDS_PER_REQUEST
from banditroute.lab.source import FloatArray, IntArray, Source, mean_utilities

COST_WEIGHT = 0.1
WINDOW = 100
"""Requests over which a share of the traffic is averaged, and after which it is judged."""
ADOPTION, GRID = 1000, 5
"""Requests within which a newcomer is followed, and how often its share is taken."""
LITTLE = 0.01
REGAINED_AFTER = (400, 500, 600, 1200, 1800)
NO_DETECTOR: Mapping[str, Any] = {"min_sources": 8}
"""A category whose only source is never enough for an alarm."""
FORGETTING: Mapping[str, Mapping[str, Any]] = {
    "forgetting": {"half_life_count": 231, **NO_DETECTOR},
    "forgetting_by_time": {"half_life_s": 231 * SECONDS_PER_REQUEST, **NO_DETECTOR},
}
"""The rivals: the same router without its detector, which forgets by .997 with every feedback of the category, or with every
request of the stream (ln 2 / -ln .997 = 231)."""

Value = float | tuple[float, float]
"""One seed's figure: a number, NaN where there is none; or the two parts of a ratio, which is taken of their sums."""
Figures = dict[str, Value]


def ranked_models(source: Source) -> list[str]:
    """By mean utility over the whole traffic, best first."""
    worth = source.weights @ mean_utilities(source, cost_weight=COST_WEIGHT)
    return [source.models[k] for k in np.argsort(-worth, kind="stable")]


def degradation(
    source: Source, *, seed: int, requests: int, loss: float, delivery: Delivery = PROMPT, rivals: bool = True
) -> Figures:
    """The leader gets worse by `loss`, silently, and is as good as ever again after as many requests.

    Where it is never demoted, `feedbacks_to_demotion` counts all that there were.
    """
    leader = ranked_models(source)[0]
    k = source.models.index(leader)
    begin, end = requests // 3, 2 * requests // 3
    happens = [Degraded(model=leader, loss=loss, start=begin, end=end)]
    course = make_course(source, happens, requests=requests, seed=seed, cost_weight=COST_WEIGHT)
    regained_after = [after for after in REGAINED_AFTER if end + after < requests]
    run = play(course, seed=seed, delivery=delivery, shares_at={begin, end, *[end + after for after in regained_after]})
    mine = [line for line in run.lines if line.model == k]
    found = [line.request for line in mine if line.kind == "demoted" and begin <= line.request < end]
    promoted = [line.request for line in mine if line.kind == "promoted"]
    first = found[0] if found else NEVER
    losses, lost_on_leader = expected_losses(course, run), run.propensities[:, k] * course.gaps[:, k]
    regret = float(losses[begin:end].sum())
    figures: Figures = {
        "feedbacks_to_demotion": float(_told(run, k, made_from=begin, told_to=min(first, end - 1))),
        "requests_to_demotion": float(min(first, end) - begin),
        "undetected": float(not found),
        "false_demotions_per_million": (
            1e6 * _false_alarms(run, k, begin, end + delivery.late),
            float((run.told_at < NEVER).sum()),
        ),
        "share_before": float(run.propensities[max(0, begin - WINDOW) : begin, k].mean()),
        **_after_demotion(course, run, k, loss=loss, first=first, end=end),
        "regret": regret,
        "regret_until_demotion": float(losses[begin : min(first + 1, end)].sum()),
        "regret_on_rivals_afterwards": float((losses - lost_on_leader)[min(first + 1, end) : end].sum()),
    }
    if rivals:
        others = {"told": regret_if_told(source, happens[0], seed=seed, requests=requests)}
        for name, config in FORGETTING.items():
            other = play(course, seed=seed, delivery=delivery, of_category=config)
            others[name] = float(expected_losses(course, other)[begin:end].sum())
            figures[f"regret_to_{name}"] = (regret, others[name])
        figures["regret_if_told_to_forgetting"] = (others["told"], others["forgetting"])
    figures["false_promotion"] = float(any(begin <= request < end for request in promoted))
    recovered = [request - end for request in promoted if request >= end]
    figures["requests_to_promotion"] = float(recovered[0]) if recovered else math.nan
    lost = {step: loss_rate(course, shares, phase=-1) for step, shares in run.shares.items()}
    for after in regained_after:
        figures[f"regained_after_{after}"] = (lost[end] - lost[end + after], lost[end] - lost[begin])
    return figures


def regret_if_told(source: Source, degraded: Degraded, *, seed: int, requests: int) -> float:
    """What is lost meanwhile by a router whose operator takes the model out as soon as it gets worse, and nothing on it: no
    detector can do much better, since the rest is what there is to be learned about the others."""
    absent = Absent(model=degraded.model, start=degraded.start, end=degraded.end)
    course = make_course(source, [degraded, absent], requests=degraded.end or requests, seed=seed, cost_weight=COST_WEIGHT)
    return float(expected_losses(course, play(course, seed=seed))[degraded.start :].sum())


def _false_alarms(run: Played, k: int, begin: int, end: int) -> int:
    """Alarms that demoted a model which was as good as ever: any but `k` between `begin` and `end`."""
    alarms = [line for line in run.lines if line.kind == "demoted" and "formerly_demoted_in" not in line.body]
    return len([line for line in alarms if line.model != k or not begin <= line.request < end])


def _after_demotion(course: Course, run: Played, k: int, *, loss: float, first: int, end: int) -> Figures:
    """Of the degraded model: its share from WINDOW requests after the demotion on, where a rival is better, less the share that
    probes should have there, were all known; what it costs from the demotion on, in utility per request."""
    start = first + WINDOW
    if first == NEVER or start >= end:
        return {"share_after": math.nan, "share_over_probes": math.nan, "spent_on_probes": math.nan}
    gaps = course.gaps[:, k]
    window = np.arange(start, min(end, start + WINDOW))
    beaten = window[gaps[window] > 0.0]
    shares, spent = run.propensities[:, k], slice(first + 1, end)
    planned = [probe_share(gap, shift=-loss, noise=_noise(course, k)) for gap in gaps[beaten].tolist()]
    over = shares[beaten].mean() - np.mean(planned) if planned else math.nan
    return {
        "share_after": float(shares[window].mean()),
        "share_over_probes": float(over),
        "spent_on_probes": float((shares[spent] * gaps[spent]).mean()),
    }


def _noise(course: Course, k: int) -> float:
    """The variance of one score of a model about its category's mean."""
    scores, categories = course.stream.scores[:, k], course.stream.categories
    sums, counts = np.bincount(categories, weights=scores), np.maximum(np.bincount(categories), 1)
    return float(np.mean((scores - (sums / counts)[categories]) ** 2))


def standing_firm(source: Source, *, seed: int, requests: int, loss: float) -> Figures:
    """The leader gets worse by `loss` for good, but no rival is better even then, or there is none."""
    leader = ranked_models(source)[0]
    k, begin = source.models.index(leader), requests // 3
    happens = [Degraded(model=leader, loss=loss, start=begin)]
    course = make_course(source, happens, requests=2 * begin, seed=seed, cost_weight=COST_WEIGHT)
    run = play(course, seed=seed)
    lines = [line for line in run.lines if line.model == k and line.request >= begin]
    noticed = [line.request for line in lines if line.kind in ("degraded", "demoted")]
    before = float(run.propensities[max(0, begin - WINDOW) : begin, k].mean())
    return {
        "demotions": float(len([line for line in lines if line.kind == "demoted"])),
        "noticed": float(bool(noticed)),
        "feedbacks_to_notice": float(_told(run, k, made_from=begin, told_to=noticed[0])) if noticed else math.nan,
        "share_kept": (float(run.propensities[begin:, k].mean()), before),
        "share_kept_at_worst": (float(_smoothed(run.propensities[begin:, k]).min()), before),
    }


def outage(source: Source, *, seed: int, requests: int) -> Figures:
    """The only model's calls fail for 100 requests. Every one is routed all the same, else this raises."""
    (model,), begin = source.models, requests // 3
    happens = [Down(model=model, start=begin, end=begin + WINDOW)]
    course = make_course(source, happens, requests=begin + 2 * WINDOW, seed=seed, cost_weight=COST_WEIGHT)
    run = play(course, seed=seed)
    opened = [line for line in run.lines if line.kind == "breaker_opened"]
    return {
        "served": float((run.propensities[:, 0] == 1.0).mean()),
        "warned": float(any(line.body["nothing_else_in"] for line in opened)),
        "calls_to_warning": float(opened[0].request - begin + 1) if opened else math.nan,
    }


def arrival(source: Source, *, seed: int, requests: int, best: bool) -> Figures:
    """The best, or the worst, model is added by a reload after a third of the requests.

    Extra spend is what the second third of the requests, or its first WINDOW, cost beyond what they would have cost at the
    shares before the arrival or at those of the last third, request for request whichever is dearer.
    """
    ranks = ranked_models(source)
    newcomer = ranks[0] if best else ranks[-1]
    k, begin = source.models.index(newcomer), requests // 3
    happens = [Absent(model=newcomer, end=begin)]
    course = make_course(source, happens, requests=requests, seed=seed, cost_weight=COST_WEIGHT)
    grid = list(range(begin, min(requests, begin + ADOPTION), GRID))
    run = play(course, seed=seed, shares_at={begin - 1, *grid})
    traffic = np.array([source.weights @ run.shares[step][:, k] for step in grid])
    looks = np.cumsum(run.picks[begin:] == k)
    final = float(run.propensities[2 * requests // 3 :, k].mean())
    if not best:
        above = np.flatnonzero(traffic >= LITTLE)
        until = GRID * (int(above[-1]) + 1) if len(above) else 0
        return {
            "looks_until_below_1_percent": float(looks[until - 1]) if until else 0.0,
            "looks_in_all": float(looks[-1]),
            "final_share": final,
        }
    reached = np.flatnonzero(traffic >= 0.5 * final)
    adopted = final >= LITTLE
    first, third = slice(begin, begin + WINDOW), slice(begin, 2 * requests // 3)
    costs = (run.propensities * source.mean_costs_usd[course.stream.categories]).sum(axis=1)
    usual = np.maximum(_costs_usd(course, run.shares[begin - 1]), _costs_usd(course, _late_shares(course, run)))
    return {
        "requests_to_half": float(GRID * reached[0]) if adopted and len(reached) else float(ADOPTION),
        "not_adopted": float(not adopted),
        "extra_spend": (float((costs - usual)[third].sum()), float(usual[third].sum())),
        "extra_spend_at_first": (float((costs - usual)[first].sum()), float(usual[first].sum())),
        "regret_at_first": float(expected_losses(course, run)[first].sum()),
        "final_share": final,
    }


def _late_shares(course: Course, run: Played) -> FloatArray:
    """Mean shares by category in the last third; shape (categories, models)."""
    third = 2 * course.requests // 3
    categories, shares = course.stream.categories[third:], run.propensities[third:]
    rows = [categories == c for c in range(len(course.source.categories))]
    return np.stack([(shares[row] if row.any() else shares).mean(axis=0) for row in rows])


def _costs_usd(course: Course, shares: FloatArray) -> FloatArray:
    """What each request costs at these shares by category; shape (requests,)."""
    return np.asarray((shares * course.source.mean_costs_usd).sum(axis=1)[course.stream.categories], dtype=np.float64)


def dearer(source: Source, *, seed: int, requests: int, factor: float) -> Figures:
    """The leader's price is `factor` times as high from a reload on."""
    leader = ranked_models(source)[0]
    k, begin = source.models.index(leader), requests // 3
    happens = [Repriced(model=leader, factor=factor, start=begin)]
    course = make_course(source, happens, requests=begin + 1, seed=seed, cost_weight=COST_WEIGHT)
    run = play(course, seed=seed, shares_at={begin - 1, begin})
    before, after = run.shares[begin - 1], run.shares[begin]
    was, now = float(source.weights @ before[:, k]), float(source.weights @ after[:, k])
    return {
        "share_before": was,
        "share_on_next_request": now,
        "moved_on_next_request": (was - now, was),
        "loss_before": loss_rate(course, before, phase=0),
        "loss_had_it_stayed": loss_rate(course, before, phase=1),
        "loss_on_next_request": loss_rate(course, after, phase=1),
    }


def slander(source: Source, *, seed: int, requests: int, min_sources: int) -> Figures:
    """Beside the honest source another one calls everything that the leader does worthless, from a third of the requests on."""
    k, begin = source.models.index(ranked_models(source)[0]), requests // 3
    course = make_course(source, requests=requests, seed=seed, cost_weight=COST_WEIGHT)
    voice = Voice(source="adversary", model=k, score=0.0, start=begin)
    run = play(course, seed=seed, voice=voice, of_category={"min_sources": min_sources})
    lines = [line for line in run.lines if line.model == k and line.request >= begin]
    return {
        "demotions": float(len([line for line in lines if line.kind == "demoted"])),
        "alarms": float(len([line for line in lines if line.kind in ("demoted", "degraded")])),
        "share_before": float(run.propensities[max(0, begin - WINDOW) : begin, k].mean()),
        "share_at_end": float(run.propensities[-WINDOW:, k].mean()),
    }


# --- what is measured ------------------------------------------------------------------------------


def expected_losses(course: Course, run: Played) -> FloatArray:
    """Of each request what the router loses by its shares against the best model present, in utility; shape (requests,)."""
    gaps = np.where(run.propensities > 0.0, course.gaps, 0.0)
    return np.asarray((run.propensities * gaps).sum(axis=1), dtype=np.float64)


def loss_rate(course: Course, shares: FloatArray, *, phase: int) -> float:
    """What these shares (categories, models) lose per request in a phase, over the whole traffic."""
    utilities = course.phases[phase].utilities
    gaps = utilities.max(axis=1, keepdims=True) - utilities
    return float(course.source.weights @ (shares * np.where(shares > 0.0, gaps, 0.0)).sum(axis=1))


def _told(run: Played, model: int, *, made_from: int, told_to: int) -> int:
    """First feedbacks of a model, of requests from `made_from` on, that came after request `told_to` or before."""
    mine: IntArray = run.told_at[made_from:][run.picks[made_from:] == model]
    return int((mine <= told_to).sum())


def _smoothed(shares: FloatArray) -> FloatArray:
    width = min(WINDOW, len(shares))
    return np.convolve(shares, np.full(width, 1.0 / width), mode="valid")

"""Plays every shipped scenario and writes simulations/results.md: `make simulations`.

Data sets of the environments' names in BANDITROUTE_DATA take their place. Peers play where they are installed. Runs are kept in
build/simulations, so an interrupted one is resumed.
"""

from __future__ import annotations

import argparse
import datetime as dt
import logging
import math
import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import structlog

from banditroute.lab.finding import finder, shipped
from banditroute.lab.peers import installed_peers
from banditroute.lab.results import Estimate
from banditroute.lab.runs import default_jobs, run_tasks
from banditroute.lab.scenario import load_scenario, settings_of
from banditroute.lab.scenario_results import ScenarioResult, Scene, scenario_result, tasks_of

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "simulations" / "results.md"
EXPLAINED = (
    "Means over the seeds with 95 % intervals; regret in quality points, summed over a run; the difference to banditroute is "
    "paired by seed. The last two columns are shares of what always taking the priciest model comes to. `best-fixed` and "
    "`category-oracle` are told the truth: bounds, not rivals."
)
COLUMNS = "| policy | regret | more than banditroute | below random | score | cost | score, of the priciest's | cost, of its |"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--only", action="append", help="a scenario by name; repeatable")
    arguments.add_argument("--seeds", type=int, help="in place of the scenarios' own")
    arguments.add_argument("--jobs", type=int, default=default_jobs())
    arguments.add_argument("--out", type=Path, default=RESULTS)
    given = arguments.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    data = Path(os.environ.get("BANDITROUTE_DATA", "../shared/data"))
    command = f"python tools/simulations.py --seeds {given.seeds}" if given.seeds else "make simulations"
    lines = ["# Results of the shipped scenarios", "", f"`{command}` on {dt.datetime.now(tz=dt.UTC).date()}. {EXPLAINED}"]
    for name, path in shipped("scenarios").items():
        if given.only and name not in given.only:
            continue
        spec = load_scenario(path)
        spec = spec.model_copy(update={"policies": tuple(dict.fromkeys((*spec.policies, *installed_peers())))})
        if given.seeds:
            spec = spec.model_copy(update={"seeds": given.seeds})
        settings = settings_of(spec, find=finder(path, data if data.is_dir() else None, prompts=spec.features is not None))
        tasks = tasks_of(settings, seeds=spec.seeds)
        kept = ROOT / "build" / "simulations" / name
        runs = run_tasks(tasks, jobs=given.jobs, kept=kept, progress=partial(_tell, name))
        lines += ["", *_scenario(name, scenario_result(spec, settings, runs, seeds=spec.seeds))]
    given.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"wrote {given.out}", file=sys.stderr)


def _tell(name: str, done: int, total: int) -> None:
    print(f"{name}: {done} of {total}", end="\n" if done == total else "\r", file=sys.stderr, flush=True)


def _scenario(name: str, result: ScenarioResult) -> Iterator[str]:
    spec = result.spec
    yield f"## {spec.name}"
    yield ""
    yield f"{spec.about} `banditroute simulate {name}`, {spec.requests} requests, {result.seeds} seeds."
    for scene in result.scenes:
        yield ""
        yield f"### {scene.source}, cost weight {scene.cost_weight:g}"
        yield ""
        for mark in scene.marks:
            yield f"- requests {mark.start} to {mark.end}: {mark.model} {mark.text}".replace("  ", " ")
        for each in scene.noticed:
            out, back = [[x for x in times if not math.isnan(x)] for times in (each.to_demotion, each.to_promotion)]
            told = f"- {each.mark.model} demoted in {len(out)} of {len(each.to_demotion)} runs"
            if out:
                told += f", after {sorted(out)[len(out) // 2]:.0f} requests (median)"
            if back:
                told += f"; promoted in {len(back)}, {sorted(back)[len(back) // 2]:.0f} requests after it was well again"
            yield told
        if scene.marks:
            yield ""
        yield COLUMNS
        yield "|---|---|---|---|---|---|---|---|"
        yield from _rows(scene)


def _rows(scene: Scene) -> Iterator[str]:
    result = scene.result
    priciest = next((each for each in result.policies if each.policy == "priciest"), None)
    for policy in sorted(result.policies, key=lambda each: each.regret):
        score, cost_usd = [sum(each) / len(each) for each in (policy.mean_scores, policy.mean_costs_usd)]
        excess = result.excess(policy)
        cells = [
            f"**{policy.policy}**" if policy.policy.startswith("banditroute") else policy.policy,
            _interval(Estimate(policy.regret, policy.regret_ci95), ""),
            "" if excess is None else _interval(excess, "+"),
            "" if math.isnan(policy.share_of_random) else f"{100 * (1 - policy.share_of_random):.1f} %",
            f"{score:.4f}",
            f"${cost_usd:.3g}",
            *["", ""],
        ]
        if priciest is not None:
            scores, costs_usd = [sum(each) / len(each) for each in (priciest.mean_scores, priciest.mean_costs_usd)]
            cells[-2:] = [f"{100 * score / scores:.2f} %", f"{100 * cost_usd / costs_usd:.1f} %"]
        yield f"| {' | '.join(cells)} |"


def _interval(estimate: Estimate, sign: str) -> str:
    half = "" if math.isnan(estimate.half) else f" ± {estimate.half:.1f}"
    return f"{estimate.mean:{sign}.1f}{half}"


if __name__ == "__main__":
    main()

"""`banditroute simulate` of a scenario."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from banditroute.cli.errors import say
from banditroute.cli.output import console, print_json, usd
from banditroute.cli.simulated import progress_bar, say_notes, weight_table
from banditroute.core.errors import DatasetError
from banditroute.lab.report import write_report
from banditroute.lab.runs import Backend, run_tasks
from banditroute.lab.scenario import Find, ScenarioSpec, settings_of
from banditroute.lab.scenario_results import Noticed, ScenarioResult, Scene, scenario_result, tasks_of

CELLS, RESULTS = "cells", "results.json"


def overridden(spec: ScenarioSpec, changes: Mapping[str, object]) -> ScenarioSpec:
    """The scenario with what was given beside it. Raises DatasetError where that fits nothing."""
    given = {name: value for name, value in changes.items() if value}
    try:
        return ScenarioSpec.model_validate(spec.model_dump() | given)
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise DatasetError(f"{spec.name}: {told}") from error


def play_scenario(
    spec: ScenarioSpec, *, find: Find, out: Path | None, jobs: int, backend: Backend, address: str | None, as_json: bool
) -> None:
    """Plays it and prints what it came to; with `out`, runs are kept there, results as JSON, and the report."""
    settings = settings_of(spec, find=find)
    say_notes(*[setting.source for setting in settings])
    tasks = tasks_of(settings, seeds=spec.seeds)
    with progress_bar() as progress:
        bar = progress.add_task(spec.name, total=None)
        try:
            runs = run_tasks(
                tasks,
                jobs=jobs,
                backend=backend,
                address=address,
                kept=None if out is None else out / CELLS,
                progress=lambda done, total: progress.update(bar, completed=done, total=total),
            )
        except ImportError as error:  # of an extra: it says which
            raise DatasetError(str(error)) from error
    result = scenario_result(spec, settings, runs, seeds=spec.seeds)
    if out is not None:
        data = result.to_json()
        (out / RESULTS).write_text(json.dumps(data, indent=1, allow_nan=False) + "\n")
        try:
            write_report(data, out)
        except ImportError as error:
            say(f"{out / RESULTS} is written; {error}")
    if as_json:
        print_json(result.to_json())
    else:
        _print(result)


def _print(result: ScenarioResult) -> None:
    out, spec = console(), result.spec
    out.print(f"{spec.name}: {spec.requests} requests, {result.seeds} seeds", markup=False)
    if spec.about:
        out.print(spec.about, markup=False)
    for scene in result.scenes:
        size = f"{len(scene.categories)} categories, {len(scene.models)} models, reference {usd(scene.cost_reference_usd)}"
        out.print(f"\n{scene.source}: {size}", markup=False)
        for mark in scene.marks:
            out.print(f"  requests {mark.start} to {mark.end}: {mark.model} {mark.text}", markup=False)
        out.print(weight_table(scene.result))
        for noticed in scene.noticed:
            out.print(_told(noticed, scene), markup=False)


def _told(noticed: Noticed, scene: Scene) -> str:
    parts = []
    for what, found in (("demoted", noticed.to_demotion), ("promoted", noticed.to_promotion)):
        times = [each for each in found if not math.isnan(each)]
        after = f" after {_median(times)} requests (median)" if times else ""
        parts.append(f"{what} in {len(times)} of {len(found)} runs{after}")
    if noticed.mark.end == scene.requests:
        del parts[1]
    return f"{noticed.mark.model}, worse from request {noticed.mark.start} on: {'; '.join(parts)}"


def _median(times: Sequence[float]) -> str:
    return f"{float(np.median(times)):.0f}"

"""Off-policy evaluation against the truth: coverage, bias, error and width on logs that the router made (lab/ope/coverage)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from banditroute.lab.ope.coverage import Progress, Study, study
from banditroute.lab.ope.truth import Setting

DATA = ("mmlu_pro", "paretobandit_k4_val")
RUNS, QUICK_RUNS = 200, 10
SETTING = Setting()
THIN = {"short": Setting(decisions=2000), "low floor": Setting(floor=0.002)}
"""Logs that must not be concluded from where little of them is the new policy's."""
THIN_SHARE = 10
"""One of so many runs is made of them too."""


def data_folder() -> Path:
    """Where the data sets are: `BANDITROUTE_DATA`, else ../shared/data."""
    return Path(os.environ.get("BANDITROUTE_DATA", "../shared/data"))


def studies(
    folder: Path, *, runs: int, jobs: int | None = None, progress: Progress | None = None
) -> Iterator[tuple[str, Study | str]]:
    """By name, each study, or why there is none."""
    for name in DATA:
        path = folder / f"{name}.parquet"
        if not path.is_file():
            yield name, f"left out: {folder} has no {path.name}; set BANDITROUTE_DATA to the folder that has it"
            continue
        yield name, study(path, SETTING, runs=runs, jobs=jobs, progress=progress)
        for kind, setting in THIN.items():
            yield f"{name}, {kind}", study(path, setting, runs=max(1, runs // THIN_SHARE), jobs=jobs, progress=progress)


def run(*, quick: bool = False) -> dict[str, Any]:
    """All studies as JSON data. `banditroute bench ope` shows tables and takes a number of runs."""
    found = studies(data_folder(), runs=QUICK_RUNS if quick else RUNS)
    return {name: each if isinstance(each, str) else each.to_json() for name, each in found}

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from typer.testing import CliRunner

from banditroute.cli import app

CONFIG: Mapping[str, Any] = {
    "store": "sqlite:///./state",
    "server": {"drain_s": 0.0},
    "models": {
        "dear": {"input_usd_per_mtok": 10.0, "output_usd_per_mtok": 10.0, "tags": ["tools"]},
        "cheap": {"input_usd_per_mtok": 1.0, "output_usd_per_mtok": 1.0},
    },
    "categories": {
        "summarise": {"models": ["dear", "cheap"], "cost_weight": 0.3, "features": {"length": {"mean": 5.0, "stddev": 2.0}}},
        "classify": {"models": ["dear", "cheap"], "cost_weight": 0.1},
    },
}


class Ran(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Ran]


@pytest.fixture(scope="session")
def run() -> Run:
    """Runs a command in this process."""
    runner = CliRunner()

    def run(*arguments: object, stdin: str = "") -> Ran:
        result = runner.invoke(app, [str(each) for each in arguments], input=stdin, env={"COLUMNS": "160"})
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ran(result.exit_code, result.stdout, result.stderr)

    return run


def write_config(folder: Path, config: Mapping[str, Any] = CONFIG, **changes: Any) -> Path:
    path = folder / "banditroute.yaml"
    path.write_text(yaml.safe_dump({**config, **changes}, sort_keys=False), encoding="utf-8")
    return path

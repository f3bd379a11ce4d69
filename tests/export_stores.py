"""Stores that a router made, for tests of exports; also run as a script that exports one and can be killed."""

from __future__ import annotations

import copy
import random
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import yaml

from banditroute import Router
from banditroute.export import parts, run
from banditroute.export.manifest import read_manifest
from banditroute.export.run import Exported, export_store
from banditroute.log.sink_sqlite import SqliteSinkReader
from banditroute.log.sqlite import SqliteLog

START = 1_800_000_000.0
CONFIG: Mapping[str, Any] = {
    "store": "sqlite:///./state",
    "server": {"drain_s": 0.0},
    "models": {
        "dear": {"input_usd_per_mtok": 10.0, "output_usd_per_mtok": 10.0},
        "cheap": {"input_usd_per_mtok": 1.0, "output_usd_per_mtok": 1.0},
    },
    "categories": {
        "summarise": {
            "models": ["dear", "cheap"],
            "cost_weight": 0.02,
            "propensity_floor": 0.2,
            "features": {"length": {"mean": 5.0, "stddev": 2.0}},
        },
        "classify": {"models": ["dear", "cheap"], "cost_weight": 0.02, "propensity_floor": 0.2},
    },
}
QUALITY = {("classify", "dear"): 0.9, ("classify", "cheap"): 0.7, ("summarise", "dear"): 0.6, ("summarise", "cheap"): 0.5}
COSTS_USD = {"dear": 0.002, "cheap": 0.0003}


def write_config(folder: Path, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "banditroute.yaml"
    path.write_text(yaml.safe_dump({**copy.deepcopy(dict(CONFIG)), **changes}, sort_keys=False), encoding="utf-8")
    return path


def serve(path: Path, count: int, *, seed: int = 1, silent: float = 0.1, after_s: float = 0.0) -> list[str]:
    """So many decisions a second apart, most with feedback, some of that corrected or of a fallback; their keys in hex."""
    rng, now, keys = random.Random(seed), [START + after_s], []
    categories = list(yaml.safe_load(path.read_text(encoding="utf-8"))["categories"])
    with Router.from_config(path, seed=seed, clock=lambda: now[0]) as router:
        for i in range(count):
            now[0] += 1.0
            category = rng.choice(categories)
            features = {"length": rng.gauss(5.0, 2.0)} if category == "summarise" else {}
            decision = router.route(
                category, features=features, input_tokens=rng.randrange(500, 1500), request_key=f"k{i % 3 or ''}{i}"
            )
            keys.append(router.engine.signer.verify(decision.id).decision.hex())
            if rng.random() < silent:
                continue
            score = float(rng.random() < QUALITY[category, decision.model])
            if i % 20 == 7:
                router.feedback(decision.id, eval_score=1.0 - score, cost_usd=9.0)
            router.feedback(
                decision.id, eval_score=score, cost_usd=COSTS_USD[decision.model], input_tokens=700, output_tokens=100
            )
            if i % 20 == 9:
                router.feedback(decision.id, eval_score=0.5, source="judge", model="cheap", cost_usd=0.0001)
    return keys


def exported(state: Path, out: Path, **options: Any) -> Exported:
    """One run, reading the store as commands do."""
    with closing(SqliteLog(state, time.time, read_only=True)) as log:
        return export_store(log, SqliteSinkReader(state), out, features={}, **options)


def rows_of(out: Path, table: str) -> list[dict[str, Any]]:
    """What the parts that the manifest names hold, in their order."""
    from pyarrow import parquet

    manifest = read_manifest(out)
    assert manifest is not None
    info = manifest.tables[table]
    rows = []
    for part in info.parts:
        found = parquet.read_table(out / part.file).to_pylist()
        assert len(found) == part.row_count
        rows += found
    assert len(rows) == info.row_count
    return rows


def main(state: str, out: str) -> None:
    """Exports in small parts, and says each thing that it has done to the directory."""
    run.PART_ROWS = run.READ_EVENTS = 20
    for module, name in ((parts, "publish"), (run, "write_manifest")):
        setattr(module, name, _said(getattr(module, name)))
    exported(Path(state), Path(out))


def _said(function: Callable[..., None]) -> Callable[..., None]:
    def saying(*arguments: Any) -> None:
        function(*arguments)
        print(function.__name__, flush=True)
        time.sleep(0.02)

    return saying


if __name__ == "__main__":
    main(*sys.argv[1:])

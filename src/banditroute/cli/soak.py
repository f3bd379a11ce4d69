"""`banditroute bench soak`."""

from __future__ import annotations

import importlib
from enum import StrEnum
from typing import Annotated, Any

import typer

from banditroute.cli.options import AsJson
from banditroute.cli.output import console, print_json, table
from banditroute.cli.simulated import progress_bar

SHOWN = 12


class SoakStore(StrEnum):
    """Where the log is."""

    SQLITE = "sqlite"
    REDIS = "redis"


def soak(
    minutes: Annotated[float, typer.Option(min=0.5, help="How long.")] = 30.0,
    store: Annotated[
        SoakStore, typer.Option(help="Where the log is; Redis is started here, with aof and fsync always.")
    ] = SoakStore.REDIS,
    share: Annotated[float, typer.Option(min=0.05, max=1.0, help="Of the peak that is measured first.")] = 0.7,
    as_json: AsJson = False,
) -> None:
    """Mixed Route and Feedback for long: errors, latencies, the server's memory and the store's size over time."""
    run = importlib.import_module("banditroute.bench.soak").run
    with progress_bar() as progress:
        bar = progress.add_task("soaking", total=None)
        found: dict[str, Any] = run(
            minutes=minutes,
            store=store.value,
            share=share,
            progress=lambda done, total: progress.update(bar, completed=done, total=total),
        )
    if as_json or "not_run" in found:
        print_json(found)
        return
    samples = found["samples"]
    rows = [
        (
            f"{sample['minute']:.1f}",
            f"{sample['pairs_per_s']:.0f}",
            sample["failed"],
            f"{sample['route_p99_ms']:.1f}",
            f"{sample['feedback_p99_ms']:.1f}",
            f"{sample['server_rss_bytes'] / 1e6:.1f}",
            f"{sample['store']['bytes'] / 1e6:.1f}",
        )
        for sample in samples[:: max(1, len(samples) // SHOWN)]
    ]
    head = ["minute", ">pairs/s", ">failed", ">route p99 ms", ">feedback p99 ms", ">server MB", ">store MB"]
    console().print(table(f"{found['load']:.0%} of a peak of {found['peak_pairs_per_s']:.0f} pairs/s", head, rows))
    change, spread = (100 * found[f"rss_{name}_after_warm_up"] for name in ("change", "spread"))
    told = f"the server's memory changed by {change:+.1f} % after warm-up (spread {spread:.1f} %)"
    console().print(f"{found['pairs']:,} pairs, {found['failed']} failed {found['errors'] or ''}; {told}.")

"""`banditroute export`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import TaskID

from banditroute.cli.options import AsJson, parse_time
from banditroute.cli.output import console, print_json, table
from banditroute.cli.simulated import progress_bar
from banditroute.cli.stored import stored
from banditroute.config import load
from banditroute.export.run import Exported, export_store
from banditroute.export.tables import DECISIONS, FEEDBACK
from banditroute.log.sink import BATCH_ROWS


def export(
    config: Annotated[Path, typer.Option("--config", metavar="FILE", help="The configuration whose store is exported.")],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="A new directory, or one with an earlier export of this store.")
    ],
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Only decisions from then on and their feedback, such as 2026-01-31; later runs keep to it."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write decisions and feedback as Parquet, to analyse them or to `simulate` on; run it again for what is new since.

    It may be interrupted at any moment, and a server may be running on the store meanwhile. Reads the store only.
    """
    since_ms = None if since is None else int(parse_time(since) * 1000.0)
    with stored(load(config)) as found, progress_bar() as progress:
        bars: dict[str, TaskID] = {}

        def show(name: str, done: int, total: int) -> None:
            if name not in bars:
                bars[name] = progress.add_task(name, total=total)
            progress.update(bars[name], completed=done, total=total)

        made = export_store(found.log, found.sink, out, features=found.state.schemas, since_ms=since_ms, progress=show)
        notes = list(_notes(made, with_sink=found.sink is not None and found.sink.exists))
    if as_json:
        print_json(_data(made, out, notes))
        return
    rows = [
        (name, f"{made.new_row_count(name):,}", f"{info.row_count:,}", len(info.parts))
        for name, info in made.after.tables.items()
    ]
    console().print(table(f"exported to {out}", ["table", ">new rows", ">rows in all", ">files"], rows))
    for note in notes:
        console().print(f"note: {note}", markup=False, soft_wrap=True)


def _notes(made: Exported, *, with_sink: bool) -> Iterator[str]:
    decisions, feedback = made.after.tables[DECISIONS], made.after.tables[FEEDBACK]
    if not with_sink:
        yield "there is no decision sink, so no decision without feedback is known: `decision_sink: {enabled: true}`"
    if decisions.missing_count:
        yield (
            f"{decisions.missing_count} batches of decisions (up to {BATCH_ROWS} each) were no longer kept when they were to be "
            "exported: export more often, or raise `decision_sink.retention_days`"
        )
    if feedback.missing_count:
        yield (
            f"{feedback.missing_count} events of the log were trimmed before they were exported: export more often, or raise "
            "`log_retention_events`"
        )
    if damaged := [f"{info.damaged_count} of {name}" for name, info in made.after.tables.items() if info.damaged_count]:
        yield f"damaged and left out (batches of decisions, events of feedback): {', '.join(damaged)}"


def _data(made: Exported, out: Path, notes: list[str]) -> dict[str, Any]:
    tables = {
        name: {
            "new_row_count": made.new_row_count(name),
            "row_count": info.row_count,
            "missing_count": info.missing_count,
            "damaged_count": info.damaged_count,
            "files": [part.file for part in info.parts],
        }
        for name, info in made.after.tables.items()
    }
    return {"directory": str(out), "log_id": made.after.log_id, "tables": tables, "notes": notes}

"""`banditroute priors`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from banditroute.cli.options import AsJson
from banditroute.cli.output import console, print_json, table
from banditroute.cli.stored import stored
from banditroute.config import load
from banditroute.core.errors import DatasetError
from banditroute.lab.datasets import write_priors
from banditroute.lab.priors import learned_priors


def priors(
    config: Annotated[Path, typer.Option(metavar="FILE", help="The configuration whose log is read; a server may run on it.")],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write them there, for `priors:` of a configuration.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make priors of what the log taught: quality, what it is worth in observations (at most 25), and tokens."""
    with stored(load(config)) as found:
        learned, position = learned_priors(found.state), found.state.position
    if not learned:
        raise DatasetError(f"{config}: nothing to make priors of: no arm has had feedback yet")
    if out is not None:
        write_priors(out, learned, source=f"the log of {config.name} up to position {position}")
    if as_json:
        print_json(learned)
        return
    rows = [
        [name, model, f"{arm['quality']:.3f}", f"{arm['effective_sample_size']:.1f}", f"{arm['output_tokens']:.0f}"]
        for name, arms in learned.items()
        for model, arm in arms.items()
    ]
    columns = ["category", "model", ">quality", ">worth observations", ">output tokens"]
    console().print(table(f"priors at position {position}", columns, rows, caption="" if out is None else f"written to {out}"))

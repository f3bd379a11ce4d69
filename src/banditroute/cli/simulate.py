"""`banditroute simulate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from banditroute.cli.options import AsJson
from banditroute.cli.output import print_json
from banditroute.cli.scenarios import overridden, play_scenario
from banditroute.cli.simulated import print_simulation, progress_bar, say_notes
from banditroute.config import read_priors
from banditroute.lab.datasets import Dataset, half_of, make_priors, split, write_priors
from banditroute.lab.finding import find_scenario, find_source_or_worlds, finder
from banditroute.lab.learners import POLICIES
from banditroute.lab.peers import PEERS, installed_peers
from banditroute.lab.replay import simulate as replay
from banditroute.lab.results import ROUTER
from banditroute.lab.runs import Backend, default_jobs
from banditroute.lab.scenario import ScenarioSpec

Half = Literal["a", "b"]


def simulate(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SCENARIO|DATASET|ENVIRONMENT|EXPORT",
            help="The .yaml of a scenario, of an environment or of worlds, a .parquet or .csv data set, "
            "the directory of an export, or a shipped scenario or environment by its name.",
        ),
    ],
    cost_weight: Annotated[list[float] | None, typer.Option(min=0.0, help="Repeatable.  [default: 0.1]")] = None,
    requests: Annotated[int | None, typer.Option(min=1, help="In each run.  [default: 6000]")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Runs; intervals are over them.  [default: 10]")] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help=f"Repeatable: {', '.join(POLICIES)}.  [default: all]"),
    ] = None,
    at: Annotated[list[int] | None, typer.Option(min=1, help="Tell regret after so many requests as well. Repeatable.")] = None,
    priors_in: Annotated[Path | None, typer.Option(metavar="FILE", help="Priors to begin with.")] = None,
    priors_out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write priors made of the data set.")] = None,
    half: Annotated[Half | None, typer.Option(help="Only half of the data set's samples: priors from a, judged on b.")] = None,
    priors_from_half: Annotated[
        Half | None,
        typer.Option(help="Compare a cold start with priors made of this half, and with them inverted, on the other half."),
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes at once.  [default: 2, or 1 on one core]")] = None,
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", envvar="BANDITROUTE_DATA", help="Data sets, in place of environments of their name."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keep runs, results and the report there; what an interruption left undone is resumed."),
    ] = None,
    backend: Annotated[Backend, typer.Option(help="Who works: this machine, or a Dask or Ray cluster.")] = "local",
    address: Annotated[str | None, typer.Option(help="The cluster's.  [default: one on this machine]")] = None,
    as_json: AsJson = False,
) -> None:
    """Play a scenario, or replay a data set, through the router that serves, beside simple policies; say what each lost.

    What is given replaces what the scenario says. Regret is what a policy lost, in quality points summed over a run,
    against each category's best model.
    "vs banditroute" is what it lost in excess, paired by seed.
    """
    scenario = find_scenario(source)
    if scenario is not None or out is not None:
        fixed = {"--priors-in": priors_in, "--priors-out": priors_out, "--half": half, "--priors-from-half": priors_from_half}
        if said := [option for option, value in [*fixed.items(), ("--at", at)] if value]:
            raise typer.BadParameter("not with a scenario or --out: say it in the scenario's file", param_hint=said[0])
        spec = scenario or ScenarioSpec(name=Path(source).stem, sources=(source,))
        changes = {"requests": requests, "seeds": seeds, "cost_weights": cost_weight, "policies": policy}
        play_scenario(
            overridden(spec, changes),
            find=finder(Path(source) if scenario else None, data, prompts=spec.features is not None),
            out=out,
            jobs=jobs or default_jobs(),
            backend=backend,
            address=address,
            as_json=as_json,
        )
        return
    requests, seeds = requests or 6000, seeds or 10
    clashes = {"--priors-in": priors_in, "--priors-out": priors_out, "--half": half} if priors_from_half else {}
    _refuse_unfit(policy or POLICIES, at=at or (), requests=requests, compared=priors_from_half, clashes=clashes)
    found = find_source_or_worlds(source)
    say_notes(found)
    compared = None
    if isinstance(found, Dataset):
        if priors_from_half:
            first, second = split(found)
            told, found = (first, second) if priors_from_half == "a" else (second, first)
            compared = make_priors(told)
        elif half:
            found = half_of(found, half)
    else:
        for option, given in (("--half", half), ("--priors-from-half", priors_from_half), ("--priors-out", priors_out)):
            if given is not None:
                raise typer.BadParameter("an environment has no samples: give a data set", param_hint=option)
    priors = None if priors_in is None else read_priors(priors_in)
    with progress_bar() as progress:
        bar = progress.add_task("simulating", total=None)
        result = replay(
            found,
            cost_weights=cost_weight or [0.1],
            requests=requests,
            seeds=seeds,
            policies=policy or POLICIES,
            at=at or (),
            priors_in=priors,
            compared_priors=compared,
            jobs=jobs,
            progress=lambda done, total: progress.update(bar, completed=done, total=total),
        )
    if priors_out is not None and isinstance(found, Dataset):
        write_priors(priors_out, make_priors(found), source=found.name)
    if as_json:
        print_json(result.to_json())
    else:
        print_simulation(result)


def _refuse_unfit(
    policies: Sequence[str], *, at: Sequence[int], requests: int, compared: Half | None, clashes: Mapping[str, object]
) -> None:
    """What can be told to be wrong before any file is read. Raises typer.BadParameter."""
    known = (*POLICIES, *PEERS)
    if unknown := [name for name in policies if name not in known]:
        raise typer.BadParameter(f"no policy {', '.join(unknown)}; known: {', '.join(known)}", param_hint="--policy")
    if missing := [name for name in policies if name in PEERS and name not in installed_peers()]:
        raise typer.BadParameter(f"{', '.join(missing)} needs an extra: pip install 'banditroute[peers]'", param_hint="--policy")
    if late := [str(count) for count in at if count > requests]:
        raise typer.BadParameter(f"{', '.join(late)} is after the last of {requests} requests", param_hint="--at")
    if compared and ROUTER not in policies:
        raise typer.BadParameter(f"it compares with a cold start: add --policy {ROUTER}", param_hint="--priors-from-half")
    if both := [option for option, given in clashes.items() if given is not None]:
        raise typer.BadParameter(f"give it or {both[0]}, not both", param_hint="--priors-from-half")

"""Runs: every policy through every seed's course, on one core or on a cluster, interrupted and resumed.

A task is one seed of one setting at one cost weight, for all policies, so that they see the same requests. What a task comes to
depends on nothing but itself: the numbers are the same whatever backend works, and in whichever order.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import joblib
import numpy as np

from banditroute.core.errors import DatasetError
from banditroute.core.fold import FOLD_VERSION
from banditroute.lab.course import Course, make_course
from banditroute.lab.datasets import Dataset
from banditroute.lab.delivery import PROMPT, Delivery, Mail, make_mail
from banditroute.lab.environments import Environment
from banditroute.lab.happenings import Happening
from banditroute.lab.learners import Begun, make_learner
from banditroute.lab.outcome import BINS, Cells, Outcome, Transition
from banditroute.lab.plays import lines_of, played
from banditroute.lab.results import Covered, defined
from banditroute.lab.router_policy import Beliefs, RouterPolicy
from banditroute.lab.source import IntArray, Source
from banditroute.lab.traffic import Traffic
from banditroute.lab.worlds import Worlds, source_at

Z90 = 1.6448536269514722
"""Half the width of a normal's central 90 % interval, in standard deviations."""

ROUND = 64
"""Tasks that Ray is given at once: progress and what is kept come in such steps."""
Progress = Callable[[int, int], None]
"""Called with the number of finished tasks and of all tasks."""
Backend = Literal["local", "dask", "ray"]


class Timeline(Protocol):
    """What happens. Its repr says all of it: runs are kept under it."""

    def __call__(self, source: Source, requests: int, cost_weight: float) -> Sequence[Happening]:
        """To a source in so many requests at a cost weight."""


@dataclass(frozen=True)
class Stationary:
    """Nothing happens."""

    def __call__(self, source: Source, requests: int, cost_weight: float) -> Sequence[Happening]:
        return ()


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is played, but for the seed. `begun` says by policy what a router starts from; `checkpoints` are numbers of requests
    at which regret is kept, beside BINS equal parts of the run."""

    source: Source | Worlds
    requests: int
    cost_weight: float
    policies: tuple[str, ...]
    timeline: Timeline = Stationary()
    traffic: Traffic | None = None
    delivery: Delivery = PROMPT
    begun: Mapping[str, Begun] = field(default_factory=dict)
    checkpoints: tuple[int, ...] = ()


class Task(NamedTuple):
    """One seed of a setting."""

    setting: Setting
    seed: int


def bins(requests: int) -> IntArray:
    """The requests at which the parts of a run end: BINS of them, or one each where there are fewer."""
    return np.unique(np.linspace(0, requests, min(BINS, requests) + 1).round().astype(np.int64))[1:]


def run_task(task: Task) -> list[Outcome]:
    """Each policy's outcome, in their order. Raises as `make_course` and `make_learner` do."""
    setting, seed = task
    source = source_at(setting.source, seed)
    course = make_course(
        source,
        setting.timeline(source, setting.requests, setting.cost_weight),
        requests=setting.requests,
        seed=seed,
        cost_weight=setting.cost_weight,
        traffic=setting.traffic,
    )
    mail = make_mail(setting.delivery, course, seed=seed)
    return [_outcome(name, course, mail, task) for name in setting.policies]


def _outcome(name: str, course: Course, mail: Mail, task: Task) -> Outcome:
    setting, seed = task
    with make_learner(name, course, seed=seed, begun=setting.begun.get(name, Begun())) as learner:
        picks, _ = played(course, learner, mail, setting.delivery)
        router = learner if isinstance(learner, RouterPolicy) else None
        beliefs, lines = (None, ()) if router is None else (router.beliefs(), lines_of(router))
    cells = None
    if beliefs is not None:
        mean, stddev = [[[defined(x) for x in row] for row in each.tolist()] for each in (beliefs.mean, beliefs.stddev)]
        cells = Cells(mean, stddev, beliefs.feedback_counts.tolist())
    steps, gaps = np.arange(setting.requests), course.gaps
    lost, present = np.cumsum(gaps[steps, picks]), np.isfinite(gaps)
    at_random = np.where(present, gaps, 0.0).sum(axis=1) / present.sum(axis=1)
    ends = bins(setting.requests)
    starts = np.concatenate([[0], ends[:-1]])
    sizes = (ends - starts)[:, None]
    failing = np.stack([phase.failing for phase in course.phases])[course.phase_of, picks]
    scores = np.where(failing, 0.0, course.stream.scores[steps, picks])
    costs_usd = np.where(failing, 0.0, course.stream.costs_usd[steps, picks])
    chosen = np.eye(gaps.shape[1])[picks]
    return Outcome(
        policy=name,
        seed=seed,
        regret=float(lost[-1]),
        random_regret=float(at_random.sum()),
        mean_score=float(scores.mean()),
        mean_cost_usd=float(costs_usd.mean()),
        regrets_at={int(end): float(lost[end - 1]) for end in sorted({*ends.tolist(), *setting.checkpoints})},
        shares=(np.add.reduceat(chosen, starts) / sizes).tolist(),
        scores=(np.add.reduceat(scores, starts) / sizes[:, 0]).tolist(),
        costs_usd=(np.add.reduceat(costs_usd, starts) / sizes[:, 0]).tolist(),
        coverage=None if beliefs is None else _coverage(beliefs, course.source),
        beliefs=cells,
        transitions=tuple([Transition(line.request, line.kind, line.model, line.category) for line in lines]),
    )


def _coverage(beliefs: Beliefs, source: Source) -> Covered:
    inside, known = np.abs(source.mean_scores - beliefs.mean) <= Z90 * beliefs.stddev, np.isfinite(beliefs.mean)
    seen = beliefs.feedback_counts > 0
    return Covered(int(known.sum()), int(inside.sum()), int(seen.sum()), int((inside & seen).sum()))


def default_jobs() -> int:
    """Processes at once where nobody says: two, or one on a single core."""
    return min(2, os.cpu_count() or 1)


# --- where the work is done ------------------------------------------------------------------------


def run_tasks(
    tasks: Sequence[Task],
    *,
    jobs: int = 1,
    backend: Backend = "local",
    address: str | None = None,
    kept: Path | None = None,
    progress: Progress | None = None,
) -> list[list[Outcome]]:
    """The outcomes of each task, in their order.

    `jobs` processes of this machine work at once, or (`backend`) the workers of a Dask or Ray cluster at `address`. With
    `kept`, a directory, each task's outcomes are written there as soon as they are known, and read from there if they
    already are: what an interruption left undone is all that is done again.

    Raises ValueError for jobs below 1; ImportError, which says what to install, for a backend that is not there; what
    a task raises.
    """
    if jobs < 1:
        raise ValueError(f"jobs is {jobs}; give at least 1")
    found: dict[int, list[Outcome]] = {}
    keys = [] if kept is None else [_key(task) for task in tasks]
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        for index, key in enumerate(keys):
            if (known := _read(kept / f"{key}.json")) is not None:
                found[index] = known
    if progress is not None:
        progress(len(found), len(tasks))
    left = [index for index in range(len(tasks)) if index not in found]
    for index, outcomes in _each(tasks, left, jobs=jobs, backend=backend, address=address):
        found[index] = outcomes
        if kept is not None:
            _write(kept / f"{keys[index]}.json", outcomes)
        if progress is not None:
            progress(len(found), len(tasks))
    return [found[index] for index in range(len(tasks))]


def _each(
    tasks: Sequence[Task], left: Sequence[int], *, jobs: int, backend: Backend, address: str | None
) -> Iterator[tuple[int, list[Outcome]]]:
    if backend == "local" and (jobs == 1 or len(left) <= 1):
        for index in left:
            yield index, run_task(tasks[index])
        return
    with _workers(backend, address, min(jobs, len(left))):
        if backend == "ray":  # it hands over nothing before all that it was given is done
            for some in range(0, len(left), ROUND):
                yield from joblib.Parallel()(joblib.delayed(_numbered)(i, tasks[i]) for i in left[some : some + ROUND])
            return
        yield from joblib.Parallel(return_as="generator_unordered")(joblib.delayed(_numbered)(i, tasks[i]) for i in left)


def _numbered(index: int, task: Task) -> tuple[int, list[Outcome]]:
    return index, run_task(task)


def _workers(backend: Backend, address: str | None, jobs: int) -> AbstractContextManager[Any]:
    match backend:
        case "local":
            local: AbstractContextManager[Any] = joblib.parallel_config("loky", n_jobs=jobs)
            return local
        case "dask":
            try:
                from distributed import Client  # noqa: PLC0415 - an extra
            except ImportError as error:
                raise ImportError("the Dask backend needs the extra: pip install 'banditroute[dask]'") from error
            client = Client(address) if address else Client(n_workers=jobs, threads_per_worker=1, processes=True)
            return _Both(client, joblib.parallel_config("dask", wait_for_workers_timeout=60))
        case "ray":
            try:
                import ray  # noqa: PLC0415 - an extra
                from ray.util.joblib import register_ray  # noqa: PLC0415
            except ImportError as error:
                raise ImportError("the Ray backend needs the extra: pip install 'banditroute[ray]'") from error
            ray.init(address=address, num_cpus=None if address else jobs, ignore_reinit_error=True, log_to_driver=False)
            register_ray()
            return _Both(nullcontext(), joblib.parallel_config("ray", n_jobs=-1))
    raise ValueError(f"no backend {backend!r}; known: local, dask, ray")


class _Both(AbstractContextManager[None]):
    """A client around joblib's own settings."""

    def __init__(self, client: AbstractContextManager[Any], settings: AbstractContextManager[Any]) -> None:
        self._client, self._settings = client, settings

    def __enter__(self) -> None:
        self._client.__enter__()
        self._settings.__enter__()

    def __exit__(self, *args: Any) -> None:
        self._settings.__exit__(*args)
        self._client.__exit__(*args)


def _key(task: Task) -> str:
    """Of all that a task's outcome depends on."""
    setting, seed = task
    parts = {each.name: getattr(setting, each.name) for each in fields(setting)}
    digest = hashlib.sha256(_identity(parts.pop("source")))
    digest.update(repr((FOLD_VERSION, seed, parts)).encode())
    return digest.hexdigest()[:32]


def _identity(source: Source | Worlds) -> bytes:
    if isinstance(source, Environment | Worlds):
        return source.spec.model_dump_json().encode()
    if not isinstance(source, Dataset):
        raise DatasetError(f"{source.name}: runs of a {type(source).__name__} cannot be kept; give a data set or an environment")
    digest = hashlib.sha256(repr((source.name, source.categories, source.models)).encode())
    for array in (source.sample_category, source.scores, source.costs_usd, source.input_tokens, source.output_tokens):
        digest.update(b"none" if array is None else np.ascontiguousarray(array).tobytes())
    return digest.digest()


def _read(path: Path) -> list[Outcome] | None:
    if not path.is_file():
        return None
    try:
        return [Outcome.from_json(raw) for raw in json.loads(path.read_text())]
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path}: not the outcomes of a run ({error}); delete it") from error


def _write(path: Path, outcomes: Sequence[Outcome]) -> None:
    draft = path.with_suffix(f".{os.getpid()}.part")
    draft.write_text(json.dumps([outcome.to_json() for outcome in outcomes]))
    draft.replace(path)

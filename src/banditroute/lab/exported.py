"""A store's export (`banditroute export`) as a calibrated environment.

Of each decision only the drawn model's outcome is known, so a decision cannot be replayed; but models were drawn with logged
probabilities, so each model's outcomes in a category tell what it does there. An outcome is by intention to treat, as
`banditroute evaluate` has it (`lab/ope/reports.py`). Categories come as often as there were decisions.

Where decisions have context features, a model got more of the requests that it was thought to suit. There an outcome weighs c/p:
p is the probability with which its model was drawn, c what the model's probability was in the category's decisions shortly
before. Whatever c, as long as it was fixed before the request came, the weighted mean is that over all requests (Hajek's
estimator); this c lets p change as the router learns without that a few late draws carry all the weight.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from banditroute.core.errors import DatasetError
from banditroute.core.reward import SEPARATOR, USAGE_FIELDS
from banditroute.core.types import ErrorKind
from banditroute.export.manifest import MANIFEST_FILE, Manifest, read_manifest
from banditroute.export.tables import DECISIONS, FEEDBACK
from banditroute.lab.environments import Environment
from banditroute.lab.importers.figures import log_environment
from banditroute.lab.importers.log import Log, Sample
from banditroute.lab.ope.reports import Outcome, outcome_of

MIN_OUTCOMES = 30
"""Outcomes that an arm needs, or weighted ones worth so many: its mean is then known to about 0.1."""
MEMORY = 200
"""Decisions of a category over which c averages, exponentially."""
MAX_WEIGHT = 10.0
"""Weights are cut there: just after a change of a model's share, c is not yet what it should be."""
READ_ROWS = 8192
_FEEDBACK_COLUMNS = ["decision_id", "category", "model", "signals", "attempts"]
_CANDIDATE = "candidates.list.element."
_DECISION_COLUMNS = [
    *("decision_id", "decision_time", "category", "model", "propensity", "features", "input_tokens"),
    *(_CANDIDATE + name for name in ("model", "propensity", "expected_cost_usd")),
]


def is_export(path: Path) -> bool:
    """Whether a path is a directory that `banditroute export` wrote."""
    return (path / MANIFEST_FILE).is_file()


def load_export(directory: Path, *, min_outcomes: int = MIN_OUTCOMES) -> Environment:
    """The environment that an export tells of; its notes say what was left out, and why.

    An environment has all its models in all its categories. Where an arm has fewer than `min_outcomes`, its category or its model
    is left out, whichever keeps the most outcomes.

    Raises:
        DatasetError: files are missing or unreadable, or the log cannot tell: no outcome, one model, too few of each.
        ExportError: the manifest cannot be read.
    """
    manifest = read_manifest(directory)
    if manifest is None:
        raise DatasetError(f"{directory} is no export: make one with `banditroute export --config FILE --out DIR`")
    told = {
        row["decision_id"]: _Told(row["category"], row["model"], outcome_of(row["model"], _record(row)))
        for row in _rows(directory, manifest, FEEDBACK, _FEEDBACK_COLUMNS)  # the last row of a decision stands
    }
    decided = _Decided(directory)
    for row in _rows(directory, manifest, DECISIONS, _DECISION_COLUMNS):
        decided.add(row, told.get(row["decision_id"]))
    return decided.environment(min_outcomes=min_outcomes)


class _Told(NamedTuple):
    category: str
    model: str
    outcome: Outcome


class _Request(NamedTuple):
    """A decision. `propensities` are all its candidates'; `sample` has no weight yet."""

    sample: Sample
    propensities: Mapping[str, float]
    has_features: bool


@dataclass
class _Decided:
    """Decisions by category."""

    directory: Path
    requests: dict[str, list[_Request]] = field(default_factory=lambda: defaultdict(list))
    unknown_count: int = 0

    def add(self, row: Mapping[str, Any], told: _Told | None) -> None:
        category, model = row["category"], row["model"]
        if category is None or model is None:
            self.unknown_count += 1
            return
        propensities = {each["model"]: each["propensity"] for each in row["candidates"]}
        if not propensities.get(model):
            raise DatasetError(
                f"{self.directory}: decision {row['decision_id']} drew {model} with probability 0, so these are not the "
                "probabilities that were drawn from; export from after it, into another directory (--since)"
            )
        quality, bills = (None, ()) if told is None else told.outcome
        costs_usd = {each["model"]: each["expected_cost_usd"] for each in row["candidates"]}
        own = next((bill for bill in bills if bill.model == model), None)
        sample = Sample(
            sample_id=row["decision_id"],
            category=category,
            model=model,
            score=quality,
            cost_usd=sum(costs_usd.get(bill.model, 0.0) if bill.usd is None else bill.usd for bill in bills) if bills else None,
            input_tokens=row["input_tokens"] if own is None or own.input_tokens is None else own.input_tokens,
            output_tokens=None if own is None else own.output_tokens,
            latency_s=None,
            time=row["decision_time"].timestamp(),
        )
        self.requests[category].append(_Request(sample, propensities, bool(row["features"])))

    def environment(self, *, min_outcomes: int) -> Environment:
        name = self.directory.name
        samples = [sample for category in sorted(self.requests) for sample in _weighted(self.requests[category])]
        if not samples:
            raise DatasetError(
                f"{name}: no decision says what it chose: serve with `decision_sink: {{enabled: true}}`, and export again"
            )
        if not any(sample.score is not None for sample in samples):
            raise DatasetError(f"{name}: no decision has an outcome: send feedback first, and export again")
        models = {model for some in self.requests.values() for each in some for model in each.propensities}
        if len(models) < 2:
            raise DatasetError(f"{name}: one model only ({', '.join(models)}): there is nothing to choose; configure another one")
        worth = _worth(samples)
        table = {category: {model: worth.get((category, model), 0.0) for model in models} for category in self.requests}
        left, notes = _full(table, needed=min_outcomes)
        if not left:
            raise DatasetError(
                f"{name}: no category has two models with {min_outcomes} outcomes each: {_shown(table)}. Serve longer, or raise "
                "`propensity_floor`, and export again"
            )
        kept = [each for each in samples if each.category in left and each.model in left[each.category]]
        spec = log_environment(Log(name=name, by="banditroute", samples=kept), min_scored=1)
        counts = {category: len(self.requests[category]) for category in left}
        shares = {category: count / sum(counts.values()) for category, count in counts.items()}
        categories = {each: spec.categories[each].model_copy(update={"weight": shares[each]}) for each in spec.categories}
        if silent := sum(sample.score is None for sample in samples):
            notes.append(f"{silent} of {len(samples)} decisions have no outcome, and are taken to be like those that have one")
        if self.unknown_count:
            notes.append(
                f"{self.unknown_count} decisions of an earlier banditroute do not say which model they chose, and are left out"
            )
        return Environment(spec.model_copy(update={"categories": categories}), notes=notes)


def _rows(directory: Path, manifest: Manifest, table: str, columns: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    try:
        arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError:
        raise DatasetError(f"{directory}: reading Parquet needs the extra: pip install 'banditroute[parquet]'") from None
    for part in manifest.tables[table].parts:
        path = directory / part.file
        try:
            with parquet.ParquetFile(path) as file:
                for batch in file.iter_batches(batch_size=READ_ROWS, columns=columns):
                    yield from batch.to_pylist()
        except (arrow.ArrowException, OSError) as error:
            raise DatasetError(f"{path} cannot be read ({error}): restore it, or export into a new directory") from error


def _record(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row's feedback as `core/reward.py` has it."""
    signals = {
        SEPARATOR.join((each["model"], each["kind"], each["source"])): (each["value"], each["weight"], 0)
        for each in row["signals"]
    }
    attempts = {}
    for each in row["attempts"]:
        said = {name: each[name] for name in USAGE_FIELDS if each[name] is not None}
        if each["computed_cost_usd"] is not None:
            said["computed_usd"] = each["computed_cost_usd"]
        key = SEPARATOR.join((each["model"], "shadow" if each["shadow"] else ""))
        attempts[key] = {"error": ErrorKind[each["error"].upper()], **said}
    return {"signals": signals, "attempts": attempts}


def _weighted(requests: Sequence[_Request]) -> Iterator[Sample]:
    """One category's samples with their weights; see the module's text."""
    if not any(request.has_features for request in requests):
        yield from (request.sample for request in requests)
        return
    usual: dict[str, float] = {}
    for request in sorted(requests, key=lambda each: each.sample.time or 0.0):
        for model, propensity in request.propensities.items():
            usual.setdefault(model, propensity)
        model = request.sample.model
        yield request.sample._replace(weight=min(MAX_WEIGHT, usual[model] / request.propensities[model]))
        for model, propensity in request.propensities.items():
            usual[model] += (propensity - usual[model]) / MEMORY


def _worth(samples: Sequence[Sample]) -> dict[tuple[str, str], float]:
    """How many outcomes each category and model has; weighted ones as many as are as sure, (Σw)²/Σw² (Kish)."""
    sums: dict[tuple[str, str], tuple[float, float]] = {}
    for sample in samples:
        if sample.score is not None:
            total, squares = sums.get((sample.category, sample.model), (0.0, 0.0))
            sums[sample.category, sample.model] = total + sample.weight, squares + sample.weight**2
    return {cell: total**2 / squares for cell, (total, squares) in sums.items()}


def _full(table: Mapping[str, Mapping[str, float]], *, needed: int) -> tuple[dict[str, dict[str, float]], list[str]]:
    """The categories and the two models or more that keep the most outcomes while no cell has less than `needed`; and what went.

    None is left where no category has two such models.
    """
    enough = {category: frozenset(model for model, n in row.items() if n >= needed) for category, row in sorted(table.items())}
    sets: set[frozenset[str]] = set()
    for models in enough.values():  # the best models are all that some categories have in common
        sets |= {models, *(models & each for each in sets)}

    def kept(models: frozenset[str]) -> dict[str, dict[str, float]]:
        return {c: {m: table[c][m] for m in sorted(models)} for c, there in enough.items() if models <= there}

    choices = [
        (sum(sum(row.values()) for row in kept(models).values()), sorted(models), models) for models in sets if len(models) > 1
    ]
    if not choices:
        return {}, []
    best = max(choices)[2]
    left = kept(best)
    others = sorted({model for row in table.values() for model in row} - best)
    gone = [("model", m, [(c, table[c][m]) for c in left if table[c][m] < needed]) for m in others]
    gone += [("category", c, [(m, table[c][m]) for m in sorted(best - enough[c])]) for c in enough if c not in left]
    notes = []
    for what, name, cells in gone:
        told = ", ".join(f"{cell} {math.floor(n)}" for cell, n in cells)
        notes.append(
            f"{what} {name} is left out: an arm needs {needed} outcomes, and these have fewer: {told}; serve longer, "
            "or raise `propensity_floor`"
        )
    return left, notes


def _shown(table: Mapping[str, Mapping[str, float]]) -> str:
    cells = [
        f"{category} × {model} {math.floor(n)}" for category, row in sorted(table.items()) for model, n in sorted(row.items())
    ]
    return ", ".join(cells[:12]) + (f" and {len(cells) - 12} more" if len(cells) > 12 else "")

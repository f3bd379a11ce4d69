"""Langfuse's exports: observations of type GENERATION, and the scores of their traces or of themselves.

Read are, mixed as you have them: the blob storage export (`observations_v2/`, or `observations/` with `traces/`, and
`scores/`; Parquet, CSV, JSON, JSONL; Langfuse 3 and 4, as of 2026-10), the tables exported from the web interface (camelCase;
there each score is a column of its name), and pages of the API (`/api/public/observations`, `/v2/observations`, `/v2/scores`,
`/v3/scores`). Which is which is told by its fields, not by its name.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from banditroute.core.errors import DatasetError
from banditroute.lab.importers.fields import Scale, Selector, hint
from banditroute.lab.importers.log import Builder, Log, Sample
from banditroute.lab.importers.records import Record, amount, decoded, empty, read

CATEGORY = "trace_name"
MODEL = ("provided_model_name", "model")
OF_TRACE = ("name", "tags", "metadata", "user_id", "session_id", "release", "version", "environment")
SEVERAL = "trace scores, not given to any: the trace has several generations (name the one that counts: --observation-name)"

Kind = Literal["observations", "scores", "traces"]


@dataclass(frozen=True, kw_only=True)
class Fields:
    """Where things are. `category` may name `trace_name`, `name`, `tags:TAG`, `metadata.KEY` or `trace.metadata.KEY`.

    `score`: the score's name; may be left out where there is only one. `observation`: only generations of this name.
    """

    category: str = CATEGORY
    model: str = ""
    score: str | None = None
    observation: str | None = None


class _Generation(NamedTuple):
    sample: Sample
    trace_id: str


def import_langfuse(
    paths: Sequence[Path], *, fields: Fields | None = None, scale: Scale | None = None, rename: Mapping[str, str] | None = None
) -> Log:
    """The generations of the given files with their scores.

    A generation has the mean of its own scores of that name; else of its trace's, where the trace has no other
    generation. Left out, and counted: generations that failed (level ERROR), without model or category.

    Raises:
        DatasetError: names the file, the row and the remedy.
    """
    fields, scale = fields or Fields(), scale or Scale()
    files = _by_kind(paths)
    scores = _Scores(files["scores"], fields.score, scale) if files["scores"] else None
    traces = {record.text("id"): _trace(record) for path in files["traces"] for record in read(path)}
    category = Selector.parse(fields.category)
    model = Selector.parse(fields.model) if fields.model else None
    builder = Builder(paths if len(files["observations"]) != 1 else files["observations"], by="langfuse", rename=rename or {})
    found: dict[str, _Generation] = {}
    first: Record | None = None
    uncategorised = 0
    for path in files["observations"]:
        for record in read(path):
            if record.text("type").upper() != "GENERATION":
                continue
            if fields.observation is not None and record.text("name") != fields.observation:
                builder.left_out["generations of another name"] += 1
                continue
            trace_id = record.text("trace_id")
            record = _with_trace(record, traces.get(trace_id))
            first = first or record
            name = model.text(record) if model else record.text(*MODEL)
            kind = category.text(record)
            if record.text("level").upper() == "ERROR":
                builder.left_out["failed"] += 1
            elif not name:
                builder.left_out["without a model"] += 1
            elif not kind:
                uncategorised += 1
            else:
                if record.text("id") in found:
                    builder.left_out["repeated by a later row"] += 1
                column = fields.score if scores is None else None
                score = scale.of(record.fields.get(column), record, column) if column else None
                found[record.text("id")] = _Generation(_sample(record, kind, name, score), trace_id)
    if uncategorised:
        builder.left_out[f"without a category at {category}"] = uncategorised
    if first is None:
        wanted = "" if fields.observation is None else f" named {fields.observation!r}"
        raise DatasetError(f"{_listed(files['observations'])}: no generation{wanted}; export observations of type GENERATION")
    if not found and uncategorised:
        raise DatasetError(
            f"{first.path}: no generation has a category at {category}; name one: --category-from FIELD, or add the export of "
            f"the traces ({hint(first)})"
        )
    if not scores and fields.score is not None and all(each.sample.score is None for each in found.values()):
        raise DatasetError(f"{first.path}: no scores named {fields.score!r}; add the export of the scores ({hint(first)})")
    if scores:
        _join(found, scores, builder.left_out)
    for each in found.values():
        builder.add(each.sample)
    return builder.finish()


def _by_kind(paths: Sequence[Path]) -> dict[Kind, list[Path]]:
    """The files by what they hold; one without rows, as spans without traffic give, is none of them."""
    files: dict[Kind, list[Path]] = {"observations": [], "scores": [], "traces": []}
    for path in paths:
        record = next(iter(read(path)), None)
        if record is not None:
            files[_kind(record)].append(path)
    if not files["observations"]:
        have = ", ".join(kind for kind, some in files.items() if some) or "no rows at all"
        raise DatasetError(f"{_listed(paths)}: no observations, but {have}; add the export of the observations")
    return files


def _kind(record: Record) -> Kind:
    fields = record.fields
    if "type" in fields and "start_time" in fields:
        return "observations"
    if "name" in fields and ("value" in fields or "string_value" in fields):
        return "scores"
    if "timestamp" in fields and "id" in fields and "trace_id" not in fields:
        return "traces"
    raise DatasetError(
        f"{record.path}: neither observations nor scores nor traces of Langfuse: {hint(record)}; export these tables whole"
    )


def _trace(record: Record) -> Mapping[str, Any]:
    return {name: record.fields[name] for name in OF_TRACE if name in record.fields}


def _with_trace(record: Record, trace: Mapping[str, Any] | None) -> Record:
    if trace is None:
        return record
    lifted = {"trace_name": trace.get("name"), "tags": trace.get("tags"), "trace": trace}
    return record._replace(fields={**record.fields, **{name: value for name, value in lifted.items() if not empty(value)}})


def _sample(record: Record, category: str, model: str, score: float | None) -> Sample:
    if not record.text("id"):
        raise record.wrong("id", "is empty; export the rows with their ids")
    start, end = record.time("start_time"), record.time("end_time")
    return Sample(
        sample_id=record.text("id"),
        category=category,
        model=model,
        score=score,
        cost_usd=_cost(record),
        input_tokens=_usage(record, "input", "input_usage", "prompt_tokens"),
        output_tokens=_usage(record, "output", "output_usage", "completion_tokens"),
        # Not the exported latency: that is in seconds or milliseconds, as the integration is new or old.
        latency_s=None if start is None or end is None or end < start else end - start,
        time=start,
    )


def _cost(record: Record) -> float | None:
    """The total; where it is 0 for want of details, nobody knew a price."""
    details = record.mapping("cost_details")
    total = record.number("total_cost", "calculated_total_cost")
    if total:
        return total
    parts = {name: amount(record, "cost_details", value) for name, value in details.items() if not empty(value)}
    if not parts:
        return None
    return parts.get("total", sum(value for name, value in parts.items() if name != "total"))


def _usage(record: Record, side: str, *older: str) -> float | None:
    """All kinds of tokens of one side, cached ones too, as Langfuse itself counts them: whose name has `side` in it."""
    details = record.mapping("usage_details") or record.mapping("usage")
    parts = [
        amount(record, "usage_details", value)
        for name, value in details.items()
        if side in name.lower() and "cost" not in name.lower() and not empty(value)
    ]
    return sum(parts) if parts else record.number(*older)


class _Scores:
    """The scores of one name, by what they are given to."""

    def __init__(self, paths: Sequence[Path], name: str | None, scale: Scale) -> None:
        self._paths = paths
        name = name or self._only_name()
        self.of_observation: dict[str, list[float]] = defaultdict(list)
        self.of_trace: dict[str, list[float]] = defaultdict(list)
        self.elsewhere = 0
        names: Counter[str] = Counter()
        seen: dict[str, tuple[str, str, float]] = {}
        for path in paths:
            for row, record in enumerate(read(path)):
                names[record.text("name")] += 1
                if record.text("name") != name:
                    continue
                value = scale.of(_value(record), record, "value")
                if value is not None:
                    seen[record.text("id") or f"{path}#{row}"] = (*_subject(record), value)
        if name not in names:
            known = ", ".join(f"{each} ({count})" for each, count in names.most_common(20))
            raise DatasetError(f"{_listed(paths)}: no scores named {name!r}; there are: {known}")
        for observation, trace, value in seen.values():
            if observation:
                self.of_observation[observation].append(value)
            elif trace:
                self.of_trace[trace].append(value)
            else:
                self.elsewhere += 1

    def _only_name(self) -> str:
        names = sorted({record.text("name") for path in self._paths for record in read(path)})
        if len(names) != 1:
            raise DatasetError(
                f"{_listed(self._paths)}: scores of several names; choose one: --score-name {' | '.join(names[:20])}"
            )
        return names[0]


def _subject(record: Record) -> tuple[str, str]:
    """Observation and trace that the score is given to; empty where to neither."""
    if subject := record.mapping("subject"):  # API v3
        whose, at = str(subject.get("kind")), str(subject.get("id") or "")
        return (at if whose == "observation" else ""), (at if whose == "trace" else "")
    return record.text("observation_id"), record.text("trace_id")


def _value(record: Record) -> Any:
    value, text = record.fields.get("value"), record.first("string_value")
    kind = record.text("data_type").upper()
    if kind == "BOOLEAN":
        raw = str(text if empty(value) else value).strip().lower()
        return raw in ("true", "1", "1.0")
    return text if kind in ("CATEGORICAL", "TEXT", "CORRECTION") and text is not None else decoded(value)


def _join(found: dict[str, _Generation], scores: _Scores, left_out: Counter[str]) -> None:
    generations = Counter(each.trace_id for each in found.values())
    for key, (sample, trace_id) in found.items():
        own, whole = scores.of_observation.get(key), scores.of_trace.get(trace_id)
        if own:
            found[key] = _Generation(sample._replace(score=_mean(own)), trace_id)
        elif whole and generations[trace_id] == 1:
            found[key] = _Generation(sample._replace(score=_mean(whole)), trace_id)
    if several := sum(1 for trace_id in scores.of_trace if generations[trace_id] > 1):
        left_out[SEVERAL] = several
    if scores.elsewhere:
        left_out["scores of sessions or experiments"] = scores.elsewhere
    if all(each.sample.score is None for each in found.values()) and not several:
        raise DatasetError(
            f"{_listed(scores._paths)}: no score is of a generation in these files; export the same time span of both"
        )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _listed(paths: Sequence[Path]) -> str:
    return ", ".join(map(str, paths[:3])) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")

"""LiteLLM's spend logs: the table `LiteLLM_SpendLogs` of its proxy, as rows of JSON or CSV, or the pages of `/spend/logs/v2`.

Written against the table as of 2025-05 (since when `status` is a column; before, `metadata.status` is read) up to 1.103 (since
when `litellm_call_id` is one; before, `metadata.litellm_call_id` is read). `StandardLoggingPayload`, which LiteLLM writes to
S3, GCS and the like, has other names for two fields (`id`, `response_cost`) and is read as well. The table's `metadata` keeps
of a caller's own metadata only `spend_logs_metadata`; tags are in `request_tags`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from banditroute.core.errors import DatasetError
from banditroute.lab.importers.fields import Scale, Selector, hint
from banditroute.lab.importers.log import Builder, Log, Sample
from banditroute.lab.importers.records import Record, read, read_all

ID = ("request_id", "id")
COST = ("spend", "response_cost")
CATEGORY = "metadata.spend_logs_metadata.task"
STATUS = "status"
"""As where the score comes from: 1 where LiteLLM got an answer, else 0."""

CHAT = re.compile(r"a?(text_)?completion|a?responses|anthropic_messages|a?generate_content(_stream)?|call_llm|", re.IGNORECASE)
"""Call types that answer a prompt; older tables leave it empty for some of them."""


@dataclass(frozen=True, kw_only=True)
class Fields:
    """Where things are. `score` is a field, `status`, or None; with a file of scores it is a column of that file."""

    category: str = CATEGORY
    model: str = ""
    score: str | None = None


def import_litellm(
    paths: Sequence[Path],
    *,
    fields: Fields | None = None,
    scores: Path | None = None,
    scale: Scale | None = None,
    rename: Mapping[str, str] | None = None,
) -> Log:
    """The requests of spend logs. `scores`: a file with a score per `request_id` (or `litellm_call_id`).

    Left out, and counted: calls that are no completions, answers from LiteLLM's cache (their cost is no model's), rows
    without id, model or category, and failed calls unless `status` is the score.

    Raises:
        DatasetError: names the file, the row and the remedy.
    """
    fields, scale = fields or Fields(), scale or Scale()
    by_status = scores is None and fields.score == STATUS
    given = _Scores(scores, fields.score or "score", scale) if scores else None
    category = Selector.parse(fields.category)
    model = Selector.parse(fields.model) if fields.model else None
    score = Selector.parse(fields.score) if fields.score and not given and not by_status else None
    builder = Builder(paths, by="litellm", rename=rename or {})
    first: Record | None = None
    for record in read_all(paths):
        if first is None or record.path != first.path:
            _refuse_others(record)
        first = first or record
        failed = _status(record) == "failure"
        name = model.text(record) if model else record.text("model_group") or ("" if failed else record.text("model"))
        if reason := _unfit(record, failed=failed and not by_status, model=name):
            builder.left_out[reason] += 1
            continue
        kind = category.text(record)
        if not kind:
            builder.left_out[f"without a category at {category}"] += 1
            continue
        start, end = record.time("start_time"), record.time("end_time")
        value = None
        if by_status:
            value = 0.0 if failed else 1.0
        elif given:
            value = given.of(record)
        elif score:
            value = scale.of(score.find(record), record, str(score))
        builder.add(
            Sample(
                sample_id=record.text(*ID),
                category=kind,
                model=name,
                score=value,
                cost_usd=None if failed else record.number(*COST),
                input_tokens=None if failed else record.number("prompt_tokens"),
                output_tokens=None if failed else record.number("completion_tokens"),
                latency_s=None if failed or start is None or end is None or end < start else end - start,
                time=start,
            )
        )
    if first and not builder.count and builder.left_out[f"without a category at {category}"]:
        raise DatasetError(f"{first.path}: no row has a category at {category}; name one: --category-from FIELD ({hint(first)})")
    if given:
        given.refuse_strangers()
    return builder.finish()


def _refuse_others(record: Record) -> None:
    lacking = [
        " or ".join(names)
        for names in (ID, ("model", "model_group"), COST, ("start_time",))
        if not any(name in record.fields for name in names)
    ]
    if lacking:
        raise DatasetError(
            f"{record.path}: no spend logs of LiteLLM: row {record.row} has no {', no '.join(lacking)}; "
            "export the rows of the table LiteLLM_SpendLogs"
        )


def _status(record: Record) -> str:
    return (record.text("status") or str(record.mapping("metadata").get("status") or "")).lower()


def _unfit(record: Record, *, failed: bool, model: str) -> str:
    """Why the row is to be left out, or nothing."""
    if not CHAT.fullmatch(kind := record.text("call_type")):
        return f"of call type {kind}"
    if record.text("cache_hit").lower() == "true":
        return "answered from LiteLLM's cache"
    if failed:
        return "failed"
    if not record.text(*ID):
        return "without an id"
    return "" if model else "without a model"


class _Scores:
    """A file with a score per request."""

    KEYS = ("request_id", "litellm_call_id")

    def __init__(self, path: Path, column: str, scale: Scale) -> None:
        self._path = path
        self._scores: dict[str, float] = {}
        self._used = False
        self._key = ""
        for record in read(path):
            if not self._key:
                found = [key for key in self.KEYS if key in record.fields]
                if not found or column not in record.fields:
                    raise DatasetError(f"{path}: needs columns {' or '.join(self.KEYS)}, and {column!r}; {hint(record)}")
                self._key = found[0]
            value = scale.of(record.fields.get(column), record, column)
            if value is not None:
                self._scores[record.text(self._key)] = value
        if not self._scores:
            raise DatasetError(f"{path}: holds no scores; give a row for each scored request")

    def of(self, record: Record) -> float | None:
        if self._key == "request_id":
            value = self._scores.get(record.text(*ID))
        else:
            value = self._scores.get(record.text(self._key) or str(record.mapping("metadata").get(self._key) or ""))
        self._used = self._used or value is not None
        return value

    def refuse_strangers(self) -> None:
        """Raises DatasetError where no request had a score here."""
        if not self._used:
            some = next(iter(self._scores))
            raise DatasetError(f"{self._path}: no {self._key} (such as {some!r}) is in the spend logs; check which id was noted")

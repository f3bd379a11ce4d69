"""Exports with the gateways' own field names, hand-sized, and every way in which they can be wrong."""

from __future__ import annotations

import csv
import gzip
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from banditroute.core.errors import DatasetError
from banditroute.lab.importers import langfuse, litellm
from banditroute.lab.importers.fields import Scale, Selector
from banditroute.lab.importers.langfuse import import_langfuse
from banditroute.lab.importers.litellm import import_litellm
from banditroute.lab.importers.log import Log, load_logs, write_log
from banditroute.lab.importers.records import read

EXPORTS = Path(__file__).resolve().parents[1] / "exports"
SPEND, LANGFUSE = EXPORTS / "spend_logs.jsonl", EXPORTS / "langfuse"
STARS = litellm.Fields(score="metadata.spend_logs_metadata.stars")
FIVE = Scale(1.0, 5.0)


TASK = {"spend_logs_metadata": {"task": "t"}}


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def jsonl(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def scores_of(log: Log) -> dict[str, float | None]:
    return {sample.sample_id: sample.score for sample in log.samples}


def test_litellm_row_by_row() -> None:
    log = import_litellm([SPEND], fields=STARS, scale=FIVE)
    assert (log.name, log.by, log.categories, log.models) == (
        "spend_logs",
        "litellm",
        ("classify", "summarise"),
        ("large", "small"),
    )
    first = log.samples[0]
    assert first[:4] == ("chatcmpl-000", "summarise", "large", 1.0)
    assert (first.cost_usd, first.input_tokens, first.output_tokens) == (0.00412, 1210.0, 109.0)
    assert first.latency_s == pytest.approx(2.41)
    assert first.time == 1777885200.0  # 2026-05-04T09:00:00Z
    assert len(log.samples) == 12
    assert log.left_out == {
        "failed": 2,
        "answered from LiteLLM's cache": 1,
        "of call type aembedding": 1,
        "without a category at metadata.spend_logs_metadata.task": 1,
    }


def test_litellm_table_as_csv_has_json_in_its_cells() -> None:
    log = import_litellm(
        [EXPORTS / "spend_logs.csv"], fields=litellm.Fields(category="request_tags:task", score=STARS.score), scale=FIVE
    )
    whole = {sample.sample_id: sample for sample in import_litellm([SPEND], fields=STARS, scale=FIVE).samples}
    assert [whole[sample.sample_id] for sample in log.samples] == list(log.samples)
    assert log.left_out == {"failed": 1}


def test_litellm_scores_in_a_file_of_their_own() -> None:
    given = import_litellm([SPEND], scores=EXPORTS / "ratings.csv", scale=FIVE)
    assert scores_of(given) == scores_of(import_litellm([SPEND], fields=STARS, scale=FIVE))


@pytest.mark.parametrize("column", [{"litellm_call_id": "call-1"}, {"metadata": {"litellm_call_id": "call-1", **TASK}}])
def test_litellm_scores_by_call_id(tmp_path: Path, column: dict[str, Any]) -> None:
    """A column of newer tables; in the metadata of older ones."""
    path = jsonl(tmp_path / "spend.jsonl", [spend(**column), spend(request_id="other")])
    (tmp_path / "scores.csv").write_text("litellm_call_id,mark\ncall-1,0.7\n")
    log = import_litellm([path], fields=litellm.Fields(score="mark"), scores=tmp_path / "scores.csv")
    assert list(scores_of(log).values()) == [0.7, None]


def test_litellm_pages_of_the_api(tmp_path: Path) -> None:
    page = {"data": rows(SPEND), "total": 17, "page": 1, "page_size": 100, "total_pages": 1}
    (tmp_path / "page-1.json").write_text(json.dumps(page))
    assert import_litellm([tmp_path / "page-1.json"]).samples == import_litellm([SPEND]).samples


def test_litellm_status_as_the_score_has_failures_without_cost() -> None:
    """A failed row without a model group is nobody's: LiteLLM does not note whom it asked."""
    log = import_litellm([SPEND], fields=litellm.Fields(score="status"))
    failed = next(sample for sample in log.samples if sample.sample_id == "chatcmpl-101")
    assert (failed.model, failed.score, failed.cost_usd, failed.input_tokens, failed.latency_s) == (
        "small",
        0.0,
        None,
        None,
        None,
    )
    assert {score for key, score in scores_of(log).items() if key != "chatcmpl-101"} == {1.0}
    assert log.left_out["without a model"] == 1


def test_litellm_without_scores_keeps_costs() -> None:
    assert set(scores_of(import_litellm([SPEND])).values()) == {None}


def test_standard_logging_payload(tmp_path: Path) -> None:
    payload = {
        "id": "chatcmpl-1",
        "call_type": "acompletion",
        "response_cost": 0.002,
        "status": "success",
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "startTime": 1777885200.0,
        "endTime": 1777885201.5,
        "model": "gpt-4o",
        "model_group": "large",
        "metadata": {"spend_logs_metadata": {"task": "sums"}},
        "cache_hit": None,
        "request_tags": [],
    }
    (sample,) = import_litellm([jsonl(tmp_path / "payloads.jsonl", [payload])]).samples
    assert sample == ("chatcmpl-1", "sums", "large", None, 0.002, 10.0, 5.0, 1.5, 1777885200.0, 1.0)


@pytest.mark.parametrize("score", ["stars", "verdict", "accepted"])
def test_langfuse_score_kinds(score: str) -> None:
    log = import_langfuse(
        [LANGFUSE / "scores.jsonl", LANGFUSE / "observations_v2.jsonl"],
        fields=langfuse.Fields(score=score, observation="answer"),
        scale=FIVE if score == "stars" else Scale(worth={"good": 1.0, "fair": 0.4, "bad": 0.0}),
    )
    found = {key: value for key, value in scores_of(log).items() if value is not None}
    assert len(log.samples) == 12
    assert log.left_out == {"failed": 1, "generations of another name": 1}
    if score == "stars":
        assert (len(found), found["obs-000"], found["obs-004"]) == (12, 1.0, 0.5)
    elif score == "verdict":
        assert found == {"obs-000": 1.0, "obs-003": 0.4, "obs-004": 0.0, "obs-006": 1.0, "obs-009": 1.0}
    else:
        assert found == {"obs-000": 1.0, "obs-003": 0.0, "obs-006": 1.0, "obs-009": 1.0}


def test_langfuse_counts_cached_tokens_and_takes_latency_from_times() -> None:
    log = import_langfuse([LANGFUSE / "observations_v2.jsonl"])
    first = log.samples[0]
    assert first[:3] == ("obs-000", "summarise", "gpt-4o-2024-11-20")
    assert (first.input_tokens, first.output_tokens, first.cost_usd) == (1210.0, 109.0, 0.00412)
    assert first.latency_s == pytest.approx(2.41)
    assert first.time == 1777885200.0


def test_langfuse_trace_score_with_several_generations_is_nobodys() -> None:
    log = import_langfuse(
        [LANGFUSE / "observations_v2.jsonl", LANGFUSE / "scores.jsonl"], fields=langfuse.Fields(score="stars"), scale=FIVE
    )
    assert scores_of(log)["obs-000"] is None
    assert scores_of(log)["obs-101"] is None
    assert log.left_out[langfuse.SEVERAL] == 1


def test_langfuse_forms_agree(tmp_path: Path) -> None:
    """Enriched and legacy export, the web interface's table, the API; JSONL, CSV and JSON."""
    one = langfuse.Fields(observation="answer", score="stars")
    enriched = {each.sample_id: each for each in import_langfuse(list(LANGFUSE.glob("*.jsonl")), fields=one, scale=FIVE).samples}
    legacy = import_langfuse(sorted(LANGFUSE.glob("*.csv")), fields=one, scale=FIVE)
    web = import_langfuse([LANGFUSE / "web.json"], fields=one, scale=FIVE)
    for log in (legacy, web):
        assert [enriched[each.sample_id] for each in log.samples] == list(log.samples)
    api = import_langfuse(sorted(LANGFUSE.glob("api*.json")), fields=langfuse.Fields(category="metadata.task"))
    assert [enriched[each.sample_id]._replace(score=None) for each in api.samples] == [
        each._replace(score=None) for each in api.samples
    ]
    assert list(scores_of(api).values()) == [0.0, 1.0, 0.0, 1.0]


def test_langfuse_older_pages_of_the_api(tmp_path: Path) -> None:
    """/api/public/observations and /v2/scores."""
    observation = {
        "id": "o1",
        "traceId": "t1",
        "type": "GENERATION",
        "name": "answer",
        "level": "DEFAULT",
        "model": "gpt-4o",
        "startTime": "2026-05-04T09:00:00.000Z",
        "endTime": "2026-05-04T09:00:02.000Z",
        "metadata": {"task": "sums"},
        "usage": {
            "input": 120,
            "output": 30,
            "total": 150,
            "unit": "TOKENS",
            "inputCost": 0.1,
            "outputCost": 0.2,
            "totalCost": 0.3,
        },
        "calculatedTotalCost": 0.004,
    }
    trace_score = {"id": "s1", "traceId": "t1", "observationId": None, "name": "mood", "source": "API", "dataType": "CATEGORICAL"}
    pages = {"o.json": observation, "s.json": {**trace_score, "value": None, "stringValue": "good"}}
    for name, each in pages.items():
        (tmp_path / name).write_text(json.dumps({"data": [each], "meta": {"page": 1}}))
    fields = langfuse.Fields(category="metadata.task")
    (sample,) = import_langfuse([tmp_path / name for name in pages], fields=fields, scale=Scale(worth={"good": 0.9})).samples
    assert sample == ("o1", "sums", "gpt-4o", 0.9, 0.004, 120.0, 30.0, 2.0, 1777885200.0, 1.0)


def test_langfuse_category_of_the_trace() -> None:
    log = import_langfuse(sorted(LANGFUSE.glob("*.csv")), fields=langfuse.Fields(category="trace.metadata.customer"), scale=FIVE)
    assert log.categories == ("acme", "initech")


def test_parquet_and_gzip_hold_the_same(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    observations = rows(LANGFUSE / "observations_v2.jsonl")
    usage = [list(each["usage_details"].items()) for each in observations]
    table = arrow.table(
        {
            **{
                name: [each.get(name) for each in observations]
                for name in ("id", "trace_id", "type", "start_time", "end_time", "name", "level")
            },
            **{name: [each.get(name) for each in observations] for name in ("provided_model_name", "trace_name", "tags")},
            "total_cost": [float(each["total_cost"]) for each in observations],
            "usage_details": arrow.array(usage, arrow.map_(arrow.string(), arrow.int64())),
        }
    )
    parquet.write_table(table, tmp_path / "observations.parquet")
    with (LANGFUSE / "observations_v2.jsonl").open("rb") as plain, gzip.open(tmp_path / "o.jsonl.gz", "wb") as packed:
        shutil.copyfileobj(plain, packed)
    plain_log = import_langfuse([LANGFUSE / "observations_v2.jsonl"])
    assert import_langfuse([tmp_path / "observations.parquet"]).samples == plain_log.samples
    assert import_langfuse([tmp_path / "o.jsonl.gz"]).samples == plain_log.samples


def test_overlapping_exports_count_a_request_once_and_models_are_renamed() -> None:
    twice = import_litellm([SPEND, SPEND], fields=STARS, scale=FIVE, rename={"large": "gpt-4o"})
    assert len(twice.samples) == 12
    assert twice.left_out["repeated by a later row"] == 12
    assert twice.models == ("gpt-4o", "small")
    with pytest.raises(DatasetError, match="no model huge to rename; there are: large, small"):
        import_litellm([SPEND], rename={"huge": "gpt-4o"})


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_log_comes_back_as_it_was_written(tmp_path: Path, suffix: str) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    log = import_litellm([SPEND], fields=litellm.Fields(score="status"))
    write_log(tmp_path / f"log{suffix}", log)
    back = load_logs([tmp_path / f"log{suffix}"])
    assert list(back.samples) == list(log.samples)
    with pytest.raises(DatasetError, match=r"give a \.parquet or \.csv file"):
        write_log(tmp_path / "log.json", log)


def test_less_some_models() -> None:
    log = import_litellm([SPEND])
    assert log.without(["large"]).models == ("small",)
    assert log.without(["large"]).left_out["of a model or category that was to be left out"] == 6
    with pytest.raises(DatasetError, match=r"huge: neither a category \(classify, summarise\) nor a model \(large, small\)"):
        log.without(["huge"])
    with pytest.raises(DatasetError, match="no request of use"):
        log.without(["large", "small"])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("metadata.task", "sums"),
        ("metadata.a.b", "dotted"),
        ("text.task", "in text"),
        ("tags:task", "sums"),
        ("tags:env", "prod"),
        ("tags:nothing", ""),
        ("nothing.at.all", ""),
    ],
)
def test_selectors(tmp_path: Path, text: str, found: str) -> None:
    fields = {
        "metadata": {"task": "sums", "a.b": "dotted"},
        "text": '{"task": "in text"}',
        "tags": ["task:sums", "env=prod", "tasks:x"],
    }
    (record,) = read(jsonl(tmp_path / "r.jsonl", [fields]))
    assert Selector.parse(text).text(record) == found


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("metadata", "'metadata' holds task; name one of them, such as metadata.task"),
        ("tags", "'tags' is a list (['task:sums']); name a tag, such as tags:task"),
        ("metadata.task:x", "'metadata.task' is no list of tags"),
    ],
)
def test_selectors_that_fit_nothing(tmp_path: Path, text: str, told: str) -> None:
    (record,) = read(jsonl(tmp_path / "r.jsonl", [{"metadata": {"task": "sums"}, "tags": ["task:sums"]}]))
    with pytest.raises(DatasetError) as caught:
        Selector.parse(text).text(record)
    assert told in str(caught.value)


def spend(**changes: Any) -> Mapping[str, Any]:
    return {**rows(SPEND)[0], **changes}


BROKEN: dict[str, tuple[Any, str]] = {
    "json": ('{"request_id": "a"\n', "line 1: broken JSON"),
    "no-object": ("[1]\n", "line 1: holds no object"),
    "empty": ("", "no rows; export a time span"),
    "others": ([{"id": "x", "prompt": "hello"}], "no model or model_group, no spend or response_cost, no start_time"),
    "no-id": ([spend(request_id="")], "no request of use (1 without an id)"),
    "cost": ([spend(spend=-1)], "row 1: 'spend' is -1; give a number of 0 or more"),
    "tokens": ([spend(), spend(request_id="b", prompt_tokens="many")], "row 2: 'prompt_tokens' is 'many'; give a number"),
    "time": ([spend(startTime="yesterday")], "row 1: 'start_time' is 'yesterday'; give a time"),
    "score": (
        [spend(), spend(request_id="b", metadata={"spend_logs_metadata": {"task": "t", "stars": 9}})],
        "row 2: 'metadata.spend_logs_metadata.stars' is 9, not between 1 and 5; give a wider --score-range",
    ),
    "label": (
        [spend(metadata={"spend_logs_metadata": {"task": "t", "stars": "fine"}})],
        "is 'fine', neither a number nor true or false; say its worth: --score-value 'fine=0.5'",
    ),
    "no-category": ([spend(metadata={"spend_logs_metadata": {"job": "t"}})], "name one: --category-from FIELD"),
    "all-failed": ([spend(status="failure")], "no request of use (1 failed)"),
    "metadata": ([spend(metadata="plain")], "row 1: 'metadata' is 'plain'; give a JSON object"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_spend_logs_name_place_and_remedy(tmp_path: Path, case: str) -> None:
    content, told = BROKEN[case]
    path = tmp_path / "spend.jsonl"
    if isinstance(content, str):
        path.write_text(content)
    else:
        jsonl(path, [dict(each) | ({"status": None} if case == "metadata" else {}) for each in content])
    with pytest.raises(DatasetError) as caught:
        import_litellm([path], fields=STARS, scale=FIVE)
    assert told in str(caught.value)
    assert "spend" in str(caught.value).split(":")[0]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.json", b'{"data": [', "line 1: broken JSON"),
        ("a.json", b'"text"', "neither an array of objects"),
        ("a.csv", b"a,b\n1\n", "row 2: 1 values for 2 columns"),
        ("a.jsonl.gz", b"not packed", "cannot be read"),
        ("a.jsonl", b"\xff\xfe", "cannot be read"),
        ("a.parquet", b"none", "not a readable Parquet file"),
        ("a.txt", b"", "unknown kind of file; give .jsonl"),
        (None, b"", "no such file; check the path"),
    ],
)
def test_unreadable_exports(tmp_path: Path, name: str | None, content: bytes, told: str) -> None:
    path = tmp_path / (name or "absent.jsonl")
    if name:
        path.write_bytes(content)
    if path.suffix == ".parquet":
        pytest.importorskip("pyarrow")
    with pytest.raises(DatasetError) as caught:
        list(read(path))
    assert str(caught.value).startswith(f"{path}: ")
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("files", "fields", "told"),
    [
        (["scores.jsonl"], {}, "no observations, but scores; add the export of the observations"),
        (
            ["observations_v2.jsonl", "scores.jsonl"],
            {},
            "scores of several names; choose one: --score-name accepted | stars | verdict",
        ),
        (
            ["observations_v2.jsonl", "scores.jsonl"],
            {"score": "mood"},
            "no scores named 'mood'; there are: stars (12), verdict (5)",
        ),
        (["observations_v2.jsonl"], {"score": "mood"}, "no scores named 'mood'; add the export of the scores"),
        (["observations_v2.jsonl"], {"observation": "nobody"}, "no generation named 'nobody'"),
        (["observations.csv"], {}, "no generation has a category at trace_name; name one: --category-from FIELD, or add"),
        (["observations_v2.jsonl", "scores.jsonl"], {"score": "verdict"}, "row 13: 'value' is 'good', neither a number"),
        (
            ["observations_v2.jsonl", "scores.jsonl"],
            {"score": "stars"},
            "row 1: 'value' is 5, not between 0 and 1; give --score-range",
        ),
        (["../ratings.csv"], {}, "neither observations nor scores nor traces"),
    ],
)
def test_langfuse_exports_that_do_not_do(files: list[str], fields: dict[str, Any], told: str) -> None:
    with pytest.raises(DatasetError) as caught:
        import_langfuse([LANGFUSE / name for name in files], fields=langfuse.Fields(**fields))
    assert told in str(caught.value)


def test_scores_of_other_requests(tmp_path: Path) -> None:
    scores = tmp_path / "s.csv"
    scores.write_text("request_id,score\nchatcmpl-x,1\n")
    with pytest.raises(DatasetError, match="no request_id \\(such as 'chatcmpl-x'\\) is in the spend logs"):
        import_litellm([SPEND], scores=scores)
    scores.write_text("who,score\nchatcmpl-x,1\n")
    with pytest.raises(DatasetError, match="needs columns request_id or litellm_call_id, and 'score'"):
        import_litellm([SPEND], scores=scores)


@pytest.mark.parametrize(
    ("header", "row", "told"),
    [
        ("sample_id,model,score", "a,b,1", "missing columns 'category'; a log needs sample_id, category, model"),
        ("sample_id,category,model,latency", "a,b,c,1", "unknown columns 'latency'; a log may have"),
        ("sample_id,category,model,score", "a,b,c,2", "row 2: 'score' is 2, not between 0 and 1"),
        ("sample_id,category,model,score", "a,,c,1", "row 2: 'category' is empty; give every row a value"),
        ("sample_id,category,model", None, "no request of use"),
    ],
)
def test_logs_of_ones_own_that_are_wrong(tmp_path: Path, header: str, row: str | None, told: str) -> None:
    path = tmp_path / "mine.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header.split(","), *([row.split(",")] if row else [])])
    with pytest.raises(DatasetError) as caught:
        load_logs([path])
    assert told in str(caught.value)


@pytest.mark.parametrize("scale", [{"low": 5.0, "high": 1.0}, {"low": float("nan")}, {"worth": {"good": 2.0}}])
def test_scales_that_are_none(scale: dict[str, Any]) -> None:
    with pytest.raises(DatasetError, match="give"):
        Scale(**scale)

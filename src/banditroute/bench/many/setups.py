"""What the replicas of a benchmark decide, and hear of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from banditroute.core.types import Attempt, FeedbackReport, RouteQuery, Signal, SignalKind

CATEGORIES = ("chat", "code")
KEYS = {"keys": [{"id": "k1", "secret": "ab" * 32}]}


def document(store: str, **local: Any) -> dict[str, Any]:
    """A configuration of two categories."""
    models = {f"model-{i}": {"input_usd_per_mtok": 0.5 + 0.1 * i, "output_usd_per_mtok": 2.0} for i in range(4)}
    return {
        "store": store,
        "decision_sink": {"enabled": False},
        "models": models,
        "categories": {
            "chat": {"models": list(models), "features": {"length": {"mean": 3.0, "stddev": 2.0}}},
            "code": {"models": list(models), "half_life_s": 3600.0},
        },
        **local,
    }


def write_config(folder: Path, store: str, **local: Any) -> Path:
    """That configuration on a shared store, with its keys, as files; the configuration's."""
    keys = folder / "keys.json"
    keys.write_text(json.dumps(KEYS), encoding="utf-8")
    path = folder / "banditroute.yaml"
    path.write_text(json.dumps(document(store, signing_keys_file=str(keys), **local)), encoding="utf-8")  # JSON is YAML
    return path


def decision_query(number: int) -> RouteQuery:
    """The query of a number: both categories, and features that vary."""
    return RouteQuery("chat", {"length": number % 7}) if number % 2 else RouteQuery("code")


def report(decision_id: str, score: float, observed_s: float) -> FeedbackReport:
    """A judgement and an attempt, observed at a time of their own: who hears of them when makes no difference."""
    attempt = Attempt(cost_usd=score / 100, latency_s=score, input_tokens=int(100 * score))
    return FeedbackReport(decision_id, (Signal(SignalKind.EVAL_SCORE, score),), (attempt,), observed_s)

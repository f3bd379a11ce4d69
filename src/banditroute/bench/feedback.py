"""Durable feedback from 64 clients, beside a bare group commit of equal bytes behind the same server class."""

from __future__ import annotations

import statistics
from typing import Any

from banditroute.bench.load import BATCH_ROUTE, FEEDBACK, Target, caller, closed_loop, serving
from banditroute.v1 import router_pb2 as pb

CLIENTS = 64


def _requests(target: Target, count: int) -> list[bytes]:
    """Feedback on so many fresh decisions."""
    call = caller(target.channel, BATCH_ROUTE)
    batch = pb.BatchRouteRequest(requests=[pb.RouteRequest(category="four")] * 100).SerializeToString()
    answers = [pb.BatchRouteResponse.FromString(call(batch)) for _ in range(-(-count // 100))]
    ids = [result.response.decision_id for answer in answers for result in answer.results]
    usage = pb.Usage(cost_usd=0.001)
    return [
        pb.FeedbackRequest(
            decision_id=i, signals=[pb.Signal(eval_score=0.8)], attempts=[pb.Attempt(usage=usage)]
        ).SerializeToString()
        for i in ids
    ]


def run(*, quick: bool = False) -> dict[str, Any]:
    """Feedback calls a second over a socket, as a ratio to the bare group commit's in the same run."""
    rounds, seconds = (2, 1.0) if quick else (5, 2.0)
    most = int(10_000 * seconds)
    with serving("bare") as bare, serving("real") as real:
        plain = _requests(bare, 64)
        seen: dict[str, list[float]] = {"bare": [], "real": []}
        closed_loop(bare, FEEDBACK, plain, under_way=CLIENTS, seconds=0.5)
        for _ in range(rounds):
            fresh = _requests(real, most)
            seen["bare"].append(closed_loop(bare, FEEDBACK, plain, under_way=CLIENTS, seconds=seconds)["per_s"])
            row = closed_loop(real, FEEDBACK, fresh, under_way=CLIENTS, seconds=seconds)
            seen["real"].append(row["per_s"])
    return {
        "clients": CLIENTS,
        "bare_per_s": statistics.median(seen["bare"]),
        "real_per_s": statistics.median(seen["real"]),
        "throughput_ratio": statistics.median(a / b for a, b in zip(seen["real"], seen["bare"], strict=True)),
    }

"""Route over a real socket, beside an empty handler with the same messages on the same server class."""

from __future__ import annotations

import statistics
import threading
from typing import Any

import grpc

from banditroute.bench.load import FEEDBACK, ROUTE, Target, caller, closed_loop, open_loop, route_requests, serving
from banditroute.bench.setups import CASES
from banditroute.v1 import router_pb2 as pb

UNDER_WAY = 32
STUCK_FEEDBACK = 64


def _peak(target: Target, case: str, seconds: float) -> dict[str, Any]:
    return closed_loop(target, ROUTE, route_requests(case), under_way=UNDER_WAY, seconds=seconds)


def run(*, quick: bool = False) -> dict[str, Any]:
    """Per case: throughput as a ratio to the empty handler's (sink on, one core); p99 at half of peak likewise.

    Both servers run side by side and are measured in turn, so that both see the same machine.
    """
    rounds, seconds = (2, 1.0) if quick else (5, 2.0)
    result: dict[str, Any] = {}
    with serving("empty") as empty, serving("real") as real:
        peaks: dict[str, list[dict[str, Any]]] = {name: [] for name in ("empty", *CASES)}
        for name in peaks:
            _peak(empty if name == "empty" else real, "cached" if name == "empty" else name, 0.5)
        for _ in range(rounds):
            for name, seen in peaks.items():
                seen.append(_peak(empty if name == "empty" else real, "cached" if name == "empty" else name, seconds))
        for name, seen in peaks.items():
            result[name] = {key: statistics.median(row[key] for row in seen) for key in ("per_s", "failed", "server_busy")}
        for case in CASES:
            ratios = [real_row["per_s"] / row["per_s"] for real_row, row in zip(peaks[case], peaks["empty"], strict=True)]
            result[case]["throughput_ratio"] = statistics.median(ratios)
        _half_load(result, {"empty": empty, "two": real, "four": real}, rounds, seconds)
    with serving("stuck") as stuck:
        ids = _decisions(stuck, STUCK_FEEDBACK)
        call = caller(stuck.channel, FEEDBACK)
        hanging = [call.future(_feedback(i), timeout=600) for i in ids]
        _wait_until_held(stuck)
        with serving("empty") as empty:
            _half_load(result, {"empty": empty, "stuck": stuck}, rounds, seconds)
        for future in hanging:
            future.cancel()
    return result


def _half_load(result: dict[str, Any], targets: dict[str, Target], rounds: int, seconds: float) -> None:
    """Median p99 at half of each one's own peak, in turn; as a ratio to the empty handler's."""
    seen: dict[str, list[float]] = {name: [] for name in targets}
    for turn in range(rounds + 1):
        for name, target in targets.items():
            case = {"empty": "cached", "stuck": "two"}.get(name, name)
            peak = result["empty" if name == "empty" else case]["per_s"]
            row = open_loop(target, ROUTE, route_requests(case), per_s=peak / 2, seconds=seconds)
            if turn:  # the first one warms up
                seen[name].append(row["p99_ms"])
    ceiling = statistics.median(seen.pop("empty"))
    for name, values in seen.items():
        found = result.setdefault(name, {})
        found["p99_ms_at_half_load"] = statistics.median(values)
        found["p99_ms_of_empty_beside_it"] = ceiling
        found["p99_ratio_at_half_load"] = found["p99_ms_at_half_load"] / ceiling


def _decisions(target: Target, count: int) -> list[str]:
    call = caller(target.channel, ROUTE)
    request = pb.RouteRequest(category="two").SerializeToString()
    return [pb.RouteResponse.FromString(call(request)).decision_id for _ in range(count)]


def _feedback(decision_id: str) -> bytes:
    return pb.FeedbackRequest(decision_id=decision_id, signals=[pb.Signal(eval_score=0.8)]).SerializeToString()


def _wait_until_held(target: Target) -> None:
    """Returns when one more feedback is refused: all permits are held."""
    call = caller(target.channel, FEEDBACK)
    (spare,) = _decisions(target, 1)
    for _ in range(200):
        try:
            call(_feedback(spare), timeout=0.2)
        except grpc.RpcError as error:
            if getattr(error, "code", lambda: None)() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                return
        threading.Event().wait(0.02)
    raise RuntimeError("the stuck server never held all feedback permits")

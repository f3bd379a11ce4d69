"""Whether the intervals are honest: logs that the router itself makes of data with every model's outcome known.

The log is made by the code that serves: the fold, the snapshot's views and their plans. It leaves out what decides nothing
(ids, signatures, the store), and feedback comes in batches: `batch` requests are decided on one state, then all of them are
judged. So each batch's probabilities are known for every category, and with them the exact conditional value of every policy
at every decision, the logging one's too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from banditroute.config import load, resolved
from banditroute.core.fold import FOLD_VERSION, learn
from banditroute.core.policy import View, Weights
from banditroute.core.reward import SEPARATOR
from banditroute.core.sights import Columns
from banditroute.core.state import INITIAL, State
from banditroute.core.types import Event, EventKind, RouteQuery, SignalKind
from banditroute.lab.datasets import Dataset
from banditroute.lab.ope.logged import Logged
from banditroute.lab.router_policy import INPUT_TOKENS, SECONDS_PER_REQUEST, START_TIME, USD_PER_MTOK
from banditroute.lab.source import FloatArray, IntArray, cost_reference_usd, model_costs_usd
from banditroute.snapshot import Snapshot


class Setting(NamedTuple):
    """How a log is made: decisions, the floor of each model, the cost weight, and requests between two rounds of feedback."""

    decisions: int = 20_000
    floor: float = 0.02
    cost_weight: float = 0.1
    batch: int = 100
    other_cost_weight: float = 0.5


class MadeLog(NamedTuple):
    """A log and what is true of it. `tables` (batches, C, K) is the logging policy at each batch, `other_tables` the same
    engine's at the other cost weight and the same states; `batch_of` (n,) indexes both."""

    logged: Logged
    tables: FloatArray
    other_tables: FloatArray
    batch_of: IntArray

    def own_rows(self, tables: FloatArray) -> FloatArray:
        """What tables say of each decision, (n, K)."""
        return np.asarray(tables[self.batch_of, self.logged.category], dtype=np.float64)


def made_log(data: Dataset, setting: Setting, *, seed: int) -> MadeLog:
    """A log of requests drawn from the data with replacement."""
    rng = np.random.default_rng([seed, 20_251])
    count = setting.decisions
    samples = rng.integers(len(data.sample_category), size=count)
    category, uniforms = data.sample_category[samples], rng.random(count)
    scores, costs = data.scores[samples], data.costs_usd[samples]
    document = _document(data, setting)
    columns = Columns()
    state, _ = learn(INITIAL, _event(1, EventKind.CONFIG, {"document": document}), columns)
    snapshot = Snapshot(state, None)
    names = [f"c{c}" for c in range(len(data.categories))]
    schema = state.settings.categories[names[0]].schema.hex()
    chosen = np.empty(count, dtype=np.int64)
    tables, others = [], []
    for start in range(0, count, setting.batch):
        rows = slice(start, min(count, start + setting.batch))
        table, other = _tables(snapshot, names, len(data.models), setting.other_cost_weight)
        tables.append(table)
        others.append(other)
        sums = table[category[rows]].cumsum(axis=1)
        sums[:, -1] = 1.0
        chosen[rows] = (uniforms[rows, None] >= sums).sum(axis=1)
        state = _told(state, columns, rows, category, chosen, scores, costs, schema)
        snapshot = Snapshot(state, snapshot)
    batch_of, steps = np.arange(count) // setting.batch, np.arange(count)
    stacked = np.array(tables)
    logged = Logged(
        categories=data.categories,
        models=data.models,
        category=category,
        chosen=chosen,
        propensities=stacked[batch_of, category],
        quality=scores[steps, chosen],
        cost_usd=costs[steps, chosen],
        context=np.zeros((count, 0)),
    )
    return MadeLog(logged, stacked, np.array(others), batch_of)


def _document(data: Dataset, setting: Setting) -> Mapping[str, Any]:
    prices = {
        f"m{k}": {"input_usd_per_mtok": float(usd) * USD_PER_MTOK, "output_usd_per_mtok": 0.0}
        for k, usd in enumerate(model_costs_usd(data))
    }
    category = {
        "models": list(prices),
        "cost_weight": setting.cost_weight,
        "cost_reference_usd": cost_reference_usd(data),
        "propensity_floor": setting.floor,
        "half_life_count": None,
        "max_effective_sample_size": 1e9,
    }
    categories = {f"c{c}": dict(category) for c in range(len(data.categories))}
    return resolved(load({"store": "memory:", "models": prices, "categories": categories}).shared, {})


def _event(position: int, kind: EventKind, body: Mapping[str, Any]) -> Event:
    time_us = int((START_TIME + SECONDS_PER_REQUEST * position) * 1e6)
    return Event(position, time_us, kind.value, FOLD_VERSION, body, b"")


def _tables(snapshot: Snapshot, names: Sequence[str], models: int, other_weight: float) -> tuple[FloatArray, FloatArray]:
    """Each category's probabilities now, (C, K), as configured and at the other cost weight."""
    table, other = np.zeros((len(names), models)), np.zeros((len(names), models))
    for c, name in enumerate(names):
        view = snapshot.view(name)
        changed = View(view.settings, Weights(other_weight, 0.0), view.arms, view.beliefs, snapshot.state.settings.onboarding)
        for shares, each in ((table, view), (other, changed)):
            plan = each.plan(RouteQuery(name, input_tokens=INPUT_TOKENS, output_tokens=0))
            for model, share in zip(plan.models, plan.propensities, strict=True):
                shares[c, int(model[1:])] = share
    return table, other


def _told(
    state: State,
    columns: Columns,
    rows: slice,
    category: IntArray,
    chosen: IntArray,
    scores: FloatArray,
    costs: FloatArray,
    schema: str,
) -> State:
    """The state after the feedback on a batch."""
    made = state.position
    for i in range(rows.start, rows.stop):
        position, name, k = state.position + 1, f"c{category[i]}", int(chosen[i])
        now, model = int((START_TIME + SECONDS_PER_REQUEST * position) * 1e6), f"m{k}"
        prices = state.settings.models[model]
        computed = float(np.float32(prices.list_cost_usd(INPUT_TOKENS, 0)))  # as ids carry it
        attempt = {"error": 0, "cost_usd": float(costs[i, k]), "computed_usd": computed}
        body = {
            "decision": {"category": name, "model": model, "schema": schema, "context": [], "state_position": made},
            "before": None,
            "after": {
                "ordinal": state.categories[name].ordinal + 1,
                "position": position,
                "newest": position,
                "time_us": now,
                "signals": {SEPARATOR.join((model, SignalKind.EVAL_SCORE, "")): [float(scores[i, k]), 1.0, now]},
                "attempts": {SEPARATOR.join((model, "")): {**attempt, "observe_us": now}},
            },
        }
        state, _ = learn(state, _event(position, EventKind.FEEDBACK, body), columns)
    return state


class Policy(NamedTuple):
    """A target with the truth about it: `rows` (n, K) its probabilities at each decision, `qualities` and `costs_usd` (n,) the
    conditional means of what it would have earned at each, given all that came before."""

    name: str
    rows: FloatArray
    qualities: FloatArray
    costs_usd: FloatArray


def policies(data: Dataset, made: MadeLog, setting: Setting) -> list[Policy]:
    """Those whose value is to be told, and their true values. All but the last are fixed tables (C, K)."""
    mean_utility = data.mean_scores - setting.cost_weight * data.mean_costs_usd / cost_reference_usd(data)
    best = int((data.weights @ mean_utility).argmax())
    eye = np.eye(len(data.models))
    categories = len(data.categories)
    tables = {
        "best fixed": np.tile(eye[best], (categories, 1)),
        "cheapest": np.tile(eye[int(model_costs_usd(data).argmin())], (categories, 1)),
        "uniform": np.full((categories, len(data.models)), 1.0 / len(data.models)),
        "best per category": eye[mean_utility.argmax(axis=1)],
    }
    found = [_policy(name, data, made, table[None].repeat(len(made.tables), axis=0)) for name, table in tables.items()]
    return [*found, _policy(f"router at {setting.other_cost_weight:g}", data, made, made.other_tables)]


def logging_policy(data: Dataset, made: MadeLog) -> Policy:
    """The one that made the log."""
    return _policy("logged", data, made, made.tables)


def _policy(name: str, data: Dataset, made: MadeLog, tables: FloatArray) -> Policy:
    qualities = np.einsum("c,bck,ck->b", data.weights, tables, data.mean_scores)
    costs = np.einsum("c,bck,ck->b", data.weights, tables, data.mean_costs_usd)
    return Policy(name, made.own_rows(tables), qualities[made.batch_of], costs[made.batch_of])

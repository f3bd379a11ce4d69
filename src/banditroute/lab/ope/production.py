"""The policy that is evaluated: the production engine under another configuration, at what the log had learned.

For each logged decision the log is folded with the new configuration up to the very state that the decision was made from, and
`View.plan` says with which probabilities the new configuration would have chosen then. So the target uses earlier
feedback only (it is predictable), and its value answers: *had this configuration chosen, knowing at each moment what the
running system knew, what would quality and cost have been?* It does not answer what the new configuration would have learned
from its own choices; one that explores less would in time know less.

Decisions in flight are not counted. Weights that operators set are left out: the file's are what is asked about; models that they
paused stay paused. Costs are those of the new configuration's price table, for the logged policy too, so that a change of
cost is one of choices and not of prices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from banditroute.config import resolved
from banditroute.core.errors import ConfigError, ConfigProblem, EvaluationError, NoEligibleModel
from banditroute.core.evidence import standardised
from banditroute.core.fold import learn
from banditroute.core.policy import Arm, View, Weights
from banditroute.core.settings import CategorySettings, ModelSettings, SharedSettings, parse_shared
from banditroute.core.sights import Columns
from banditroute.core.state import INITIAL, State
from banditroute.core.types import Event, EventKind
from banditroute.lab.ope.logged import Logged
from banditroute.lab.ope.reports import Bill
from banditroute.lab.ope.stored import Decided
from banditroute.lab.source import FloatArray
from banditroute.snapshot import Snapshot

Progress = Callable[[int, int], None]
"""Called with the number of decisions that are done and of all."""


class Replayed(NamedTuple):
    """A log as arrays, and the new configuration's probabilities (n, K) at each cost weight asked for; None stands for the
    configured weights. `floor` is the least that the logging configurations gave a model."""

    logged: Logged
    targets: Mapping[float | None, FloatArray]
    floor: float
    operator_weight_count: int


class _Old(NamedTuple):
    """The log's own configuration at one time."""

    settings: SharedSettings
    floor: float


def new_settings(shared: Mapping[str, Any], held: Mapping[str, Any]) -> tuple[Mapping[str, Any], SharedSettings]:
    """The document that the new configuration would be if it took the place of `held` now, and its settings.

    Raises:
        ConfigError: it cannot be adopted on this log.
    """
    try:
        document = resolved(shared, held)
        return document, parse_shared(document)
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError("<new>", [ConfigProblem("", None, str(error))]) from error


def in_force(decisions: Sequence[Decided], settings: SharedSettings) -> tuple[Decided, ...]:
    """The decisions of categories that the new configuration has.

    Raises:
        EvaluationError: there are none, or a model of one of these categories was never among the log's choices.
    """
    kept = tuple(each for each in decisions if each.query.category in settings.categories)
    if decisions and not kept:
        names = ", ".join(sorted({each.query.category for each in decisions})[:20])
        raise EvaluationError(f"the new configuration has none of the log's categories ({names}): keep their names")
    seen: dict[str, set[str]] = {}
    for each in kept:
        seen.setdefault(each.query.category, set()).update(model for model, share in each.propensities.items() if share > 0.0)
    missing = [
        f"{model} in {category}"
        for category, models in sorted(seen.items())
        for model in settings.categories[category].models
        if model not in models
    ]
    if missing:
        raise EvaluationError(
            f"never among the log's choices: {', '.join(missing[:20])}. What was never tried cannot be evaluated: add the model "
            "to the running configuration and let it serve at its floor first, or take it out of the new one"
        )
    return kept


def replayed(
    decisions: Sequence[Decided],
    events: Iterable[Event],
    *,
    document: Mapping[str, Any],
    settings: SharedSettings,
    cost_weights: Sequence[float | None],
    progress: Progress | None = None,
) -> Replayed:
    """What the new configuration would have chosen.

    Args:
        decisions: of `in_force`.
        events: the whole log.
        document: of `new_settings`, with its `settings`.

    Raises:
        EvaluationError: it could not have served one of the requests; see also `Logged`.
        FoldHalted: the log is from a newer banditroute.
    """
    categories = tuple(settings.categories)
    models = tuple(sorted({model for each in decisions for model in each.propensities} | set(settings.models)))
    category_of, model_of = ({name: i for i, name in enumerate(names)} for names in (categories, models))
    count, width = len(decisions), max((len(each.features) for each in settings.categories.values()), default=0)
    targets = {weight: np.zeros((count, len(models))) for weight in cost_weights}
    propensities, context, costs = np.zeros((count, len(models))), np.zeros((count, width)), np.zeros(count)
    folding = _Folding(events, document)
    for done, i in enumerate(sorted(range(count), key=lambda i: decisions[i].state_position)):
        each = decisions[i]
        snapshot = folding.reach(each.state_position)
        view, query = snapshot.view(each.query.category), each.query
        for weight, target in targets.items():
            weighed = view if weight is None else folding.at_weight(snapshot, view, weight)
            try:
                plan = weighed.plan(query, broken=snapshot.broken(each.time_ms * 1000))
            except NoEligibleModel as error:
                raise EvaluationError(f"the new configuration could not have served every request: {error}") from error
            for model, share in zip(plan.models, plan.propensities, strict=True):
                target[i, model_of[model]] = share
        for model, share in each.propensities.items():
            propensities[i, model_of[model]] = share
        z = standardised(query.features, view.settings.features)[1:]
        context[i, : len(z)] = z
        costs[i] = sum(_repriced(bill, each, view, folding.old.settings) for bill in each.bills)
        if progress is not None:
            progress(done + 1, count)
    logged = Logged(
        categories=categories,
        models=models,
        category=np.array([category_of[each.query.category] for each in decisions], dtype=np.int64),
        chosen=np.array([model_of[each.chosen] for each in decisions], dtype=np.int64),
        propensities=propensities,
        quality=np.array([each.quality for each in decisions], dtype=np.float64),
        cost_usd=costs,
        context=context,
    )
    return Replayed(logged, targets, folding.old.floor, folding.operator_weight_count)


class _Folding:
    """The log folded under another configuration, step by step."""

    def __init__(self, events: Iterable[Event], document: Mapping[str, Any]) -> None:
        self._events, self._document = iter(events), document
        self._columns = Columns()
        self._snapshot = Snapshot(INITIAL, None)
        self._at_weight: dict[tuple[str, float], tuple[View, View]] = {}
        self.old = _Old(INITIAL.settings, 1.0)
        self.operator_weight_count = 0

    def reach(self, position: int) -> Snapshot:
        """The state right after the event at `position`."""
        state = self._snapshot.state
        if state.position < position:
            for event in self._events:
                state = self._folded(state, event)
                if event.position >= position:
                    break
            self._snapshot = Snapshot(state, self._snapshot)
        return self._snapshot

    def _folded(self, state: State, event: Event) -> State:
        if event.kind == EventKind.CONFIG:
            return self._configured(state, event)
        if event.kind == EventKind.OPERATOR and event.body.get("action") == "set_weights":
            self.operator_weight_count += 1
            return _passed(state, event)
        return learn(state, event, self._columns)[0]

    def _configured(self, state: State, event: Event) -> State:
        """The new configuration in place of the log's first; later ones only say how to read their decisions' contexts."""
        settings = parse_shared(event.body["document"])
        floors = [category.propensity_floor for category in settings.categories.values()]
        self.old = _Old(settings, min(self.old.floor, *floors))
        if not state.config_position:
            state, _ = learn(state, event._replace(body={**event.body, "document": self._document}), self._columns)
        schemas = {each.schema.hex(): tuple(f.name for f in each.features) for each in settings.categories.values()}
        return _passed(state, event)._replace(schemas={**state.schemas, **schemas})

    def at_weight(self, snapshot: Snapshot, view: View, cost_weight: float) -> View:
        """The same view with another cost weight."""
        key = view.settings.name, cost_weight
        held = self._at_weight.get(key)
        if held is None or held[0] is not view:
            weights = Weights(cost_weight, view.weights.latency)
            other = View(view.settings, weights, view.arms, view.beliefs, snapshot.state.settings.onboarding)
            held = self._at_weight[key] = view, other
        return held[1]


def _passed(state: State, event: Event) -> State:
    """The state after an event that changes nothing here."""
    now = max(state.append_time_us, event.append_time_us)
    return state._replace(position=event.position, chain=event.chain, append_time_us=now)


def _repriced(bill: Bill, decided: Decided, view: View, old: SharedSettings) -> float:
    """What a call would cost at the new prices, in USD: its bill, times how much dearer its tokens are."""
    usd = decided.expected_costs_usd.get(bill.model, 0.0) if bill.usd is None else bill.usd
    before, after = old.models.get(bill.model), _arm(view, bill.model)
    if before is None or after is None or _prices(before) == _prices(after.model):
        return usd
    into, out = after.consumption.input_tokens, after.consumption.output_tokens
    tokens = into if bill.input_tokens is None else bill.input_tokens, out if bill.output_tokens is None else bill.output_tokens
    was, now = before.list_cost_usd(*tokens), after.model.list_cost_usd(*tokens)
    return usd * now / was if was > 0.0 else now


def _arm(view: View, model: str) -> Arm | None:
    return next((arm for arm in view.arms if arm.model.name == model), None)


def _prices(model: ModelSettings) -> tuple[float, float]:
    return model.input_usd_per_token, model.output_usd_per_token


def configured_weights(settings: SharedSettings) -> str:
    """How to name the configured cost weights, such as "at cost weight 0.3"."""
    weights = sorted({_weight(each) for each in settings.categories.values()})
    return f"at cost weight {weights[0]:g}" if len(weights) == 1 else f"at cost weights from {weights[0]:g} to {weights[-1]:g}"


def _weight(category: CategorySettings) -> float:
    return category.cost_weight

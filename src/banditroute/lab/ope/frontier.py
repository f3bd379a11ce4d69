"""From a state directory and a new configuration to evaluations: everything between, and what was left out on the way."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from banditroute.config import Config
from banditroute.core.settings import SharedSettings
from banditroute.lab.ope.evaluation import Evaluation, evaluate, fitted
from banditroute.lab.ope.production import Progress, Replayed, configured_weights, in_force, new_settings, replayed
from banditroute.lab.ope.stored import Decided, Joined, all_events, join, sink_decisions
from banditroute.lab.ope.support import feedback_rates
from banditroute.wiring import open_log, sink_reader


@dataclass(frozen=True, kw_only=True)
class Frontier:
    """Evaluations of one configuration at several cost weights: quality and cost with their intervals, to choose a weight by.

    `notes` say what was left out; times are those of the first and the last decision, in Unix seconds; `answered_share` of the
    decisions had an outcome. Each interval holds 95 % by itself, not all of them together.
    """

    evaluations: tuple[Evaluation, ...]
    notes: tuple[str, ...]
    first_time: float
    last_time: float
    answered_share: float

    def to_json(self) -> dict[str, Any]:
        """JSON data with everything in it."""
        return {
            "decision_count": self.evaluations[0].support.decisions,
            "first_time": self.first_time,
            "last_time": self.last_time,
            "answered_share": self.answered_share,
            "notes": list(self.notes),
            "evaluations": [evaluation.to_json() for evaluation in self.evaluations],
        }


def evaluate_store(
    config: Config,
    *,
    since: float | None = None,
    cost_weights: Sequence[float | None] = (None,),
    progress: Progress | None = None,
) -> Frontier:
    """What the configuration would have been worth on its own store's log. Reads only; a server may be running on it.

    Args:
        since: Unix seconds; earlier decisions are learned from, but not evaluated.
        cost_weights: in all categories; None: the configured ones.

    Raises:
        EvaluationError: the log cannot tell; says why and what to do.
        ConfigError: the store's URL is of no known kind, or the configuration cannot be adopted on this log.
        StoreUnavailable, StoreTooNew, FoldHalted.
    """
    since_ms = 0 if since is None else int(since * 1000.0)
    with closing(open_log(config.local, read_only=True)) as log:
        sink = sink_reader(config.local, log)
        kept = () if sink is None else sink_decisions(sink, since_ms=since_ms)
        joined = join(all_events(log), kept, since_ms=since_ms)
        document, settings = new_settings(config.shared, joined.document)
        decisions = in_force(joined.decisions, settings)
        found = replayed(
            decisions, all_events(log), document=document, settings=settings, cost_weights=tuple(cost_weights), progress=progress
        )
    logged = found.logged
    rates = feedback_rates(logged.models, logged.chosen, logged.propensities, overall=joined.answered_share)
    outcomes = fitted(logged)
    evaluations = [
        evaluate(
            logged,
            target,
            policy=configured_weights(settings) if weight is None else f"at cost weight {weight:g}",
            outcomes=outcomes,
            floor=found.floor,
            cost_weight=weight,
            sampling_rate=joined.sampling_rate,
            rates=rates,
        )
        for weight, target in found.targets.items()
    ]
    return Frontier(
        evaluations=tuple(evaluations),
        notes=tuple(_notes(joined, decisions, found, settings)),
        first_time=decisions[0].time_ms / 1000.0,
        last_time=decisions[-1].time_ms / 1000.0,
        answered_share=joined.answered_share,
    )


def _notes(joined: Joined, decisions: Sequence[Decided], found: Replayed, settings: SharedSettings) -> list[str]:
    notes = []
    if joined.unanswered_count:
        notes.append(f"{joined.unanswered_count} of {joined.sink_count} decisions have no outcome (yet) and say nothing")
    if joined.lost_count:
        notes.append(
            f"the sink dropped {joined.lost_count} decisions with an outcome: {100 * joined.sampling_rate:.1f} % were sampled"
        )
    if outside := len(joined.decisions) - len(decisions):
        notes.append(f"{outside} decisions are of categories that the new configuration has not, and are left out")
    if unseen := sorted(settings.categories.keys() - {each.query.category for each in decisions}):
        notes.append(f"nothing is known of {', '.join(unseen[:20])}: no decision there")
    if found.operator_weight_count:
        notes.append("weights that operators set are left out: the file's are evaluated")
    return notes

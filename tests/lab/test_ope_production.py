"""The target policy: the production engine under another configuration, at what the log had learned."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest

from banditroute import Router
from banditroute.config import load
from banditroute.core.errors import ConfigError, EvaluationError
from banditroute.core.types import Event, RouteQuery
from banditroute.lab.ope.production import Replayed, configured_weights, in_force, new_settings, replayed
from banditroute.lab.ope.reports import Bill
from banditroute.lab.ope.stored import Decided, SinkDecision, join

CONFIG: dict[str, Any] = {
    "store": "memory:",
    "models": {
        "dear": {"input_usd_per_mtok": 10.0, "output_usd_per_mtok": 10.0, "tags": ["eu"]},
        "cheap": {"input_usd_per_mtok": 1.0, "output_usd_per_mtok": 1.0},
    },
    "categories": {
        "chat": {
            "models": ["dear", "cheap"],
            "cost_weight": 0.1,
            "propensity_floor": 0.1,
            "features": {"length": {"mean": 0.0, "stddev": 1.0}},
        }
    },
}


class Lived(NamedTuple):
    decisions: tuple[Decided, ...]
    events: Sequence[Event]


def with_chat(**changed: Any) -> dict[str, Any]:
    return {**CONFIG, "categories": {"chat": {**CONFIG["categories"]["chat"], **changed}}}


def lived(count: int = 150, *, reload: Mapping[str, Any] | None = None) -> Lived:
    """Decisions as a sink would have them, and the log. `reload` replaces the configuration half way, after which
    requests have the feature `size`."""
    rng, rows, now = random.Random(1), [], [1_800_000_000.0]
    with Router.from_config(CONFIG, seed=1, clock=lambda: now[0]) as router:
        for i in range(count):
            now[0] += 10.0
            if reload is not None and i == count // 2:
                router.reload(reload)
            name = "size" if reload is not None and i >= count // 2 else "length"
            features = {name: rng.gauss(0.0, 1.0)}
            decision = router.route("chat", features=features, input_tokens=900)
            plan = decision.plan
            key = router.engine.signer.verify(decision.id).decision.hex()
            costs = {candidate.model: candidate.expected_cost_usd for candidate in plan.candidates}
            shares = {candidate.model: candidate.propensity for candidate in plan.candidates}
            rows.append(SinkDecision(key, int(now[0] * 1000), {"features": features, "input_tokens": 900}, costs, shares))
            score = float(rng.random() < (0.8 if decision.model == "dear" else 0.7 - 0.2 * (features[name] > 0.0)))
            router.feedback(decision.id, eval_score=score, cost_usd=0.01 if decision.model == "dear" else 0.001)
        events = router.engine._log.read(0, 10_000)
    return Lived(join(events, rows).decisions, events)


def evaluated(told: Lived, config: Mapping[str, Any], *weights: float) -> Replayed:
    held = next(event.body["document"] for event in reversed(told.events) if event.kind == "config")
    document, settings = new_settings(load(config).shared, held)
    kept = in_force(told.decisions, settings)
    return replayed(kept, told.events, document=document, settings=settings, cost_weights=weights or (None,))


@pytest.fixture(scope="module")
def told() -> Lived:
    return lived()


def test_the_configuration_that_served_chooses_as_it_did(told: Lived) -> None:
    found = evaluated(told, CONFIG)
    np.testing.assert_allclose(found.targets[None], found.logged.propensities, atol=1e-12)
    assert found.floor == 0.1
    assert found.logged.models == ("cheap", "dear")
    assert found.logged.context.shape == (150, 1)
    assert set(found.logged.cost_usd.tolist()) == {0.01, 0.001}


def test_a_choice_depends_on_earlier_feedback_only(told: Lived) -> None:
    """Later events may be gone altogether: what would have been chosen before stays bit for bit."""
    whole = evaluated(told, with_chat(cost_weight=0.7, half_life_count=30))
    early = [each for each in told.decisions if each.state_position <= 80]
    part = evaluated(Lived(tuple(early), told.events[:80]), with_chat(cost_weight=0.7, half_life_count=30))
    assert np.array_equal(part.targets[None], whole.targets[None][: len(early)])


def test_a_weight_in_place_of_the_files_is_as_in_the_file(told: Lived) -> None:
    asked = evaluated(told, CONFIG, 0.7, 0.1)
    np.testing.assert_array_equal(asked.targets[0.7], evaluated(told, with_chat(cost_weight=0.7)).targets[None])
    np.testing.assert_array_equal(asked.targets[0.1], evaluated(told, CONFIG).targets[None])


def test_rows_sum_to_one_and_keep_the_new_floor(told: Lived) -> None:
    target = evaluated(told, with_chat(propensity_floor=0.2, features={})).targets[None]
    np.testing.assert_allclose(target.sum(axis=1), 1.0)
    assert target.min() == pytest.approx(0.2)


def test_what_the_log_changed_half_way_is_not_the_new_configurations() -> None:
    """Nothing of the weight that was in force later, and contexts of either schema are read."""
    changed = lived(100, reload=with_chat(cost_weight=3.0, features={"size": {"mean": 0.0, "stddev": 1.0}}))
    assert changed.decisions[-1].propensities["dear"] == pytest.approx(0.1)
    found = evaluated(changed, CONFIG)
    assert found.targets[None][-10:, 1].mean() > 0.3
    assert found.logged.context[:50].all()
    assert not found.logged.context[50:].any()


class TestCosts:
    def repriced(self, bill: Bill, **prices: float) -> float:
        """What a decision for `cheap` with this bill costs where `cheap` has other prices."""
        models = {**CONFIG["models"], "cheap": {**CONFIG["models"]["cheap"], **prices}}
        told = lived(3)
        changed = [each._replace(bills=(bill,), quality=0.5) for each in told.decisions]
        return float(evaluated(Lived(tuple(changed), told.events), {**CONFIG, "models": models}).logged.cost_usd[0])

    def test_the_same_prices_leave_the_bill(self) -> None:
        assert self.repriced(Bill("cheap", 0.5, 100, 100)) == 0.5

    def test_dearer_tokens_are_paid_as_often_as_they_were_used(self) -> None:
        assert self.repriced(Bill("cheap", 0.5, 100, 100), output_usd_per_mtok=3.0) == pytest.approx(0.5 * 4.0 / 2.0)
        assert self.repriced(Bill("cheap", 0.5, 400, 0), output_usd_per_mtok=3.0) == 0.5

    def test_without_a_bill_it_is_what_was_expected_of_that_model(self) -> None:
        assert self.repriced(Bill("cheap", None, None, None)) == pytest.approx((900 + 300) / 1e6, rel=0.05)
        assert self.repriced(Bill("dear", None, None, None)) == pytest.approx((900 + 300) / 1e5, rel=0.05)

    def test_a_model_that_is_gone_cost_what_it_did(self) -> None:
        assert self.repriced(Bill("elsewhere", 0.7, None, None)) == 0.7


class TestRefusals:
    def test_a_model_that_was_never_logged(self, told: Lived) -> None:
        models = {**CONFIG["models"], "fresh": {}}
        with pytest.raises(EvaluationError, match="never among the log's choices: fresh in chat"):
            evaluated(told, {**with_chat(models=["dear", "fresh"]), "models": models})

    def test_no_category_in_common(self, told: Lived) -> None:
        with pytest.raises(EvaluationError, match=r"none of the log's categories \(chat\)"):
            evaluated(told, {**CONFIG, "categories": {"talk": CONFIG["categories"]["chat"]}})

    def test_a_request_that_could_not_be_served(self, told: Lived) -> None:
        query = RouteQuery("chat", required_tags=("eu",))
        with pytest.raises(EvaluationError, match=r"could not have served every request.*cheap: TAG_MISSING"):
            evaluated(Lived((told.decisions[0]._replace(query=query),), told.events), with_chat(models=["cheap"]))

    def test_a_configuration_that_cannot_be_adopted(self) -> None:
        with pytest.raises(ConfigError):
            new_settings({"categories": {}, "models": {}}, {})


def test_how_weights_are_named() -> None:
    _, one = new_settings(load(CONFIG).shared, {})
    assert configured_weights(one) == "at cost weight 0.1"
    both = {**CONFIG, "categories": {**CONFIG["categories"], "sums": {"models": ["dear"], "cost_weight": 0.4}}}
    assert configured_weights(new_settings(load(both).shared, {})[1]) == "at cost weights from 0.1 to 0.4"

"""A correction takes back exactly what was once added, whatever changed in the configuration in between."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from banditroute import Router
from banditroute.core.errors import FeedbackWindowOver, InvalidRequest
from banditroute.core.evidence import Cell
from banditroute.core.types import Disposition
from banditroute.log.checkpoint import encode

START = 1_750_000_000.0
CONFIG: dict[str, Any] = {
    "store": "memory:",
    "models": {"a": {"input_usd_per_mtok": 1.0, "output_usd_per_mtok": 2.0}, "b": {"input_usd_per_mtok": 0.1}},
    "categories": {"chat": {"models": ["a", "b"], "half_life_count": 50}},
}


def changed(**category: Any) -> dict[str, Any]:
    config = copy.deepcopy(CONFIG)
    config["categories"]["chat"] |= category
    return config


def dearer(factor: float) -> dict[str, Any]:
    config = copy.deepcopy(CONFIG)
    config["models"]["a"] = {name: price * factor for name, price in config["models"]["a"].items()}
    return config


@pytest.fixture
def clock() -> Iterator[Callable[[], float]]:
    ticks = itertools.count()
    yield lambda: START + next(ticks)


def cell(router: Router, model: str = "a") -> Cell:
    return router.engine.snapshot.state.categories["chat"].cells[model]


def decisions(router: Router, count: int) -> list[str]:
    return [router.route("chat", allowed_models=["a"]).id for _ in range(count)]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (changed(signal_weights={"eval_score": 0.0}), changed(signal_weights={"eval_score": 1.0})),
        (changed(signal_weights={"eval_score": 0.5}), changed(signal_weights={"eval_score": 1.0})),
        (changed(signal_weights={"eval_score": 1.0}), changed(signal_weights={"eval_score": 0.2})),
        (changed(models=["b"]), CONFIG),
    ],
    ids=["weight 0 to 1", "weight .5 to 1", "weight 1 to .2", "removed and back"],
)
def test_quality_stays_in_its_range(before: dict[str, Any], after: dict[str, Any], clock: Callable[[], float]) -> None:
    with Router.from_config(CONFIG, clock=clock, seed=1) as router:
        ids = decisions(router, 50)
        router.reload(before)
        for decision_id in ids:
            router.feedback(decision_id, eval_score=0.0)
        router.reload(after)
        seen = cell(router).information[0]
        for decision_id in ids:
            router.feedback(decision_id, eval_score=1.0)
        assert cell(router).information[0] == pytest.approx(seen)  # weight and information stay as they are
        assert cell(router).moment[0] == pytest.approx(seen)  # every one of them now says 1
        assert 0.0 <= router.category("chat").arms[0].quality_mean <= 1.0


def test_evidence_from_before_a_model_left_is_not_corrected_after_it_came_back(clock: Callable[[], float]) -> None:
    with Router.from_config(CONFIG, clock=clock, seed=1) as router:
        (known,) = decisions(router, 1)
        router.feedback(known, eval_score=0.2)
        held = cell(router)
        router.reload(changed(models=["b"]))
        assert router.feedback(known, eval_score=0.9).disposition is Disposition.RECORDED
        router.reload(CONFIG)
        assert router.feedback(known, eval_score=0.4).signal_dispositions == (Disposition.CORRECTED,)
        assert cell(router) == held  # its own evidence is kept, and nothing was taken from it twice


def test_cost_learns_the_last_word_across_a_price_change(clock: Callable[[], float]) -> None:
    with Router.from_config(CONFIG, clock=clock, seed=1) as router:
        ids = decisions(router, 20)
        for decision_id in ids:
            router.feedback(decision_id, input_tokens=1000, output_tokens=100, cost_usd=0.0012)
        router.reload(dearer(10.0))
        for decision_id in ids:
            router.feedback(decision_id, input_tokens=100, output_tokens=10, cost_usd=0.0012)
        usage = cell(router).usage
        assert usage.computed_usd == pytest.approx(usage.cost_n * 0.0012)
        assert usage.input_tokens == pytest.approx(usage.input_n * 100)


def test_order_of_arrival_does_not_decide_which_value_stands(clock: Callable[[], float]) -> None:
    said = [(0.1, START + 1), (0.1, START + 9), (0.9, START + 5)]
    ends = set()
    with Router.from_config(CONFIG, clock=lambda: START + 100, seed=1) as router:
        for order in itertools.permutations(said):
            (decision_id,) = decisions(router, 1)
            for value, observed in order:
                router.feedback(decision_id, eval_score=value, observe_time=observed)
            record = router.engine._log.record(router.engine.signer.verify(decision_id).decision)
            assert record is not None
            ends.add(str(record["signals"]))
    assert len(ends) == 1


@pytest.mark.parametrize("store", ["memory:", "sqlite"])
def test_a_longer_window_counts_nothing_twice(store: str, tmp_path: Any) -> None:
    now = [START]
    short, long = copy.deepcopy(CONFIG), copy.deepcopy(CONFIG)
    short["feedback_window_s"], long["feedback_window_s"] = 3600.0, 7 * 86400.0
    url = store if store == "memory:" else f"sqlite:///{tmp_path}"
    with Router.from_config(short, store=url, clock=lambda: now[0], seed=1) as router:
        (known,) = decisions(router, 1)
        router.feedback(known, eval_score=0.5)
        now[0] += 4 * 3600.0
        assert router.engine._log.purge_records() == 1
        router.reload(long)
        held = encode(router.engine.snapshot.state)
        with pytest.raises(FeedbackWindowOver):
            router.feedback(known, eval_score=0.5)
        assert encode(router.engine.snapshot.state) == held
        (fresh,) = decisions(router, 1)
        assert router.feedback(fresh, eval_score=0.5).disposition is Disposition.APPLIED


def test_input_that_only_a_library_can_get(clock: Callable[[], float]) -> None:
    with Router.from_config(CONFIG, clock=clock, seed=1) as router:
        (known,) = decisions(router, 1)
        with pytest.raises(InvalidRequest, match="request_key"):
            router.route("chat", request_key="\ud800")
        with pytest.raises(InvalidRequest, match="source"):
            router.feedback(known, eval_score=0.5, source="\ud800")
        with pytest.raises(InvalidRequest, match="whole number"):
            router.route("chat", input_tokens=900.5)  # type: ignore[arg-type]
        assert router.route("chat", input_tokens=np.int64(900)).model  # type: ignore[arg-type]
        router.feedback(known, eval_score=0.5, input_tokens=np.int64(900))  # type: ignore[arg-type]
        router.set_weights("chat", cost_weight=0.9, reason="test")
        assert router.set_weights("chat", clear=["cost_weight"], reason="test").cost_weight == 0.1

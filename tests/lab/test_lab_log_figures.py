"""Figures of a log: means by hand, the sizes that priors claim, environments, and signs of unlike requests."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from banditroute.config import PriorConfig
from banditroute.core.errors import DatasetError
from banditroute.lab.environments import Environment
from banditroute.lab.importers.figures import cells, imbalances, log_environment, make_priors, prior_size
from banditroute.lab.importers.log import Log, Sample


def sample(
    i: int, model: str, score: float | None, *, category: str = "sums", cost: float | None = 0.01, tokens: float = 100.0
) -> Sample:
    return Sample(f"{category}-{model}-{i}", category, model, score, cost, tokens, 10.0, 0.5 + i, 1000.0 + i)


def log_of(samples: list[Sample]) -> Log:
    return Log(name="toy", by="hand", samples=samples)


def test_cells_by_hand() -> None:
    log = log_of(
        [sample(0, "a", 1.0), sample(1, "a", 0.0, cost=None), sample(2, "a", None, cost=0.03), sample(0, "b", None, cost=None)]
    )
    first, second = cells(log)
    assert first[:5] == ("sums", "a", 3, 2, 0.5)
    assert first.quality_se == pytest.approx(0.5)  # sd sqrt(.5) over sqrt(2)
    assert first.cost_usd == pytest.approx(0.02)
    assert first.latency_s == 1.5
    assert second[2:7] == (1, 0, None, None, None)


def test_priors_by_hand() -> None:
    """a: mean .75 of 4, b: mean .25 of 4, so the centre is .5, each half way; variance 1.5 / 6 = .25."""
    log = log_of([sample(i, "a", float(i > 0)) for i in range(4)] + [sample(i, "b", float(i == 0)) for i in range(4)])
    priors = make_priors(log, confounding_sd=0.0)
    assert priors["sums"]["a"] == {"quality": 0.625, "effective_sample_size": 4.0, "input_tokens": 100.0, "output_tokens": 10.0}
    assert priors["sums"]["b"]["quality"] == 0.375
    bounded = make_priors(log, confounding_sd=0.25)["sums"]["a"]
    assert bounded["effective_sample_size"] == 2.0  # .25 / (.25 / 4 + .0625)
    assert all(PriorConfig(**arm) for arm in priors["sums"].values())


def test_cells_without_scores_have_no_priors() -> None:
    log = log_of([sample(0, "a", 1.0), sample(0, "b", None), sample(0, "a", None, category="law")])
    assert {category: set(arms) for category, arms in make_priors(log).items()} == {"sums": {"a"}}
    with pytest.raises(DatasetError, match="toy: no request has a score"):
        make_priors(log_of([sample(0, "a", None)]))


@given(st.integers(1, 10**7), st.floats(0.0, 0.25), st.floats(0.0, 1.0))
def test_priors_never_claim_more_than_they_have(n: int, variance: float, bias: float) -> None:
    size = prior_size(n, variance=variance, confounding_sd=bias)
    assert 0.0 < size <= min(n, 25)
    assert prior_size(n, variance=variance, confounding_sd=bias + 0.1) <= size


def test_more_rows_do_not_mend_confounding() -> None:
    """A judge with sd .1: .02 / .0025 observations, however long the log; a right-or-wrong score is noisier and may keep 25."""
    assert prior_size(10**6, variance=0.01, confounding_sd=0.05) == pytest.approx(8.0, rel=1e-3)
    assert prior_size(10**6, variance=0.16, confounding_sd=0.05) == 25.0


def test_a_confounded_log_is_no_surer_than_it_is_wrong() -> None:
    """The old router gives `dear` the hard prompts; both models are equally good. Their priors' claims cover that at 2 sd."""
    rng = np.random.default_rng(11)
    hard = rng.random(4000) < 0.5
    quality = np.where(hard, 0.75, 0.85)
    dear = rng.random(4000) < np.where(hard, 0.9, 0.1)
    score = (rng.random(4000) < quality).astype(float)
    log = log_of([sample(i, "dear" if dear[i] else "cheap", float(score[i])) for i in range(4000)])
    arms = make_priors(log)["sums"]
    for arm in arms.values():
        claimed_sd = (0.16 / arm["effective_sample_size"]) ** 0.5
        assert abs(arm["quality"] - 0.8) < 2.0 * claimed_sd
    assert arms["cheap"]["quality"] > arms["dear"]["quality"]  # wrong all the same: hence the warning


def full(n: int = 20) -> list[Sample]:
    return [
        sample(i, model, float(i % 5 > 0) if model == "a" else 0.1 + i / 40, category=category)
        for category in ("law", "sums")
        for model in ("a", "b")
        for i in range(n)
    ]


def test_environment_has_the_logs_figures() -> None:
    spec = log_environment(log_of([*full(), *[sample(100 + i, "a", None) for i in range(20)]]))
    arm = spec.categories["sums"].models["a"]
    assert (arm.score.kind, arm.score.mean, arm.cost_usd.mean) == ("binary", 0.8, 0.01)
    assert spec.categories["sums"].models["b"].score.kind == "continuous"
    assert [spec.categories[name].weight for name in ("law", "sums")] == [0.4, 0.6]
    assert Environment(spec).draw(np.random.default_rng(0)).scores.shape == (2,)


@pytest.mark.parametrize(
    ("samples", "told"),
    [
        ([sample(i, "a", 1.0) for i in range(30)], "one model only (a): there is nothing to choose"),
        (full(19), "needs 20 scored requests of every model in every category; fewer have law × a (19), law × b (19)"),
        ([*full(), sample(0, "c", 1.0)], "law × c (0), sums × c (1): leave models or categories out (--leave-out NAME)"),
        (
            [each._replace(cost_usd=None) if each.model == "b" else each for each in full()],
            "no cost is known of law × b, sums × b",
        ),
    ],
)
def test_environments_that_cannot_be_made(samples: list[Sample], told: str) -> None:
    with pytest.raises(DatasetError) as caught:
        log_environment(log_of(samples))
    assert told in str(caught.value)


def test_imbalances_are_named_worst_first() -> None:
    rng = np.random.default_rng(2)
    alike = [sample(i, model, None, tokens=float(rng.integers(90, 110))) for model in ("a", "b") for i in range(200)]
    assert imbalances(log_of(alike)) == []
    longer = [each._replace(input_tokens=(each.input_tokens or 0.0) * 3.0) if each.model == "b" else each for each in alike]
    (told,) = imbalances(log_of(longer))
    assert told.startswith("sums: b got prompts 3 times as long as the others' (standardised difference 1")
    shorter = [each._replace(model="c", input_tokens=40.0 + i % 3) for i, each in enumerate(alike[:50])]
    assert sum("prompts" in each for each in imbalances(log_of([*longer, *shorter]))) == 3
    later = [each._replace(time=(each.time or 0.0) + 500.0) if each.model == "b" else each for each in alike]
    (told,) = imbalances(log_of(later))
    assert told.startswith("sums: b was used later than the others")


def test_too_few_to_compare_is_no_sign() -> None:
    assert imbalances(log_of([sample(i, "a" if i else "b", None, tokens=1.0 + 1000.0 * (not i)) for i in range(40)])) == []

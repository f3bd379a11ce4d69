"""Who may play a course: the production router, textbook policies, and some that are told the truth.

All see the same requests, feedback when it comes, which models there are, and an operator's weights.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, Protocol

import numpy as np

from banditroute.core import baselines
from banditroute.core.posterior_baselines import BetaThompson, GaussianThompson, LinUCB
from banditroute.lab.course import Course, Phase
from banditroute.lab.datasets import Dataset
from banditroute.lab.extract import declared
from banditroute.lab.peers import PEERS, make_peer
from banditroute.lab.results import INVERTED, ORACLE, ROUTER, WARM
from banditroute.lab.router_policy import Priors, RouterPolicy
from banditroute.lab.source import model_costs_usd

RULES, CHEAPEST, PRICIEST, BEST_FIXED, RANDOM = "rules", "cheapest", "priciest", "best-fixed", "random"
POLICIES = (
    ROUTER,
    "epsilon-greedy",
    "ucb1",
    "beta-ts",
    "gaussian-ts",
    "linucb",
    RULES,
    RANDOM,
    CHEAPEST,
    PRICIEST,
    BEST_FIXED,
    ORACLE,
)
"""What can be played. `best-fixed` and `category-oracle` are told the truth: bounds, not rivals."""
RULES_SAMPLES = 30
"""Of each category: what a team would try before it writes its table of rules."""
_NOTHING: Mapping[str, Any] = {}


class Learner(Protocol):
    """Plays one course, request by request."""

    def enter(self, phase: Phase) -> None:
        """What is configured from the next request on."""

    def pick(self, request: int, category: int) -> int:
        """The index of the model for a request."""

    def tell(self, request: int, *, score: float, cost_usd: float) -> None:
        """Feedback on an earlier pick: a score in [0, 1], and USD."""

    def tell_failed(self, request: int) -> None:
        """The call of an earlier pick failed."""


class Baseline:
    """A textbook policy. It cannot tell that feedback comes twice, or is corrected: it learns each time, from what is said.
    A call that failed is worth a score of 0."""

    def __init__(self, policy: baselines.Policy, utility: baselines.Utility) -> None:
        self._policy = policy
        self._utility = utility
        self._models: tuple[int, ...] = ()
        self._made: dict[int, tuple[int, int]] = {}

    def enter(self, phase: Phase) -> None:
        self._models = tuple(np.flatnonzero(phase.present).tolist())
        self._policy.reweigh(self._utility._replace(cost_weight=phase.cost_weight))

    def pick(self, request: int, category: int) -> int:
        model = self._policy.pick(category, self._models)
        self._made[request] = category, model
        return model

    def tell(self, request: int, *, score: float, cost_usd: float) -> None:
        category, model = self._made[request]
        self._policy.update(category=category, model=model, score=score, cost_usd=cost_usd)

    def tell_failed(self, request: int) -> None:
        self.tell(request, score=0.0, cost_usd=0.0)


class Table:
    """A model for each category and phase. Learns nothing.

    `choose` gives each category's model for a phase, as indices.
    """

    def __init__(self, choose: Callable[[Phase], Sequence[int]]) -> None:
        self._choose = choose
        self._models: Sequence[int] = ()

    def enter(self, phase: Phase) -> None:
        self._models = self._choose(phase)

    def pick(self, request: int, category: int) -> int:
        return self._models[category]

    def tell(self, request: int, *, score: float, cost_usd: float) -> None:
        pass

    def tell_failed(self, request: int) -> None:
        pass


class Begun(NamedTuple):
    """What a router starts from: priors, and what goes into its configuration as it is, in all and in each category."""

    priors: Priors | None = None
    of_all: Mapping[str, Any] = _NOTHING
    of_category: Mapping[str, Any] = _NOTHING


def make_learner(name: str, course: Course, *, seed: int, begun: Begun = Begun()) -> AbstractContextManager[Learner]:  # noqa: B008
    """One of POLICIES or of the peers, to be left when the course is over. Its draws depend on `seed` and its name only.

    Raises ValueError for an unknown name; ConfigError where the router refuses the configuration, DatasetError where
    priors fit nothing; ImportError where a peer is not installed.
    """
    stem = ROUTER if name in (WARM, INVERTED) else name  # the same randomness for what is to be compared
    drawn = int(np.random.default_rng([seed, zlib.crc32(stem.encode())]).integers(2**31))
    if stem == ROUTER:
        return router_of(course, seed=drawn, begun=begun)
    if name in PEERS:
        return nullcontext(make_peer(name, course, seed=drawn))
    source = course.source
    categories, models = len(source.categories), len(source.models)
    rng, utility = random.Random(drawn), course.utility
    policy: baselines.Policy
    match name:
        case "epsilon-greedy":
            policy = baselines.EpsilonGreedy(categories=categories, models=models, utility=utility, rng=rng)
        case "ucb1":
            policy = baselines.UCB1(categories=categories, models=models, utility=utility)
        case "beta-ts":
            costs_usd: list[float] = model_costs_usd(source).tolist()
            policy = BetaThompson(categories=categories, models=models, utility=utility, rng=rng, model_costs_usd=costs_usd)
        case "gaussian-ts":
            policy = GaussianThompson(categories=categories, models=models, utility=utility, rng=rng)
        case "linucb":
            policy = LinUCB(categories=categories, models=models, utility=utility)
        case "random":
            policy = baselines.Random(rng=rng)
        case _:
            return nullcontext(Table(_table(name, course, seed=drawn)))
    return nullcontext(Baseline(policy, utility))


def router_of(course: Course, *, seed: int, begun: Begun = Begun(), recording: bool = False) -> RouterPolicy:  # noqa: B008
    """The router before the first request of a course; `recording`: it keeps its propensities."""
    first, values = course.phases[0], course.stream.features
    of_category, features = begun.of_category, None
    if isinstance(course.source, Dataset) and values is not None and course.source.features is not None:
        names = course.source.feature_names
        of_category = {"features": declared(names, course.source.features), **of_category}
        features = [dict(zip(names, row, strict=True)) for row in values.tolist()]
    return RouterPolicy(
        categories=course.source.categories,
        models=course.source.models,
        model_costs_usd=first.list_costs_usd.tolist(),
        utility=course.utility,
        seed=seed,
        priors=begun.priors,
        present=first.present.tolist(),
        of_all=begun.of_all,
        of_category=of_category,
        features=features,
        recording=recording,
    )


def _table(name: str, course: Course, *, seed: int) -> Callable[[Phase], Sequence[int]]:
    categories = len(course.source.categories)
    match name:
        case "category-oracle":
            return lambda phase: phase.utilities.argmax(axis=1).tolist()
        case "cheapest":
            return lambda phase: [int(np.where(phase.present, phase.list_costs_usd, np.inf).argmin())] * categories
        case "priciest":
            return lambda phase: [int(np.where(phase.present, phase.list_costs_usd, -np.inf).argmax())] * categories
        case "best-fixed":
            lost = np.minimum(course.gaps, 1e6).sum(axis=0)
            return lambda phase: [int(np.where(phase.present, lost, np.inf).argmin())] * categories
        case "rules":
            tried = _tried(course, seed=seed)
            return lambda phase: np.where(phase.present, tried, -np.inf).argmax(axis=1).tolist()
        case _:
            raise ValueError(f"unknown policy {name!r}; known: {', '.join(POLICIES)}")


def _tried(course: Course, *, seed: int) -> np.typing.NDArray[np.float64]:
    """Mean utilities of RULES_SAMPLES requests of each category, before anything happens: shape (categories, models)."""
    rng, source, utility = np.random.default_rng(seed), course.source, course.utility
    rows = []
    for category in range(len(source.categories)):
        draws = [source.draw_of(category, rng) for _ in range(RULES_SAMPLES)]
        rows.append(np.mean([d.scores - utility.cost_weight * d.costs_usd / utility.cost_reference_usd for d in draws], axis=0))
    return np.array(rows)

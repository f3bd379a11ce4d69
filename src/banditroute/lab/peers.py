"""Other projects' learners on the same course. Needs the extra `peers`.

All are told a request's category, as one-hot features, and optimise what the router does, the utility of what they picked: as
a reward in [0, 1] (`Utility.unit_reward`), which is what they are made for, from feedback as it comes. They have their packages'
own settings for a cold start but for what is said here. None can tell that feedback comes twice, or is corrected: they learn
each time, from what is said. A call that failed is worth a score of 0. What each does of models that come and go is said with it.
"""

from __future__ import annotations

import importlib
import logging
import random
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np

from banditroute.core.baselines import Utility
from banditroute.lab.course import Course, Phase

_PACKAGES = {"vowpalwabbit": "vowpalwabbit", "mabwiser": "mabwiser", "paretobandit": "pareto_bandit"}
PEERS = tuple(_PACKAGES)
"""What can be played where the extra `peers` is installed."""


def installed_peers() -> tuple[str, ...]:
    """Those of PEERS that can be played here."""
    return tuple(name for name, package in _PACKAGES.items() if find_spec(package) is not None)


class _Library(Protocol):
    """A package's learner. Categories and models are indices; rewards are in [0, 1]."""

    def offer(self, models: Sequence[int]) -> None:
        """Which models can be picked from now on."""

    def pick(self, request: int, category: int) -> int:
        """The model for a request."""

    def learn(self, request: int, reward: float) -> None:
        """What came of an earlier pick."""


class Peer:
    """A package's learner on a course."""

    def __init__(self, library: _Library, utility: Utility) -> None:
        self._library = library
        self._utility = utility

    def enter(self, phase: Phase) -> None:
        self._library.offer(np.flatnonzero(phase.present).tolist())
        self._utility = self._utility._replace(cost_weight=phase.cost_weight)

    def pick(self, request: int, category: int) -> int:
        return self._library.pick(request, category)

    def tell(self, request: int, *, score: float, cost_usd: float) -> None:
        self._library.learn(request, self._utility.unit_reward(score=score, cost_usd=cost_usd))

    def tell_failed(self, request: int) -> None:
        self.tell(request, score=0.0, cost_usd=0.0)


class VowpalWabbit:
    """`--cb_explore_adf --squarecb` with quadratic features of category and model, on the loss 1 - reward.

    SquareCB (Foster and Rakhlin 2020) as the package has it: gamma_scale 10, gamma_exponent 0.5; losses of all models
    estimated by one linear regression, importance-weighted (`--cb_type mtr`). Models that are absent are no actions then.
    """

    def __init__(self, *, categories: int, models: int, seed: int) -> None:
        package = _imported("vowpalwabbit")
        self._workspace = package.Workspace(f"--cb_explore_adf --squarecb -q CM --quiet --random_seed {seed}")
        self._labelled = package.LabelType.CONTEXTUAL_BANDIT
        self._rng = random.Random(seed)
        self._models: Sequence[int] = ()
        self._made: dict[int, tuple[int, Sequence[int], int, float]] = {}

    def offer(self, models: Sequence[int]) -> None:
        self._models = tuple(models)

    def pick(self, request: int, category: int) -> int:
        chances = self._workspace.predict(_actions(category, self._models))
        place = self._rng.choices(range(len(chances)), weights=chances)[0]
        self._made[request] = category, self._models, place, chances[place]
        return self._models[place]

    def learn(self, request: int, reward: float) -> None:
        category, models, place, chance = self._made[request]
        text = _actions(category, models, label=(place, f"0:{1.0 - reward}:{chance} "))
        examples = self._workspace.parse(text, self._labelled)
        self._workspace.learn(examples)
        self._workspace.finish_example(examples)  # or it keeps them: 1 GB a minute


def _actions(category: int, models: Sequence[int], label: tuple[int, str] | None = None) -> str:
    """An example in the package's text format."""
    lines = [f"|M m{model}" for model in models]
    if label is not None:
        place, told = label
        lines[place] = told + lines[place]
    return "\n".join([f"shared |C c{category}", *lines])


class MabWiser:
    """`LearningPolicy.LinUCB` of MABWiser (Strong, Kleynhans and Kadıoğlu 2021): alpha 1, l2_lambda 1.

    A ridge regression for each model. One that is removed forgets what it had learned.
    """

    def __init__(self, *, categories: int, models: int, seed: int) -> None:
        package = _imported("mabwiser", "mabwiser.mab")
        self._contexts = np.eye(categories)
        self._bandit = package.MAB(arms=list(range(models)), learning_policy=package.LearningPolicy.LinUCB(), seed=seed)
        self._bandit.fit(np.zeros(0, dtype=np.int64), np.zeros(0), np.zeros((0, categories)))
        self._made: dict[int, tuple[int, int]] = {}

    def offer(self, models: Sequence[int]) -> None:
        for model in set(self._bandit.arms) - set(models):
            self._bandit.remove_arm(model)
        for model in sorted(set(models) - set(self._bandit.arms)):
            self._bandit.add_arm(model)

    def pick(self, request: int, category: int) -> int:
        model = int(self._bandit.predict(self._contexts[category : category + 1]))
        self._made[request] = category, model
        return model

    def learn(self, request: int, reward: float) -> None:
        category, model = self._made[request]
        if model in self._bandit.arms:  # else nobody is left who could learn it
            self._bandit.partial_fit([model], [reward], self._contexts[category : category + 1])


class ParetoBandit:
    """`BanditRouter.route` and `process_feedback` of ParetoBandit, without priors, with the alpha (0.05) and the forgetting
    (0.997) that the package recommends for that. These are made for 25 components of unit variance and a bias: a one-hot feature
    here is 5, not 1, so that contexts are as long as those, and exploration as wide. That was chosen after looking: with 1 it
    lost several times as much on the shipped environments.

    Cost is in the reward; its own price of cost (`cost_penalty`) is 0 and no budget is set: its penalty goes by the logarithm of
    list prices, which is another trade-off than the one that all are judged by. Models that are absent are out of its registry,
    and keep what was learned.
    """

    def __init__(self, *, categories: int, models: int, seed: int) -> None:
        package = _imported("paretobandit", "pareto_bandit")
        features = importlib.import_module("pareto_bandit.feature_service")
        cold = importlib.import_module("pareto_bandit.config").BEST_K3_TABULA_RASA_HPARAMS
        logging.getLogger("pareto_bandit").setLevel(logging.ERROR)
        self._contexts = np.hstack([5.0 * np.eye(categories), np.ones((categories, 1))])
        self._router = package.BanditRouter.create(
            model_registry={f"m{k}": {"input_cost_per_m": 1.0, "output_cost_per_m": 1.0} for k in range(models)},
            priors="none",
            bandit_seed=seed,
            feature_service=features.FeatureService.for_precomputed(dimension=categories + 1),
            cost_penalty=0.0,
            alpha=cold["alpha"],
            forgetting_factor=cold["forgetting_factor"],
        )
        self._entries = dict(self._router.registry)
        self._made: dict[int, str] = {}

    def offer(self, models: Sequence[int]) -> None:
        self._router.registry = {f"m{k}": self._entries[f"m{k}"] for k in models}

    def pick(self, request: int, category: int) -> int:
        model, log = self._router.route(self._contexts[category])
        self._made[request] = log.request_id
        return int(model[1:])

    def learn(self, request: int, reward: float) -> None:
        self._router.process_feedback(self._made[request], reward)


def make_peer(name: str, course: Course, *, seed: int) -> Peer:
    """One of PEERS. Raises ImportError, which says what to install."""
    kinds: dict[str, Callable[..., _Library]] = {"vowpalwabbit": VowpalWabbit, "mabwiser": MabWiser, "paretobandit": ParetoBandit}
    source = course.source
    library = kinds[name](categories=len(source.categories), models=len(source.models), seed=seed)
    return Peer(library, course.utility)


def _imported(name: str, module: str = "") -> Any:
    try:
        return importlib.import_module(module or name)
    except ImportError as error:
        raise ImportError(f"the peer {name} needs an extra: pip install 'banditroute[peers]'") from error

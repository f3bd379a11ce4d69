"""Other libraries' picks among four arms, each on a state that has just learned. Needs `pip install banditroute[peers]`."""

from __future__ import annotations

import importlib
import logging
import os
import random
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from banditroute.bench.timing import Call, Subject

NOT_INSTALLED = "not installed"
ARMS = 4
FEATURES = 26
"""ParetoBandit's own: 25 principal components of an embedding, and a bias."""

WARM = 100


def subjects() -> tuple[dict[str, Subject], list[str]]:
    """Those that are installed, by name, and the names of those that are not."""
    found: dict[str, Subject] = {}
    missing = []
    for name, make in _PEERS.items():
        try:
            found[name] = make()
        except ImportError:
            missing.append(name)
    return found, missing


def _contexts() -> Callable[[], NDArray[np.float64]]:
    rng = np.random.default_rng(0)

    def one() -> NDArray[np.float64]:
        return np.append(rng.normal(size=FEATURES - 1), 1.0)

    return one


def _pareto_bandit() -> Subject:
    """`BanditRouter.route` on features worked out beforehand, with the package's values for a cold start."""
    package = importlib.import_module("pareto_bandit")
    features = importlib.import_module("pareto_bandit.feature_service")
    logging.getLogger("pareto_bandit").setLevel(logging.CRITICAL)
    models = {f"model-{i}": {"input_cost_per_m": 0.5 + 0.1 * i, "output_cost_per_m": 2.0} for i in range(ARMS)}
    service = features.FeatureService.for_precomputed(dimension=FEATURES)
    router = package.BanditRouter.create(model_registry=models, priors="none", bandit_seed=0, feature_service=service)
    rng, context = random.Random(0), _contexts()
    last = router.route(context())[1]

    def decide(x: NDArray[np.float64]) -> None:
        nonlocal last
        _, last = router.route(x)

    def ready() -> Call:
        router.process_feedback(last.request_id, float(rng.random() < 0.6))
        x = context()
        return lambda: decide(x)

    return ready


def _pareto_bandit_pair() -> Subject:
    """`route` and then `process_feedback` on its own request: what one decision costs with all that follows."""
    package = importlib.import_module("pareto_bandit")
    features = importlib.import_module("pareto_bandit.feature_service")
    logging.getLogger("pareto_bandit").setLevel(logging.CRITICAL)
    models = {f"model-{i}": {"input_cost_per_m": 0.5 + 0.1 * i, "output_cost_per_m": 2.0} for i in range(ARMS)}
    service = features.FeatureService.for_precomputed(dimension=FEATURES)
    router = package.BanditRouter.create(model_registry=models, priors="none", bandit_seed=0, feature_service=service)
    rng, context = random.Random(0), _contexts()

    def pair(x: NDArray[np.float64], reward: float) -> None:
        router.process_feedback(router.route(x)[1].request_id, reward)

    def ready() -> Call:
        x, reward = context(), float(rng.random() < 0.6)
        return lambda: pair(x, reward)

    return ready


def _litellm() -> Subject:
    """`Router.get_available_deployment` with its default strategy: a weighted shuffle among healthy deployments."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # or importing it asks the internet
    package = importlib.import_module("litellm")
    deployments = [
        {
            "model_name": "chat",
            "litellm_params": {"model": f"openai/model-{i}", "api_key": "none", "api_base": "http://127.0.0.1:9"},
        }
        for i in range(ARMS)
    ]
    router: Any = package.Router(model_list=deployments)
    messages = [{"role": "user", "content": "hello"}]
    return lambda: lambda: router.get_available_deployment(model="chat", messages=messages)


def _mabwiser(policy: str, *, contextual: bool) -> Subject:
    """`MAB.predict` with the policy's defaults."""
    package = importlib.import_module("mabwiser.mab")
    arms = list(range(ARMS))
    mab: Any = package.MAB(arms=arms, learning_policy=getattr(package.LearningPolicy, policy)(), seed=0)
    rng, context = random.Random(0), _contexts()
    told = [(arm, round(rng.random())) for _ in range(WARM) for arm in arms]
    decisions, rewards = [arm for arm, _ in told], [reward for _, reward in told]
    mab.fit(decisions, rewards, *([np.array([context() for _ in told])] if contextual else []))

    def ready() -> Call:
        x = [context()[None, :]] if contextual else []
        mab.partial_fit([rng.randrange(ARMS)], [round(rng.random())], *x)
        return lambda: mab.predict(*x)

    return ready


_PEERS: dict[str, Callable[[], Subject]] = {
    "litellm_router_pick": _litellm,
    "paretobandit_route_and_feedback": _pareto_bandit_pair,
    "paretobandit_route": _pareto_bandit,
    "mabwiser_thompson_predict": lambda: _mabwiser("ThompsonSampling", contextual=False),
    "mabwiser_linucb_predict": lambda: _mabwiser("LinUCB", contextual=True),
}
NAMES = tuple(_PEERS)
"""All that can be measured here."""

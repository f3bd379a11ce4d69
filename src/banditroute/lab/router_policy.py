"""The production router as a policy to be replayed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from banditroute import logs
from banditroute.config import load
from banditroute.core.baselines import Utility
from banditroute.core.errors import DatasetError
from banditroute.core.types import Attempt, Candidate, ErrorKind, JournalRow, RouteQuery, Signal, SignalKind
from banditroute.engine import Engine
from banditroute.lab.course import Phase
from banditroute.lab.direct import Direct
from banditroute.lab.source import FloatArray, IntArray
from banditroute.tokens import DecisionToken

Priors = Mapping[str, Mapping[str, Mapping[str, float | None]]]
"""{category: {model: {quality, effective_sample_size, output_tokens?}}}; the category "*" speaks for all not named."""

START_TIME = 1_750_000_000.0
SECONDS_PER_REQUEST = 30.0
INPUT_TOKENS = 1000
USD_PER_MTOK = 1_000_000 / INPUT_TOKENS
"""Every request stands for 1,000 input tokens, so 1,000 x a model's mean cost is its price per million."""
_NOTHING: Mapping[str, Any] = {}
_NO_FEATURES: Mapping[str, float] = {}
_TIMED_OUT = (Attempt(error=ErrorKind.TIMEOUT),)


class Beliefs(NamedTuple):
    """Of each cell's quality: mean and standard deviation, and how many observations it had; shapes (categories, models). NaN,
    and 0 observations, for models that are not configured."""

    mean: FloatArray
    stddev: FloatArray
    feedback_counts: IntArray


class RouterPolicy:
    """The engine that serves, driven directly (`lab/direct.py`), on a simulated clock of 30 s a request, and a seed, that logs no
    warnings.

    It is told each model's mean cost as a list price, and with the feedback what the request really cost. `present`:
    which models are configured at first (default: all); `of_all` and `of_category` go into the configuration as they are,
    the latter into each category's. `features`: each request's, as the configuration declares
    them. `recording`: each pick's probabilities are kept.
    Raises ConfigError where the router refuses the configuration, DatasetError where the priors fit nothing.
    """

    def __init__(
        self,
        *,
        categories: Sequence[str],
        models: Sequence[str],
        model_costs_usd: Sequence[float],
        utility: Utility,
        seed: int,
        priors: Priors | None = None,
        present: Sequence[bool] | None = None,
        of_all: Mapping[str, Any] = _NOTHING,
        of_category: Mapping[str, Any] = _NOTHING,
        features: Sequence[Mapping[str, float]] | None = None,
        recording: bool = False,
    ) -> None:
        # Short names: a data set's own may be none that a configuration allows.
        self._categories = {name: f"c{i}" for i, name in enumerate(categories)}
        self._models = {name: f"m{k}" for k, name in enumerate(models)}
        self._now = START_TIME
        self._tokens: dict[int, DecisionToken] = {}
        self._features = features
        self._recorded: list[tuple[Candidate, ...]] | None = [] if recording else None
        self._of_all = {"store": "memory:", **of_all}
        self._of_category = {
            "cost_weight": utility.cost_weight,
            "cost_reference_usd": utility.cost_reference_usd,
            **of_category,
        }
        if priors is not None:
            self._of_all["priors"] = self._translated(priors)
        self._configured = tuple(model_costs_usd), tuple([True] * len(models) if present is None else present)
        self._cost_weight = utility.cost_weight
        config = self._config(*self._configured)
        self._direct = Direct(config, clock=lambda: self._now, seed=seed)
        self._quiet = logs.quiet()

    @property
    def engine(self) -> Engine:
        """What decides and learns."""
        return self._direct.engine

    def __enter__(self) -> RouterPolicy:
        self._quiet.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._quiet.__exit__(kind, error, trace)
        self.engine.close()

    def enter(self, phase: Phase) -> None:
        configured = tuple(phase.list_costs_usd.tolist()), tuple(phase.present.tolist())
        if configured != self._configured:
            self._configured = configured
            self.engine.reload(load(self._config(*configured)).shared)
        if phase.cost_weight != self._cost_weight:
            self._cost_weight = phase.cost_weight
            for name in self._categories.values():
                self.engine.set_weights(name, {"cost_weight": phase.cost_weight}, reason="the scenario says so", actor="library")

    def pick(self, request: int, category: int) -> int:
        self._now += SECONDS_PER_REQUEST
        features = _NO_FEATURES if self._features is None else self._features[request]
        token, plan = self._direct.route(RouteQuery(f"c{category}", features, INPUT_TOKENS, 0))
        self._tokens[request] = token
        if self._recorded is not None:
            self._recorded.append(plan.candidates)
        return int(token.model[1:])

    def tell(self, request: int, *, score: float, cost_usd: float | None = None, source: str = "replay") -> None:
        """What came of any earlier pick, in the words of `source`."""
        signal = Signal(SignalKind.EVAL_SCORE, score, source)
        attempts = () if cost_usd is None else (Attempt(cost_usd=cost_usd),)
        self._direct.feedback(self._tokens[request], (signal,), attempts)

    def tell_failed(self, request: int) -> None:
        """The call of an earlier pick timed out."""
        self._direct.feedback(self._tokens[request], (), _TIMED_OUT)

    def propensities(self) -> FloatArray:
        """With which each request's model was picked, of shape (requests, models); only of one that is `recording`."""
        assert self._recorded is not None, "it does not record"
        propensities = np.zeros((len(self._recorded), len(self._models)))
        for request, candidates in enumerate(self._recorded):
            for candidate in candidates:
                propensities[request, int(candidate.model[1:])] = candidate.propensity
        return propensities

    def shares(self) -> FloatArray:
        """The probability of each model in each category if a request came now; shape (categories, models)."""
        shares = np.zeros((len(self._categories), len(self._models)))
        for c in range(len(shares)):
            query = RouteQuery(f"c{c}", input_tokens=INPUT_TOKENS, output_tokens=0)
            plan = self.engine.snapshot.view(f"c{c}").plan(query)
            for model, share in zip(plan.models, plan.propensities, strict=True):
                shares[c, int(model[1:])] = share
        return shares

    def journal(self) -> list[JournalRow]:
        """All of it, oldest first; categories are named c0, c1 ..., models m0, m1 ..., in the order given."""
        return self.engine.journal(limit=1_000_000)[::-1]

    def beliefs(self) -> Beliefs:
        """What the router believes now, at the mean context, as its reports say it."""
        reports = [self.engine.category(name) for name in self._categories.values()]
        shape = len(self._categories), len(self._models)
        beliefs = Beliefs(np.full(shape, np.nan), np.full(shape, np.nan), np.zeros(shape, dtype=np.int64))
        for c, report in enumerate(reports):
            for arm in report.arms:
                k = int(arm.model[1:])
                beliefs.mean[c, k], beliefs.stddev[c, k] = arm.quality_mean, arm.quality_stddev
                beliefs.feedback_counts[c, k] = arm.feedback_count
        return beliefs

    def _config(self, model_costs_usd: Sequence[float], present: Sequence[bool]) -> dict[str, Any]:
        prices = {
            name: {"input_usd_per_mtok": usd * USD_PER_MTOK, "output_usd_per_mtok": 0.0}
            for name, usd, here in zip(self._models.values(), model_costs_usd, present, strict=True)
            if here
        }
        category = {"models": list(prices), **self._of_category}
        return {**self._of_all, "models": prices, "categories": {name: dict(category) for name in self._categories.values()}}

    def _translated(self, priors: Priors) -> dict[str, dict[str, dict[str, float | None]]]:
        """The priors of what the source has, under the short names."""
        names = self._categories | {"*": "*"}
        translated = {}
        for category, arms in priors.items():
            mine = {self._models[model]: dict(prior) for model, prior in arms.items() if model in self._models}
            if category in names and mine:
                translated[names[category]] = mine
        if not translated:
            raise DatasetError("the priors name no category and model of the data set; give priors made for the same names")
        return translated

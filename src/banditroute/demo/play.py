"""The clients of the demo: threads that ask for a model, look up what it would have answered, and say how it went."""

from __future__ import annotations

import random
import threading
import time
from typing import Any, NamedTuple

import numpy as np

from banditroute.client import Client, RequestFailed
from banditroute.demo.scenario import REQUEST_TOKENS, Scenario
from banditroute.lab.datasets import Dataset
from banditroute.lab.source import Draw, FloatArray

KINDS = ("eval_score", "rating", "accepted", "retried", "none")
KIND_SHARES = (0.6, 0.15, 0.1, 0.05, 0.1)
"""How often which kind of judgement follows a request; in a tenth of cases nobody judges."""

FIRST_TOKEN_S, TOKENS_PER_S = 0.3, 60.0
"""Latency is made up from the answer's length: the data has none."""


class Played(NamedTuple):
    """One request that was served. `scores` (models,) in [0, 1] and `costs_usd` (models,) say what each model is
    worth to it: the row of a data set, or the true means of an environment's category."""

    category: int
    model: int
    scores: FloatArray
    costs_usd: FloatArray
    time: float


class Players:
    """Client threads against one server; `played` grows while they run.

    They end by themselves after `seconds` or `requests`, whichever comes first; or with `stop`.
    """

    def __init__(
        self, scenario: Scenario, address: str, *, threads: int, seconds: float, requests: int, seed: int | None = None
    ) -> None:
        self.played: list[Played] = []
        self.example = ""
        self.failure: RequestFailed | None = None
        self._scenario, self._source = scenario, scenario.source
        self._models = {name: k for k, name in enumerate(self._source.models)}
        self._full_rows = isinstance(self._source, Dataset)
        self._client = Client(address, channels=min(threads, 4), timeout_s=15.0)
        self._seconds, self._requests = seconds, requests
        self._end = 0.0
        self._ended = threading.Event()
        seeds = np.random.SeedSequence(seed).spawn(threads)
        self._threads = [threading.Thread(target=self._run, args=(each,), name="demo-client", daemon=True) for each in seeds]

    def start(self) -> None:
        self._end = time.monotonic() + self._seconds
        for thread in self._threads:
            thread.start()

    @property
    def running(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def wait(self, timeout_s: float) -> bool:
        """Waits until all have ended, and says whether they have."""
        until = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        return not self.running

    def stop(self) -> None:
        """Ends after the requests under way. Idempotent."""
        self._ended.set()
        self.wait(20.0)
        self._client.close()

    def _run(self, seed: np.random.SeedSequence) -> None:
        rng = np.random.default_rng(seed)
        try:
            while not self._ended.is_set() and time.monotonic() < self._end and len(self.played) < self._requests:
                self._play(self._source.draw(rng), random.Random(int(rng.integers(2**63))))
        except RequestFailed as error:
            self.failure = self.failure or error
            self._ended.set()

    def _play(self, draw: Draw, rng: random.Random) -> None:
        response = self._client.route(self._source.categories[draw.category], **self._asked(draw))
        model = self._models[response.model]
        self._client.feedback(
            response.decision_id,
            cost_usd=float(draw.costs_usd[model]),
            source="demo",
            **self._usage(draw, model),
            **judgement(float(draw.scores[model]), rng),
        )
        scores, costs = draw.scores, draw.costs_usd
        if not self._full_rows:
            scores, costs = self._source.mean_scores[draw.category], self._source.mean_costs_usd[draw.category]
        self.played.append(Played(draw.category, model, scores, costs, time.monotonic()))
        self.example = response.decision_id

    def _asked(self, draw: Draw) -> dict[str, Any]:
        """What a client knows before the call. An environment's costs do not follow its tokens, so there none are told."""
        if not self._scenario.by_token:
            return {"input_tokens": REQUEST_TOKENS, "output_tokens": 0}
        if self._full_rows and draw.input_tokens is not None:
            return {"input_tokens": round(float(draw.input_tokens.mean()))}
        return {}

    def _usage(self, draw: Draw, model: int) -> dict[str, Any]:
        """What a client knows after the call."""
        if not self._scenario.by_token or draw.input_tokens is None or draw.output_tokens is None:
            return {"latency_s": 1.0}
        answer = int(draw.output_tokens[model])
        return {
            "input_tokens": int(draw.input_tokens[model]),
            "output_tokens": answer,
            "latency_s": FIRST_TOKEN_S + answer / TOKENS_PER_S,
            "time_to_first_token_s": FIRST_TOKEN_S,
        }


def judgement(score: float, rng: random.Random) -> dict[str, Any]:
    """One piece of feedback of a random kind, whose expected value is `score`, in [0, 1]."""
    kind = rng.choices(KINDS, KIND_SHARES)[0]
    match kind:
        case "eval_score":
            return {"eval_score": score}
        case "rating":
            stars, rest = divmod(4.0 * score, 1.0)
            return {"rating": (1.0 + stars + (rng.random() < rest), 1.0, 5.0)}
        case "accepted":
            return {"accepted": rng.random() < score}
        case "retried":
            return {"retried": rng.random() >= score}
        case _:
            return {}

"""The clients of the demo: threads that ask for a model, look up what it would have answered, and say how it went."""

from __future__ import annotations

import math
import random
import threading
import time
from typing import Any, NamedTuple

import numpy as np

from banditroute.client import Client, RequestFailed
from banditroute.demo.scenario import REQUEST_TOKENS, Scenario
from banditroute.lab.datasets import Dataset
from banditroute.lab.source import Draw, FloatArray, Source

KINDS = ("eval_score", "rating", "accepted", "retried", "none")
KIND_SHARES = (0.6, 0.15, 0.1, 0.05, 0.1)
"""How often which kind of judgement follows a request; in a tenth of cases nobody judges."""

FIRST_TOKEN_S, TOKENS_PER_S = 0.3, 60.0
"""Latency is made up from the answer's length: the data has none."""


class Played(NamedTuple):
    """One request that was served. `scores` (models,) in [0, 1] and `costs_usd` (models,) say what each model is
    worth to it: the row of a data set, or the true means of an environment's category; `degraded`, whether a model was
    just then worse than the scenario's source has it."""

    category: int
    model: int
    scores: FloatArray
    costs_usd: FloatArray
    time: float
    degraded: bool = False


class Players:
    """Client threads against one server, from `start` to `stop`; `played` grows while they run.

    `source` (of the scenario's categories and models) and `pace` (requests per second, of all threads together) may be
    set while they run, and hold from the next request on.
    """

    def __init__(self, scenario: Scenario, address: str, *, threads: int, seed: int | None = None) -> None:
        self.played: list[Played] = []
        self.example = ""
        self.failure: RequestFailed | None = None
        self.source: Source = scenario.source
        self.pace = math.inf
        self._scenario = scenario
        self._models = {name: k for k, name in enumerate(self.source.models)}
        self._full_rows = isinstance(self.source, Dataset)
        self._client = Client(address, channels=min(threads, 4), timeout_s=15.0)
        self._ended = threading.Event()
        seeds = np.random.SeedSequence(seed).spawn(threads)
        self._threads = [threading.Thread(target=self._run, args=(each,), name="demo-client", daemon=True) for each in seeds]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def wait(self, timeout_s: float) -> bool:
        """Waits so long, but no longer than they play, and says whether they have ended."""
        return self._ended.wait(timeout_s)

    def stop(self) -> None:
        """Ends after the requests under way. Idempotent."""
        self._ended.set()
        until = time.monotonic() + 20.0
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, until - time.monotonic()))
        self._client.close()

    def _run(self, seed: np.random.SeedSequence) -> None:
        rng = np.random.default_rng(seed)
        due = time.monotonic()
        try:
            while not self._ended.is_set():
                self._play(self.source, rng)
                now = time.monotonic()
                due = max(now, due + len(self._threads) / self.pace)
                if due > now:
                    self._ended.wait(due - now)
        except RequestFailed as error:
            self.failure = self.failure or error
            self._ended.set()

    def _play(self, source: Source, numbers: np.random.Generator) -> None:
        draw, rng = source.draw(numbers), random.Random(int(numbers.integers(2**63)))
        response = self._client.route(source.categories[draw.category], **self._asked(draw))
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
            scores, costs = source.mean_scores[draw.category], source.mean_costs_usd[draw.category]
        degraded = source is not self._scenario.source
        self.played.append(Played(draw.category, model, scores, costs, time.monotonic(), degraded))
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

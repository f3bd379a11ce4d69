"""Plays a course through the production router: picks, probabilities and journal, request by request."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

from banditroute.core.types import JournalRow
from banditroute.lab.happenings import PROMPT, Course, Delivery, Mail, make_mail
from banditroute.lab.router_policy import SECONDS_PER_REQUEST, START_TIME, RouterPolicy
from banditroute.lab.source import FloatArray, IntArray

NEVER = np.iinfo(np.int64).max
"""In place of a request's number, where there is none."""
_NOTHING: Mapping[str, Any] = {}


class Line(NamedTuple):
    """One transition in the journal: the request that it followed, and the model's index; a category's index where it is
    about one arm only."""

    request: int
    kind: str
    model: int
    category: int | None
    body: Mapping[str, Any]


class Voice(NamedTuple):
    """Another source of feedback, never late: it says what is true, but from request `start` on gives `score` to all that
    `model` served."""

    source: str
    model: int
    score: float
    start: int


class Played(NamedTuple):
    """What a run came to. `picks`, `told_at` (the request after which its first feedback came; NEVER) are of shape (requests,),
    `propensities` (requests, models); `shares` (categories, models) as they were just before the requests asked for."""

    picks: IntArray
    told_at: IntArray
    propensities: FloatArray
    shares: Mapping[int, FloatArray]
    lines: tuple[Line, ...]


def play(
    course: Course,
    *,
    seed: int,
    delivery: Delivery = PROMPT,
    voice: Voice | None = None,
    shares_at: Collection[int] = (),
    of_all: Mapping[str, Any] = _NOTHING,
    of_category: Mapping[str, Any] = _NOTHING,
) -> Played:
    """One run through a router of its own, whose draws depend on `seed` only.

    `of_all`, `of_category`: see `RouterPolicy`. Raises ConfigError where the router refuses the configuration.
    """
    first, stream, requests = course.phases[0], course.stream, course.requests
    mail, letters = make_mail(delivery, course, seed=seed), defaultdict[int, list[_Letter]](list)
    picks, told_at = np.empty(requests, dtype=np.int64), np.full(requests, NEVER)
    propensities = np.zeros((requests, len(course.source.models)))
    reloads = {
        phase.start: phase
        for before, phase in zip(course.phases, course.phases[1:], strict=False)
        if not phase.configured_as(before)
    }
    shares = {}
    with RouterPolicy(
        categories=course.source.categories,
        models=course.source.models,
        model_costs_usd=first.list_costs_usd.tolist(),
        utility=course.utility,
        seed=seed,
        present=first.present.tolist(),
        of_all=of_all,
        of_category=of_category,
    ) as policy:
        for step, category in enumerate(stream.categories.tolist()):
            if step in reloads:
                phase = reloads[step]
                policy.reload(model_costs_usd=phase.list_costs_usd.tolist(), present=phase.present.tolist())
            if step in shares_at:
                shares[step] = policy.shares()
            picks[step] = model = policy.pick(category)
            decision = policy.decision
            for candidate in decision.candidates:
                propensities[step, int(candidate.model[1:])] = candidate.propensity
            _post(letters, mail, delivery, step, model, decision.id)
            for letter in letters.pop(step, ()):
                if letter.first:
                    told_at[letter.request] = step
                if course.phases[course.phase_of[letter.request]].failing[letter.model]:
                    policy.tell_failed(letter.decision_id)
                    continue
                cost_usd = float(stream.costs_usd[letter.request, letter.model])
                score = float(stream.scores[letter.scored, letter.model])
                policy.tell(letter.decision_id, score=score, cost_usd=cost_usd)
            if voice is not None:
                lies = step >= voice.start and model == voice.model
                policy.tell(decision.id, score=voice.score if lies else float(stream.scores[step, model]), source=voice.source)
        lines = tuple([_line(row) for row in policy.journal() if "model" in row.body])
    return Played(picks, told_at, propensities, shares, lines)


class _Letter(NamedTuple):
    request: int
    model: int
    decision_id: str
    scored: int
    first: bool


def _post(letters: dict[int, list[_Letter]], mail: Mail, delivery: Delivery, step: int, model: int, decision_id: str) -> None:
    if not mail.comes[step]:
        return
    scored = int(mail.first_told[step])
    copies = int(mail.copies[step])
    letters[step + delivery.late] += [_Letter(step, model, decision_id, scored, copy == 0) for copy in range(copies)]
    if scored != step:
        letters[step + delivery.late + max(1, delivery.late)].append(_Letter(step, model, decision_id, step, first=False))


def _line(row: JournalRow) -> Line:
    request = round((row.append_time_us * 1e-6 - START_TIME) / SECONDS_PER_REQUEST) - 1
    category = row.body.get("category") or ""
    return Line(request, row.kind, int(row.body["model"][1:]), int(category[1:]) if category else None, row.body)

"""Plays a course, request by request: picks and feedback of any learner; the router's probabilities and journal as well."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

from banditroute.core.types import JournalRow
from banditroute.lab.course import Course
from banditroute.lab.delivery import PROMPT, Delivery, Mail, make_mail
from banditroute.lab.learners import Begun, Learner, router_of
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


def played(
    course: Course,
    learner: Learner,
    mail: Mail,
    delivery: Delivery,
    *,
    before: Callable[[int], None] | None = None,
    after: Callable[[int, int], None] | None = None,
) -> tuple[IntArray, IntArray]:
    """Plays a course: picks, and after which request each one's first feedback came (NEVER); shapes (requests,).

    `before` is called with each request, when the learner knows the phase; `after` with each request and its pick, when
    feedback that was due has come.
    """
    stream, requests = course.stream, course.requests
    letters = defaultdict[int, list[_Letter]](list)
    picks, told_at = np.empty(requests, dtype=np.int64), np.full(requests, NEVER)
    phases = {phase.start: phase for phase in course.phases}
    told, costs_usd = mail.told.tolist(), stream.costs_usd.tolist()
    comes, copies, first_told = mail.comes.tolist(), mail.copies.tolist(), mail.first_told.tolist()
    failing, phase_of = [phase.failing.tolist() for phase in course.phases], course.phase_of.tolist()
    for step, category in enumerate(stream.categories.tolist()):
        if step in phases:
            learner.enter(phases[step])
        if before is not None:
            before(step)
        picks[step] = model = learner.pick(step, category)
        if comes[step]:
            scored = first_told[step]
            letters[step + delivery.late] += [_Letter(step, model, scored, copy == 0) for copy in range(copies[step])]
            if scored != step:
                letters[step + delivery.late + max(1, delivery.late)].append(_Letter(step, model, step, first=False))
        for letter in letters.pop(step, ()):
            if letter.first:
                told_at[letter.request] = step
            if failing[phase_of[letter.request]][letter.model]:
                learner.tell_failed(letter.request)
            else:
                score, cost_usd = told[letter.scored][letter.model], costs_usd[letter.request][letter.model]
                learner.tell(letter.request, score=score, cost_usd=cost_usd)
        if after is not None:
            after(step, model)
    return picks, told_at


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
    begun = Begun(of_all=of_all, of_category=of_category)
    shares = {}
    with router_of(course, seed=seed, begun=begun, recording=True) as router:

        def before(step: int) -> None:
            if step in shares_at:
                shares[step] = router.shares()

        def after(step: int, model: int) -> None:
            if voice is not None:
                lies = step >= voice.start and model == voice.model
                score = voice.score if lies else float(course.stream.scores[step, model])
                router.tell(step, score=score, source=voice.source)

        mail = make_mail(delivery, course, seed=seed)
        picks, told_at = played(course, router, mail, delivery, before=before, after=after)
        return Played(picks, told_at, router.propensities(), shares, lines_of(router))


def lines_of(router: RouterPolicy) -> tuple[Line, ...]:
    """The transitions in a router's journal."""
    return tuple([_line(row) for row in router.journal() if "model" in row.body])


class _Letter(NamedTuple):
    request: int
    model: int
    scored: int
    first: bool


def _line(row: JournalRow) -> Line:
    request = round((row.append_time_us * 1e-6 - START_TIME) / SECONDS_PER_REQUEST) - 1
    category = row.body.get("category") or ""
    return Line(request, row.kind, int(row.body["model"][1:]), int(category[1:]) if category else None, row.body)

"""How feedback comes: late, missing, doubled, corrected, noisy, as marks or as thumbs."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from banditroute.lab.course import Course
from banditroute.lab.happenings import BoolArray
from banditroute.lab.source import FloatArray, IntArray


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """How feedback comes: `late` requests after its own, never (`missing`), twice in a row (`duplicated`), or first
    wrong (`corrected`), as the score of another request of the phase, and right `late` requests afterwards, at the
    earliest one. Shares of requests, independent of one another.

    What is told is the score with normal noise of standard deviation `noise`, clipped to [0, 1]; `as_thumbs`: then 1 with that
    probability, else 0.
    """

    late: int = 0
    missing: float = 0.0
    duplicated: float = 0.0
    corrected: float = 0.0
    noise: float = 0.0
    as_thumbs: bool = False


PROMPT = Delivery()
DIRTY = Delivery(late=200, missing=0.5, duplicated=0.1, corrected=0.05)


@dataclass(frozen=True, eq=False, kw_only=True)
class Mail:
    """A seed's feedback under a `Delivery`: by request whether it comes, how often, and whose score it first tells
    (its own number where that is right); shapes (requests,). `told` is what would be said of each model, (requests, models)."""

    comes: BoolArray
    copies: IntArray
    first_told: IntArray
    told: FloatArray


def make_mail(delivery: Delivery, course: Course, *, seed: int) -> Mail:
    """What becomes of each request's feedback, whichever model serves it."""
    rng = np.random.default_rng([seed, zlib.crc32(b"mail")])
    lost, doubled, wrong, other = rng.random((4, course.requests))
    own = np.arange(course.requests)
    starts = np.array([phase.start for phase in course.phases])
    sizes = np.diff([*starts, course.requests])
    elsewhere = starts[course.phase_of] + np.floor(other * sizes[course.phase_of]).astype(np.int64)
    return Mail(
        comes=lost >= delivery.missing,
        copies=np.where(doubled < delivery.duplicated, 2, 1),
        first_told=np.where(wrong < delivery.corrected, elsewhere, own),
        told=_told(delivery, course.stream.scores, seed=seed),
    )


def _told(delivery: Delivery, scores: FloatArray, *, seed: int) -> FloatArray:
    if delivery.noise == 0.0 and not delivery.as_thumbs:
        return scores
    rng = np.random.default_rng([seed, zlib.crc32(b"told")])
    heard = np.clip(scores + delivery.noise * rng.standard_normal(scores.shape), 0.0, 1.0)
    return (rng.random(scores.shape) < heard).astype(np.float64) if delivery.as_thumbs else heard

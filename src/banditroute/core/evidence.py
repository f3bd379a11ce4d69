"""What one arm has been seen to do: forward-decayed sums, and how one decision's feedback changes them.

Ageing is by forward decay (Cormode, Shkapenyuk, Srivastava, Xu 2009, section 3): every decision's
evidence carries the weight 2^((own - landmark) / half-life), fixed for good by its own place in the
category's stream, and a reader scales the sums by 2^((landmark - now) / half-life). So late
feedback and corrections get exactly the weight that their decision still has, and the order of
arrival does not matter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from banditroute.core.numerics import exp2, pack, packed_size, unpack
from banditroute.core.settings import Feature, number
from banditroute.core.types import ErrorKind

MAX_STANDARD_SCORE = 10.0
USAGE_AGEING_COUNT = 500
"""Feedbacks of the category after which what attempts used counts half: prompts change, and there is little noise to average."""
REBASE_HALF_LIVES = 64
"""The landmark follows in steps of so many half-lives, so that no weight exceeds 2^128 or so."""


class Usage(NamedTuple):
    """Sums over attempts that served, decayed by USAGE_AGEING_COUNT. `computed_usd` is what the price table asked for the
    attempts whose bill (`reported_usd`) is known; bills for what it gives away are `unpriced_usd`, apart,
    lest they raise the ratio once it has a price."""

    input_n: float = 0.0
    input_tokens: float = 0.0
    output_n: float = 0.0
    output_tokens: float = 0.0
    cost_n: float = 0.0
    computed_usd: float = 0.0
    reported_usd: float = 0.0
    latency_n: float = 0.0
    latency_s: float = 0.0
    unpriced_n: float = 0.0
    unpriced_usd: float = 0.0


MAX_USED = 1e12
"""More tokens, dollars or seconds of one attempt are a mistake."""
_NOT_USED = Usage()
_NOT_USAGE = ("error", "observe_us")
_NONE_USED = (0.0, 0.0)
_NO_BILL = (0.0,) * 5


class Cell(NamedTuple):
    """One arm's evidence. With z = (1, standardised features), d = len(z) and w a decision's weight:

    `information` is sum w z z^T (packed upper triangle), `moment` sum w y z, `square` sum w y^2.
    The counts are plain counts of decisions and attempts, never decayed.
    """

    information: tuple[float, ...]
    moment: tuple[float, ...]
    square: float
    usage: Usage
    feedback_count: int
    error_count: int
    off_policy_count: int


def empty_cell(dimension: int) -> Cell:
    """No evidence, for d = `dimension`."""
    return Cell((0.0,) * packed_size(dimension), (0.0,) * dimension, 0.0, Usage(), 0, 0, 0)


class Ageing(NamedTuple):
    """How evidence ages: its half-life in feedbacks of the category or in microseconds, or never.

    Where it was changed: `since` which position, the ordinal and time there, and the `former` half-lives, so
    that a correction finds the weight that its decision was given. One change back is known; a decision
    from before two of them is taken to have aged by the former all along.
    """

    half_life_count: int | None
    half_life_us: int | None
    since: int = 0
    since_ordinal: int = 0
    since_us: int = 0
    former_count: int | None = None
    former_us: int | None = None

    @property
    def half_life(self) -> int | None:
        """In the unit of `place`."""
        return self.half_life_us if self.half_life_count is None else self.half_life_count

    def place(self, *, ordinal: int, time_us: int) -> int:
        """Where a decision stands whose feedback first came as the category's `ordinal`-th, at `time_us`."""
        return time_us if self.half_life_count is None else ordinal

    def weight(self, place: int, *, relative_to: int) -> float:
        """2^((place - relative_to) / half-life); 1 where nothing ages."""
        half_life = self.half_life
        return 1.0 if half_life is None else exp2((place - relative_to) / half_life)

    def half_lives(self, place: int, *, ordinal: int, time_us: int) -> float:
        """`place` in half-lives after what came as the `ordinal`-th, at `time_us`; 0 where nothing ages."""
        if self.half_life_count is not None:
            return (place - ordinal) / self.half_life_count
        return 0.0 if self.half_life_us is None else (place - time_us) / self.half_life_us

    def forward_weight(self, *, position: int, ordinal: int, time_us: int, landmark: int) -> float:
        """The weight of a decision whose feedback first came at `position`, for sums made with `landmark`."""
        if position >= self.since:
            return self.weight(self.place(ordinal=ordinal, time_us=time_us), relative_to=landmark)
        former = Ageing(self.former_count, self.former_us)
        change = former.place(ordinal=self.since_ordinal, time_us=self.since_us)
        left = former.weight(former.place(ordinal=ordinal, time_us=time_us), relative_to=change)
        return left * self.weight(self.place(ordinal=self.since_ordinal, time_us=self.since_us), relative_to=landmark)


def scaled(cell: Cell, factor: float, *, usage: float | None = None) -> Cell:
    """The cell with all decayed sums times `factor`; those of usage times `usage`, if it is given."""
    of_usage = factor if usage is None else usage
    return cell._replace(
        information=tuple(x * factor for x in cell.information),
        moment=tuple(x * factor for x in cell.moment),
        square=cell.square * factor,
        usage=Usage(*(x * of_usage for x in cell.usage)),
    )


def add_reward(
    cell: Cell, *, z: Sequence[float], before: tuple[float, float], after: tuple[float, float], weight: float, off_policy: bool
) -> Cell:
    """The cell after a decision's fused (reward, weight) went from `before` to `after`.

    Weight 0 stands for no reward. `weight` is the decision's forward weight.
    """
    (old_y, old_w), (new_y, new_w) = before, after
    information, moment, square, usage, feedback_count, error_count, off_policy_count = cell
    plain = len(z) == 1  # no features: a loop would take most of the time
    mass = weight * (new_w - old_w)
    if mass != 0.0:
        information = (information[0] + mass,) if plain else _plus_square(information, z, mass)
    shift = weight * (new_w * new_y - old_w * old_y)
    moment = (moment[0] + shift,) if plain else tuple([a + shift * z_i for a, z_i in zip(moment, z, strict=True)])
    square += weight * (new_w * new_y * new_y - old_w * old_y * old_y)
    first = old_w == 0.0 < new_w
    return Cell(
        information, moment, square, usage, feedback_count + first, error_count, off_policy_count + (first and off_policy)
    )


def _plus_square(information: Sequence[float], z: Sequence[float], mass: float) -> tuple[float, ...]:
    """The packed sums plus mass z z^T."""
    terms = [mass * z_i * z_j for i, z_i in enumerate(z) for z_j in z[i:]]
    return tuple([a + b for a, b in zip(information, terms, strict=True)])


def shifted(cell: Cell, by: float) -> Cell:
    """The cell as if every reward had been `by` more."""
    dimension = len(cell.moment)
    ones = cell.information[:dimension]  # sum w z, as z starts with 1
    square = cell.square + by * (2.0 * cell.moment[0] + by * ones[0])
    return cell._replace(
        moment=tuple([total + by * each for total, each in zip(cell.moment, ones, strict=True)]), square=max(0.0, square)
    )


def usage_of(attempt: Mapping[str, Any] | None) -> tuple[Usage, bool]:
    """What one attempt, as a record has it, says of tokens, cost and latency, and whether it failed.

    A failed attempt teaches nothing here: a time-out's latency is not a latency.

    Raises:
        ValueError, KeyError: this is no attempt.
    """
    if attempt is None:
        return _NOT_USED, False
    if attempt["error"] != ErrorKind.NONE:
        return _NOT_USED, True
    values = {}
    for name, value in attempt.items():
        if name not in _NOT_USAGE:
            plain = type(value) is float and 0.0 <= value <= MAX_USED
            values[name] = value if plain else number(value, low=0.0, high=MAX_USED)
    into, out, latency = values.get("input_tokens"), values.get("output_tokens"), values.get("latency_s")
    bills = _NO_BILL
    if "cost_usd" in values and "computed_usd" in values:
        cost, computed = values["cost_usd"], values["computed_usd"]
        bills = (1.0, computed, cost, 0.0, 0.0) if computed > 0.0 else (0.0, 0.0, 0.0, 1.0, cost)
    billed, computed, reported, unpriced, given_away = bills
    in_n, in_tokens = _NONE_USED if into is None else (1.0, into)
    out_n, out_tokens = _NONE_USED if out is None else (1.0, out)
    waits, waited_s = _NONE_USED if latency is None else (1.0, latency)
    return (
        Usage(in_n, in_tokens, out_n, out_tokens, billed, computed, reported, waits, waited_s, unpriced, given_away),
        False,
    )


def add_usage(cell: Cell, *, before: tuple[Usage, bool], after: tuple[Usage, bool], weight: float) -> Cell:
    """The cell after one attempt's (usage, failed) went from `before` to `after`."""
    (old, had_failed), (new, has_failed) = before, after
    information, moment, square, usage, feedback_count, error_count, off_policy_count = cell
    usage = Usage._make([total + weight * (b - a) for total, a, b in zip(usage, old, new, strict=True)])
    return Cell(information, moment, square, usage, feedback_count, error_count + has_failed - had_failed, off_policy_count)


def standardised(raw: Mapping[str, float], features: Sequence[Feature]) -> tuple[float, ...]:
    """z = (1, (x - mean) / stddev ...); a feature that `raw` lacks counts as its mean.

    Cut at +-MAX_STANDARD_SCORE: one value in a wrong unit would pin its slope for good.
    """
    if not features:
        return (1.0,)
    least, most = -MAX_STANDARD_SCORE, MAX_STANDARD_SCORE
    return (1.0, *[min(most, max(least, (raw[f.name] - f.mean) / f.stddev)) if f.name in raw else 0.0 for f in features])


def remapped(cell: Cell, old: Sequence[Feature], new: Sequence[Feature]) -> Cell:
    """The same evidence under another feature schema or standardisation.

    Features of the same name are carried over exactly (z' = A z is linear in z, so the sums become
    A S A^T); dropped ones are marginalised out; new ones start as if they had always been at their
    mean.
    """
    at = {feature.name: i + 1 for i, feature in enumerate(old)}
    rows = [[1.0] + [0.0] * len(old)]
    for feature in new:
        row = [0.0] * (len(old) + 1)
        if feature.name in at:
            was = old[at[feature.name] - 1]
            row[0] = (was.mean - feature.mean) / feature.stddev
            row[at[feature.name]] = was.stddev / feature.stddev
        rows.append(row)
    full = unpack(cell.information, len(old) + 1)
    half = [[_dot(row, column) for column in full] for row in rows]
    return cell._replace(
        information=pack([[_dot(left, row) for row in rows] for left in half]),
        moment=tuple(_dot(row, cell.moment) for row in rows),
    )


def _dot(left: Sequence[float], right: Sequence[float]) -> float:
    total = 0.0
    for a, b in zip(left, right, strict=True):
        total += a * b
    return total


def finite(cell: Cell) -> bool:
    """Whether every sum is a finite number."""
    if math.isfinite(sum(cell.information, 0.0) + sum(cell.moment, 0.0) + cell.square + sum(cell.usage, 0.0)):
        return True  # what is not finite would make that not finite
    return all(map(math.isfinite, (*cell.information, *cell.moment, cell.square, *cell.usage)))

"""What a request costs and how long it takes: learned apart from quality, so that prices act at once.

Every quantity is a ratio to what was expected: tokens to the configuration's, bills to the price table, latency to the
mean of all. It is pooled two ways, as quality is: what the model uses anywhere, times what the category's other models
show that its requests use; the arm's own attempts pull away from that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from banditroute.core.evidence import Cell
from banditroute.core.pool import USAGE_WEIGHT, Pool
from banditroute.core.settings import CategorySettings, Prior
from banditroute.core.sights import FEWEST_TOKENS, SEEN


class Consumption(NamedTuple):
    """What one request of this arm is expected to use, before the price table."""

    input_tokens: float
    output_tokens: float
    cost_ratio: float
    unpriced_usd: float
    latency_s: float | None


class Usual(NamedTuple):
    """What one arm is expected to use of one quantity before the category's own attempts. `open`: what the category's other arms
    show has a say, and this arm has one."""

    amount: float
    open: bool


class Usuals(NamedTuple):
    """By quantity, each arm's: tokens, bills over computed cost, seconds. All that nothing but a refit of the pool or a
    configuration changes."""

    input_tokens: Sequence[Usual]
    output_tokens: Sequence[Usual]
    cost: Sequence[Usual]
    latency: Sequence[Usual] | None


def usuals(settings: CategorySettings, pool: Pool, priors: Sequence[Prior | None]) -> Usuals:
    """What the category's models are expected to use, in their order: the models' own ratios times what is expected.

    A prior that states tokens stands for what the model's and the category's ratios would say.
    """
    known = [pool.of(model) for model in settings.models]
    into, out, common_s = settings.expected_input_tokens, settings.expected_output_tokens, pool.newcomer.latency_s
    return Usuals(
        [_tokens(prior and prior.input_tokens, into, model.input_ratio) for model, prior in zip(known, priors, strict=True)],
        [_tokens(prior and prior.output_tokens, out, model.output_ratio) for model, prior in zip(known, priors, strict=True)],
        [_open(model.cost_ratio) for model in known],
        [_open(common_s if model.latency_s is None else model.latency_s) for model in known] if common_s else None,
    )


def _tokens(stated: float | None, expected: float, ratio: float) -> Usual:
    return _open(max(FEWEST_TOKENS, expected) * ratio) if stated is None else Usual(max(FEWEST_TOKENS, stated), open=False)


def _open(amount: float) -> Usual:
    return Usual(amount, open=amount > 0.0)  # beside a model that never takes any time, nothing is long or short


def consumptions(cells: Sequence[Cell], *, factor: float, usuals: Usuals) -> list[Consumption]:
    """What requests of a category use, in the order of `cells` and of the category's models.

    What the price table says costs nothing costs what its bills say (`unpriced_usd`).

    Args:
        factor: what the cells' sums must be multiplied by to be worth what they are now.
    """
    in_n, in_tokens, out_n, out_tokens, cost_n, computed, reported, latency_n, latency_s, unpriced_n, unpriced_usd = zip(
        *[cell.usage for cell in cells], strict=True
    )
    into = _two_way(factor, in_n, in_tokens, in_n, usuals.input_tokens)
    out = _two_way(factor, out_n, out_tokens, out_n, usuals.output_tokens)
    cost = _two_way(factor, cost_n, reported, computed, usuals.cost)
    unpriced: Sequence[float] = unpriced_n  # mostly none, and then all are 0
    if any(unpriced_n):
        unpriced = [bills / count if count > SEEN else 0.0 for count, bills in zip(unpriced_n, unpriced_usd, strict=True)]
    delay = [None] * len(cells) if usuals.latency is None else _two_way(factor, latency_n, latency_s, latency_n, usuals.latency)
    return list(map(Consumption, into, out, cost, unpriced, delay))


def _two_way(
    factor: float, counts: Sequence[float], used: Sequence[float], units: Sequence[float], usuals: Sequence[Usual]
) -> list[float]:
    """What each arm uses per unit: its own, pulled to its usual times how far the category's other arms are off theirs.

    An arm's own n attempts count n / (n + USAGE_WEIGHT). However many there were, another arm says no more than USAGE_WEIGHT
    of them would: models differ in what they make of a category.
    """
    if not any(counts):
        return [usual for usual, _ in usuals]
    rows: list[tuple[float, float, float, float, bool]] = []
    all_said = all_voices = 0.0
    for count, use, unit, (usual, is_open) in zip(counts, used, units, usuals, strict=True):
        seen = factor * count
        if seen > SEEN and unit > 0.0:
            share = seen / (seen + USAGE_WEIGHT)
            own = share * use / unit
            if is_open:
                said = own / usual
                all_voices += share
                all_said += said
                rows.append((own, (1.0 - share) * usual, share, said, is_open))
            else:
                rows.append((own, (1.0 - share) * usual, 0.0, 0.0, is_open))
        else:
            rows.append((0.0, usual, 0.0, 0.0, is_open))
    found = []
    for own, rest, voice, said, is_open in rows:
        if is_open:
            others = all_said - said
            rest *= ((others if others > 0.0 else 0.0) + 1.0) / (all_voices - voice + 1.0)
        found.append(own + rest)
    return found

"""What a request costs and how long it takes: learned apart from quality, so that prices act at once."""

from __future__ import annotations

from typing import NamedTuple

from banditroute.core.evidence import Cell
from banditroute.core.pool import SEEN, Pooled, shrunk_ratio
from banditroute.core.settings import CategorySettings, Prior

TOKEN_WEIGHT, LATENCY_WEIGHT = 4.0, 4.0
"""Pseudo-observations that pull an arm's learned tokens and latency to its prior's."""


class Consumption(NamedTuple):
    """What one request of this arm is expected to use, before the price table."""

    input_tokens: float
    output_tokens: float
    cost_ratio: float
    unpriced_usd: float
    latency_s: float | None


def consumption(cell: Cell, *, factor: float, settings: CategorySettings, pooled: Pooled, prior: Prior | None) -> Consumption:
    """Learned tokens, cost ratio (reported to computed) and latency of one arm.

    Tokens start from the prior's or the category's expectation, the ratio from the model's over all
    categories. What the price table says costs nothing costs what its bills say (`unpriced_usd`).
    """
    usage = cell.usage
    tokens_in = settings.expected_input_tokens if prior is None or prior.input_tokens is None else prior.input_tokens
    tokens_out = settings.expected_output_tokens if prior is None or prior.output_tokens is None else prior.output_tokens
    latency = pooled.latency_s
    if factor * usage.latency_n > SEEN:
        pull = 0.0 if latency is None else LATENCY_WEIGHT
        latency = (factor * usage.latency_s + pull * (latency or 0.0)) / (factor * usage.latency_n + pull)
    return Consumption(
        input_tokens=(factor * usage.input_tokens + TOKEN_WEIGHT * tokens_in) / (factor * usage.input_n + TOKEN_WEIGHT),
        output_tokens=(factor * usage.output_tokens + TOKEN_WEIGHT * tokens_out) / (factor * usage.output_n + TOKEN_WEIGHT),
        cost_ratio=shrunk_ratio(
            reported=factor * usage.reported_usd,
            computed=factor * usage.computed_usd,
            count=factor * usage.cost_n,
            prior=pooled.cost_ratio,
        ),
        unpriced_usd=usage.unpriced_usd / usage.unpriced_n if usage.unpriced_n > SEEN else 0.0,
        latency_s=latency,
    )

"""Which models may serve a request, and for each that may not, why."""

from __future__ import annotations

from banditroute.core.settings import ModelSettings
from banditroute.core.types import Exclusion, Lifecycle, RouteQuery


def exclusion(
    model: ModelSettings,
    query: RouteQuery,
    lifecycle: Lifecycle = Lifecycle.LIVE,
    *,
    input_tokens: float,
    output_tokens: float,
    expected_cost_usd: float,
) -> Exclusion | None:
    """The first reason for which `model` may not serve `query`; None where it may.

    Args:
        input_tokens: expected tokens of the request, asked or learned.
        output_tokens: expected tokens of the answer.
        expected_cost_usd: what the request is expected to cost on this model.
    """
    if lifecycle is Lifecycle.DISABLED:
        return Exclusion.PAUSED
    if query.allowed_models and model.name not in query.allowed_models:
        return Exclusion.NOT_ALLOWED
    if model.name in query.excluded_models:
        return Exclusion.EXCLUDED
    if not model.tags.issuperset(query.required_tags):
        return Exclusion.TAG_MISSING
    if model.context_token_limit is not None and input_tokens + output_tokens > model.context_token_limit:
        return Exclusion.CONTEXT_TOO_LONG
    if query.max_cost_usd is not None and expected_cost_usd > query.max_cost_usd:
        return Exclusion.COST_TOO_HIGH
    return None

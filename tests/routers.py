"""What the tests of the library share."""

from __future__ import annotations

from typing import Any

from banditroute import Router
from banditroute.core.types import Disposition
from banditroute.log.checkpoint import encode

APPLIED, DUPLICATE, CORRECTED, STALE, RECORDED = (
    Disposition.APPLIED, Disposition.DUPLICATE, Disposition.CORRECTED, Disposition.STALE, Disposition.RECORDED
)  # fmt: skip
PRICES = {"big": 10.0, "small": 1.0, "tiny": 0.1}


def config(*models: str, prices: float = 1.0, **category: Any) -> dict[str, Any]:
    """A configuration of the models named (default: all three) with one category, ``chat``."""
    return {
        "models": {
            name: {
                "input_usd_per_mtok": price * prices,
                "output_usd_per_mtok": price * prices,
                "context_token_limit": 5000,
                "tags": ["eu"] if name == "tiny" else [],
            }
            for name, price in PRICES.items()
        },
        "categories": {"chat": {"models": list(models or PRICES), "cost_weight": 0.2, **category}},
    }


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def state_of(router: Router) -> bytes:
    return encode(router.engine.snapshot.state)


def shares(router: Router) -> dict[str, float]:
    return {arm.model: arm.share for arm in router.category("chat").arms}


def arm_of(router: Router, model: str) -> Any:
    return next(arm for arm in router.category("chat").arms if arm.model == model)

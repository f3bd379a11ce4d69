"""`banditroute categories`: what was learned."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC
from pathlib import Path
from typing import Annotated

import typer
from rich.console import RenderableType

from banditroute.cli.options import ADMIN_ADDRESS, AsJson, OptionalAdminAddress, OptionalConfig, one_place
from banditroute.cli.output import console, message_data, percent, print_json, table, usd
from banditroute.cli.stored import stored
from banditroute.client import AdminClient
from banditroute.config import load
from banditroute.core.errors import UnknownCategory
from banditroute.server.convert_admin import encode_category
from banditroute.snapshot import Snapshot
from banditroute.v1 import admin_pb2 as pb
from banditroute.v1 import router_pb2


def categories(
    name: Annotated[str | None, typer.Argument(help="Only this category.")] = None,
    server: OptionalAdminAddress = None,
    config: OptionalConfig = None,
    as_json: AsJson = False,
) -> None:
    """Show what is believed of each model in each category."""
    one_place(server, config)
    found = _stored_categories(config, name) if config else _served_categories(server or ADMIN_ADDRESS, name)
    if as_json:
        print_json([message_data(category) for category in found])
        return
    out = console()
    for i, category in enumerate(found):
        if i:
            out.print()
        out.print(category_table(category))


def _served_categories(server: str, name: str | None) -> Sequence[pb.Category]:
    with AdminClient(server) as client:
        return client.list_categories() if name is None else [client.get_category(name)]


def _stored_categories(config: Path, name: str | None) -> Sequence[pb.Category]:
    with stored(load(config)) as found:
        known = found.state.settings.categories
        if name is not None and name not in known:
            raise UnknownCategory(name, tuple(known))
        snapshot = Snapshot(found.state, None)
        now_us = time.time_ns() // 1000
        return [encode_category(snapshot.report(each, now_us=now_us)) for each in (sorted(known) if name is None else [name])]


def _lifecycle(arm: pb.Arm) -> str:
    word = router_pb2.Lifecycle.Name(arm.lifecycle).removeprefix("LIFECYCLE_").lower()
    return f"{word}: {arm.lifecycle_reason}" if arm.lifecycle_reason else word


def category_table(category: pb.Category) -> RenderableType:
    """One category with its arms, most traffic first."""
    set_by_hand = f", set by an operator: {', '.join(category.overridden_fields)}" if category.overridden_fields else ""
    title = (
        f"{category.name}  (cost weight {category.cost_weight:g} per {usd(category.cost_reference_usd)}, "
        f"latency weight {category.latency_weight:g}{set_by_hand})"
    )
    broken = any(arm.breaker_state > pb.BREAKER_STATE_CLOSED for arm in category.arms)
    return table(
        title,
        [
            "model",
            ">quality",
            ">expected cost",
            ">utility",
            ">share",
            ">n eff",
            ">feedbacks",
            ">errors",
            "lifecycle",
            *["breaker"] * broken,
        ],
        [
            (
                arm.model,
                f"{arm.quality_mean:.3f} ± {arm.quality_stddev:.3f}",
                usd(arm.expected_cost_usd),
                f"{arm.utility_mean:.3f}",
                percent(arm.share),
                f"{arm.effective_sample_size:.1f}",
                arm.feedback_count,
                arm.error_count,
                _lifecycle(arm),
                *[_breaker(arm)] * broken,
            )
            for arm in sorted(category.arms, key=lambda arm: -arm.share)
        ],
    )


def _breaker(arm: pb.Arm) -> str:
    if arm.HasField("breaker_open_until_time"):
        return f"open until {arm.breaker_open_until_time.ToDatetime(UTC):%H:%M:%S} UTC"
    return "half open" if arm.breaker_state == pb.BREAKER_STATE_HALF_OPEN else "closed"

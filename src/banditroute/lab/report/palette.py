"""Colours that colour-blind people can tell apart, one for each policy and model throughout a report.

From Okabe and Ito (2008) and Paul Tol's "muted" scheme (2021). No picture relies on colour alone: all have direct labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from banditroute.lab.results import INVERTED, ORACLE, ROUTER, WARM

INK, QUIET, FAINT = "#222222", "#767676", "#d9d9d9"
ROUTER_COLOUR, OUTSIDE = "#0072b2", "#d55e00"
_MODELS = ("#332288", "#88ccee", "#ddcc77", "#117733", "#cc6677", "#44aa99", "#882255", "#999933", "#aa4499")
_SPARE = ("#882255", "#117733", "#aa4499", "#999933", "#332288", "#44aa99")


class Stroke(NamedTuple):
    """How a policy is drawn."""

    colour: str
    dashes: str = "-"


_POLICIES = {
    ROUTER: Stroke(ROUTER_COLOUR),
    WARM: Stroke(ROUTER_COLOUR, "--"),
    INVERTED: Stroke(ROUTER_COLOUR, ":"),
    "epsilon-greedy": Stroke("#e69f00"),
    "ucb1": Stroke("#56b4e9"),
    "beta-ts": Stroke("#009e73"),
    "gaussian-ts": Stroke("#d55e00"),
    "linucb": Stroke("#cc79a7"),
    "rules": Stroke("#8c6d31", "--"),
    "random": Stroke("#999999"),
    "cheapest": Stroke("#999999", "--"),
    "priciest": Stroke("#999999", ":"),
    "best-fixed": Stroke("#444444", "--"),
    ORACLE: Stroke("#444444", ":"),
    "vowpalwabbit": Stroke("#882255", "-."),
    "mabwiser": Stroke("#117733", "-."),
    "paretobandit": Stroke("#aa4499", "-."),
}


def stroke(policy: str, policies: Sequence[str]) -> Stroke:
    """Of one of `policies`."""
    others = [name for name in policies if name not in _POLICIES]
    return _POLICIES[policy] if policy in _POLICIES else Stroke(_SPARE[others.index(policy) % len(_SPARE)], "-.")


def model_colours(scenes: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """By model. One name has one colour; in a scene none comes twice, as long as there are enough."""
    found: dict[str, str] = {}
    for scene in scenes:
        taken = {found[model] for model in scene["models"] if model in found}
        free = [colour for colour in _MODELS if colour not in taken]
        for index, model in enumerate([model for model in scene["models"] if model not in found]):
            found[model] = free[index] if index < len(free) else _MODELS[index % len(_MODELS)]
    return found

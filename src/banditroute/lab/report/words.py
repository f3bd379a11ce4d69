"""What each picture shows, in a sentence or two, from the numbers behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from banditroute.lab.report.pictures import LAST, PER, last_shares, notices
from banditroute.lab.results import INVERTED, ORACLE, ROUTER, WARM

Scene = Mapping[str, Any]
OURS = (ROUTER, WARM, INVERTED)
TOLD = ("best-fixed", ORACLE)
"""They are told the truth: bounds, not rivals."""


def points(value: float) -> str:
    """Regret, in quality points."""
    return f"{value:.1f}"


def interval(bounds: Sequence[float] | None, digits: int = 1) -> str:
    """As [low, high], with a space before; empty where there is none."""
    return "" if bounds is None else f" [{bounds[0]:.{digits}f}, {bounds[1]:.{digits}f}]"


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def dollars(cost_usd: float) -> str:
    """Of PER requests."""
    return f"${PER * cost_usd:.3g}" if PER * cost_usd < 1000 else f"${PER * cost_usd:,.0f}"


def policy_of(scene: Scene, name: str = ROUTER) -> Mapping[str, Any] | None:
    """None where it did not play."""
    return next((policy for policy in scene["policies"] if policy["policy"] == name), None)


def by_regret(scene: Scene) -> list[Mapping[str, Any]]:
    """Policies, those that lost least first."""
    return sorted(scene["policies"], key=lambda policy: policy["regret_mean"])


def regret(scene: Scene) -> str:
    """What was lost."""
    chosen = policy_of(scene) or by_regret(scene)[0]
    lost = f"{points(chosen['regret_mean'])}{interval(chosen['regret_ci95'])}"
    told = f"{chosen['policy']} lost {lost} quality points over {scene['requests']:,} requests"
    if chosen["share_of_random_regret"] is not None:
        told += f", {percent(chosen['share_of_random_regret'])} of what random picks are expected to lose"
    rivals = [each for each in by_regret(scene) if each["policy"] not in (*OURS, *TOLD, chosen["policy"])]
    if not rivals:
        return f"{told}."
    rival = rivals[0]
    excess = rival["vs_banditroute"]
    if excess is None:
        return f"{told}. The next is {rival['policy']} with {points(rival['regret_mean'])}{interval(rival['regret_ci95'])}."
    unsure = excess["ci95"] is not None and excess["ci95"][0] < 0.0 < excess["ci95"][1]
    doubt = ", which may be chance" if unsure else ""
    against = f"{excess['mean']:+.1f}{interval(excess['ci95'])} against it, paired by seed{doubt}"
    return f"{told}. Of the others that are not told the truth {rival['policy']} lost least: {against}."


def shares(scene: Scene) -> str:
    """Where the traffic went."""
    router = policy_of(scene)
    if router is None:
        return ""
    late = last_shares(scene, router["shares"])
    order = [k for k in np.argsort(-late, kind="stable").tolist() if late[k] >= 0.005][:3]
    named = [f"{percent(late[k])} to {scene['models'][k]}" for k in order]
    return f"In the last {percent(LAST)} of the run {ROUTER} sent {_listed(named)}."


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def mixed_score(scene: Scene, cost_usd: float) -> float | None:
    """The best quality of a constant mixture of models at a cost; None below the cheapest model's."""
    frontier = scene["frontier"]
    if not frontier or cost_usd < frontier[0]["cost_usd"]:
        return None
    return float(np.interp(cost_usd, [point["cost_usd"] for point in frontier], [point["score"] for point in frontier]))


def plane(scene: Scene) -> str:
    """Against constant mixtures."""
    chosen = policy_of(scene) or by_regret(scene)[0]
    cost_usd, score = chosen["cost_mean_usd"], chosen["score_mean"]
    told = (
        f"With all learning included {chosen['policy']} had quality {score:.4f}{interval(chosen['score_ci95'], 4)} "
        f"at {dollars(cost_usd)} per {PER:,} requests"
    )
    mixed = mixed_score(scene, cost_usd)
    if mixed is None:
        return f"{told}, less than the cheapest model costs that was there all the time."
    return f"{told}; the best constant mixture of models at that cost has {mixed:.4f}, {mixed - score:+.4f}."


def beliefs(scene: Scene) -> str:
    """How many intervals hold the truth."""
    if scene["beliefs"] is None:
        return ""
    told = scene["beliefs"]["over_all_seeds"]
    said = (
        f"Over all seeds {percent(told['held'] / told['cells'])} of {told['cells']:,} intervals hold the truth, of nominally 90 %"
    )
    if 0 < told["with_feedback"] < told["cells"]:
        said += f"; {percent(told['of_these_held'] / told['with_feedback'])} of the {told['with_feedback']:,} that had feedback"
    return f"{said}."


def noticed(scene: Scene) -> str:
    """How many runs noticed what, and how soon."""
    parts = []
    for text, times in notices(scene):
        found = [time for time in times if time is not None]
        after = f" after {float(np.median(found)):,.0f} requests (median)" if found else ""
        parts.append(f"{text} in {len(found)} of {len(times)} runs{after}")
    return f"{'; '.join(parts)}." if parts else ""


ALT = {
    "regret": "Lines over requests, one for each policy, with 95 % bands: cumulative regret in quality points.",
    "shares": "Stacked areas over requests, one for each model: shares of the router's traffic.",
    "plane": "Points on a plane of cost and quality, one for each policy and model, and the line of the best constant mixtures.",
    "beliefs": "For each model and category the router's belief with its 90 % interval, and the true quality.",
    "noticed": "For each change a dot for each run: requests until it was noticed.",
}
SAYS = {"regret": regret, "shares": shares, "plane": plane, "beliefs": beliefs, "noticed": noticed}

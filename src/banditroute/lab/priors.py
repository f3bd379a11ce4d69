"""Priors out of what a log taught: what a new deployment, or a category that begins anew, may start from."""

from __future__ import annotations

from banditroute.core.state import State
from banditroute.lab.datasets import PRIOR_SAMPLES_MAX, rounded
from banditroute.snapshot import Snapshot


def learned_priors(state: State) -> dict[str, dict[str, dict[str, float]]]:
    """{category: {model: {quality, effective_sample_size, input_tokens, output_tokens}}}: the shape of a priors file.

    Of arms with feedback. Quality is the posterior mean at the mean context: an arm of which little is known is drawn to
    what its model is elsewhere, and one that has got worse is told as it is now. The effective sample size is what is left of its
    evidence with its age, at most 25: a prior must yield to what traffic says. Tokens are what requests use by now.
    """
    snapshot = Snapshot(state, None)
    priors: dict[str, dict[str, dict[str, float]]] = {}
    for name in sorted(state.settings.categories):
        used = {arm.model.name: arm.consumption for arm in snapshot.view(name).arms}
        for arm in snapshot.report(name).arms:
            if arm.feedback_count == 0:
                continue
            prior = {
                "quality": rounded(min(1.0, max(0.0, arm.quality_mean))),
                "effective_sample_size": rounded(min(float(PRIOR_SAMPLES_MAX), arm.effective_sample_size)),
                "input_tokens": rounded(used[arm.model].input_tokens),
                "output_tokens": rounded(used[arm.model].output_tokens),
            }
            priors.setdefault(name, {})[arm.model] = prior
    return priors

"""What the categories say together: the part of learning that looks across cells, refitted in the fold.

Fixed positions of the log refit it, with `numerics` arithmetic only, so it is bit for bit repeatable. It keeps,
per cell, the mean and its weight in the mixed model (`core/mixed.py`), and per model the noise, the ratio of
billed to computed cost and the latency.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from banditroute.core.evidence import Cell
from banditroute.core.numerics import cholesky, exp2, log, whitened

CENTRE, CENTRE_VARIANCE = 0.5, 0.0625
"""mu, the quality of models in general: mean and variance."""
DIFFICULTY, ABILITY = 0.0225, 0.04
"""Variances of category difficulty a (sd .15) and model ability b (sd .2)."""
START_NOISE = 0.06
MIN_NOISE, MAX_NOISE = 0.0001, 0.25  # values in [0, 1] cannot vary more (Popoviciu)
NOISE_WEIGHT, POOLED_NOISE_WEIGHT = 6.0, 3.0
SPREADS = (0.015, 0.03, 0.06, 0.1, 0.16, 0.25)
"""The grid of tau, the sd of the interaction; its prior is log-normal(.08, .8)."""
SPREAD_MEDIAN, SPREAD_LOG_SD = 0.08, 0.8
MIN_SPREAD = 0.0004
START_SPREAD = 0.0152
"""tau^2 before any evidence: its prior mean on the grid."""
COST_WEIGHT = 10.0
"""Pseudo-attempts that pull a learned cost ratio to its prior's."""
_LOG2_E = 1.4426950408889634


class Pooled(NamedTuple):
    """What is known of one model across categories. Noise is a variance of quality, `looks` observations after
    forgetting, latency in seconds."""

    noise: float
    looks: float
    cost_ratio: float
    latency_s: float | None


class Pool(NamedTuple):
    """All models' `Pooled`, what a model without evidence starts from, tau^2 (`spread`), and by category and
    model each cell's weight 1 / (tau^2 + sigma^2 / n) and mean at the last refit."""

    models: Mapping[str, Pooled]
    newcomer: Pooled
    spread: float
    cells: Mapping[str, Mapping[str, tuple[float, float]]]

    def of(self, model: str) -> Pooled:
        """The model's own, or a newcomer's."""
        return self.models.get(model, self.newcomer)


START = Pool({}, Pooled(START_NOISE, 0.0, 1.0, None), START_SPREAD, {})


class Sight(NamedTuple):
    """One cell at the present: `factor` times its sums is what they are worth now."""

    category: str
    model: str
    cell: Cell
    factor: float

    @property
    def size(self) -> float:
        """Observations left after forgetting."""
        return self.factor * self.cell.information[0]

    @property
    def mean(self) -> float:
        """The mean reward; only where there is information."""
        return self.cell.moment[0] / self.cell.information[0]

    @property
    def squares(self) -> float:
        """Sum of squares about the mean, left after forgetting."""
        return max(0.0, self.factor * (self.cell.square - self.cell.moment[0] * self.mean))

    @property
    def freedom(self) -> float:
        """Degrees of freedom in `squares`: sum w - sum w^2 / sum w, with all weights taken as equal.

        Exact for equal weights that do not age; too large by at most 1/2 for long-aged weights of 1.
        """
        count = self.cell.feedback_count
        return self.size * (1.0 - 1.0 / count) if count > 1 else 0.0


SEEN = 1e-6


def _by_model(sights: Iterable[Sight]) -> dict[str, list[Sight]]:
    groups: dict[str, list[Sight]] = {}
    for sight in sights:
        if sight.size > SEEN:
            groups.setdefault(sight.model, []).append(sight)
    return groups


def refresh_means(pool: Pool, sights: Sequence[Sight]) -> Pool:
    """The pool with cells, cost ratios and latencies refitted; variances as they are.

    `sights` in a fixed order (category, then model, by name), so that sums round the same everywhere.
    """
    models: dict[str, Pooled] = {}
    all_latency_n = all_latency = 0.0
    for model, group in _by_model(sights).items():
        cost_n = computed = reported = latency_n = latency = 0.0
        for sight in group:
            usage, factor = sight.cell.usage, sight.factor
            cost_n += factor * usage.cost_n
            computed += factor * usage.computed_usd
            reported += factor * usage.reported_usd
            latency_n += factor * usage.latency_n
            latency += factor * usage.latency_s
        all_latency_n += latency_n
        all_latency += latency
        ratio = shrunk_ratio(reported=reported, computed=computed, count=cost_n, prior=1.0)
        models[model] = Pooled(
            noise=pool.of(model).noise,
            looks=math.fsum(sight.size for sight in group),
            cost_ratio=ratio,
            latency_s=latency / latency_n if latency_n > SEEN else None,
        )
    latency_s = all_latency / all_latency_n if all_latency_n > SEEN else None
    return pool._replace(
        models=models, newcomer=pool.newcomer._replace(latency_s=latency_s), cells=_cells(pool, sights, pool.spread)
    )


def _cells(pool: Pool, sights: Iterable[Sight], spread: float) -> dict[str, dict[str, tuple[float, float]]]:
    cells: dict[str, dict[str, tuple[float, float]]] = {}
    for sight in sights:
        if sight.size > SEEN:
            weight = 1.0 / (spread + pool.of(sight.model).noise / sight.size)
            cells.setdefault(sight.category, {})[sight.model] = (weight, sight.mean)
    return cells


def refresh_variances(pool: Pool, sights: Sequence[Sight]) -> Pool:
    """The pool with noise per model and the interaction's variance refitted."""
    groups = _by_model(sights)
    squares = {model: math.fsum(sight.squares for sight in group) for model, group in groups.items()}
    freedom = {model: math.fsum(sight.freedom for sight in group) for model, group in groups.items()}
    common = _clipped(
        (math.fsum(squares.values()) + POOLED_NOISE_WEIGHT * START_NOISE) / (math.fsum(freedom.values()) + POOLED_NOISE_WEIGHT)
    )
    noises = {model: _clipped((squares[model] + NOISE_WEIGHT * common) / (freedom[model] + NOISE_WEIGHT)) for model in groups}
    models = {model: pool.of(model)._replace(noise=noise) for model, noise in noises.items()}
    noisy = pool._replace(models={**pool.models, **models}, newcomer=pool.newcomer._replace(noise=common))
    spread = interaction_variance(noisy, sights)
    return noisy._replace(spread=spread, cells=_cells(noisy, sights, spread))


def _clipped(noise: float) -> float:
    return min(MAX_NOISE, max(MIN_NOISE, noise))


def interaction_variance(pool: Pool, sights: Sequence[Sight]) -> float:
    """tau^2: its posterior mean on the grid, by marginal likelihood of the cell means, at least .02^2.

    Moment estimates weigh cells by n, so by the leader, and come out too small; specialists need this.
    """
    scores = []
    for tau in SPREADS:
        surprise = log(tau / SPREAD_MEDIAN) / SPREAD_LOG_SD
        scores.append(log_likelihood(_cells(pool, sights, tau * tau)) - 0.5 * surprise * surprise)
    best = max(scores)
    masses = [exp2(max(-1000.0, (score - best) * _LOG2_E)) for score in scores]
    mean = math.fsum(mass * tau * tau for mass, tau in zip(masses, SPREADS, strict=True)) / math.fsum(masses)
    return max(MIN_SPREAD, mean)


def log_likelihood(cells: Mapping[str, Mapping[str, tuple[float, float]]]) -> float:
    """log p(cell means) of the mixed model, up to a constant, given each cell's weight and mean.

    mu, a and b are integrated out: with M_k = W_k^-1 + sigma_a^2 1 1^T, A_k = M_k^-1, P = P_0 + sum A_k,
    h = sum A_k r_k and r the gaps from the centre,
    -2 log p = sum_k (log |M_k| + r_k^T A_k r_k) + log |P| - h^T P^-1 h + constant.
    """
    names = sorted({model for seen in cells.values() for model in seen})
    place = {model: i for i, model in enumerate(names)}
    count = len(names)
    if not count:
        return 0.0
    shared = CENTRE_VARIANCE / (ABILITY * (ABILITY + count * CENTRE_VARIANCE))
    precision = [[(1.0 / ABILITY if i == j else 0.0) - shared for j in range(count)] for i in range(count)]
    moment = [0.0] * count
    twice = 0.0
    for _, seen in sorted(cells.items()):
        rows = [(place[model], weight, mean - CENTRE) for model, (weight, mean) in sorted(seen.items())]
        total = 1.0 / DIFFICULTY + math.fsum(weight for _, weight, _ in rows)
        pull = math.fsum(weight * gap for _, weight, gap in rows) / total
        twice += log(total) - math.fsum(log(weight) for _, weight, _ in rows)
        for i, weight, gap in rows:
            share = weight * (gap - pull)
            twice += gap * share
            moment[i] += share
            row, scaled = precision[i], weight / total
            row[i] += weight
            for j, other, _ in rows:
                row[j] -= scaled * other
    low = cholesky(precision)
    twice += 2.0 * math.fsum(log(row[i]) for i, row in enumerate(low))
    twice -= math.fsum(x * x for x in whitened(low, moment))
    return -0.5 * twice


def shrunk_ratio(*, reported: float, computed: float, count: float, prior: float) -> float:
    """Reported over computed cost, pulled to `prior` by COST_WEIGHT attempts of mean size."""
    if count <= SEEN or computed <= 0.0:
        return prior
    pull = COST_WEIGHT * computed / count
    return (reported + pull * prior) / (computed + pull)

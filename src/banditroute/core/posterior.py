"""What is believed of each arm: Gaussian posteriors, shrunk to what is known of their model elsewhere.

Quality of model j in category k at context z = (1, x): q = theta^T z + noise,
theta_0 ~ N(m_j, tau^2 + v_j), theta_f ~ N(0, RIDGE), noise ~ N(0, sigma_j^2). The model's mean m_j (with
its variance v_j), the spread tau^2 between categories and the noise sigma_j^2 are learned from all
categories by moments (DerSimonian and Laird 1986) and refreshed at fixed positions of the log. The
prior stands outside the decayed sums: it never ages.

The refreshes are part of the fold, so they use `numerics` arithmetic only. Posteriors are derived.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from banditroute.core.evidence import Cell
from banditroute.core.numerics import solve_spd, unpack
from banditroute.core.settings import CategorySettings, Prior

START_MEAN, START_VARIANCE = 0.5, 0.0625
START_NOISE = 0.06
START_SPREAD = 0.01
MIN_NOISE, MAX_NOISE = 0.0001, 0.25  # values in [0, 1] cannot vary more (Popoviciu)
MIN_SPREAD, MAX_SPREAD = 0.0009, 0.09
RIDGE = 0.0025
NOISE_WEIGHT, POOLED_NOISE_WEIGHT, SPREAD_WEIGHT = 6.0, 3.0, 4.0
TOKEN_WEIGHT, COST_WEIGHT, LATENCY_WEIGHT = 4.0, 10.0, 4.0
"""Pseudo-observations that pull an arm's learned tokens, cost ratio and latency to its prior's."""


class Pooled(NamedTuple):
    """What is known of one model across categories. Quality in [0, 1] points, latency in seconds."""

    mean: float
    variance: float
    noise: float
    cost_ratio: float
    latency_s: float | None


class Pool(NamedTuple):
    """All models' `Pooled`, what a model without evidence starts from, and tau^2 (`spread`)."""

    models: Mapping[str, Pooled]
    newcomer: Pooled
    spread: float

    def of(self, model: str) -> Pooled:
        """The model's own, or a newcomer's."""
        return self.models.get(model, self.newcomer)


START = Pool({}, Pooled(START_MEAN, START_VARIANCE, START_NOISE, 1.0, None), START_SPREAD)


class Sight(NamedTuple):
    """One cell at the present: `factor` times its sums is what they are worth now."""

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


_SEEN = 1e-6


def _by_model(sights: Iterable[Sight]) -> dict[str, list[Sight]]:
    groups: dict[str, list[Sight]] = {}
    for sight in sights:
        if sight.size > _SEEN:
            groups.setdefault(sight.model, []).append(sight)
    return groups


def refresh_means(pool: Pool, sights: Sequence[Sight]) -> Pool:
    """The pool with each model's mean, cost ratio and latency refitted; variances as they are.

    `sights` in a fixed order (category, then model, by name), so that sums round the same everywhere.
    """
    groups = _by_model(sights)
    raw: dict[str, tuple[float, float]] = {}
    for model, cells in groups.items():
        noise = pool.of(model).noise
        precision = moment = 0.0
        for sight in cells:
            weight = 1.0 / (pool.spread + noise / sight.size)
            precision += weight
            moment += weight * sight.mean
        raw[model] = (precision, moment)
    # A newcomer is expected to be like the models that are known, one guess of START_MEAN among them.
    total, count = START_MEAN, 1.0
    for precision, moment in raw.values():
        total += moment / precision
        count += 1.0
    centre = total / count
    models: dict[str, Pooled] = {}
    all_latency_n = all_latency = 0.0
    for model, (precision, moment) in raw.items():
        cost_n = computed = reported = latency_n = latency = 0.0
        for sight in groups[model]:
            usage, factor = sight.cell.usage, sight.factor
            cost_n += factor * usage.cost_n
            computed += factor * usage.computed_usd
            reported += factor * usage.reported_usd
            latency_n += factor * usage.latency_n
            latency += factor * usage.latency_s
        all_latency_n += latency_n
        all_latency += latency
        precision += 1.0 / START_VARIANCE
        models[model] = Pooled(
            mean=(moment + centre / START_VARIANCE) / precision,
            variance=1.0 / precision,
            noise=pool.of(model).noise,
            cost_ratio=shrunk_ratio(reported=reported, computed=computed, count=cost_n, prior=1.0),
            latency_s=latency / latency_n if latency_n > _SEEN else None,
        )
    latency_s = all_latency / all_latency_n if all_latency_n > _SEEN else None
    return Pool(models, pool.newcomer._replace(mean=centre, latency_s=latency_s), pool.spread)


def refresh_variances(pool: Pool, sights: Sequence[Sight]) -> Pool:
    """The pool with noise per model and the spread between categories refitted; means as they are."""
    groups = _by_model(sights)
    squares = {model: math.fsum(sight.squares for sight in cells) for model, cells in groups.items()}
    freedom = {model: math.fsum(sight.freedom for sight in cells) for model, cells in groups.items()}
    common = (math.fsum(squares.values()) + POOLED_NOISE_WEIGHT * START_NOISE) / (
        math.fsum(freedom.values()) + POOLED_NOISE_WEIGHT
    )
    common = _clipped(common, MIN_NOISE, MAX_NOISE)
    noises = {
        model: _clipped((squares[model] + NOISE_WEIGHT * common) / (freedom[model] + NOISE_WEIGHT), MIN_NOISE, MAX_NOISE)
        for model in groups
    }
    excess = scale = spent = 0.0
    for model, cells in groups.items():
        weights = [sight.size / noises[model] for sight in cells]
        total = math.fsum(weights)
        mean = math.fsum(w * sight.mean for w, sight in zip(weights, cells, strict=True)) / total
        gaps = [sight.mean - mean for sight in cells]
        excess += math.fsum(w * gap * gap for w, gap in zip(weights, gaps, strict=True)) - (len(cells) - 1)
        scale += total - math.fsum(w * w for w in weights) / total
        spent += len(cells) - 1
    found = _clipped(excess / scale, MIN_SPREAD, MAX_SPREAD) if spent and scale > 0.0 else START_SPREAD
    spread = (SPREAD_WEIGHT * START_SPREAD + spent * found) / (SPREAD_WEIGHT + spent)
    models = {model: pool.of(model)._replace(noise=noise) for model, noise in noises.items()}
    return Pool({**pool.models, **models}, pool.newcomer._replace(noise=common), spread)


def _clipped(value: float, low: float, high: float) -> float:
    return min(high, max(low, value))


def shrunk_ratio(*, reported: float, computed: float, count: float, prior: float) -> float:
    """Reported over computed cost, pulled to `prior` by COST_WEIGHT attempts of mean size."""
    if count <= _SEEN or computed <= 0.0:
        return prior
    pull = COST_WEIGHT * computed / count
    return (reported + pull * prior) / (computed + pull)


class Posterior(NamedTuple):
    """theta ~ N(mean, covariance), shapes (d,) and (d, d); `size` is the effective sample size."""

    mean: Sequence[float]
    covariance: Sequence[Sequence[float]]
    size: float


def posterior(
    cell: Cell, *, factor: float, settings: CategorySettings, pooled: Pooled, spread: float, prior: Prior | None
) -> Posterior:
    """What is believed of one arm.

    The cap on the effective sample size scales the evidence as it is read, never the sums, so that
    the order of events does not matter.
    """
    evidence = factor * cell.information[0]
    keep = factor if evidence <= settings.max_effective_sample_size else factor * settings.max_effective_sample_size / evidence
    per_noise = keep / pooled.noise
    precision = 1.0 / (spread + pooled.variance)
    right = precision * pooled.mean
    if prior is not None:
        trust = prior.effective_sample_size / pooled.noise
        precision += trust
        right += trust * prior.quality
    dimension = len(cell.moment)
    size = keep * cell.information[0]
    if dimension == 1:
        total = precision + per_noise * cell.information[0]
        return Posterior(((right + per_noise * cell.moment[0]) / total,), ((1.0 / total,),), size)
    matrix = [[per_noise * x for x in row] for row in unpack(cell.information, dimension)]
    vector = [per_noise * x for x in cell.moment]
    matrix[0][0] += precision
    vector[0] += right
    for i in range(1, dimension):
        matrix[i][i] += 1.0 / RIDGE
    try:
        return Posterior(*solve_spd(matrix, vector), size)
    except ValueError:
        # Contexts so large and alike that the prior drowns in rounding: as much more prior as does not.
        for i in range(dimension):
            matrix[i][i] *= 1.0 + 1e-9
        return Posterior(*solve_spd(matrix, vector), size)


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
    if factor * usage.latency_n > _SEEN:
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
        unpriced_usd=usage.unpriced_usd / usage.unpriced_n if usage.unpriced_n > _SEEN else 0.0,
        latency_s=latency,
    )

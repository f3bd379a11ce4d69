"""What the categories say together: the part of learning that looks across cells, refitted in the fold.

Fixed positions of the log refit it, with `numerics` arithmetic only, so it is bit for bit repeatable. It keeps, per
cell, how surely its own evidence and prior know its mean (`core/mixed.py` goes on from there), and per model the noise, how
far its priors are trusted, and how what it uses compares to what was expected of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from banditroute.core.numerics import cholesky, exp2, log, logs, whitened
from banditroute.core.settings import Prior
from banditroute.core.sights import SEEN, Matrix, Sights

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
USAGE_WEIGHT = 4.0
"""Attempts that a ratio of used to expected must have of its own to count half."""
PRIOR_NOISE, PRIOR_SIZE = 0.02, 25.0
"""A prior's observations are taken to be at least so noisy, and at most so many: the learned noise says how well one
category's values repeat, and what a file carries over from elsewhere does not become surer by that."""
PRIOR_SLACK = 0.0009
"""Variance by which a prior may be off without being called wrong (sd .03)."""
SWEEPS, STANDING_VARIANCE = 3, 0.002
"""Of backfitting; and how unsure ability and difficulty themselves are taken to be, in `standing`."""
_LOG2_E = 1.4426950408889634

Cells = Mapping[str, Mapping[str, tuple[float, float]]]


class Pooled(NamedTuple):
    """What is known of one model across categories.

    Noise is a variance of quality; `trust` in (0, 1] multiplies its priors' sample sizes; the ratios are of billed to
    computed cost and of used to expected tokens; latency in seconds; `ability` is its quality in a category of mean difficulty.
    """

    noise: float
    trust: float = 1.0
    cost_ratio: float = 1.0
    input_ratio: float = 1.0
    output_ratio: float = 1.0
    latency_s: float | None = None
    ability: float = CENTRE


class Pool(NamedTuple):
    """All models' `Pooled`, what a model without evidence starts from, tau^2 (`spread`), by category and model
    what each cell's own evidence and prior said of its mean at the last refit, (1 / variance, mean), and by category how much
    easier than others it was (`difficulty`, in points of quality)."""

    models: Mapping[str, Pooled]
    newcomer: Pooled
    spread: float
    cells: Cells
    difficulty: Mapping[str, float]

    def of(self, model: str) -> Pooled:
        """The model's own, or a newcomer's."""
        return self.models.get(model, self.newcomer)


START = Pool({}, Pooled(START_NOISE), START_SPREAD, {}, {})


def refresh_means(pool: Pool, sights: Sights) -> Pool:
    """The pool with cells, trust in priors, ratios and latencies refitted; variances as they are."""
    given = sights.given
    told_in, told_out = given.input_tokens > 0.0, given.output_tokens > 0.0
    in_n, in_tokens, out_n, out_tokens, cost_n, computed, reported, latency_n, latency_s = sights.usage
    into = in_n * told_in, in_tokens * told_in, in_n * given.input_tokens
    out = out_n * told_out, out_tokens * told_out, out_n * given.output_tokens
    sums = _over_categories(sights.size, cost_n, reported, computed, *into, *out, latency_n, latency_s)
    trusts, doubt = _trusts(pool, sights)
    models = {}
    for model, trust, (size, *use, waits, waited_s) in zip(sights.models, trusts, sums, strict=True):
        if size > SEEN or waits > SEEN or max(use) > SEEN:
            cost, tokens_in, tokens_out = [shrunk_ratio(*use[i : i + 3], prior=1.0) for i in (0, 3, 6)]
            models[model] = Pooled(pool.of(model).noise, trust, cost, tokens_in, tokens_out, _mean(waited_s, waits))
    all_n, all_s = math.fsum(row[-2] for row in sums), math.fsum(row[-1] for row in sums)
    newcomer = Pooled(noise=pool.newcomer.noise, trust=doubt, latency_s=_mean(all_s, all_n))
    fresh = pool._replace(models=models, newcomer=newcomer)
    return _standing(fresh, sights, *_own(fresh, sights))


def refresh_variances(pool: Pool, sights: Sights) -> Pool:
    """The pool with noise per model and the interaction's variance refitted."""
    sums = _over_categories(sights.squares, sights.freedom)
    squares, freedom = math.fsum(row[0] for row in sums), math.fsum(row[1] for row in sums)
    common = _clipped((squares + POOLED_NOISE_WEIGHT * START_NOISE) / (freedom + POOLED_NOISE_WEIGHT))
    models = {
        model: pool.models[model]._replace(noise=_clipped((about + NOISE_WEIGHT * common) / (free + NOISE_WEIGHT)))
        for model, (about, free) in zip(sights.models, sums, strict=True)
        if model in pool.models
    }
    noisy = pool._replace(models=models, newcomer=pool.newcomer._replace(noise=common))
    precision, mean = _own(noisy, sights)
    return _standing(noisy._replace(spread=interaction_variance(precision, mean)), sights, precision, mean)


def _standing(pool: Pool, sights: Sights, precision: Matrix, mean: Matrix) -> Pool:
    """The pool with its cells, and abilities and difficulties by a few sweeps over them (backfitting, Buja, Hastie and
    Tibshirani 1989): rougher than `core/mixed.py`, in the fold's own arithmetic, for what the fold itself compares."""
    cells = sights.columns.by_category(precision, mean)
    if not precision.size:
        return pool._replace(cells=cells)
    weights = precision / (1.0 + pool.spread * precision)
    gaps = np.where(precision > 0.0, mean - CENTRE, 0.0)
    by_model, by_category = 1.0 / ABILITY + _summed(weights), 1.0 / DIFFICULTY + _summed(weights.T)
    difficulty = np.zeros(len(gaps))
    for _ in range(SWEEPS):
        ability = _summed(weights * (gaps - difficulty[:, None])) / by_model
        difficulty = _summed((weights * (gaps - ability)).T) / by_category
    models = {
        model: pool.models[model]._replace(ability=CENTRE + each)
        for model, each in zip(sights.models, ability.tolist(), strict=True)
        if model in pool.models
    }
    return pool._replace(
        models=models, cells=cells, difficulty=dict(zip(sights.columns.categories, difficulty.tolist(), strict=True))
    )


def standing(pool: Pool, category: str, model: str, own: tuple[float, float] | None = None) -> tuple[float, float]:
    """Mean and variance of an arm's quality as the fold knows it: its cell, or its `own` (precision, mean), pulled to
    ability plus difficulty."""
    precision, mean = pool.cells.get(category, {}).get(model, (0.0, 0.0)) if own is None else own
    usual = pool.of(model).ability + pool.difficulty.get(category, 0.0)
    pull = 1.0 / (pool.spread + STANDING_VARIANCE)
    return (precision * mean + pull * usual) / (precision + pull), 1.0 / (precision + pull)


def _over_categories(*tables: Matrix) -> list[list[float]]:
    """By model, each table's sum over the categories, one after the other."""
    stacked = np.array(tables)
    totals: list[list[float]] = np.add.accumulate(stacked, axis=1)[:, -1].T.tolist() if stacked.size else []
    return totals


def _mean(total: float, count: float) -> float | None:
    return total / count if count > SEEN else None


def _clipped(noise: float) -> float:
    return min(MAX_NOISE, max(MIN_NOISE, noise))


def shrunk_ratio(count: float, used: float, expected: float, *, prior: float) -> float:
    """Used over expected, pulled to `prior` by USAGE_WEIGHT attempts of mean size."""
    if count <= SEEN or expected <= 0.0:
        return prior
    return (count * (used / expected) + USAGE_WEIGHT * prior) / (count + USAGE_WEIGHT)


# --- priors ----------------------------------------------------------------------------------------


def prior_precision(prior: Prior, known: Pooled) -> float:
    """What a prior is worth, as the inverse of a variance of quality."""
    return known.trust * min(PRIOR_SIZE, prior.effective_sample_size) / max(PRIOR_NOISE, known.noise)


def _own(pool: Pool, sights: Sights) -> tuple[Matrix, Matrix]:
    """What each cell's own evidence and own prior say of its mean: 1 / variance and mean, tables (C, M).

    Towards other categories a model's priors count as PRIOR_SIZE observations all together: they come from one file, and what
    is wrong with one is likely wrong with all.
    """
    known = [pool.of(model) for model in sights.models]
    noise = np.array([each.noise for each in known])
    evidence = sights.size / noise
    size = np.minimum(PRIOR_SIZE, sights.given.own_size)
    share = [PRIOR_SIZE / max(PRIOR_SIZE, total) for (total,) in _over_categories(size)]
    prior = np.array([each.trust for each in known]) * share * size / np.maximum(PRIOR_NOISE, noise)
    precision = evidence + prior
    mean = np.where(precision > 0.0, (evidence * sights.mean + prior * sights.given.quality) / precision, 0.0)
    return precision, mean


def _trusts(pool: Pool, sights: Sights) -> tuple[list[float], float]:
    """How far the priors of each model are trusted, and those of a model without evidence.

    With chi^2 = sum_k (mean - prior)^2 / (sigma^2 / n + sigma_0^2 / n_0 + .03^2) over the m categories where a model has
    both, priors that are right give about m; beyond m + 2 sqrt(2 m) they are tempered by alpha = (m / chi^2)^2. What is
    found of one model is held for or against the others too: each is trusted by its own alpha times the geometric
    mean of the others', weighted by how much was seen, sum_k n / (n + n_0), with weight 1 for a file that is right.
    """
    prior_size = np.minimum(PRIOR_SIZE, sights.given.size)
    if not prior_size.any():
        return [1.0] * len(sights.models), 1.0
    noise = np.array([pool.of(model).noise for model in sights.models])
    size = sights.size
    both = (size > 0.0) & (prior_size > 0.0)
    gap = sights.mean - sights.given.quality
    expected = noise / size + np.maximum(PRIOR_NOISE, noise) / prior_size + PRIOR_SLACK
    conflicts = np.where(both, gap * gap / expected, 0.0)
    logs_of, weights = [], []
    seen_of = np.where(both, size / (size + prior_size), 0.0)
    for conflict, terms, seen in _over_categories(conflicts, both.astype(np.float64), seen_of):
        wrong = conflict > terms + 2.0 * math.sqrt(2.0 * terms)
        logs_of.append(2.0 * log(terms / conflict) if wrong else 0.0)
        weights.append(seen)
    total = math.fsum(weight * each for weight, each in zip(weights, logs_of, strict=True))
    weight_total = 1.0 + math.fsum(weights)

    def trust(own: float, others: float, weight: float) -> float:
        return exp2(max(-1000.0, (own + others / weight) * _LOG2_E))

    trusts = [trust(own, total - seen * own, weight_total - seen) for own, seen in zip(logs_of, weights, strict=True)]
    return trusts, trust(0.0, total, weight_total)


# --- interaction -----------------------------------------------------------------------------------


def interaction_variance(precision: Matrix, mean: Matrix) -> float:
    """tau^2: its posterior mean on the grid, by marginal likelihood of the cell means, at least .02^2.

    Moment estimates weigh cells by n, so by the leader, and come out too small; specialists need this.

    Args:
        precision, mean: of each cell by its own evidence, tables (C, M); a precision of 0 stands for no cell.
    """
    scores = []
    for tau, likelihood in zip(SPREADS, log_likelihoods(precision, mean, [tau * tau for tau in SPREADS]), strict=True):
        surprise = log(tau / SPREAD_MEDIAN) / SPREAD_LOG_SD
        scores.append(likelihood - 0.5 * surprise * surprise)
    best = max(scores)
    masses = [exp2(max(-1000.0, (score - best) * _LOG2_E)) for score in scores]
    average = math.fsum(mass * tau * tau for mass, tau in zip(masses, SPREADS, strict=True)) / math.fsum(masses)
    return max(MIN_SPREAD, average)


def log_likelihoods(precision: Matrix, mean: Matrix, spreads: Sequence[float]) -> list[float]:
    """log p(cell means) of the mixed model, up to one constant, for each of some tau^2.

    With W_k = diag(1 / (tau^2 + variance)), mu, a and b are integrated out: M_k = W_k^-1 + sigma_a^2 1 1^T, A_k = M_k^-1,
    P = P_0 + sum A_k, h = sum A_k r_k and r the gaps from the centre,
    -2 log p = sum_k (log |M_k| + r_k^T A_k r_k) + log |P| - h^T P^-1 h + constant.
    """
    there = (precision > 0.0).any(axis=1)
    precision, gaps = precision[there], (mean[there] - CENTRE) * (precision[there] > 0.0)
    if not there.any():
        return [0.0 for _ in spreads]
    models = precision.shape[1]
    shared = CENTRE_VARIANCE / (ABILITY * (ABILITY + models * CENTRE_VARIANCE))
    prior = np.eye(models) / ABILITY - shared
    found = []
    for spread in spreads:
        weights = precision / (1.0 + spread * precision)
        totals = 1.0 / DIFFICULTY + _summed(weights.T)
        shares = weights * (gaps - (_summed((weights * gaps).T) / totals)[:, None])
        scaled = weights / totals[:, None]
        total = prior + np.diag(_summed(weights)) - _summed(scaled[:, :, None] * weights[:, None, :])
        twice = math.fsum(logs(totals).tolist()) - math.fsum(logs(np.where(weights > 0.0, weights, 1.0)).ravel().tolist())
        twice += math.fsum((gaps * shares).ravel().tolist())
        low = cholesky(total.tolist())
        twice += 2.0 * math.fsum(log(row[i]) for i, row in enumerate(low))
        twice -= math.fsum(x * x for x in whitened(low, _summed(shares).tolist()))
        found.append(-0.5 * twice)
    return found


def _summed(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sum over the first axis, one after the other."""
    total: NDArray[np.float64] = np.add.accumulate(table, axis=0)[-1]
    return total

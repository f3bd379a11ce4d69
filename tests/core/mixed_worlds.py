"""Worlds of the mixed model for the tests: random layouts, and the joint Gaussian that answers everything the slow way."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from core_logs import category_entry, config_event, decided, document, fold, model_entry, scored
from numpy.typing import NDArray

from banditroute.core.evidence import Cell, Usage, empty_cell
from banditroute.core.fold import learn
from banditroute.core.mixed import Outlook
from banditroute.core.pool import (
    ABILITY,
    CENTRE,
    CENTRE_VARIANCE,
    DIFFICULTY,
    PRIOR_NOISE,
    PRIOR_SIZE,
    START,
    START_NOISE,
    Pool,
    Pooled,
    _own,
    refresh_means,
    refresh_variances,
)
from banditroute.core.posterior import Arms, arms, basis
from banditroute.core.settings import EMPTY, CategorySettings, Prior, SharedSettings, parse_shared
from banditroute.core.sights import Columns, Sights
from banditroute.core.state import State

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]
Key = tuple[str, str]
CHAT = parse_shared(document({"chat": category_entry()})).categories["chat"]


class Seen(NamedTuple):
    """A cell's evidence: n observations with their mean and their sum of squares about it."""

    n: float
    mean: float
    squares: float = 0.0

    @property
    def cell(self) -> Cell:
        """The same as sums."""
        return Cell((self.n,), (self.n * self.mean,), self.squares + self.n * self.mean**2, Usage(), round(self.n), 0, 0)


class Shown(NamedTuple):
    """An observation of one quality with its variance."""

    key: Key
    value: float
    variance: float


def categories(count: int) -> list[str]:
    return [f"k{i:02}" for i in range(count)]


def arms_named(count: int) -> list[str]:
    return [f"m{i:02}" for i in range(count)]


def layout(rng: np.random.Generator, ks: list[str], ms: list[str], *, filled: float = 0.6) -> dict[Key, Seen]:
    """Some cells, of 1 to 300 observations, with arbitrary means."""
    return {
        (k, m): Seen(float(rng.choice((1, 2, 7, 40, 300))), float(rng.random())) for k in ks for m in ms if rng.random() < filled
    }


def looked_at(
    rows: Iterable[tuple[str, str, Cell]], factors: Mapping[str, float] | None = None, shared: SharedSettings = EMPTY
) -> Sights:
    """The sights of (category, model, cell); evidence of a category counts by its factor. As in the fold, every arm of
    `shared` has a cell."""
    cells = {name: {model: empty_cell(1) for model in known.models} for name, known in shared.categories.items()}
    for category, model, cell in rows:
        cells.setdefault(category, {})[model] = cell
    return Columns().look(
        shared, dict(sorted(cells.items())), np.array([(factors or {}).get(name, 1.0) for name in sorted(cells)])
    )


def sights(seen: Mapping[Key, Seen], shared: SharedSettings = EMPTY) -> Sights:
    return looked_at(((category, model, told.cell) for (category, model), told in seen.items()), shared=shared)


def with_priors(ks: Iterable[str], ms: Iterable[str], priors: Mapping[Key, tuple[float, float]]) -> SharedSettings:
    """Settings of all these arms; priors (quality, size) by category, perhaps "*", and model."""
    said: dict[str, dict[str, dict[str, float]]] = {}
    for (k, m), (quality, size) in priors.items():
        said.setdefault(k, {})[m] = {"quality": quality, "effective_sample_size": size}
    entry = category_entry(models=list(ms))
    return parse_shared(document(dict.fromkeys(ks, entry), models={m: model_entry() for m in ms}, priors=said))


def means_refreshed(pool: Pool, seen: Sights) -> Pool:
    """Divides by 0 where there is nothing, as the fold does."""
    with np.errstate(all="ignore"):
        return refresh_means(pool, seen)


def variances_refreshed(pool: Pool, seen: Sights) -> Pool:
    with np.errstate(all="ignore"):
        return refresh_variances(pool, seen)


def own(pool: Pool, seen: Sights) -> tuple[Matrix, Matrix]:
    """What each cell's own evidence and prior say: 1 / variance and mean, shapes (C, M)."""
    with np.errstate(all="ignore"):
        return _own(pool, seen)


def pool_of(
    seen: Mapping[Key, Seen],
    noises: Mapping[str, float],
    spread: float,
    shared: SharedSettings = EMPTY,
    trusts: Mapping[str, float] | None = None,
) -> Pool:
    """The pool with these variances and trusts given."""
    models = {model: Pooled(noise, (trusts or {}).get(model, 1.0)) for model, noise in noises.items()}
    pool, told = START._replace(models=models, spread=spread), sights(seen, shared)
    return pool._replace(cells=told.columns.by_category(*own(pool, told)))


def joint(keys: list[Key], spread: float) -> tuple[Vector, Matrix]:
    """Mean and covariance of the qualities q_kj at `keys` (some perhaps twice), by building mu, all a_k, b_j and g_kj."""
    ks, ms, cells = sorted({k for k, _ in keys}), sorted({m for _, m in keys}), sorted(set(keys))
    variances = [CENTRE_VARIANCE, *[DIFFICULTY] * len(ks), *[ABILITY] * len(ms), *[spread] * len(cells)]
    design = np.zeros((len(keys), len(variances)))
    for i, (k, m) in enumerate(keys):
        design[i, [0, 1 + ks.index(k), 1 + len(ks) + ms.index(m), 1 + len(ks) + len(ms) + cells.index((k, m))]] = 1.0
    return np.full(len(keys), CENTRE), design @ np.diag(variances) @ design.T


def believed(
    cells: Sequence[Cell],
    *,
    outlook: Outlook,
    known: Sequence[Pooled],
    ahead: Outlook | None = None,
    priors: Sequence[Prior | None] | None = None,
    factor: float = 1.0,
    settings: CategorySettings = CHAT,
) -> Arms:
    """What is believed of arms, as a snapshot derives it; without `ahead`, of other categories nothing more is to be learned."""
    start = basis(outlook=outlook, ahead=ahead or outlook, known=known, priors=priors or [None] * len(cells))
    return arms(cells, factor=factor, settings=settings, basis=start)


def differences(covariance: Matrix) -> Matrix:
    """D_ij = V_ii + V_jj - 2 V_ij: what comparing i and j is unsure of."""
    own = np.diagonal(covariance)
    found: Matrix = own[:, None] + own[None, :] - 2.0 * covariance
    return found


def prior_shown(key: Key, quality: float, size: float, noise: float, trust: float = 1.0) -> Shown:
    """The prior as an observation."""
    return Shown(key, quality, max(PRIOR_NOISE, noise) / (trust * min(PRIOR_SIZE, size)))


def conditioned(
    wanted: list[Key],
    seen: Mapping[Key, Seen],
    noises: Mapping[str, float],
    spread: float,
    also: Iterable[Shown] = (),
) -> tuple[Vector, Matrix]:
    """Mean and covariance of the qualities at `wanted` given the cell means of `seen`, and what was shown besides."""
    shown = [Shown((k, m), told.mean, noises.get(m, START_NOISE) / told.n) for (k, m), told in sorted(seen.items())]
    shown += also
    mean, total = joint([*wanted, *[key for key, _, _ in shown]], spread)
    count = len(wanted)
    if not shown:
        return mean, total
    variance = total[count:, count:] + np.diag([each.variance for each in shown])
    gain = np.linalg.solve(variance, total[count:, :count]).T
    gaps = np.array([each.value for each in shown]) - CENTRE
    return mean[:count] + gain @ gaps, total[:count, :count] - gain @ total[count:, :count]


def shared_document(ks: list[str], ms: list[str], priors: Mapping[Key, tuple[float, float]]) -> dict[str, object]:
    said: dict[str, dict[str, dict[str, float]]] = {}
    for (k, m), (quality, size) in priors.items():
        said.setdefault(k, {})[m] = {"quality": quality, "effective_sample_size": size}
    entry = category_entry(models=ms, cost_weight=0.0)
    return document(dict.fromkeys(ks, entry), models={m: model_entry() for m in ms}, priors=said)


def told_of_inverted(priors: Mapping[Key, tuple[float, float]], looks: int) -> State:
    """Two categories, three models of quality .8, .5 and .2, each looked at so often in both."""
    ks, ms = categories(2), arms_named(3)
    state, _ = fold([config_event(1, shared_document(ks, ms, priors))])
    rng, position = random.Random(4), 1
    for _ in range(looks):
        for k in ks:
            for m, quality in zip(ms, (0.8, 0.5, 0.2), strict=True):
                position += 1
                value = min(1.0, max(0.0, rng.gauss(quality, 0.2)))
                state, found = learn(state, scored(position, position, decided(k, m), value))
                assert not found
    return state

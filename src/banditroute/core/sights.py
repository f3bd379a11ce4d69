"""All cells at the present, in tables: what a refit of the pool reads.

Tables are worked on element by element, or added up one category after the other: that rounds as the same on
single numbers does. Nothing here is summed in an order that NumPy may choose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from banditroute.core.evidence import Cell
from banditroute.core.settings import SharedSettings

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]

SEEN = 1e-6
"""Observations left after forgetting; a cell with no more was not seen."""
FEWEST_TOKENS = 1e-3
"""Fewer are expected of no request: a ratio to them would say nothing, or overflow."""


class Given(NamedTuple):
    """What the configuration says of each cell, in tables of shape (C, M), 0 where it says nothing.

    A prior's quality and sample size; `own_size` is 0 where the prior speaks for any category; the tokens expected of a
    request, 0 where a prior says otherwise or fewer than FEWEST_TOKENS are expected.
    """

    quality: Matrix
    size: Matrix
    own_size: Matrix
    input_tokens: Matrix
    output_tokens: Matrix


class Sights(NamedTuple):
    """Tables of shape (C, M), a cell that is not there is empty. `factor`, shape (C, 1), times a cell's `sums`, shape
    (13, C, M), is what they are worth now; `usage_factor` those of usage. Categories and models by name."""

    models: Sequence[str]
    factor: Matrix
    usage_factor: Matrix
    sums: NDArray[np.float64]
    given: Given
    columns: Columns

    @property
    def size(self) -> Matrix:
        """Observations left after forgetting; none below SEEN."""
        size = self.factor * self.sums[0]
        return np.where(size > SEEN, size, 0.0)

    @property
    def mean(self) -> Matrix:
        """The mean reward, 0 where nothing was seen."""
        return np.where(self.sums[0] > 0.0, self.sums[1] / self.sums[0], 0.0)

    @property
    def squares(self) -> Matrix:
        """Sum of squares about the mean, left after forgetting."""
        squares = np.maximum(0.0, self.factor * (self.sums[2] - self.sums[1] * self.mean))
        return np.where(self.size > 0.0, squares, 0.0)

    @property
    def freedom(self) -> Matrix:
        """Degrees of freedom in `squares`: sum w - sum w^2 / sum w, with all weights taken as equal.

        Exact for equal weights that do not age; too large by at most 1/2 for long-aged weights of 1.
        """
        count = self.sums[3]
        return np.where(count > 1.0, self.size * (1.0 - 1.0 / np.maximum(count, 1.0)), 0.0)

    @property
    def usage(self) -> NDArray[np.float64]:
        """Tables of what attempts used, left after forgetting: the first nine of `evidence.Usage`, shape (9, C, M)."""
        return self.usage_factor * self.sums[4:]


def _sums_of(cell: Cell) -> tuple[float, ...]:
    return cell.information[0], cell.moment[0], cell.square, float(cell.feedback_count), *cell.usage[:9]


_SUMS = 13


class Columns:
    """The cells' sums, kept from one refit to the next so that only cells that changed are read again.

    They say nothing that the cells do not say: with fresh ones a refit gives the same. Not thread-safe.
    """

    def __init__(self) -> None:
        self._cells: dict[str, Mapping[str, Cell]] = {}
        self._settings: SharedSettings | None = None
        self._place: dict[str, int] = {}
        self._sums = np.zeros((_SUMS, 0, 0))
        self._given = Given(*np.zeros((5, 0, 0)))
        self._pairs = np.zeros((2, 0, 0))
        self._made: list[dict[str, tuple[float, float]]] = []

    @property
    def categories(self) -> list[str]:
        """Those last looked at, in the tables' order."""
        return [*self._cells]

    def look(
        self,
        settings: SharedSettings,
        categories: Mapping[str, Mapping[str, Cell]],
        factors: Vector,
        usage_factors: Vector | None = None,
    ) -> Sights:
        """The cells as they are now.

        Args:
            categories: each one's cells, in the order of the names.
            factors: what each category's sums must be multiplied by to be worth what they are now, shape (C,);
                `usage_factors` those of usage, if they are others.
        """
        if settings is not self._settings or not self._read_changed(categories):
            self._read_all(settings, categories)
        used = factors if usage_factors is None else usage_factors
        return Sights([*self._place], factors[:, None], used[:, None], self._sums, self._given, self)

    def by_category(self, precision: Matrix, mean: Matrix) -> dict[str, dict[str, tuple[float, float]]]:
        """By category and model the (precision, mean) of each cell last looked at, where there is precision.

        Categories where nothing changed since the last time share what was made for them then.
        """
        pairs = np.stack((precision, mean))
        for k in np.flatnonzero((pairs != self._pairs).any(axis=(0, 2))).tolist():
            rows = zip(self._place, *pairs[:, k].tolist(), strict=True)
            self._made[k] = {model: (sure, value) for model, sure, value in rows if sure}
        self._pairs = pairs
        return {category: made for category, made in zip(self._cells, self._made, strict=True) if made}

    def _read_changed(self, categories: Mapping[str, Mapping[str, Cell]]) -> bool:
        """False where there are others than last time."""
        if [*categories] != [*self._cells]:
            return False
        for k, ((category, cells), former) in enumerate(zip(categories.items(), self._cells.values(), strict=True)):
            if cells is former:
                continue
            if cells.keys() != former.keys():
                return False
            for model, cell in cells.items():
                if cell is not former[model]:
                    self._sums[:, k, self._place[model]] = _sums_of(cell)
            self._cells[category] = cells
        return True

    def _read_all(self, settings: SharedSettings, categories: Mapping[str, Mapping[str, Cell]]) -> None:
        self._cells, self._settings = dict(categories), settings
        names = sorted({model for cells in categories.values() for model in cells})
        self._place = place = {model: i for i, model in enumerate(names)}
        shape = len(categories), len(names)
        self._sums, self._pairs = np.zeros((_SUMS, *shape)), np.zeros((2, *shape))
        self._made = [{} for _ in categories]
        given = np.zeros((5, *shape))
        for k, (category, cells) in enumerate(categories.items()):
            for model, cell in cells.items():
                self._sums[:, k, place[model]] = _sums_of(cell)
                given[:, k, place[model]] = _given(settings, category, model)
        self._given = Given(*given)


def _given(settings: SharedSettings, category: str, model: str) -> tuple[float, ...]:
    known, prior = settings.categories.get(category), settings.prior(category, model)
    expected = (known.expected_input_tokens, known.expected_output_tokens) if known else (0.0, 0.0)
    into, out = [tokens if tokens >= FEWEST_TOKENS else 0.0 for tokens in expected]
    if prior is None:
        return 0.0, 0.0, 0.0, into, out
    size = prior.effective_sample_size
    own = size if model in settings.priors.get(category, ()) else 0.0
    stated = prior.input_tokens is not None, prior.output_tokens is not None
    return prior.quality, size, own, 0.0 if stated[0] else into, 0.0 if stated[1] else out

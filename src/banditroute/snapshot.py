"""A published state and what is derived from it: one `View` per category, made when first asked for.

A view is carried over to the next snapshot as long as nothing that it was made from has changed; so
learning in one category leaves the others' views, and their cached plans, alone.
"""

from __future__ import annotations

import hashlib

from banditroute.core.consumption import consumption
from banditroute.core.errors import UnknownCategory
from banditroute.core.fold import CategoryState, State, present_factor
from banditroute.core.mixed import Fit
from banditroute.core.policy import Arm, View, Weights, share_at_mean
from banditroute.core.posterior import arms
from banditroute.core.types import ArmReport, CategoryReport


class Snapshot:
    """An immutable state with lazily derived views. Two threads may derive the same view twice; either serves."""

    __slots__ = ("_mixed", "_views", "state")

    def __init__(self, state: State, forerunner: Snapshot | None) -> None:
        self.state = state
        self._views: dict[str, tuple[CategoryState, View]] = {}
        self._mixed: Fit | None = None
        if forerunner is not None and _same_basis(state, forerunner.state):
            held = state.categories
            self._mixed = forerunner._mixed
            self._views = {
                name: entry
                for name, entry in forerunner._views.copy().items()  # route may be adding one right now
                if held.get(name) is entry[0] and entry[1].settings.half_life_us is None
            }

    def view(self, category: str) -> View:
        """The category as it is believed to be.

        Raises:
            UnknownCategory
        """
        found = self._views.get(category)
        if found is not None:
            return found[1]
        settings = self.state.settings.categories.get(category)
        if settings is None:
            raise UnknownCategory(category, tuple(self.state.settings.categories))
        view = self._derive(category)
        self._views[category] = (self.state.categories[category], view)
        return view

    def _derive(self, name: str) -> View:
        state = self.state
        settings, category = state.settings.categories[name], state.categories[name]
        layer = state.overrides.get(name, {})
        weights = Weights(layer.get("cost_weight", settings.cost_weight), layer.get("latency_weight", settings.latency_weight))
        factor = present_factor(state, category)
        cells = [category.cells[model] for model in settings.models]
        pooled = [state.pool.of(model) for model in settings.models]
        priors = [state.settings.prior(name, model) for model in settings.models]
        beliefs = arms(
            cells,
            factor=factor,
            settings=settings,
            noises=[known.noise for known in pooled],
            outlook=self._fit().outlook(name, settings.models),
            priors=priors,
        )
        facts = [
            Arm(
                state.settings.models[model],
                consumption(cell, factor=factor, settings=settings, pooled=known, prior=prior),
                known.looks,
            )
            for model, cell, known, prior in zip(settings.models, cells, pooled, priors, strict=True)
        ]
        return View(settings, weights, facts, beliefs)

    def _fit(self) -> Fit:
        if self._mixed is None:
            known = {*self.state.settings.models, *(model for seen in self.state.pool.cells.values() for model in seen)}
            self._mixed = Fit(self.state.pool, sorted(known))
        return self._mixed

    def report(self, name: str) -> CategoryReport:
        """The category for people.

        Raises:
            UnknownCategory
        """
        view, state = self.view(name), self.state
        shares, category = share_at_mean(view), state.categories[name]
        rows = []
        for arm, size in zip(view.arms, view.beliefs.sizes, strict=True):
            shown, cell = shares[arm.model.name], category.cells[arm.model.name]
            rows.append(
                ArmReport(
                    model=arm.model.name,
                    quality_mean=shown.quality_mean,
                    quality_stddev=shown.quality_stddev,
                    expected_cost_usd=shown.expected_cost_usd,
                    expected_latency_s=arm.consumption.latency_s,
                    utility_mean=shown.utility_mean,
                    share=shown.propensity,
                    effective_sample_size=size,
                    feedback_count=cell.feedback_count,
                    error_count=cell.error_count,
                    off_policy_count=cell.off_policy_count,
                )
            )
        settings = view.settings
        etag = hashlib.sha256(f"{state.config_position}:{category.revision}".encode()).hexdigest()[:16]
        return CategoryReport(
            name=name,
            cost_weight=view.weights.cost,
            latency_weight=view.weights.latency,
            overridden_fields=tuple(sorted(state.overrides.get(name, {}))),
            cost_reference_usd=settings.cost_reference_usd,
            latency_reference_s=settings.latency_reference_s,
            arms=tuple(rows),
            etag=etag,
            feedback_count=category.ordinal,
        )


def _same_basis(state: State, former: State) -> bool:
    """Whether what all views share is unchanged: configuration, operator layer and pool."""
    return state.settings is former.settings and state.overrides is former.overrides and state.pool is former.pool

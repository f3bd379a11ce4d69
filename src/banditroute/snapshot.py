"""A published state and what is derived from it: one `View` per category, made when first asked for.

A view is carried over to the next snapshot as long as nothing that it was made from has changed; so
learning in one category leaves the others' views, and their cached plans, alone. Where evidence ages by time, or a change
is open, whose shift becomes less sure with every event, something always has.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from banditroute.core.breaker import Broken, broken_at, tripped
from banditroute.core.consumption import Usuals, consumptions, usuals
from banditroute.core.errors import UnknownCategory
from banditroute.core.lifecycle import lifecycle, lifecycle_reason
from banditroute.core.mixed import Fit
from banditroute.core.policy import Arm, View, Weights, share_at_mean
from banditroute.core.posterior import LOOKAHEAD, Basis, arms, basis, moved
from banditroute.core.settings import CategorySettings, ModelSettings
from banditroute.core.state import CategoryState, State, open_change, present_factor, usage_factor
from banditroute.core.types import ArmReport, BreakerState, CategoryReport


class _Ground(NamedTuple):
    """What a category's views start from as long as configuration, operator layer and pool are the same."""

    settings: CategorySettings
    weights: Weights
    models: Sequence[ModelSettings]
    basis: Basis
    usuals: Usuals


class Snapshot:
    """An immutable state with lazily derived views. Two threads may derive the same view twice; either serves."""

    __slots__ = ("_fits", "_grounds", "_views", "state", "tripped")

    def __init__(self, state: State, forerunner: Snapshot | None) -> None:
        self.state = state
        self._views: dict[str, tuple[CategoryState, View]] = {}
        self._grounds: dict[str, _Ground] = {}
        self._fits: tuple[Fit, Fit] | None = None
        self.tripped = tripped(state.breakers, state.append_time_us) if state.settings.breaker.enabled else {}
        if forerunner is not None and _same_basis(state, forerunner.state):
            held = state.categories
            self._grounds, self._fits = forerunner._grounds, forerunner._fits
            if _held_alike(state, forerunner.state):
                self._views = {
                    name: entry
                    for name, entry in forerunner._views.copy().items()  # route may be adding one right now
                    if held.get(name) is entry[0] and entry[1].settings.half_life_us is None and entry[1].beliefs.moved is None
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

    def broken(self, now_us: int) -> Broken | None:
        """The models whose breakers are not closed at a time; a clock behind the log's counts as that. None: there are none."""
        if not self.tripped:
            return None
        return broken_at(self.tripped, max(now_us, self.state.append_time_us), self.state.settings.breaker)

    def _derive(self, name: str) -> View:
        ground = self._grounds.get(name)
        if ground is None:
            ground = self._grounds[name] = self._ground(name)
        settings, weights, models, basis, usuals = ground
        category = self.state.categories[name]
        factor = present_factor(self.state, category)
        cells = [category.cells[model] for model in settings.models]
        used = consumptions(cells, factor=usage_factor(category), usuals=usuals)
        beliefs = arms(cells, factor=factor, settings=settings, basis=basis)
        state = self.state
        if not (state.shifts or state.paused or state.below or state.newcomers):
            return View(settings, weights, list(map(Arm, models, used)), beliefs)
        lives = [lifecycle(state, name, model) for model in settings.models]
        keys = [open_change(state, name, model) for model in settings.models]
        shifts = [state.shifts[key] if key else None for key in keys]
        recoveries = [
            0.0 if (name, model) in state.below else 1.0 if shift is None else shift.recovery.evidence
            for model, shift in zip(settings.models, shifts, strict=True)
        ]
        means = [0.0 if shift is None else shift.mean for shift in shifts]
        beliefs = beliefs._replace(moved=moved(shifts, noises=beliefs.noises, position=state.position))
        held = list(map(Arm, models, used, lives, recoveries, means))
        return View(settings, weights, held, beliefs, state.settings.onboarding)

    def _ground(self, name: str) -> _Ground:
        state = self.state
        settings, layer = state.settings.categories[name], state.overrides.get(name, {})
        weights = Weights(layer.get("cost_weight", settings.cost_weight), layer.get("latency_weight", settings.latency_weight))
        if self._fits is None:  # what the categories say of one another now, and after more looks
            pool, shared = state.pool, state.settings
            known = sorted({*shared.models, *(model for seen in pool.cells.values() for model in seen)})
            arms_of = {name: each.models for name, each in shared.categories.items()}
            self._fits = Fit(pool, known), Fit(pool, known, looks=LOOKAHEAD, arms=arms_of)
        outlook, ahead = [fit.outlook(name, settings.models) for fit in self._fits]
        pooled = [state.pool.of(model) for model in settings.models]
        priors = [state.settings.prior(name, model) for model in settings.models]
        return _Ground(
            settings,
            weights,
            [state.settings.models[model] for model in settings.models],
            basis(outlook=outlook, ahead=ahead, known=pooled, priors=priors),
            usuals(settings, state.pool, priors),
        )

    def report(self, name: str, *, now_us: int = 0) -> CategoryReport:
        """The category for people, as it is at a time, or where that is past, at the latest event.

        Raises:
            UnknownCategory
        """
        view, state = self.view(name), self.state
        now_us = max(now_us, state.append_time_us)
        shares, category = share_at_mean(view, self.broken(now_us)), state.categories[name]
        rows = []
        for arm, size in zip(view.arms, view.beliefs.sizes, strict=True):
            shown, cell = shares[arm.model.name], category.cells[arm.model.name]
            tripped = self.tripped.get(arm.model.name)
            breaker = BreakerState.CLOSED if tripped is None else tripped.state(now_us)
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
                    lifecycle=arm.lifecycle,
                    lifecycle_reason=lifecycle_reason(state, name, arm.model.name),
                    breaker=breaker,
                    breaker_open_until=tripped.open_until_us / 1e6 if tripped and breaker is BreakerState.OPEN else None,
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


def _held_alike(state: State, former: State) -> bool:
    """Whether no arm's lifecycle or open change is another."""
    return (
        state.shifts is former.shifts
        and state.paused is former.paused
        and state.below is former.below
        and state.newcomers is former.newcomers
    )


def _same_basis(state: State, former: State) -> bool:
    """Whether what all views share is unchanged: configuration, operator layer and pool."""
    return state.settings is former.settings and state.overrides is former.overrides and state.pool is former.pool

"""The shared configuration as the core reads it: parsed from the canonical document of a config event.

`config.py` checks what people write and makes the document; this parses it without trust, so that
any document folds the same everywhere or is refused the same everywhere.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from banditroute.core.types import SignalKind

ANY_CATEGORY = "*"
"""In priors: speaks for every category that is not named."""

FALSE_ALARMS_PER_MILLION = 20.0
MAX_FEATURES = 16
LOG_COST_STEEPNESS = 99.0
MAX_NAME_BYTES = 96


class ModelSettings(NamedTuple):
    """One model's price table (USD per token) and what it can do."""

    name: str
    input_usd_per_token: float
    output_usd_per_token: float
    cached_input_usd_per_token: float
    context_token_limit: int | None
    tags: frozenset[str]

    def list_cost_usd(self, input_tokens: float, output_tokens: float, cached_tokens: float = 0.0) -> float:
        """What the price table asks for that many tokens; `cached_tokens` are among the input's."""
        fresh = input_tokens - cached_tokens
        return (
            fresh * self.input_usd_per_token
            + cached_tokens * self.cached_input_usd_per_token
            + output_tokens * self.output_usd_per_token
        )


class BreakerSettings(NamedTuple):
    """How models that do not answer are taken out; see `config.py` for each field's effect."""

    enabled: bool = True
    cooldown_us: int = 15 * 10**6
    max_cooldown_us: int = 60 * 10**6
    trial_share: float = 0.05
    cooldown_calls: int = 10


class Feature(NamedTuple):
    """A declared context feature; it enters as (raw - mean) / stddev."""

    name: str
    mean: float
    stddev: float


class CategorySettings(NamedTuple):
    """One category. Weights in quality points per reference; see `config.py` for each field's effect."""

    name: str
    models: tuple[str, ...]
    cost_weight: float
    latency_weight: float
    cost_reference_usd: float
    latency_reference_s: float
    cost_scale: str
    features: tuple[Feature, ...]
    expected_input_tokens: float
    expected_output_tokens: float
    signal_weights: Mapping[str, float]
    propensity_floor: float
    half_life_count: int | None
    half_life_us: int | None
    max_effective_sample_size: float
    planning_horizon_count: int
    min_sources: int
    quality_floor: float | None

    @property
    def schema(self) -> bytes:
        """The fingerprint of the feature schema: 8 bytes."""
        return schema_fingerprint(tuple(feature.name for feature in self.features))


class Onboarding(NamedTuple):
    """What a new model gets in each of its categories until so many feedbacks are in."""

    looks: int = 15
    min_share: float = 0.02
    max_share: float = 0.3


class Prior(NamedTuple):
    """What is believed of an arm before any feedback, worth `effective_sample_size` observations."""

    quality: float
    effective_sample_size: float
    input_tokens: float | None
    output_tokens: float | None


class SharedSettings(NamedTuple):
    """All that every replica must agree on."""

    models: Mapping[str, ModelSettings]
    categories: Mapping[str, CategorySettings]
    priors: Mapping[str, Mapping[str, Prior]]
    feedback_window_us: int
    false_alarms_per_million: float
    onboarding: Onboarding
    breaker: BreakerSettings
    fingerprint: str

    def prior(self, category: str, model: str) -> Prior | None:
        """The prior of one arm; a named category's hides that of ``*``."""
        if not self.priors:
            return None
        for name in (category, ANY_CATEGORY):
            found = self.priors.get(name, {}).get(model)
            if found is not None:
                return found
        return None


EMPTY = SharedSettings(
    {},
    {},
    {},
    feedback_window_us=0,
    false_alarms_per_million=FALSE_ALARMS_PER_MILLION,
    onboarding=Onboarding(),
    breaker=BreakerSettings(),
    fingerprint="",
)


@functools.lru_cache(1024)
def schema_fingerprint(names: tuple[str, ...]) -> bytes:
    """Eight bytes that stand for an ordered list of feature names."""
    return hashlib.sha256("\x1f".join(names).encode()).digest()[:8]


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def canonical_json(document: Mapping[str, Any]) -> str:
    """The one way to write a document down: sorted keys, no spaces, no NaN.

    Raises:
        ValueError: a number is not finite.
    """
    return _ENCODER.encode(document)


def document_fingerprint(document: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical form, in hex."""
    return hashlib.sha256(canonical_json(document).encode()).hexdigest()


def number(value: Any, *, low: float = -math.inf, high: float = math.inf) -> float:
    """A finite float in [low, high].

    Raises:
        ValueError: it is not.
    """
    if type(value) not in (float, int) and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise ValueError(f"not a number: {value!r}")
    result = float(value)
    if not math.isfinite(result) or not low <= result <= high:
        raise ValueError(f"{value!r} is outside [{low}, {high}]")
    return result


def _optional(value: Any, *, low: float) -> float | None:
    return None if value is None else number(value, low=low)


def _whole(value: Any) -> int | None:
    found = _optional(value, low=1.0)
    return None if found is None else int(found)


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"not a list of names: {value!r}")
    return tuple(value)


def _model(name: str, raw: Mapping[str, Any]) -> ModelSettings:
    per_mtok = {key: number(raw[f"{key}_usd_per_mtok"], low=0.0) / 1e6 for key in ("input", "output", "cached_input")}
    return ModelSettings(
        name=name,
        input_usd_per_token=per_mtok["input"],
        output_usd_per_token=per_mtok["output"],
        cached_input_usd_per_token=per_mtok["cached_input"],
        context_token_limit=_whole(raw["context_token_limit"]),
        tags=frozenset(_names(raw["tags"])),
    )


def _category(name: str, raw: Mapping[str, Any], known: Mapping[str, ModelSettings]) -> CategorySettings:
    features = tuple(
        Feature(feature, number(spec["mean"]), number(spec["stddev"], low=1e-12))
        for feature, spec in sorted(raw["features"].items())
    )
    if len(features) > MAX_FEATURES:
        raise ValueError(f"category {name!r} has more than {MAX_FEATURES} features")
    models = _names(raw["models"])
    if not models or len(set(models)) != len(models) or not known.keys() >= set(models):
        raise ValueError(f"category {name!r} needs distinct, known models")
    if raw["cost_scale"] not in ("linear", "log"):
        raise ValueError(f"category {name!r} has cost_scale {raw['cost_scale']!r}")
    half_life_s = _optional(raw["half_life_s"], low=1e-3)
    return CategorySettings(
        name=name,
        models=models,
        cost_weight=number(raw["cost_weight"], low=0.0),
        latency_weight=number(raw["latency_weight"], low=0.0),
        cost_reference_usd=number(raw["cost_reference_usd"], low=1e-15),
        latency_reference_s=number(raw["latency_reference_s"], low=1e-6),
        cost_scale=raw["cost_scale"],
        features=features,
        expected_input_tokens=number(raw["expected_input_tokens"], low=0.0),
        expected_output_tokens=number(raw["expected_output_tokens"], low=0.0),
        signal_weights={kind.value: number(raw["signal_weights"][kind.value], low=0.0, high=1.0) for kind in SignalKind},
        propensity_floor=number(raw["propensity_floor"], low=0.0, high=0.2),
        half_life_count=_whole(raw["half_life_count"]),
        half_life_us=None if half_life_s is None else int(half_life_s * 1e6),
        max_effective_sample_size=number(raw["max_effective_sample_size"], low=1.0),
        planning_horizon_count=int(number(raw["planning_horizon_count"], low=1.0)),
        min_sources=int(number(raw.get("min_sources", 1), low=1.0, high=8.0)),
        quality_floor=None if raw.get("quality_floor") is None else number(raw["quality_floor"], low=0.0, high=1.0),
    )


def _prior(raw: Mapping[str, Any]) -> Prior:
    return Prior(
        quality=number(raw["quality"], low=0.0, high=1.0),
        effective_sample_size=number(raw["effective_sample_size"], low=0.0),
        input_tokens=_optional(raw.get("input_tokens"), low=0.0),
        output_tokens=_optional(raw.get("output_tokens"), low=0.0),
    )


def _breaker(raw: Mapping[str, Any]) -> BreakerSettings:
    usual = BreakerSettings()
    enabled = raw.get("enabled", usual.enabled)
    if not isinstance(enabled, bool):
        raise ValueError(f"neither true nor false: {enabled!r}")
    cooldown_s = number(raw.get("cooldown_s", usual.cooldown_us / 1e6), low=1e-3, high=1e9)
    return BreakerSettings(
        enabled=enabled,
        cooldown_us=int(cooldown_s * 1e6),
        max_cooldown_us=int(number(raw.get("max_cooldown_s", usual.max_cooldown_us / 1e6), low=cooldown_s, high=1e9) * 1e6),
        trial_share=number(raw.get("trial_share", usual.trial_share), low=1e-3, high=0.4),
        cooldown_calls=int(number(raw.get("cooldown_calls", usual.cooldown_calls), low=0, high=1000)),
    )


def _onboarding(raw: Mapping[str, Any]) -> Onboarding:
    usual = Onboarding()
    return Onboarding(
        looks=int(number(raw.get("looks", usual.looks), low=0.0, high=1e6)),
        min_share=number(raw.get("min_share", usual.min_share), low=0.0, high=0.5),
        max_share=number(raw.get("max_share", usual.max_share), low=1e-3, high=1.0),
    )


def parse_shared(document: Mapping[str, Any]) -> SharedSettings:
    """The settings that a canonical document holds.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: it is no such document.
    """
    models = {name: _model(name, raw) for name, raw in document["models"].items()}
    categories = {name: _category(name, raw, models) for name, raw in document["categories"].items()}
    priors = {category: {model: _prior(raw) for model, raw in arms.items()} for category, arms in document["priors"].items()}
    for name in (*models, *categories):
        if not 0 < len(name.encode()) <= MAX_NAME_BYTES:
            raise ValueError(f"name {name!r} is empty or longer than {MAX_NAME_BYTES} bytes")
    return SharedSettings(
        models=models,
        categories=categories,
        priors=priors,
        feedback_window_us=int(number(document["feedback_window_s"], low=1.0) * 1e6),
        false_alarms_per_million=number(
            document.get("false_alarms_per_million_feedbacks", FALSE_ALARMS_PER_MILLION), low=1e-3, high=1e5
        ),
        onboarding=_onboarding(document.get("onboarding", {})),
        breaker=_breaker(document.get("breaker", {})),
        fingerprint=document_fingerprint(document),
    )

"""The configuration that people write: validated whole, with every problem's path and line.

`load` gives a `Config` of two parts: `local` never enters the log; `shared` is the canonical document
of a config event (see `core/settings.py`), still without resolved cost references, which depend on
what the log already holds (`resolved`).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, ValidationError, model_validator

from banditroute.config_local import (
    Count,
    Fraction,
    LocalConfig,
    NonNegative,
    Positive,
    RedisConfig,
    Seconds,
    ServerConfig,
    SinkConfig,
    Strict,
    Weight,
    parse_store,
)
from banditroute.core.errors import ConfigError, ConfigProblem
from banditroute.core.settings import ANY_CATEGORY, MAX_FEATURES, MAX_NAME_BYTES, parse_shared
from banditroute.receivers import WebhookConfig, webhook_problems
from banditroute.yaml_lines import Lines, read_yaml

FEEDBACK_WINDOW_S = (7 * 86400.0, 48 * 3600.0)
RETENTION_EVENTS = (5_000_000, 500_000)
"""Both where none is written: on a store of one's own, and on Redis, which keeps what it remembers in memory."""


class ModelConfig(Strict):
    """A model's price table and abilities."""

    input_usd_per_mtok: NonNegative = Field(0.0, description="USD per million input tokens")
    output_usd_per_mtok: NonNegative = Field(0.0, description="USD per million output tokens")
    cached_input_usd_per_mtok: NonNegative | None = Field(
        None, description="USD per million cached input tokens; default: as input"
    )
    context_token_limit: Count | None = Field(None, description="input and output tokens together that the model can take")
    tags: list[str] = Field(default_factory=list, description="for required_tags, such as regions and abilities")


class FeatureConfig(Strict):
    """A context feature; it enters the model as (raw - mean) / stddev."""

    mean: Annotated[float, Field(ge=-1e9, le=1e9, allow_inf_nan=False)] = Field(0.0, description="its typical value")
    stddev: Positive = Field(1.0, description="its typical deviation")


FLOOR, FLOORS = 0.002, 0.01
"""The floor where none is written, and what the floors of a category's models then take together at most."""


class SignalWeights(Strict):
    """What one signal of each kind is worth, in observations; a decision's signals never exceed 1 together."""

    rating: Fraction = Field(1.0, description="of a rating")
    eval_score: Fraction = Field(1.0, description="of an eval score")
    accepted: Fraction = Field(0.5, description="of accepted (1) or not (0)")
    retried: Fraction = Field(0.5, description="of retried (0) or not (1)")


class CategoryConfig(Strict):
    """One task category."""

    models: list[str] = Field(min_length=1, max_length=256, description="the arms, by name")
    cost_weight: Weight = Field(0.1, description="quality points that the cost reference is worth")
    latency_weight: Weight = Field(0.0, description="quality points that the latency reference is worth")
    cost_reference_usd: Positive | None = Field(None, description="USD per request; default: the priciest model's expected cost")
    latency_reference_s: Seconds = Field(10.0, description="seconds that `latency_weight` is measured against")
    cost_scale: Literal["linear", "log"] = Field("linear", description="log: doubling the cost hurts about equally everywhere")
    features: dict[str, FeatureConfig] = Field(
        default_factory=dict, max_length=MAX_FEATURES, description="context features that Route may carry"
    )
    expected_input_tokens: NonNegative = Field(1000.0, description="tokens, until learned")
    expected_output_tokens: NonNegative = Field(300.0, description="tokens, until learned")
    signal_weights: SignalWeights = Field(default_factory=SignalWeights, description="what a signal of each kind is worth")
    propensity_floor: Annotated[float, Field(ge=0, le=0.2)] | None = Field(
        None, description="least probability of every eligible model; default: 0.002, but 0.01 for all together"
    )
    half_life_count: Count | None = Field(2000, description="evidence counts half after so many feedbacks of the category")
    half_life_s: Seconds | None = Field(None, description="or after so many seconds; takes the place of half_life_count")
    max_effective_sample_size: Annotated[float, Field(ge=1, le=1e9)] = Field(
        5000.0, description="observations an arm may amount to"
    )
    planning_horizon_count: Count = Field(500, description="requests ahead for which exploring an arm must still pay")
    quality_floor: Fraction | None = Field(
        None, description="an arm whose quality is below this with probability 0.95 gets probes only"
    )
    min_sources: Annotated[int, Field(ge=1, le=8)] = Field(
        1, description="sources of feedback that must each see a degradation before a model is demoted"
    )

    @model_validator(mode="after")
    def _distinct(self) -> CategoryConfig:
        if len(set(self.models)) != len(self.models):
            raise ValueError("models holds a name twice")
        return self


class PriorConfig(Strict):
    """What is believed of an arm beforehand."""

    quality: Fraction = Field(description="mean quality, 0 to 1")
    effective_sample_size: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)] = Field(
        description="observations that this is worth; more than 25 count as 25"
    )
    input_tokens: NonNegative | None = Field(None, description="expected tokens of a request; default: the category's")
    output_tokens: NonNegative | None = Field(None, description="expected tokens of an answer; default: the category's")


class BreakerConfig(Strict):
    """Models whose calls fail (timeouts, rate limits, no connection) are taken out for a while."""

    enabled: bool = Field(True, description="take them out")
    cooldown_s: Seconds = Field(
        15.0, description="seconds without requests, a third of it for rate limits; twice as long each time"
    )
    max_cooldown_s: Seconds = Field(60.0, description="seconds without requests, at most")
    trial_share: Annotated[float, Field(ge=0.001, le=0.4)] = Field(
        0.05, description="probability with which it is tried after that; doubles every 30 s, up to 0.4"
    )
    cooldown_calls: Annotated[int, Field(ge=0, le=1000)] = Field(
        10,
        description="where its calls are rare, `cooldown_s` and those 30 s last at least as long as it took the model to get so "
        "many before it failed, up to 15 minutes, and `max_cooldown_s` four times that; 0: no longer",
    )

    @model_validator(mode="after")
    def _ordered(self) -> BreakerConfig:
        if self.max_cooldown_s < self.cooldown_s:
            raise ValueError("max_cooldown_s must not be below cooldown_s")
        return self


class OnboardingConfig(Strict):
    """What a model gets that is added to a running log, in each of its categories, while it is new."""

    looks: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        15, description="feedbacks until it is one like any other; 0: at once"
    )
    min_share: Annotated[float, Field(ge=0, le=0.5)] = Field(0.02, description="its least share of the traffic until then")
    max_share: Annotated[float, Field(ge=0.001, le=1)] = Field(0.3, description="and its largest")

    @model_validator(mode="after")
    def _ordered(self) -> OnboardingConfig:
        if self.min_share > self.max_share:
            raise ValueError("min_share must not exceed max_share")
        return self


class ConfigFile(Strict):
    """Everything that a configuration file may hold."""

    store: str = Field(
        "sqlite:///./.banditroute",
        description="where the log is: `sqlite:///FOLDER` (relative to this file), `redis://HOST:PORT/DB` and its kin "
        '(see docs/howto/many-machines.md), or `"memory:"` (quoted); `${NAME}` stands for an environment variable',
    )
    redis: RedisConfig = Field(default_factory=RedisConfig, description="how a log in Redis is used")
    signing_keys_file: str | None = Field(
        None,
        description="keys of decision ids; default: `keys.json` in the store's folder, made at the first start; a store that "
        "is shared needs it",
    )
    decision_sink: SinkConfig = Field(
        default_factory=SinkConfig, description="where decisions are kept for `explain`, `evaluate` and `export`"
    )
    server: ServerConfig = Field(default_factory=ServerConfig, description="limits of the gRPC server")
    webhooks: list[WebhookConfig] = Field(default_factory=list, description="who is told what the journal notes")
    checkpoint_every: Count = Field(10_000, description="events between two saved states; a restart folds at most so many")
    log_retention_events: Count | None = Field(
        None,
        description="events kept behind the newest checkpoint; default: 5,000,000, or 500,000 (0.4 GB) where the store is Redis; "
        "the journal is kept for good",
    )
    feedback_window_s: Annotated[float, Field(ge=1, le=366 * 86400)] | None = Field(
        None, description="seconds for which a decision takes feedback; default: 7 days, 48 hours where the store is Redis"
    )
    false_alarms_per_million_feedbacks: Annotated[float, Field(ge=0.001, le=100_000)] = Field(
        20.0, description="demotions of a model that is as good as ever, at most, in a million feedbacks"
    )
    breaker: BreakerConfig = Field(default_factory=BreakerConfig, description="how models that do not answer are taken out")
    onboarding: OnboardingConfig = Field(default_factory=OnboardingConfig, description="what a model gets while it is new")
    models: dict[str, ModelConfig] = Field(min_length=1, description="the models, by the name that Route answers")
    categories: dict[str, CategoryConfig] = Field(min_length=1, description="the task categories, by name")
    priors: dict[str, dict[str, PriorConfig]] = Field(
        default_factory=dict, description="a file's path, or by category (`*`: all not named) and model"
    )


class Config(NamedTuple):
    """A validated configuration. `source` is the file's path, or ``<dict>``."""

    local: LocalConfig
    shared: Mapping[str, Any]
    source: str


def load(source: str | Path | Mapping[str, Any]) -> Config:
    """Reads and checks a configuration file, or a dict of the same shape.

    Raises:
        ConfigError: with every problem, its path and (in a file) its line.
    """
    raw, lines, shown, folder = (dict(source), {}, "<dict>", Path()) if isinstance(source, Mapping) else _read_file(Path(source))
    if isinstance(raw, dict) and isinstance(raw.get("priors"), str):
        raw["priors"] = read_priors(folder / raw["priors"])
    return _checked(raw, shown, lines, folder)


def _read_file(path: Path) -> tuple[Any, Lines, str, Path]:
    return *read_yaml(path), str(path), path.parent


class _Priors(Strict):
    priors: dict[str, dict[str, PriorConfig]]


def read_priors(path: Path) -> dict[str, Any]:
    """The content of a priors file, as it may stand under `priors` in a configuration.

    Raises:
        ConfigError: it is no priors file.
    """
    raw, lines = read_yaml(path)
    try:
        checked = _Priors.model_validate({"priors": raw})
    except ValidationError as error:
        raise ConfigError(str(path), _problems(error, {("priors", *k): v for k, v in lines.items()}, 1)) from None
    return checked.model_dump(mode="json")["priors"]  # type: ignore[no-any-return]


def _checked(raw: Any, source: str, lines: Lines, folder: Path) -> Config:
    if not isinstance(raw, dict):
        raise ConfigError(source, [ConfigProblem("", 1, "is not a mapping: expected `models:` and `categories:`")])
    try:
        file = ConfigFile.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(source, _problems(error, lines, 0)) from None
    problems = [ConfigProblem(".".join(map(str, loc)), _line(lines, loc), text) for loc, text in _cross_checks(file)]
    if problems:
        raise ConfigError(source, problems)
    document = _document(file)
    try:
        resolved(document, {})
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(source, [ConfigProblem("", None, str(error))]) from None
    local = LocalConfig(
        file.store,
        file.redis,
        file.signing_keys_file,
        file.decision_sink,
        file.server,
        tuple(file.webhooks),
        file.checkpoint_every,
        file.log_retention_events or RETENTION_EVENTS[parse_store(file.store).kind == "redis"],
        folder,
    )
    return Config(local, document, source)


def _cross_checks(file: ConfigFile) -> list[tuple[tuple[str | int, ...], str]]:
    found: list[tuple[tuple[str | int, ...], str]] = []
    try:
        store = parse_store(file.store)
    except ValueError as error:
        found.append((("store",), str(error)))
    else:
        if store.kind == "redis" and file.signing_keys_file is None:
            found.append((("signing_keys_file",), "a store that is shared needs it: all replicas sign with the same keys"))
    found.extend(webhook_problems(file.webhooks))
    named: list[tuple[str | int, ...]] = [("models", name) for name in file.models]
    for name, category in file.categories.items():
        named += [("categories", name), *[("categories", name, "features", feature) for feature in category.features]]
    for place in named:
        name = str(place[-1])
        if not name.isprintable() or not 0 < len(name.encode()) <= MAX_NAME_BYTES:
            found.append((place, f"names are printable and have 1 to {MAX_NAME_BYTES} bytes"))
    for name, category in file.categories.items():
        for i, model in enumerate(category.models):
            if model not in file.models:
                found.append(
                    (("categories", name, "models", i), f"model {model!r} is not under `models`; known: {', '.join(file.models)}")
                )
        if category.half_life_s is not None and "half_life_count" in category.model_fields_set and category.half_life_count:
            found.append((("categories", name, "half_life_s"), "give half_life_s or half_life_count, not both"))
    for name, arms in file.priors.items():
        if name != ANY_CATEGORY and name not in file.categories:
            found.append((("priors", name), f"is no category; use one, or {ANY_CATEGORY!r} for all"))
        found.extend((("priors", name, model), "is not under `models`") for model in arms if model not in file.models)
    return found


SHARED = {
    "models",
    "categories",
    "priors",
    "feedback_window_s",
    "false_alarms_per_million_feedbacks",
    "breaker",
    "onboarding",
}


def _document(file: ConfigFile) -> dict[str, Any]:
    """The canonical document; `cost_reference_usd` may still be null."""
    dumped = file.model_dump(mode="json", include=SHARED)
    if file.feedback_window_s is None:
        dumped["feedback_window_s"] = FEEDBACK_WINDOW_S[parse_store(file.store).kind == "redis"]
    for model in dumped["models"].values():
        if model["cached_input_usd_per_mtok"] is None:
            model["cached_input_usd_per_mtok"] = model["input_usd_per_mtok"]
        model["tags"] = sorted(set(model["tags"]))
    for category in dumped["categories"].values():
        if category["half_life_s"] is not None:
            category["half_life_count"] = None
    return dumped


def resolved(shared: Mapping[str, Any], held: Mapping[str, Any]) -> dict[str, Any]:
    """The document with every floor and cost reference set. A cost reference is as written, else as `held` (the
    document in force) has it, else from prices and declared or prior tokens: the priciest model's cost per request.

    A reference that nobody wrote is fixed when the category first enters the log, so that learning
    and price changes do not move what a cost weight means.
    """
    document = copy.deepcopy(dict(shared))
    for name, category in document["categories"].items():
        if category["propensity_floor"] is None:
            category["propensity_floor"] = min(FLOOR, FLOORS / len(category["models"]))
        if category["cost_reference_usd"] is not None:
            continue
        before = held.get("categories", {}).get(name)
        category["cost_reference_usd"] = before["cost_reference_usd"] if before else _default_reference(document, name)
    parse_shared(document)
    return document


def _default_reference(document: Mapping[str, Any], name: str) -> float:
    category = document["categories"][name]
    priciest = 0.0
    for model in category["models"]:
        prices = document["models"][model]
        prior: Mapping[str, Any] = next(
            (document["priors"][c][model] for c in (name, ANY_CATEGORY) if model in document["priors"].get(c, {})), {}
        )
        tokens = {}
        for side in ("input_tokens", "output_tokens"):
            known = prior.get(side)
            tokens[side] = category[f"expected_{side}"] if known is None else known
        cost = tokens["input_tokens"] * prices["input_usd_per_mtok"] + tokens["output_tokens"] * prices["output_usd_per_mtok"]
        priciest = max(priciest, cost / 1e6)
    return priciest if priciest > 0.0 and math.isfinite(priciest) else 0.01


def _line(lines: Lines, loc: tuple[str | int, ...]) -> int | None:
    for end in range(len(loc), 0, -1):
        if loc[:end] in lines:
            return lines[loc[:end]]
    return 1 if lines else None


def _problems(error: ValidationError, lines: Lines, skip: int) -> list[ConfigProblem]:
    found = []
    for item in error.errors(include_url=False):
        loc = tuple(item["loc"])
        if loc and loc[-1] == "[key]":
            loc = loc[:-1]
        hint = ": unknown key; see docs/reference/configuration.md" if item["type"] == "extra_forbidden" else ""
        text = "unknown key" if hint else item["msg"]
        given = "" if isinstance(item["input"], dict | list) or hint else f" (given: {item['input']!r:.80})"
        found.append(ConfigProblem(".".join(map(str, loc[skip:])), _line(lines, loc), f"{text}{given}"))
    return found

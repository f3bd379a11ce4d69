from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from banditroute.config import load, read_priors, resolved
from banditroute.core.errors import ConfigError, ConfigProblem
from banditroute.core.settings import BreakerSettings, document_fingerprint, parse_shared

GOOD = """\
store: "memory:"
models:
  big: {input_usd_per_mtok: 2.5, output_usd_per_mtok: 10}
  small: {input_usd_per_mtok: 0.5, output_usd_per_mtok: 1.5, tags: [eu, dpa, eu]}
categories:
  chat:
    models: [big, small]
    cost_weight: 0.3
    features:
      length: {mean: 6.5, stddev: 1.2}
"""


def config(**category: Any) -> dict[str, Any]:
    prices = {"input_usd_per_mtok": 2.5, "output_usd_per_mtok": 10.0}
    return {"models": {"big": prices, "small": {}}, "categories": {"chat": {"models": ["big", "small"]} | category}}


def problems_of(source: Path | Mapping[str, Any]) -> tuple[ConfigProblem, ...]:
    with pytest.raises(ConfigError) as caught:
        load(source)
    return caught.value.problems


def written(folder: Path, text: str) -> Path:
    path = folder / "banditroute.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_good_file(tmp_path: Path) -> None:
    found = load(written(tmp_path, GOOD))
    assert found.local.store == "memory:"
    assert found.local.folder == tmp_path
    assert found.shared["models"]["small"]["tags"] == ["dpa", "eu"]
    assert found.shared["models"]["big"]["cached_input_usd_per_mtok"] == 2.5
    assert found.shared["categories"]["chat"]["features"] == {"length": {"mean": 6.5, "stddev": 1.2}}
    apart = {"feedback_window_s", "false_alarms_per_million_feedbacks", "onboarding", "breaker"}
    assert set(found.shared) == {"models", "categories", "priors"} | apart
    assert parse_shared(resolved(found.shared, {})).categories["chat"].cost_weight == 0.3


def test_a_file_and_a_dict_of_the_same_shape_are_the_same(tmp_path: Path) -> None:
    from_file = load(written(tmp_path, "models: {big: {input_usd_per_mtok: 2.5, output_usd_per_mtok: 10}, small: {}}\n"
                                       "categories: {chat: {models: [big, small]}}\n"))  # fmt: skip
    assert document_fingerprint(from_file.shared) == document_fingerprint(load(config()).shared)


@pytest.mark.parametrize(
    ("old", "new", "path", "line", "words"),
    [
        ("    cost_weight: 0.3", "    cost_wieght: 0.3", "categories.chat.cost_wieght", 8, "unknown key"),
        ('store: "memory:"', "shop: x", "shop", 1, "unknown key"),
        ('store: "memory:"', "store: postgres://user:secret@host/db", "store", 1, "'host/db' is no store"),
        ("cost_weight: 0.3", "cost_weight: plenty", "categories.chat.cost_weight", 8, "plenty"),
        ("cost_weight: 0.3", "cost_weight: 100.5", "categories.chat.cost_weight", 8, "100.5"),
        ("cost_weight: 0.3", "cost_weight: -0.1", "categories.chat.cost_weight", 8, "-0.1"),
        ("cost_weight: 0.3", "cost_weight: .nan", "categories.chat.cost_weight", 8, "nan"),
        ("cost_weight: 0.3", "cost_weight: .inf", "categories.chat.cost_weight", 8, "inf"),
        ("cost_weight: 0.3", "cost_scale: cubic", "categories.chat.cost_scale", 8, "cubic"),
        ("cost_weight: 0.3", "propensity_floor: 0.3", "categories.chat.propensity_floor", 8, "0.2"),
        ("cost_weight: 0.3", "cost_reference_usd: 0", "categories.chat.cost_reference_usd", 8, "given: 0"),
        ("cost_weight: 0.3", "half_life_s: 0.0000001", "categories.chat.half_life_s", 8, "1e-07"),
        ("cost_weight: 0.3", "signal_weights: {rating: 1.5}", "categories.chat.signal_weights.rating", 8, "1.5"),
        ("cost_weight: 0.3", "signal_weights: {stars: 1}", "categories.chat.signal_weights.stars", 8, "unknown key"),
        ("models: [big, small]", "models: [big, huge]", "categories.chat.models.1", 7,
         "'huge' is not under `models`; known: big"),
        ("models: [big, small]", "models: [big, big]", "categories.chat", 6, "twice"),
        ("models: [big, small]", "models: []", "categories.chat.models", 7, "at least 1"),
        ("models: [big, small]", "models: big", "categories.chat.models", 7, "valid list"),
        ("stddev: 1.2", "stddev: 0", "categories.chat.features.length.stddev", 10, "given: 0"),
        ("mean: 6.5", "mean: 1.0e+10", "categories.chat.features.length.mean", 10, "10000000000"),
        ("      length:", "      ? \"a\\tb\"\n      :", "categories.chat.features.a\tb", 10, "printable"),
        ("input_usd_per_mtok: 0.5", "input_usd_per_mtok: -1", "models.small.input_usd_per_mtok", 4, "-1"),
        ("  chat:", "  \"\":", "categories.", 6, "1 to 96 bytes"),
        ("  chat:", "  " + "x" * 97 + ":", "categories." + "x" * 97, 6, "1 to 96 bytes"),
        ('store: "memory:"', "feedback_window_s: 0.5", "feedback_window_s", 1, "0.5"),
        ('store: "memory:"', "breaker: {cooldown_s: 20, max_cooldown_s: 10}", "breaker", 1, "must not be below cooldown_s"),
        ('store: "memory:"', "breaker: {trial_share: 0.5}", "breaker.trial_share", 1, "0.4"),
        ('store: "memory:"', "server: {max_concurrent_feedback: 128}", "server", 1, "below max_concurrent_requests"),
        ('store: "memory:"',
         "priors: {talk: {big: {quality: 0.5, effective_sample_size: 1}}}", "priors.talk", 1, "is no category"),
        ('store: "memory:"',
         "priors: {chat: {huge: {quality: 0.5, effective_sample_size: 1}}}", "priors.chat.huge", 1, "not under"),
        ('store: "memory:"',
         "priors: {chat: {big: {quality: 1.5, effective_sample_size: 1}}}", "priors.chat.big.quality", 1, "1.5"),
    ],
)  # fmt: skip
def test_one_mistake_is_named_with_path_and_line(tmp_path: Path, old: str, new: str, path: str, line: int, words: str) -> None:
    assert GOOD.count(old) == 1
    (problem,) = problems_of(written(tmp_path, GOOD.replace(old, new)))
    assert (problem.path, problem.line) == (path, line)
    assert words in problem.description


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    text = GOOD.replace("0.3", "much").replace("output_usd_per_mtok: 10", "output: 10").replace("1.2", "-1")
    found = problems_of(written(tmp_path, text))
    assert [problem.line for problem in found] == [3, 8, 10]
    with pytest.raises(ConfigError, match=r"banditroute\.yaml:8: categories\.chat\.cost_weight: .*'much'"):
        load(tmp_path / "banditroute.yaml")


def test_breaker_settings_reach_the_core_and_older_documents_have_the_same_defaults() -> None:
    usual = resolved(load(config()).shared, {})
    assert parse_shared(usual).breaker == BreakerSettings() == parse_shared({**usual, "breaker": {}}).breaker
    older = {key: value for key, value in usual.items() if key != "breaker"}
    assert parse_shared(older).breaker == BreakerSettings()
    asked = {"enabled": False, "cooldown_s": 2.5, "max_cooldown_s": 7, "trial_share": 0.2}
    found = parse_shared(resolved(load({**config(), "breaker": asked}).shared, {})).breaker
    assert found == BreakerSettings(False, 2_500_000, 7_000_000, 0.2)
    for wrong in ({"enabled": 1}, {"cooldown_s": 100}, {"max_cooldown_s": 1}, {"trial_share": 0.0}, {"cooldown_s": True}):
        with pytest.raises(ValueError, match=r"is outside|neither|not a number"):
            parse_shared({**usual, "breaker": wrong})


def test_both_half_lives_are_one_too_many(tmp_path: Path) -> None:
    text = GOOD.replace("    cost_weight: 0.3", "    half_life_count: 100\n    half_life_s: 60")
    (problem,) = problems_of(written(tmp_path, text))
    assert (problem.path, problem.line) == ("categories.chat.half_life_s", 9)
    assert "not both" in problem.description


@pytest.mark.parametrize(
    ("given", "count", "seconds"),
    [
        ({}, 2000, None),
        ({"half_life_s": 60}, None, 60.0),
        ({"half_life_count": None, "half_life_s": 60}, None, 60.0),
        ({"half_life_count": None}, None, None),
        ({"half_life_count": 5}, 5, None),
    ],
)
def test_one_half_life_is_in_force(given: dict[str, Any], count: int | None, seconds: float | None) -> None:
    category = load(config(**given)).shared["categories"]["chat"]
    assert (category["half_life_count"], category["half_life_s"]) == (count, seconds)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("models:\n  a: [1, 2\ncategories: {}\n", 3, "is not YAML"),
        ("models: {}\n\tb: 1\n", 2, "is not YAML"),
        ("models: {}\nstore: memory:\n", 2, 'needs quotes, such as store: "memory:"'),
        ("models: *gone\n", 1, "undefined alias"),
        ("a: 1\n---\nb: 2\n", 2, "is not YAML"),
        ("models:\n  a: \x07\n", 2, "special characters"),
        ("models: !!int twelve\n", None, "is not YAML"),
        ("models: 2024-13-45\n", None, "month"),
        ("models: !!python/object:os.system {}\n", 1, "is not YAML"),
        ("", 1, "is not a mapping"),
        ("- a\n- b\n", 1, "is not a mapping"),
    ],
)
def test_what_is_not_yaml_is_refused_with_its_line(tmp_path: Path, text: str, line: int | None, words: str) -> None:
    (problem,) = problems_of(written(tmp_path, text))
    assert problem.line == line
    assert words in problem.description


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    found = problems_of(written(tmp_path, GOOD + "    cost_weight: 0.5\nstore: x\n"))
    assert found == (
        ConfigProblem("categories.chat.cost_weight", 11, "is given twice"),
        ConfigProblem("store", 12, "is given twice"),
    )


def test_merge_keys_may_be_overridden(tmp_path: Path) -> None:
    text = GOOD.replace("  chat:", "  talk: &talk\n    models: [small]\n    cost_weight: 0.9\n  chat:\n    <<: *talk")
    categories = load(written(tmp_path, text)).shared["categories"]
    assert categories["talk"]["cost_weight"] == 0.9
    assert (categories["chat"]["cost_weight"], categories["chat"]["models"]) == (0.3, ["big", "small"])


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert problems_of(tmp_path / "none.yaml") == (ConfigProblem("", None, "cannot be read: No such file or directory"),)
    assert "cannot be read" in problems_of(tmp_path)[0].description
    (tmp_path / "latin.yaml").write_bytes("models: {ä: {}}".encode("latin-1"))
    assert problems_of(tmp_path / "latin.yaml") == (ConfigProblem("", None, "is not UTF-8 text"),)


@pytest.mark.parametrize(
    ("source", "path"),
    [
        ({}, "models"),
        ({"models": {}, "categories": {"c": {"models": ["a"]}}}, "models"),
        ({"models": {"a": {}}, "categories": {}}, "categories"),
        ({"models": {1: {}}, "categories": {"c": {"models": ["a"]}}}, "models.1"),
        ({"models": {"\ud800": {}}, "categories": {"c": {"models": ["\ud800"]}}}, "models.\ud800"),
        ({"models": None, "categories": {"c": {"models": ["a"]}}}, "models"),
        (config(features={f"f{i}": {} for i in range(17)}), "categories.chat.features"),
    ],
)
def test_dicts_have_paths_and_no_lines(source: dict[str, Any], path: str) -> None:
    found = problems_of(source)
    assert (found[0].path, found[0].line) == (path, None)


# --- priors ---


def test_priors_from_a_file_beside_it(tmp_path: Path) -> None:
    (tmp_path / "priors.yaml").write_text('chat: {big: {quality: 0.8, effective_sample_size: 20, output_tokens: 220}}\n"*": {}\n')
    expected = {
        "chat": {"big": {"quality": 0.8, "effective_sample_size": 20.0, "input_tokens": None, "output_tokens": 220.0}},
        "*": {},
    }
    assert read_priors(tmp_path / "priors.yaml") == expected
    path = written(tmp_path, GOOD + "priors: priors.yaml\n")
    assert load(path).shared["priors"] == expected
    assert load({**config(), "priors": str(tmp_path / "priors.yaml")}).shared["priors"] == expected


@pytest.mark.parametrize(
    ("text", "path", "line"),
    [
        ("chat:\n  big:\n    quality: 2\n    effective_sample_size: 1\n", "chat.big.quality", 3),
        ("chat:\n  big: {quality: 1, effective_sample_size: -1}\n", "chat.big.effective_sample_size", 2),
        ("chat:\n  big: {quality: 1}\n", "chat.big.effective_sample_size", 2),
        ("chat:\n  big: {quality: 1, effective_sample_size: 1, size: 3}\n", "chat.big.size", 2),
        ("chat: 5\n", "chat", 1),
        ("", "", None),
    ],
)
def test_a_wrong_priors_file_is_named_itself(tmp_path: Path, text: str, path: str, line: int | None) -> None:
    (tmp_path / "priors.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, GOOD + "priors: priors.yaml\n"))
    assert caught.value.source == str(tmp_path / "priors.yaml")
    assert [(problem.path, problem.line) for problem in caught.value.problems] == [(path, line)]


def test_a_missing_priors_file_is_named_itself(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.yaml: cannot be read"):
        load(written(tmp_path, GOOD + "priors: gone.yaml\n"))


# --- the cost reference ---


def reference(source: Mapping[str, Any], held: Mapping[str, Any] | None = None) -> float:
    document = resolved(load(source).shared, held or {})
    return float(document["categories"]["chat"]["cost_reference_usd"])


def test_the_default_reference_is_the_priciest_models_cost() -> None:
    assert reference(config()) == (1000 * 2.5 + 300 * 10.0) / 1e6
    assert reference(config(expected_input_tokens=200, expected_output_tokens=0)) == 200 * 2.5 / 1e6
    assert reference(config(cost_reference_usd=0.25)) == 0.25
    assert reference(config(models=["small"])) == 0.01  # no prices: something positive


def test_the_default_reference_takes_prior_tokens() -> None:
    prior = {"quality": 0.5, "effective_sample_size": 1.0}
    everywhere = {"*": {"big": {**prior, "input_tokens": 10, "output_tokens": 20}}}
    assert reference({**config(), "priors": everywhere}) == (10 * 2.5 + 20 * 10.0) / 1e6
    named = {**everywhere, "chat": {"big": {**prior, "output_tokens": 40}}}
    assert reference({**config(), "priors": named}) == (1000 * 2.5 + 40 * 10.0) / 1e6


def test_the_reference_is_kept_from_the_document_in_force() -> None:
    held = resolved(load(config()).shared, {})
    dearer = config()
    dearer["models"]["big"] = {"input_usd_per_mtok": 5.0, "output_usd_per_mtok": 20.0}
    assert reference(dearer) == 2 * reference(config())
    assert reference(dearer, held) == reference(config())
    assert reference(config(cost_reference_usd=0.5), held) == 0.5
    later = dearer["categories"] | {"new": {"models": ["big"]}}
    document = resolved(load({**dearer, "categories": later}).shared, held)
    assert document["categories"]["new"]["cost_reference_usd"] == 2 * reference(config())


def test_resolving_changes_nothing_that_was_given() -> None:
    shared = load(config()).shared
    before = document_fingerprint(shared)
    once = resolved(shared, {})
    assert document_fingerprint(shared) == before
    assert document_fingerprint(resolved(shared, once)) == document_fingerprint(once)


def test_a_log_in_memory_keeps_fewer_events_unless_told_otherwise() -> None:
    base = {"models": {"a": {}}, "categories": {"c": {"models": ["a"]}}}
    shared = {**base, "store": "redis://h:6379/0", "signing_keys_file": "keys.json"}
    assert load(base).local.log_retention_events == 5_000_000
    assert load(shared).local.log_retention_events == 500_000
    assert load({**shared, "log_retention_events": 7}).local.log_retention_events == 7

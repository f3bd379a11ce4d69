"""Features of prompts: hand-sized texts, the same numbers everywhere, and the geometry that a projection keeps."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from banditroute.config import FeatureConfig
from banditroute.core.errors import DatasetError
from banditroute.lab.extract import declared, features, read_spec

ALL: dict[str, Any] = {"from": "prompt", "extract": ["length", "code", "language", {"projection": 5}]}

PINNED = [-1.0, 1.0, 1.0, -1.0, 1.0, -1.0, 1.0, 1.0]


def values(text: str, *extract: Any) -> list[float]:
    _, found = features([text], read_spec({"from": "prompt", "extract": list(extract)}, where="here"))
    row: list[float] = found[0].tolist()
    return row


def test_names_and_shape() -> None:
    names, found = features(["one", "two words", ""], read_spec(ALL, where="here"))
    assert names == ("length", "code", "language", *(f"projection_{i}" for i in range(1, 6)))
    assert found.shape == (3, 8)
    assert np.isfinite(found).all()
    assert found[2].tolist() == [0.0] * 8


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("plain words, no more.", 0.0),
        ("f(x);", 3 / 5),
        ("a```b```c", 7 / 9),
        ("a```bc", 5 / 6),
        ("``````", 1.0),
        ("```x```(y", 8 / 9),
    ],
)
def test_code_is_what_is_fenced_and_the_marks_outside(text: str, share: float) -> None:
    assert values(text, "code") == [pytest.approx(share)]


@pytest.mark.parametrize(
    ("text", "share"), [("Größe, naïve", 0.0), ("да", 1.0), ("ab да", 0.5), ("123 !", 0.0), ("質問 ab", 0.5)]
)
def test_language_is_the_share_of_letters_that_are_not_latin(text: str, share: float) -> None:
    assert values(text, "language") == [share]


def test_length_counts_characters() -> None:
    assert values("äbc", "length") == [math.log(4.0)]


def test_projection_by_hand() -> None:
    """One word: its signs. A word twice: twice the word and once the pair, over the norm of (2, 1)."""
    one = np.array(values("yes", {"projection": 8}))
    assert set(np.abs(one)) == {1.0}
    twice = np.array(values("yes yes", {"projection": 8}))
    pair = twice * math.sqrt(5.0) - 2.0 * one
    np.testing.assert_allclose(np.abs(pair), 1.0)


def test_projection_is_pinned() -> None:
    """Others may compute it by the words of the module's documentation; it must not move."""
    assert values("yes", {"projection": 8}) == PINNED


def test_case_width_and_punctuation_do_not_matter() -> None:
    assert values("Yes, NO", {"projection": 4}) == values("yes no!", {"projection": 4}) == values("ｙｅｓ no", {"projection": 4})


def test_other_processes_find_the_same() -> None:
    code = (
        "from banditroute.lab.extract import features, read_spec;"
        f"print(features(['some words of a prompt'], read_spec({ALL!r}, where='x'))[1].tolist())"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert seen == {f"{features(['some words of a prompt'], read_spec(ALL, where='x'))[1].tolist()}\n"}


def test_projection_keeps_likeness() -> None:
    """Over many texts: variance about 1 a coordinate, and those that share words nearer than those that share none."""
    rng = np.random.default_rng(5)
    texts = [" ".join(f"w{i}" for i in rng.integers(0, 400, 30)) for _ in range(400)]
    spec = read_spec({"from": "prompt", "extract": [{"projection": 16}]}, where="here")
    _, found = features(texts, spec)
    assert 0.8 < found.var() < 1.2
    _, alike = features(
        [f"{text} more" for text in texts], read_spec({"from": "prompt", "extract": [{"projection": 16}]}, where="x")
    )
    near, far = ((found - alike) ** 2).sum(axis=1).mean(), ((found - alike[::-1]) ** 2).sum(axis=1).mean()
    assert near < 0.2 * far


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(), max_size=5))
def test_any_text_gives_finite_numbers_of_the_stated_range(prompts: list[str]) -> None:
    _, found = features(prompts, read_spec(ALL, where="here"))
    assert np.isfinite(found).all()
    assert ((found[:, 1:3] >= 0.0) & (found[:, 1:3] <= 1.0)).all()


def test_declared_is_what_a_category_takes() -> None:
    found = declared(("a", "b"), np.array([[1.0, 5.0], [3.0, 5.0]]))
    assert found == {"a": {"mean": 2.0, "stddev": 1.0}, "b": {"mean": 5.0, "stddev": 1.0}}
    assert all(FeatureConfig(**each) for each in found.values())
    with pytest.raises(DatasetError, match="at least one"):
        declared(("a",), np.empty((0, 1)))


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ({"extract": ["length"]}, "from: Field required"),
        ({"from": "answer", "extract": ["length"]}, "from: Input should be 'prompt'"),
        ({"from": "prompt", "extract": []}, "extract"),
        ({"from": "prompt", "extract": ["smell"]}, "'length', 'code' or 'language'"),
        ({"from": "prompt", "extract": ["length", "length"]}, "each only once: length, length"),
        ({"from": "prompt", "extract": [{"projection": 2}, {"projection": 3}]}, "each only once"),
        ({"from": "prompt", "extract": [{"projection": 0}]}, "greater than or equal to 1"),
        ({"from": "prompt", "extract": ["length", {"projection": 16}]}, "17 features; a category may have 16"),
        ({"from": "prompt", "extract": ["length"], "scale": 2}, "scale: Extra inputs"),
    ],
)
def test_declarations_that_are_refused(document: Any, told: str) -> None:
    with pytest.raises(DatasetError, match=r"s\.yaml: not a declaration of features") as caught:
        read_spec(document, where="s.yaml")
    assert told in str(caught.value)

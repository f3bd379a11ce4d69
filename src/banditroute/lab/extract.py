"""Context features of prompt texts, as declared: `features: {from: prompt, extract: [length, code, language, {projection: 8}]}`.

- `length`: log(1 + characters).
- `code`: share of the characters that are code, in [0, 1]: those between fences of three backticks (an open fence runs to
  the end; the fences count), and outside of them the marks ``{}[]()<>;=_#\\|/*&$@~^`` and backticks.
- `language`: share of the letters that are not Latin, in [0, 1]; 0 where there are no letters.
- `projection: d`: d numbers `projection_1` to `projection_d`, a random projection of counts of words and pairs of
  neighbouring words (lower case, NFKC, runs of letters, digits and underscores). Each of these n-grams has d signs: bit j
  of BLAKE2b of its UTF-8 bytes (a pair has one space between), little-endian, digest of ceil(d / 8) bytes; a set bit is +1. The
  counts times the signs, summed and divided by the Euclidean norm of the counts: variance about 1; all 0 without words. It
  keeps inner products of texts up to an error of 1 / sqrt(d) (Johnson and Lindenstrauss 1984; signs: Achlioptas 2003).

The same text gives the same numbers in every process and on every platform: whoever calls Route computes them likewise.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import ConfigDict, Field, field_validator

from banditroute.core.errors import DatasetError
from banditroute.lab.environments import Frozen, parsed
from banditroute.lab.source import FloatArray

MAX_FEATURES = 16
"""As many as a category may declare."""
MIN_STDDEV = 1e-9

FENCE = "```"
MARKS = frozenset("{}[]()<>;=_#\\|/*&$@~^`")
_WORD = re.compile(r"\w+")


class Projection(Frozen):
    """A hashed projection of the words."""

    projection: Annotated[int, Field(ge=1, le=MAX_FEATURES)] = Field(description="numbers that a text becomes")


class FeaturesSpec(Frozen):
    """What is computed of which text."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    source: Literal["prompt"] = Field(alias="from", description="the text; a data set's column `prompt`")
    extract: tuple[Literal["length", "code", "language"] | Projection, ...] = Field(min_length=1, description="in this order")

    @field_validator("extract")
    @classmethod
    def _fits(cls, extract: tuple[str | Projection, ...]) -> tuple[str | Projection, ...]:
        kinds = ["projection" if isinstance(each, Projection) else each for each in extract]
        if len(set(kinds)) < len(kinds):
            raise ValueError(f"each only once: {', '.join(kinds)}")
        if (count := len(_names(extract))) > MAX_FEATURES:
            raise ValueError(f"{count} features; a category may have {MAX_FEATURES}: make the projection smaller")
        return extract


def read_spec(document: Any, *, where: str) -> FeaturesSpec:
    """The declaration in a document. Raises DatasetError, which names `where` and every wrong field."""
    return parsed(FeaturesSpec, document, where=where, what="a declaration of features")


def features(prompts: Sequence[str], spec: FeaturesSpec) -> tuple[tuple[str, ...], FloatArray]:
    """The names of the d features, and their values of shape (prompts, d), raw: the router standardises."""
    values = np.empty((len(prompts), len(_names(spec.extract))))
    for i, prompt in enumerate(prompts):
        row: list[float] = []
        for each in spec.extract:
            row += _projected(prompt, each.projection) if isinstance(each, Projection) else [PLAIN[each](prompt)]
        values[i] = row
    return _names(spec.extract), values


def declared(names: Sequence[str], values: FloatArray) -> dict[str, dict[str, float]]:
    """A category's `features:` for these values: {name: {mean, stddev}}, to 4 digits; stddev 1 where nothing varies.

    Raises:
        DatasetError: there is no value.
    """
    if not len(values):
        raise DatasetError("features of no prompts: give at least one")
    spreads = values.std(axis=0)
    return {
        name: {"mean": _digits(values[:, i].mean()), "stddev": _digits(spreads[i]) if spreads[i] > MIN_STDDEV else 1.0}
        for i, name in enumerate(names)
    }


def _names(extract: Sequence[str | Projection]) -> tuple[str, ...]:
    names: list[str] = []
    for each in extract:
        names += [f"projection_{i + 1}" for i in range(each.projection)] if isinstance(each, Projection) else [each]
    return tuple(names)


def _length(prompt: str) -> float:
    return math.log1p(len(prompt))


def _code(prompt: str) -> float:
    if not prompt:
        return 0.0
    outside, *fenced = prompt.split(FENCE)
    count = sum(character in MARKS for character in outside)
    for i, part in enumerate(fenced):
        # Every second part is between fences; of the fences themselves each split lost one.
        count += len(FENCE) + (len(part) if i % 2 == 0 else sum(character in MARKS for character in part))
    return count / len(prompt)


def _language(prompt: str) -> float:
    letters = [character for character in prompt if character.isalpha()]
    return sum(map(_foreign, letters)) / len(letters) if letters else 0.0


PLAIN: Mapping[str, Callable[[str], float]] = {"length": _length, "code": _code, "language": _language}


@functools.lru_cache(maxsize=65536)
def _foreign(letter: str) -> bool:
    return "LATIN" not in unicodedata.name(letter, "")


def _projected(prompt: str, d: int) -> list[float]:
    words = _WORD.findall(unicodedata.normalize("NFKC", prompt).lower())
    counts = Counter(words)
    counts.update(f"{first} {second}" for first, second in itertools.pairwise(words))
    if not counts:
        return [0.0] * d
    total = np.zeros(d)
    for ngram, count in counts.items():
        total += count * _signs(ngram, d)
    values: list[float] = (total / math.sqrt(sum(count * count for count in counts.values()))).tolist()
    return values


@functools.lru_cache(maxsize=262_144)
def _signs(ngram: str, d: int) -> FloatArray:
    digest = np.frombuffer(blake2b(ngram.encode("utf-8", "surrogatepass"), digest_size=(d + 7) // 8).digest(), dtype=np.uint8)
    return np.where(np.unpackbits(digest, bitorder="little")[:d] == 1, 1.0, -1.0)


def _digits(value: float | np.floating[Any]) -> float:
    return float(f"{float(value):.4g}")

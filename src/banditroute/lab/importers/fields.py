"""Where in an export the category, the model and the score are, and what a score is worth in [0, 1]."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from banditroute.core.errors import DatasetError
from banditroute.lab.importers.records import Record, decoded, empty

MAX_SHOWN = 12


@dataclass(frozen=True)
class Selector:
    """A place in a record: a path of names joined by dots, and for a list of tags ``:`` and the tag's name.

    ``metadata.spend_logs_metadata.task`` is a value; ``request_tags:task`` is ``summarise`` where the list holds
    ``task:summarise`` or ``task=summarise``.
    """

    path: str
    tag: str = ""

    @classmethod
    def parse(cls, text: str) -> Selector:
        """Raises DatasetError where it names nothing."""
        path, colon, tag = text.partition(":")
        if not path or (colon and not tag):
            raise DatasetError(f"{text!r} names no field; give one such as metadata.task, or request_tags:task for a tag")
        return cls(path, tag)

    def __str__(self) -> str:
        return f"{self.path}:{self.tag}" if self.tag else self.path

    def find(self, record: Record) -> Any:
        """What is there, or None.

        Raises:
            DatasetError: a list or an object where one value is needed, or no list where a tag is looked for.
        """
        found = decoded(_walk(record.fields, self.path))
        if empty(found):
            return None
        if self.tag:
            if not isinstance(found, list):
                raise record.wrong(self.path, f"is no list of tags; give a field without ':{self.tag}'")
            return next((rest for each in found if (rest := self._of_tag(str(each)))), None)
        if isinstance(found, Mapping):
            raise record.wrong(
                self.path, f"holds {_listed(found)}; name one of them, such as {self.path}.{next(iter(found), 'x')}"
            )
        return found

    def text(self, record: Record) -> str:
        """As `find`, as text; empty where there is none. Raises also where a list of tags is there and no tag is named."""
        found = self.find(record)
        if isinstance(found, list):
            raise record.wrong(self.path, f"is a list ({str(found)[:60]}); name a tag, such as {self.path}:task")
        return "" if found is None else str(found).strip()

    def _of_tag(self, text: str) -> str:
        name, rest = text[: len(self.tag)], text[len(self.tag) :]
        return rest[1:].strip() if name == self.tag and rest[:1] in (":", "=") else ""


def _walk(fields: Any, path: str) -> Any:
    """The value at a path; a name may itself have dots, as those of OpenTelemetry have."""
    fields = decoded(fields)
    if not isinstance(fields, Mapping):
        return None
    if path in fields:
        return fields[path]
    name, dot, rest = path.partition(".")
    while dot:
        if name in fields and (found := _walk(fields[name], rest)) is not None:
            return found
        more, dot, rest = rest.partition(".")
        name = f"{name}.{more}"
    return None


def hint(record: Record) -> str:
    """The names that a selector may use on this record."""
    nested = [
        f"{name}.{key}" for name, value in record.fields.items() if isinstance(inner := decoded(value), Mapping) for key in inner
    ]
    return f"row {record.row} of {record.path} has {_listed([*record.fields, *nested], most=40)}"


def _listed(names: Any, *, most: int = MAX_SHOWN) -> str:
    shown = list(map(str, names))
    return ", ".join(shown[:most]) + (f" and {len(shown) - most} more" if len(shown) > most else "") or "nothing"


@dataclass(frozen=True)
class Scale:
    """How exported scores become scores in [0, 1]: numbers from `low` to `high` linearly, labels by `worth`.

    Booleans are 1 and 0 whatever the scale.
    """

    low: float = 0.0
    high: float = 1.0
    worth: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise DatasetError(f"a score range from {self.low:g} to {self.high:g} is none; give LOW:HIGH, such as 1:5")
        for label, value in self.worth.items():
            if not 0.0 <= value <= 1.0:
                raise DatasetError(f"score {label!r} is to be worth {value:g}; give a value between 0 and 1")

    def of(self, value: Any, record: Record, name: str) -> float | None:
        """The score, the mean of them where `value` is a list; None where there is none.

        Raises:
            DatasetError: it is outside the range, or a label that nobody has said the worth of.
        """
        value = decoded(value)
        if isinstance(value, list):
            each = [score for one in value if (score := self.of(one, record, name)) is not None]
            return sum(each) / len(each) if each else None
        if empty(value):
            return None
        if (known := self.worth.get(_label(value))) is not None:
            return known
        if (truth := _truth(value)) is not None:
            return truth
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise record.wrong(
                name, f"is {str(value)[:40]!r}, neither a number nor true or false; say its worth: --score-value '{value}=0.5'"
            ) from None
        if not self.low <= number <= self.high:
            remedy = "give --score-range LOW:HIGH" if (self.low, self.high) == (0.0, 1.0) else "give a wider --score-range"
            raise record.wrong(name, f"is {number:g}, not between {self.low:g} and {self.high:g}; {remedy}, or mend the row")
        return (number - self.low) / (self.high - self.low)


def label_key(text: str) -> str:
    """A label as `Scale.worth` has it: 1, 1.0 and "1" are one label."""
    return _label(text)


def _label(value: object) -> str:
    text = str(value).strip()
    try:
        return f"{float(text):g}"
    except ValueError:
        return text


def _truth(value: object) -> float | None:
    text = str(value).strip().lower()
    return {"true": 1.0, "false": 0.0}.get(text)

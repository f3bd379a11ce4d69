"""Every error that banditroute raises on purpose.

BanditrouteError
├── InvalidRequest         a caller's field is wrong; carries all violations at once
├── UnknownCategory        no such category
├── UnknownModel           no such model, or not in this category
├── LastArm                a category's last model in service cannot be paused
├── NoEligibleModel        every model of the category is excluded; carries the reasons
├── DecisionIdError        a decision id that cannot be used; carries the reason
│   ├── MalformedDecisionId    not an id of ours at all
│   ├── ForgedDecisionId       signed wrongly: forged, altered or cut off
│   └── ForeignDecisionId      signed with a key, or for a log, that is not ours
├── FeedbackWindowOver     the decision is too old to take feedback
├── StaleState             the asked-for position was not folded in time
├── Overloaded             no permit is free: try again
├── StoreError             the log
│   ├── StoreUnavailable       cannot write or read now: disk full, locked, gone
│   │   ├── StoreEmpty             nothing was ever kept there
│   │   ├── EventsTrimmed          what was asked for lies before what is kept; carries where that begins
│   │   └── EventsVanished         events that were read before are gone
│   ├── StoreUnfit             cannot keep what is asked of it
│   ├── StoreClosed            used after close
│   ├── StoreInUse             another process owns the state directory
│   ├── StoreTooNew            made by a newer banditroute
│   └── StoreKeyMismatch       made with other signing keys
├── FoldHalted             an event that this version cannot know how to fold
├── ConfigReplaced         another process changed the configuration meanwhile
├── ConfigError            the configuration is wrong; carries all problems with path and line
├── EtagMismatch           the category was changed since it was read
├── DatasetError           a data set, environment or priors file is wrong
├── EvaluationError        a log says nothing of another policy: empty, one-armed, or not exactly logged
└── ExportError            a log cannot be exported into this directory

Messages are fit for a client: they say what is wrong, where, and how to mend it, and hold no secret.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class BanditrouteError(Exception):
    """The root of all of them."""


class FieldViolation(NamedTuple):
    """One wrong field of a request. `field` is a path such as ``signals[1].rating.value``."""

    field: str
    description: str


class InvalidRequest(BanditrouteError):
    """A caller's fields are wrong. `violations` holds all of them."""

    def __init__(self, violations: Sequence[FieldViolation]) -> None:
        self.violations = tuple(violations)
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in self.violations))


class UnknownCategory(BanditrouteError):
    def __init__(self, category: str, known: Sequence[str]) -> None:
        self.category = category
        shown = ", ".join(sorted(known)[:20]) or "none"
        super().__init__(f"unknown category {category[:96]!r}; configured: {shown}")


class UnknownModel(BanditrouteError):
    """`category` is empty where no category has the model."""

    def __init__(self, model: str, known: Sequence[str], *, category: str = "") -> None:
        self.model = model
        self.category = category
        where = f" in category {category[:96]!r}" if category else ""
        shown = ", ".join(sorted(known)[:20]) or "none"
        super().__init__(f"unknown model {model[:96]!r}{where}; there are: {shown}")


class LastArm(BanditrouteError):
    """`categories` are those that would have no model in service."""

    def __init__(self, model: str, categories: Sequence[str]) -> None:
        self.model = model
        self.categories = tuple(categories)
        shown = ", ".join(self.categories[:20])
        super().__init__(f"{model!r} is the last model in service of {shown}: resume or add another one there first")


class NoEligibleModel(BanditrouteError):
    """`exclusions` maps each model of the category to why it may not serve."""

    def __init__(self, category: str, exclusions: Mapping[str, str]) -> None:
        self.category = category
        self.exclusions = dict(exclusions)
        why = ", ".join(f"{model}: {reason}" for model, reason in self.exclusions.items())
        super().__init__(f"no model of category {category!r} may serve this request ({why}); relax a constraint")


class DecisionIdError(BanditrouteError):
    """A decision id that cannot be used."""


class MalformedDecisionId(DecisionIdError):
    pass


class ForgedDecisionId(DecisionIdError):
    pass


class ForeignDecisionId(DecisionIdError):
    pass


class FeedbackWindowOver(BanditrouteError):
    pass


class StaleState(BanditrouteError):
    pass


class Overloaded(BanditrouteError):
    pass


class StoreError(BanditrouteError):
    pass


class StoreUnavailable(StoreError):
    pass


class StoreEmpty(StoreUnavailable):
    pass


class EventsTrimmed(StoreUnavailable):
    """`first_position` is that of the first event that is still kept."""

    def __init__(self, message: str, *, first_position: int) -> None:
        self.first_position = first_position
        super().__init__(message)


class EventsVanished(StoreUnavailable):
    pass


class StoreUnfit(StoreError):
    pass


class StoreClosed(StoreError):
    pass


class StoreInUse(StoreError):
    pass


class StoreTooNew(StoreError):
    pass


class StoreKeyMismatch(StoreError):
    pass


class FoldHalted(BanditrouteError):
    pass


class ConfigReplaced(BanditrouteError):
    pass


class ConfigProblem(NamedTuple):
    """One wrong place of a configuration. `line` counts from 1; None where the source has no lines."""

    path: str
    line: int | None
    description: str


class ConfigError(BanditrouteError):
    """`problems` holds all of them; `source` is the file's name or ``<dict>``."""

    def __init__(self, source: str, problems: Sequence[ConfigProblem]) -> None:
        self.source = source
        self.problems = tuple(problems)
        lines = [f"{source}{f':{p.line}' if p.line else ''}: {p.path + ': ' if p.path else ''}{p.description}" for p in problems]
        super().__init__("\n".join(lines))


class EtagMismatch(BanditrouteError):
    pass


class DatasetError(BanditrouteError):
    pass


class EvaluationError(BanditrouteError):
    pass


class ExportError(BanditrouteError):
    pass

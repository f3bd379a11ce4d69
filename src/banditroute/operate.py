"""Changes what is in force: configurations, and what operators do above them. Each change is one event in the log."""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from banditroute import logs
from banditroute.config import resolved
from banditroute.core.errors import (
    ConfigError,
    ConfigProblem,
    ConfigReplaced,
    EtagMismatch,
    FieldViolation,
    InvalidRequest,
    LastArm,
    UnknownCategory,
    UnknownModel,
)
from banditroute.core.fold import MAX_WEIGHT, OVERRIDABLE
from banditroute.core.settings import document_fingerprint
from banditroute.core.state import State
from banditroute.core.types import CategoryReport, EventKind
from banditroute.follower import Follower
from banditroute.log.base import EventLog

FOLD_WAIT_S = 30.0

log = logs.logger("banditroute.engine")


class ArmAction(enum.StrEnum):
    """What an operator does to an arm, as the event says it."""

    PAUSE = "pause_arm"
    RESUME = "resume_arm"
    RESET = "reset_arm"


def config_body(shared: Mapping[str, Any], held: State) -> dict[str, Any] | None:
    """The event that puts a configuration in force in place of a state's; None where nothing differs."""
    document = resolved(shared, held.document)
    fingerprint = document_fingerprint(document)
    if fingerprint == held.settings.fingerprint:
        return None
    return {"document": document, "fingerprint": fingerprint, "replaces": held.config_position}


class Operations:
    """One change at a time; each is folded when its method returns."""

    def __init__(self, log: EventLog, follower: Follower) -> None:
        self._log, self._follower = log, follower
        self._changing = threading.Lock()

    def begin(self, shared: Mapping[str, Any]) -> int | None:
        """What a start and SIGHUP do with the configuration file: adopt it; but a log of many machines keeps its own, unless it
        has none yet, and the difference is told.

        Raises:
            ConfigReplaced: another process put a different one in force meanwhile.
        """
        held = self._follower.snapshot.state
        if held.config_position == 0 or not self._log.keeps_configuration:
            try:
                return self.adopt(shared)
            except ConfigReplaced:  # by another replica or worker that starts or reloads now
                self._follower.catch_up()
                held = self._follower.snapshot.state
                if not self._log.keeps_configuration and not _same(shared, held):
                    raise
        if not _same(shared, held):
            log.warning(
                "this configuration file differs from the shared configuration in force, which stays: "
                "`banditroute apply FILE` changes it for all replicas",
                in_force=held.settings.fingerprint[:12],
                position=held.config_position,
            )
        return None

    def adopt(self, shared: Mapping[str, Any]) -> int | None:
        """Appends a configuration that differs from the one in force; its position, None where nothing differs.

        Raises:
            ConfigReplaced: another process changed it meanwhile.
        """
        body = config_body(shared, self._follower.snapshot.state)
        return None if body is None else self._append(EventKind.CONFIG, body, replaces=body["replaces"])

    def _append(self, kind: EventKind, body: Mapping[str, Any], *, replaces: int | None = None) -> int:
        position = self._log.append(kind, body, replaces=replaces).result().position
        self._follower.reach(position, FOLD_WAIT_S)
        return position

    def reload(self, shared: Mapping[str, Any]) -> int | None:
        """See `Engine.reload`."""
        return self._checked(self.begin, shared)

    def apply(self, shared: Mapping[str, Any]) -> int | None:
        """See `Engine.apply`."""
        return self._checked(self.adopt, shared)

    def _checked(self, change: Callable[[Mapping[str, Any]], int | None], shared: Mapping[str, Any]) -> int | None:
        with self._changing:
            try:
                return change(shared)
            except (ValueError, KeyError, TypeError) as error:
                raise ConfigError("<reload>", [ConfigProblem("", None, str(error))]) from error

    def set_weights(
        self,
        category: str,
        changes: Mapping[str, float | None],
        *,
        reason: str,
        actor: str,
        etag: str,
        validate_only: bool,
    ) -> tuple[CategoryReport, int | None]:
        """See `Engine.set_weights`."""
        with self._changing:
            before = self._follower.snapshot.report(category)
            violations = _check_weights(changes)
            if violations:
                raise InvalidRequest(violations)
            if etag and etag != before.etag:
                raise EtagMismatch(
                    f"category {category!r} was changed since it was read: read it again (etag is now {before.etag})"
                )
            held = self._follower.snapshot.state.overrides.get(category, {})
            changed = {field: value for field, value in changes.items() if held.get(field) != value}
            if validate_only or not changed:
                return before, None
            body = {
                "action": "set_weights",
                "category": category,
                "changes": changed,
                "previous": {field: getattr(before, field) for field in changed},
                "reason": reason,
                "actor": actor,
            }
            position = self._append(EventKind.OPERATOR, body)
            return self._follower.snapshot.report(category), position

    def change_arm(
        self, action: ArmAction, model: str, category: str, *, reason: str, actor: str, validate_only: bool
    ) -> tuple[tuple[CategoryReport, ...], int | None]:
        """See `Engine.pause_arm`, `resume_arm` and `reset_arm`."""
        with self._changing:
            state = self._follower.snapshot.state
            names = _having(state, model, category)
            position = None
            if _changes(state, action, model, names) and not validate_only:
                body = {"action": action.value, "model": model, "category": category, "reason": reason, "actor": actor}
                position = self._append(EventKind.OPERATOR, body)
            snapshot = self._follower.snapshot
            return tuple(snapshot.report(name) for name in names), position


def _same(shared: Mapping[str, Any], held: State) -> bool:
    return document_fingerprint(resolved(shared, held.document)) == held.settings.fingerprint


def paused_arms(state: State) -> frozenset[tuple[str, str]]:
    """(category, model) of every arm that an operator has paused."""
    return state.paused


def _having(state: State, model: str, category: str) -> list[str]:
    """The categories that are meant: the one named, or with "" all that have the model."""
    found = state.settings.categories
    if not category:
        names = sorted(name for name, settings in found.items() if model in settings.models)
        if not names:
            raise UnknownModel(model, sorted({each for settings in found.values() for each in settings.models}))
        return names
    if category not in found:
        raise UnknownCategory(category, tuple(found))
    if model not in found[category].models:
        raise UnknownModel(model, found[category].models, category=category)
    return [category]


def _changes(state: State, action: ArmAction, model: str, names: Sequence[str]) -> bool:
    """Whether the action changes anything. Raises LastArm."""
    paused = paused_arms(state)
    match action:
        case ArmAction.RESET:
            return True
        case ArmAction.RESUME:
            return any((name, model) in paused for name in names)
    serving = [name for name in names if (name, model) not in paused]
    categories = state.settings.categories
    last = [name for name in serving if all(each == model or (name, each) in paused for each in categories[name].models)]
    if last:
        raise LastArm(model, last)
    return bool(serving)


def _check_weights(changes: Mapping[str, float | None]) -> list[FieldViolation]:
    found = [] if changes else [FieldViolation("update_mask", f"is empty; name one of {', '.join(OVERRIDABLE)}")]
    for field, value in changes.items():
        if field not in OVERRIDABLE:
            found.append(FieldViolation("update_mask", f"{field!r} cannot be set; {', '.join(OVERRIDABLE)} can"))
        elif value is not None and not 0.0 <= value <= MAX_WEIGHT:
            found.append(FieldViolation(f"category.{field}", f"{value} is no weight: use 0 to {MAX_WEIGHT:g}"))
    return found

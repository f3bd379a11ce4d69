"""Pausing, resuming and resetting arms: which event is appended, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from engines import Clock, opened

from banditroute import Router
from banditroute.core.errors import LastArm, UnknownCategory, UnknownModel
from banditroute.engine import Engine

WHY: dict[str, Any] = {"reason": "broken", "actor": "ada"}
DOCUMENT: dict[str, Any] = {
    "models": {"a": {}, "b": {}, "c": {}},
    "categories": {"chat": {"models": ["a", "b"]}, "code": {"models": ["b", "a", "c"]}},
    "decision_sink": {"enabled": False},
}
ACTIONS = ("pause_arm", "resume_arm", "reset_arm")


@pytest.fixture
def engine() -> Iterator[Engine]:
    made = opened(Clock(), document=DOCUMENT)
    yield made
    made.close()


@pytest.fixture
def paused(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes arms, as (category, model), paused ones."""

    def pause(*arms: tuple[str, str]) -> None:
        monkeypatch.setattr("banditroute.operate.paused_arms", lambda state: frozenset(arms))

    return pause


def newest(engine: Engine) -> Any:
    return next(row for row in engine.journal() if row.kind in ("operator", "config"))


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize(("category", "meant"), [("chat", ["chat"]), ("", ["chat", "code"])])
def test_the_event(engine: Engine, paused: Callable[..., None], action: str, category: str, meant: list[str]) -> None:
    if action == "resume_arm":
        paused(("chat", "a"))
    found, position = getattr(engine, action)("a", category, **WHY)
    assert position == 2
    row = newest(engine)
    assert (row.kind, row.position) == ("operator", 2)
    assert row.body == {"action": action, "model": "a", "category": category, "reason": "broken", "actor": "ada"}
    assert [report.name for report in found] == meant


@pytest.mark.parametrize("action", ACTIONS)
def test_a_check_appends_nothing(engine: Engine, paused: Callable[..., None], action: str) -> None:
    if action == "resume_arm":
        paused(("chat", "a"))
    found, position = getattr(engine, action)("a", **WHY, validate_only=True)
    assert ([report.name for report in found], position) == (["chat", "code"], None)
    assert newest(engine).kind == "config"


@pytest.mark.parametrize(
    ("action", "held"), [("pause_arm", [("chat", "a"), ("code", "a")]), ("resume_arm", []), ("resume_arm", [("chat", "b")])]
)
def test_what_changes_nothing_appends_nothing(
    engine: Engine, paused: Callable[..., None], action: str, held: list[tuple[str, str]]
) -> None:
    paused(*held)
    found, position = getattr(engine, action)("a", **WHY)
    assert ([report.name for report in found], position) == (["chat", "code"], None)
    assert newest(engine).kind == "config"


def test_pausing_where_some_are_paused_already(engine: Engine, paused: Callable[..., None]) -> None:
    paused(("chat", "a"))
    assert engine.pause_arm("a", **WHY)[1] == 2


def test_the_last_arm_in_service_is_not_paused(engine: Engine, paused: Callable[..., None]) -> None:
    paused(("chat", "b"), ("code", "b"))
    for category in ("chat", ""):
        for validate_only in (True, False):
            with pytest.raises(LastArm, match="'a' is the last model in service of chat: resume") as caught:
                engine.pause_arm("a", category, **WHY, validate_only=validate_only)
            assert caught.value.categories == ("chat",)
    assert newest(engine).kind == "config"
    assert engine.pause_arm("a", "code", **WHY)[1] == 2  # c serves there
    paused(("code", "b"), ("code", "a"), ("chat", "b"))
    with pytest.raises(LastArm):
        engine.pause_arm("c", **WHY)


@pytest.mark.parametrize("action", ACTIONS)
def test_what_is_not_there_is_refused_with_what_is(engine: Engine, action: str) -> None:
    with pytest.raises(UnknownCategory, match="configured: chat, code"):
        getattr(engine, action)("a", "poems", **WHY)
    with pytest.raises(UnknownModel, match="unknown model 'c' in category 'chat'; there are: a, b"):
        getattr(engine, action)("c", "chat", **WHY)
    with pytest.raises(UnknownModel, match="unknown model 'd'; there are: a, b, c"):
        getattr(engine, action)("d", **WHY)


def test_in_process() -> None:
    with Router.from_config(DOCUMENT, store="memory:", seed=1) as router:
        assert [report.name for report in router.pause("a", category="chat", reason="broken")] == ["chat"]
        assert [report.name for report in router.reset("a", reason="new version")] == ["chat", "code"]
        assert [report.name for report in router.resume("c", reason="mended", actor="ada")] == ["code"]
        bodies = [row.body for row in router.engine.journal() if row.kind == "operator"]
        assert [(body["action"], body["actor"], body["category"]) for body in bodies] == [
            ("reset_arm", "library", ""),
            ("pause_arm", "library", "chat"),
        ]

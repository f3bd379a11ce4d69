"""A state as bytes and back: JSON, since Python writes and reads every float64 exactly.

The shared configuration is kept as its document and parsed again, so a checkpoint holds nothing twice.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from banditroute import logs
from banditroute.core.breaker import Breaker
from banditroute.core.drift import Pair, Recovery, Reference, Stream
from banditroute.core.evidence import Ageing, Cell, Usage
from banditroute.core.fold import FOLD_VERSION, OLDEST_FOLD_VERSION
from banditroute.core.pool import Pool, Pooled
from banditroute.core.settings import EMPTY, Feature, canonical_json, parse_shared
from banditroute.core.shift import Row, Shift, Span
from banditroute.core.state import CategoryState, ModelState, State
from banditroute.log.base import Checkpoint, EventLog

logger = logs.logger("banditroute.log")


def encode(state: State) -> bytes:
    """The state as canonical JSON: equal states give equal bytes."""
    document = {
        "position": state.position,
        "chain": state.chain.hex(),
        "append_time_us": state.append_time_us,
        "config_position": state.config_position,
        "document": state.document,
        "overrides": state.overrides,
        "categories": {
            name: category._asdict() | {"cells": {model: cell._asdict() for model, cell in category.cells.items()}}
            for name, category in state.categories.items()
        },
        "pool": state.pool._asdict(),
        "schemas": state.schemas,
        "models": {model: each._asdict() for model, each in state.models.items()},
        "shifts": state.shifts,
        "past": state.past,
        "breakers": state.breakers,
        "paused": sorted(state.paused),
        "below": sorted(state.below),
        "newcomers": state.newcomers,
        "counts": [state.feedback_count, state.recorded_count, state.skipped_count],
    }
    return canonical_json(document).encode()


def _category(raw: dict[str, Any]) -> CategoryState:
    cells = {
        model: Cell(
            information=tuple(cell["information"]),
            moment=tuple(cell["moment"]),
            square=cell["square"],
            usage=Usage(*cell["usage"]),
            feedback_count=cell["feedback_count"],
            error_count=cell["error_count"],
            off_policy_count=cell["off_policy_count"],
        )
        for model, cell in raw["cells"].items()
    }
    features = tuple(Feature(*feature) for feature in raw["features"])
    return CategoryState(
        cells=cells,
        entered=raw["entered"],
        ordinal=raw["ordinal"],
        landmark=raw["landmark"],
        features=features,
        ageing=Ageing(*raw["ageing"]),
        revision=raw["revision"],
        usage_landmark=raw["usage_landmark"],
        references={
            model: {key: Reference(size, total, waiting, _pair(tests)) for key, (size, total, waiting, tests) in streams.items()}
            for model, streams in raw["references"].items()
        },
    )


def _pair(raw: Sequence[Sequence[float]]) -> Pair:
    down, up = raw
    return Pair(tuple(down), tuple(up))


def _model(raw: dict[str, Any]) -> ModelState:
    return ModelState(
        streams={
            key: Stream(
                seen, size, square, tested, gap, tuple([(name, value, off) for name, value, off in waiting]), _pair(tests)
            )
            for key, (seen, size, square, tested, gap, waiting, tests) in raw["streams"].items()
        },
        rows=tuple(
            [
                Row(position, ordinal, time_us, name, (reward, weight), tuple(z), gap)
                for position, ordinal, time_us, name, (reward, weight), z, gap in raw["rows"]
            ]
        ),
    )


def _shift(raw: Sequence[Any]) -> Shift:
    shift = Shift(*raw)
    epoch, wealth = shift.recovery
    known = {name: (mean, variance) for name, (mean, variance) in shift.known.items()}
    return shift._replace(recovery=Recovery(epoch, tuple(wealth)), demoted=tuple(shift.demoted), known=known)


def decode(body: bytes) -> State:
    """The state that `encode` wrote.

    Raises:
        ValueError, KeyError, TypeError: these are no such bytes.
    """
    raw = json.loads(body)
    pool = raw["pool"]
    feedback, recorded, skipped = raw["counts"]
    return State(
        position=raw["position"],
        chain=bytes.fromhex(raw["chain"]),
        append_time_us=raw["append_time_us"],
        config_position=raw["config_position"],
        document=raw["document"],
        settings=parse_shared(raw["document"]) if raw["document"] else EMPTY,
        overrides=raw["overrides"],
        categories={name: _category(category) for name, category in raw["categories"].items()},
        pool=Pool(
            models={model: Pooled(*row) for model, row in pool["models"].items()},
            newcomer=Pooled(*pool["newcomer"]),
            spread=pool["spread"],
            cells={name: {model: (w, mean) for model, (w, mean) in seen.items()} for name, seen in pool["cells"].items()},
            difficulty=pool["difficulty"],
        ),
        schemas={key: tuple(names) for key, names in raw["schemas"].items()},
        models={model: _model(each) for model, each in raw["models"].items()},
        shifts={key: _shift(each) for key, each in raw["shifts"].items()},
        past={key: tuple([Span(*span) for span in spans]) for key, spans in raw["past"].items()},
        breakers={model: Breaker(tuple(wealth), *rest) for model, (wealth, *rest) in raw["breakers"].items()},
        paused=frozenset((category, model) for category, model in raw["paused"]),
        below=frozenset((category, model) for category, model in raw["below"]),
        newcomers=raw["newcomers"],
        feedback_count=feedback,
        recorded_count=recorded,
        skipped_count=skipped,
    )


def checkpoint_of(state: State) -> Checkpoint:
    """The checkpoint of a state; its digest is what replicas compare."""
    body = encode(state)
    return Checkpoint(state.position, state.chain, FOLD_VERSION, hashlib.sha256(body).hexdigest(), body)


def newest_state(log: EventLog) -> State | None:
    """The state of the newest checkpoint that this build can use; None where there is none, or it is damaged."""
    checkpoint = log.newest_checkpoint(oldest=OLDEST_FOLD_VERSION, newest=FOLD_VERSION)
    return None if checkpoint is None else state_of(checkpoint)


def state_of(checkpoint: Checkpoint) -> State | None:
    """The state that a checkpoint holds; None where it is damaged."""
    if hashlib.sha256(checkpoint.body).hexdigest() == checkpoint.digest:
        return decode(checkpoint.body)
    logger.warning("a checkpoint is damaged, and not used", position=checkpoint.position)
    return None

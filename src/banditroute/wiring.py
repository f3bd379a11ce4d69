"""The only composition root: from a configuration to a running engine."""

from __future__ import annotations

import json
import os
import random
import secrets
import time
from collections.abc import Callable
from pathlib import Path

from banditroute.config import Config
from banditroute.config_local import LocalConfig, Store, parse_store
from banditroute.core.errors import ConfigError, ConfigProblem, StoreKeyMismatch, StoreUnavailable
from banditroute.engine import Engine
from banditroute.log.base import EventLog
from banditroute.log.local_checkpoint import Held, LocalCheckpoint
from banditroute.log.memory import MemoryLog
from banditroute.log.redis import RedisLog
from banditroute.log.sink import BatchWriter, DecisionSink, SinkReader
from banditroute.log.sink_redis import RedisSinkReader, RedisSinkWriter
from banditroute.log.sink_sqlite import SqliteSinkReader, SqliteSinkWriter
from banditroute.log.sqlite import SqliteLog
from banditroute.log.sqlite_shared import SharedSqliteLog
from banditroute.presence import Presence
from banditroute.receivers import read_receivers
from banditroute.redis_address import Durability
from banditroute.tokens import MIN_SECRET_BYTES, SigningKey, TokenSigner
from banditroute.webhook import Webhook

KEYS_FILE = "keys.json"


def store_of(local: LocalConfig, store: str | None = None) -> Store:
    """What the configuration's `store` (or the one given) says.

    Raises:
        ConfigError: it is of no known kind.
    """
    try:
        return parse_store(store or local.store)
    except ValueError as error:
        raise ConfigError("<store>", [ConfigProblem("", None, str(error))]) from None


def state_directory(local: LocalConfig, store: str | None = None) -> Path | None:
    """The folder of a SQLite store; None for others.

    Raises:
        ConfigError: the store's URL is of no known kind.
    """
    found = store_of(local, store)
    return local.folder / found.folder if found.kind == "sqlite" else None


def open_log(
    local: LocalConfig,
    *,
    store: str | None = None,
    clock: Callable[[], float] = time.time,
    read_only: bool = False,
    worker: bool = False,
    known: tuple[str, int] | None = None,
) -> EventLog:
    """The configuration's log.

    Args:
        read_only: for looking at it while others may own it.
        worker: to be shared with a supervisor's other workers, for which the supervisor owns it.
        known: see `RedisLog`.

    Raises:
        ConfigError, StoreInUse, StoreTooNew, StoreUnavailable, StoreUnfit. A store in memory cannot be looked at.
    """
    found = store_of(local, store)
    if found.address is not None:
        return RedisLog(
            found.address,
            namespace=local.redis.namespace,
            durability=Durability.parse(local.redis.durability),
            timeout_s=local.redis.timeout_s,
            known=known,
            read_only=read_only,
        )
    if found.kind == "sqlite":
        if worker:
            return SharedSqliteLog(local.folder / found.folder, clock)
        return SqliteLog(local.folder / found.folder, clock, read_only=read_only)
    if read_only:
        raise StoreUnavailable("a store in memory can be read only by its own process: use sqlite:///FOLDER, or ask the server")
    return MemoryLog(clock)


def local_checkpoint(local: LocalConfig) -> LocalCheckpoint:
    """Where a shared log's last checkpoint is kept on this machine."""
    return LocalCheckpoint(local.folder / local.redis.checkpoint_folder / f"{local.redis.namespace}.checkpoint")


def open_engine(
    config: Config,
    *,
    store: str | None = None,
    clock: Callable[[], float] | None = None,
    seed: int | None = None,
    threaded: bool,
    log: EventLog | None = None,
    worker: bool = False,
    adopt: bool = True,
) -> Engine:
    """Opens the store and starts the engine on it.

    Args:
        store: in place of the configuration's.
        clock: Unix seconds; default: the system's.
        seed: makes draws and ids repeatable; default: entropy.
        threaded: follow the log in a thread and deliver webhooks (server), or fold when told to (in process).
        log: in place of one that is opened for a store in memory.
        worker: see `open_log`.
        adopt: put the configuration in force; else the log's stays.

    Raises:
        ConfigError, StoreInUse, StoreTooNew, StoreKeyMismatch, StoreUnavailable.
    """
    local = config.local
    now = clock or time.time
    rng = random.Random(seed if seed is not None else secrets.randbits(256))
    directory = state_directory(local, store)
    shared = store_of(local, store).kind == "redis"
    receivers = read_receivers(local.webhooks, local.folder) if threaded else []
    here = local_checkpoint(local) if shared and local.redis.stale_start == "allow" else None
    held = None if here is None else here.load()
    sink = None
    if directory is None and not shared:
        log = log or MemoryLog(now, log_id=None if seed is None else f"seed-{seed}")
    else:
        log = open_log(local, store=store, clock=now, worker=worker, known=None if held is None else held[:2])
    try:
        signer = TokenSigner(_keys(local, log, directory, rng), log.log_id)
        _check_keys(log, signer, may_be_away=held is not None)
        sink = _open_sink(local, log, directory)
        engine = Engine(
            log=log,
            signer=signer,
            clock=now,
            rng=rng,
            sink=sink,
            shared=config.shared if adopt else None,
            checkpoint_every=local.checkpoint_every,
            log_retention_events=local.log_retention_events,
            threaded=threaded or shared,  # others append to it all the time
            stale=None if held is None else held.checkpoint,
            keep=(lambda checkpoint: None) if here is None else lambda c: here.save(Held(log.log_id, log.epoch, c)),
        )
    except BaseException:
        if sink is not None:
            sink.close()
        log.close()
        raise
    for receiver in receivers:
        engine.attach(Webhook(receiver, event_log=log, tail=engine.tail, clock=now))
    if isinstance(log, RedisLog):
        engine.attach(Presence(log, lambda: engine.snapshot.state.position))
    return engine


def open_to_change(local: LocalConfig) -> EventLog:
    """The configuration's log, for a command that appends one event and goes.

    Raises:
        ConfigError, StoreInUse, StoreTooNew, StoreKeyMismatch, StoreUnavailable, StoreUnfit.
    """
    log = open_log(local)
    try:
        keys = _keys(local, log, state_directory(local), random.SystemRandom())
        log.key_checks(TokenSigner(keys, log.log_id).key_checks())  # else this may be another log than the one that was meant
    except BaseException:
        log.close()
        raise
    return log


def _keys(local: LocalConfig, log: EventLog, directory: Path | None, rng: random.Random) -> list[SigningKey]:
    if directory is not None:
        return load_keys(local, directory, fresh=log.tip().position == 0)
    if local.signing_keys_file:
        return read_keys(local.folder / local.signing_keys_file)
    if isinstance(log, RedisLog):
        raise ConfigError("<store>", [ConfigProblem("signing_keys_file", None, "a store that is shared needs it")])
    return [new_key("k1", rng)]


def _open_sink(local: LocalConfig, log: EventLog, directory: Path | None) -> DecisionSink | None:
    """Where decisions are kept beside the log; None where they are not to be, or the log is in memory."""
    settings = local.decision_sink
    retention_s = settings.retention_days * 86400.0
    if not settings.enabled or isinstance(log, MemoryLog):
        return None
    writer: BatchWriter
    if isinstance(log, RedisLog):
        kept_bytes = local.redis.sink_megabytes * 10**6
        writer = RedisSinkWriter(log.sink_stream, kept_bytes=kept_bytes, retention_s=retention_s)
    else:
        assert directory is not None
        writer = SqliteSinkWriter(directory, retention_s=retention_s)
    return DecisionSink(writer, queue_rows=settings.queue_rows)


def sink_reader(local: LocalConfig, log: EventLog) -> SinkReader | None:
    """What was decided on this log; None where no such store keeps it."""
    if isinstance(log, RedisLog):
        return RedisSinkReader(log.sink_stream)
    directory = state_directory(local)
    return None if directory is None else SqliteSinkReader(directory)


def _check_keys(log: EventLog, signer: TokenSigner, *, may_be_away: bool) -> None:
    try:
        log.key_checks(signer.key_checks())
    except StoreUnavailable:
        if not may_be_away:
            raise


def load_keys(local: LocalConfig, directory: Path, *, fresh: bool) -> list[SigningKey]:
    """The signing keys: of the file that the configuration names, else of the state directory, where
    one is made (mode 0600) if the log is still empty.

    Raises:
        ConfigError: the file is wrong.
        StoreKeyMismatch: a log exists but its keys are gone.
        StoreUnavailable: keys cannot be written.
    """
    if local.signing_keys_file:
        return read_keys(local.folder / local.signing_keys_file)
    path = directory / KEYS_FILE
    if path.exists():
        return read_keys(path)
    if not fresh:
        raise StoreKeyMismatch(f"{path} is gone, and the decisions of this log were signed with it: restore it from a backup")
    key = new_key("k1", random.SystemRandom())
    draft = path.with_suffix(".tmp")  # a full disk or a crash leaves no half-written keys behind
    try:
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w") as file:
            json.dump({"keys": [{"id": key.id, "secret": key.secret.hex()}]}, file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        raise StoreUnavailable(f"{path} cannot be written: {error.strerror}") from error
    return [key]


def held_keys(local: LocalConfig) -> list[SigningKey]:
    """The signing keys as they are now; none where they are in another process's memory only.

    Raises:
        ConfigError, StoreKeyMismatch.
    """
    directory = state_directory(local)
    if directory is not None:
        return load_keys(local, directory, fresh=False)
    return read_keys(local.folder / local.signing_keys_file) if local.signing_keys_file else []


def new_key(name: str, rng: random.Random) -> SigningKey:
    """A key of 256 random bits."""
    return SigningKey(name, rng.randbytes(32))


def read_keys(path: Path) -> list[SigningKey]:
    """Reads ``{"keys": [{"id": ..., "secret": hex}, ...]}``; the first signs, all verify.

    Raises:
        ConfigError: it cannot be read or is of another form; never shows a secret.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        keys = [SigningKey(str(entry["id"]), bytes.fromhex(entry["secret"])) for entry in raw["keys"]]
    except OSError as error:
        raise ConfigError(str(path), [ConfigProblem("", None, f"cannot be read: {error.strerror}")]) from None
    except (ValueError, KeyError, TypeError):
        raise ConfigError(
            str(path), [ConfigProblem("keys", None, 'expected {"keys": [{"id": "k1", "secret": "<hex>"}]}')]
        ) from None
    if not keys or any(len(key.secret) < MIN_SECRET_BYTES for key in keys) or len({key.id for key in keys}) < len(keys):
        raise ConfigError(
            str(path),
            [ConfigProblem("keys", None, f"needs one key or more, with distinct ids and at least {MIN_SECRET_BYTES} bytes each")],
        )
    return keys

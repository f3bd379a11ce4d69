"""Whatever goes wrong with the store, its password is nowhere to be read: not printed, not logged, in no error's chain."""

from __future__ import annotations

import re
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis_servers import RedisServer, binaries, free_port, serving
from typer.testing import CliRunner

from banditroute.bench.many.setups import write_config
from banditroute.cli import app
from banditroute.config import load
from banditroute.core.errors import StoreUnavailable
from banditroute.redis_address import parse_address
from banditroute.wiring import open_engine

SERVERS = binaries()
pytestmark = pytest.mark.skipif("redis-8" not in SERVERS, reason="no redis-8 server is installed here")
SECRET = "s3cret-of-mine"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with serving(SERVERS["redis-8"], tmp_path_factory.mktemp("redis")) as server:
        with server.client() as client:
            client.execute_command("ACL", "SETUSER", "weak", "on", f">{SECRET}", "~*", "+@all", "-@scripting")
            client.execute_command("ACL", "SETUSER", "blind", "on", f">{SECRET}", "~other*", "+@all")
            client.execute_command("ACL", "SETUSER", "good", "on", f">{SECRET}", "~*", "+@all")
        yield server


CASES = {
    "wrong password": ("redis://good:{secret}-not@127.0.0.1:{port}/0", "refuses these credentials"),
    "unreachable": ("redis://good:{secret}@127.0.0.1:{free}/0", "cannot be reached"),
    "no such host": ("redis://good:{secret}@no-such-host.invalid:6379/0", "cannot be reached"),
    "no scripts": ("redis://weak:{secret}@127.0.0.1:{port}/0", "does not allow them what the log needs"),
    "other keys only": ("redis://blind:{secret}@127.0.0.1:{port}/0", "does not allow them what the log needs"),
    "no TLS there": ("rediss://good:{secret}@127.0.0.1:{port}/0", "cannot be reached|did not answer"),
    "password as an option": ("redis://127.0.0.1:{port}/0?password={secret}-not", "refuses these credentials"),
    "no sentinel": ("redis+sentinel://good:{secret}@127.0.0.1:{free}/main/0", "cannot be reached"),
    "no cluster": ("redis+cluster://good:{secret}@127.0.0.1:{port}", "no node of a Redis cluster"),
}


def address(case: str, server: RedisServer) -> tuple[str, str]:
    url, said = CASES[case]
    return url.format(secret=SECRET, port=server.port, free=free_port()), said


def chain(error: BaseException | None) -> str:
    """Everything that a log could make of an error: of its whole chain, suppressed or not, with all attributes."""
    told = ""
    while error is not None:
        told += repr(error) + str(vars(error)) + "".join(traceback.format_exception(error))
        error = error.__cause__ or error.__context__
    return told


@pytest.mark.parametrize("case", CASES)
def test_errors_hold_no_password(case: str, server: RedisServer, tmp_path: Path) -> None:
    url, said = address(case, server)
    assert SECRET not in repr(parse_address(url))
    with pytest.raises(StoreUnavailable, match=said) as caught:
        open_engine(load(write_config(tmp_path, url, redis={"durability": "memory", "timeout_s": 1.0})), threaded=True)
    assert SECRET not in chain(caught.value)


@pytest.mark.parametrize("case", ["no scripts"])
def test_a_server_that_cannot_start_prints_no_password(case: str, server: RedisServer, tmp_path: Path) -> None:
    url, said = address(case, server)
    config = write_config(tmp_path, url, redis={"durability": "memory", "timeout_s": 1.0})
    command = [sys.executable, "-m", "banditroute", "serve", "--config", str(config), "--listen", "127.0.0.1:0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert re.search(said, done.stderr)
    assert SECRET not in done.stdout + done.stderr


@pytest.mark.parametrize("case", ["good", "wrong password"])
@pytest.mark.parametrize("how", [[], ["--json"]])
def test_check_prints_no_password(case: str, how: list[str], server: RedisServer, tmp_path: Path) -> None:
    url = f"redis://good:{SECRET}@127.0.0.1:{server.port}/0?password={SECRET}" if case == "good" else address(case, server)[0]
    config = write_config(tmp_path, url, redis={"durability": "memory", "timeout_s": 1.0})
    if case == "good":
        open_engine(load(config), threaded=True).close()
    done = CliRunner().invoke(app, ["check", str(config), *how])
    assert (done.exit_code == 0) is (case == "good"), done.output
    assert SECRET not in done.output + chain(done.exception)


@pytest.mark.parametrize(
    "store", ["redis://u:{}@h:port/0", "redis+sentinel://u:{}@h:1", "redis+cluster://u:{}@h:x", "rdis://u:{}@h"]
)
def test_an_address_that_is_none_is_refused_without_it(store: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_address(store.format(SECRET))
    assert SECRET not in str(caught.value)

from __future__ import annotations

import socket
from contextlib import closing

import pytest

from banditroute.server import ListenFailed
from banditroute.server.ports import HeldPort


def listening(port: int) -> socket.socket:
    """As a worker does it."""
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    one.bind(("127.0.0.1", port))
    one.listen()
    return one


def test_a_free_port_is_for_all_who_share_it() -> None:
    with closing(HeldPort("127.0.0.1:0")) as held:
        assert held.address == f"127.0.0.1:{held.port}"
        with listening(held.port), listening(held.port), socket.create_connection(("127.0.0.1", held.port)):
            pass  # whoever holds it takes no connection


def test_another_services_port_is_refused_although_it_is_shared() -> None:
    with closing(HeldPort("127.0.0.1:0")) as held:
        for _ in range(2):
            with pytest.raises(ListenFailed, match=f"127.0.0.1:{held.port}"):
                HeldPort(held.address)
            with listening(held.port), pytest.raises(ListenFailed):
                HeldPort(held.address)
    HeldPort(held.address).close()


@pytest.mark.parametrize("address", ["nonsense.invalid:0", "203.0.113.1:0", "127.0.0.1:99999"])
def test_what_is_no_address_of_this_machine_is_refused(address: str) -> None:
    with pytest.raises(ListenFailed):
        HeldPort(address)


def test_localhost_is_one_port_on_all_its_addresses() -> None:
    with closing(HeldPort("localhost:0")) as held:
        assert held.port

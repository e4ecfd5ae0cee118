"""The guard in `conftest.py`: no test reaches another machine."""

import socket
from contextlib import suppress
from urllib.request import urlopen

import pytest


@pytest.mark.parametrize(
    ("address", "asked"),
    [
        ("192.0.2.1", "socket.connect 192.0.2.1"),
        ("2001:db8::1", "socket.connect 2001:db8::1"),
        ("huggingface.co", "socket.getaddrinfo huggingface.co"),
    ],
)
def test_another_machine_is_refused_and_remembered(reached, address, asked):
    with suppress(OSError):  # As a library would that goes on without.
        socket.create_connection((address, 443), timeout=1)
    assert reached == [asked]
    reached.clear()


def test_a_library_that_fetches_is_found(reached):
    with pytest.raises(OSError, match="no network"):
        urlopen("http://example.org/model")
    assert reached == ["socket.getaddrinfo example.org"]
    reached.clear()


def test_this_machine_may_be_reached():
    with socket.create_server(("127.0.0.1", 0)) as server:
        for host in ("127.0.0.1", "localhost"):
            with socket.create_connection((host, server.getsockname()[1]), timeout=5) as client:
                assert client.getpeername()[0] == "127.0.0.1"

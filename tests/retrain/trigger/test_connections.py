"""Connections that say nothing: they hold no place, and no probe up."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import cast

import httpx
import pytest

from pelican.retrain.trigger.server import CROWD, MOMENT_S, Connection, Silent
from tests.endpoints import free_port
from tests.retrain.trigger.services import (
    TOKEN,
    Service,
    event,
    notification,
    service,
    store_with_model,
)

BEGINNINGS = {
    "nothing": b"",
    "half a header": b"POST /v1/events/s3 HTTP/1.1\r\nhost: x\r\nx-slow: ",
    "half a body": b"POST /v1/events/s3 HTTP/1.1\r\nhost: x\r\ncontent-length: 9000\r\n\r\n{",
    "a request before": b"GET /nowhere HTTP/1.1\r\nhost: x\r\n\r\n",
    "no HTTP": b"\x16\x03\x01",
}


@pytest.fixture(scope="module")
def probe_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, probe_port: int) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("connections")
    settings = {"quiet_s": 1e6, "max_wait_s": 1e6, "max_silent": 40, "max_silent_per_address": 20}
    options = ("--probe-port", str(probe_port))
    with service(store_with_model(folder), folder / "log", options, **settings) as found:
        yield found


def connect(url: str, source: str, begins: bytes) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    made = socket.create_connection((host, int(port)), timeout=60, source_address=(source, 0))
    made.sendall(begins)
    return made


def is_open(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        while data := connection.recv(1 << 16):  # an answer
            assert data
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


@pytest.mark.parametrize("begins", BEGINNINGS)
def test_three_hundred_silent_connections_keep_nobody_out(
    running: Service, probe_port: int, begins: str
) -> None:
    with ExitStack() as stack:
        for number in range(300):
            made = connect(running.url, f"127.0.0.{1 + number % 3}", BEGINNINGS[begins])
            stack.enter_context(made)
        taken = running.post(notification(event(list(BEGINNINGS).index(begins))))
        assert (taken.status_code, taken.text) == (202, '{"new":1}')
        for page in ("healthz", "readyz", "metrics"):
            answer = httpx.get(f"http://127.0.0.1:{probe_port}/{page}", timeout=60)
            assert answer.status_code == 200, answer.text
    assert "Traceback" not in running.log.read_text()


def test_the_longest_silent_of_the_same_address_goes_first(running: Service) -> None:
    with ExitStack() as stack:
        other = stack.enter_context(connect(running.url, "127.0.0.9", b""))
        made = [connect(running.url, "127.0.0.8", b"") for _ in range(30)]
        for connection in made:
            stack.enter_context(connection)
        time.sleep(2 * MOMENT_S)
        assert [is_open(c) for c in made] == [False] * 10 + [True] * 20
        assert is_open(other), "another address has bounds of its own"


def test_a_connection_that_goes_on_asking_is_kept(running: Service) -> None:
    with httpx.Client() as client, ExitStack() as stack:
        for number in range(30):
            stack.enter_context(connect(running.url, "127.0.0.7", b""))
            headers = {"authorization": f"Bearer {TOKEN}"}
            answer = client.post(f"{running.url}/v1/events/s3", content=b"{", headers=headers)
            assert answer.status_code == 400, number


def test_probes_have_a_port_of_their_own(running: Service, probe_port: int) -> None:
    for page in ("healthz", "readyz", "metrics"):
        assert httpx.get(f"{running.url}/{page}").status_code == 404
    answer = httpx.post(f"http://127.0.0.1:{probe_port}/v1/events/s3")
    assert answer.status_code == 404


def test_a_port_that_is_taken_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pelican.errors import UserInputError
    from pelican.retrain.trigger.server import listen

    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(UserInputError, match="can't be listened on: Address already in use"),
    ):
        listen("127.0.0.1", taken.getsockname()[1])


class Place:
    """A connection as the bounds see it."""

    def __init__(self) -> None:
        self.transport, self.is_closed = self, False

    def abort(self) -> None:
        self.is_closed = True


def note(bounds: Silent, address: str, number: int) -> list[Place]:
    made = [Place() for _ in range(number)]
    for place in made:
        bounds.add(cast(Connection, place), address)
    return made


def test_a_request_that_waits_to_be_read_is_not_closed_for_those_answered_meanwhile() -> None:
    async def life() -> None:
        bounds = Silent(most=20, most_per_address=5)
        [one] = note(bounds, "a", 1)
        others = note(bounds, "a", 50)
        assert not any(place.is_closed for place in [one, *others])
        bounds.remove(cast(Connection, one))  # it is read
        await asyncio.sleep(2 * MOMENT_S)
        assert [place.is_closed for place in [one, *others]] == [False] + [True] * 45 + [False] * 5

    asyncio.run(life())


def test_silent_connections_are_bounded_in_a_moment_and_after_it() -> None:
    async def life() -> None:
        bounds = Silent(most=20, most_per_address=5)
        crowd = note(bounds, "a", 5 * CROWD + 7)
        assert [place.is_closed for place in crowd] == [True] * 7 + [False] * 5 * CROWD
        for number in range(30 * CROWD):
            note(bounds, f"b{number}", 1)
        assert len(bounds) == 20 * CROWD
        await asyncio.sleep(2 * MOMENT_S)
        assert len(bounds) == 20

    asyncio.run(life())

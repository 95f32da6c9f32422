"""The web server under the trigger: silent connections are bounded, probes may have a port of their own."""

from __future__ import annotations

import asyncio
import socket
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from pelican.errors import UserInputError
from pelican.retrain.trigger.config import TriggerConfig

REQUESTS = 256  # answered at a time; more get 503
BACKLOG = 2048
STOP_S = 10

# Whoever opens a connection and says nothing holds a place until it is wanted for another.
MOMENT_S = (
    0.5  # a request that has arrived may wait to be read while others are accepted or answered
)
CROWD = 16  # times the bound that may be silent for less than a moment


class Silent:
    """Connections that have not sent their whole request, the longest silent first.

    At most `most`, and at most `most_per_address` of one address, have been silent for a moment: for a
    new one the oldest is closed, so who sends a request is always served, even from the address of
    those who do not.
    """

    def __init__(self, most: int, most_per_address: int) -> None:
        self._most, self._most_per_address = most, most_per_address
        self._all: dict[Connection, str] = {}
        self._by_address: defaultdict[str, dict[Connection, float]] = defaultdict(
            dict
        )  # since when

    def __len__(self) -> int:
        return len(self._all)

    def add(self, connection: Connection, address: str) -> None:
        """Note a connection; one that is noted keeps its place."""
        if connection in self._all:
            return
        self._all[connection] = address
        self._by_address[address][connection] = asyncio.get_running_loop().time()
        self._bound(address)

    def _bound(self, address: str) -> None:
        """Close the longest silent above the bounds; who came this moment goes later, or from a crowd."""
        loop = asyncio.get_running_loop()
        for places, most in (
            (self._by_address.get(address, {}), self._most_per_address),
            (self._all, self._most),
        ):
            while len(places) > most:
                oldest = next(iter(places))
                until = self._by_address[self._all[oldest]][oldest] + MOMENT_S
                if until > loop.time() and len(places) <= most * CROWD:
                    loop.call_at(until, self._bound, address)
                    break
                self._close(oldest)

    def remove(self, connection: Connection) -> None:
        address = self._all.pop(connection, None)
        if address is None:
            return
        del self._by_address[address][connection]
        if not self._by_address[address]:
            del self._by_address[address]

    def _close(self, connection: Connection) -> None:
        self.remove(connection)
        connection.transport.abort()


class Connection(H11Protocol):
    """One connection of a client; `silent` is set by `_protocol`."""

    silent: Silent

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._note()

    def data_received(self, data: bytes) -> None:
        # uvicorn counts silent connections too, which must not take the others' places.
        self.limit_concurrency = REQUESTS + len(self.silent)
        super().data_received(data)
        self._note()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._note()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.silent.remove(self)

    def _note(self) -> None:
        """Whether the next word is the client's: no request yet, half a body, or all is answered."""
        cycle = self.cycle
        waits = cycle is None or cycle.response_complete or cycle.more_body
        if waits and not self.transport.is_closing():
            self.silent.add(self, self.client[0] if self.client else "")
        else:
            self.silent.remove(self)


def _protocol(config: TriggerConfig) -> type[Connection]:
    """The protocol of one server, with bounds of its own."""
    bounds = Silent(config.max_silent, config.max_silent_per_address)
    return type("Bounded", (Connection,), {"silent": bounds})


class _Beside(uvicorn.Server):
    """A server in the process of another, which takes the signals."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def listen(host: str, port: int) -> socket.socket:
    """A socket of this address. Raises UserInputError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise UserInputError(
            f"{host}:{port} can't be listened on: {error.strerror}; give another --host or port"
        ) from None


def serve(
    events: tuple[FastAPI, socket.socket],
    probes: tuple[FastAPI, socket.socket] | None,
    config: TriggerConfig,
) -> None:
    """Serve until a signal.

    Args:
        events: what takes events, and where.
        probes: what answers probes, and where, if on a port of their own.
        config: of the trigger.
    """
    common: dict[str, Any] = {"log_level": "warning", "server_header": False, "ws": "none"}
    application, at = events
    first = uvicorn.Server(
        uvicorn.Config(
            application,
            http=_protocol(config),
            timeout_graceful_shutdown=STOP_S,
            backlog=BACKLOG,
            **common,
        )
    )

    async def run() -> None:
        if probes is None:
            return await first.serve([at])
        answering, there = probes
        second = _Beside(
            uvicorn.Config(answering, http=_protocol(config), lifespan="off", **common)
        )
        task = asyncio.create_task(second.serve([there]))
        try:
            await first.serve([at])
        finally:
            second.should_exit = True
            await task

    asyncio.run(run())

"""A TCP proxy that may be taken away for a while: a server that is stopped, without stopping it."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress


class Proxy:
    """Forwards `host`:`port` of its own to `target`; while it is down it refuses and cuts."""

    def __init__(self, host: str, target: tuple[str, int]) -> None:
        self._target = target
        self._up = threading.Event()
        self._open: set[socket.socket] = set()
        with socket.socket() as probe:
            probe.bind((host, 0))
            self.address: tuple[str, int] = probe.getsockname()
        self._listener = self._listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def down_for(self, seconds: float) -> None:
        self._up.clear()
        # A blocked accept would keep the port open: a connection wakes it.
        with suppress(OSError):
            socket.create_connection(self.address, 1).close()
        self._listener.close()
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        time.sleep(seconds)
        self._listener = self._listen()

    def _listen(self) -> socket.socket:
        listener = socket.create_server(self.address, reuse_port=False)
        self._up.set()
        return listener

    def _accept(self) -> None:
        while True:
            self._up.wait()
            try:
                client, _ = self._listener.accept()
                if not self._up.is_set():
                    client.close()
                    continue
                server = socket.create_connection(self._target, 5)
            except OSError:
                time.sleep(0.05)
                continue
            for one, other in ((client, server), (server, client)):
                self._open.add(one)
                threading.Thread(target=self._copy, args=(one, other), daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._open.discard(source)
        source.close()

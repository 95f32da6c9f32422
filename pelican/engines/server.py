"""A generation server: completions over HTTP for a training whose weights change.

`python -m pelican.engines.server FILE` with a ServerSpec in JSON. Three posts, `complete`, `logps`
and `load`, bodies in JSON, images in base64; `GET /` says which weights are loaded. It has no
authentication and loads only what lies in its own folder: keep it inside the cluster.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from pelican.engines.backends import Backend, open_backend
from pelican.errors import PelicanError, UserInputError
from pelican.files import replacing
from pelican.frozen import Frozen
from pelican.leash import die_with_parent
from pelican.recipe import Recipe, Sampling
from pelican.records import Sample


class ServerSpec(Frozen):
    """What a server is started with."""

    recipe: Recipe
    checkpoint: str
    folder: str = Field(description="where the trainer leaves weights")
    host: str = "127.0.0.1"
    port: int = Field(0, ge=0, description="0: any that is free")
    ready: str | None = Field(None, description="file that gets the URL once requests are taken")


def to_json(sample: Sample) -> dict[str, Any]:
    """A sample as JSON; `from_json` reads it."""
    images = [base64.b64encode(image).decode() for image in sample.images]
    return {**sample.model_dump(mode="json", exclude={"images"}), "images": images}


def from_json(row: dict[str, Any]) -> Sample:
    return Sample.model_validate({**row, "images": [base64.b64decode(i) for i in row["images"]]})


class Weights:
    """Which weights the backend has: the name of their folder below `folder`."""

    def __init__(self, backend: Backend, folder: Path) -> None:
        self.backend, self._folder = backend, folder
        self.name = ""
        self._lock = threading.Lock()

    def load(self, name: str) -> None:
        place = self._folder / name
        if Path(name).name != name or not place.is_dir():
            raise UserInputError(
                f"there are no weights {name!r} in {self._folder}; training and server must have the"
                " same folder mounted"
            )
        with self._lock:
            self.backend.load(place)
            self.name = name


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self._reply(200, {"weights": self.server.weights.name})

    def do_POST(self) -> None:
        try:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._reply(200, self._answer(self.path.strip("/"), body))
        except (UserInputError, ValidationError, KeyError, TypeError, ValueError) as error:
            told = str(error) if isinstance(error, PelicanError) else f"bad request: {error!r}"
            self._reply(400, {"error": told})
        except Exception as error:
            self._reply(500, {"error": f"{type(error).__name__}: {error}"})

    def _answer(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        weights = self.server.weights
        if path == "load":
            weights.load(body["name"])
            return {"weights": weights.name}
        samples = [from_json(row) for row in body["samples"]]
        if path == "logps":
            found = weights.backend.logps(samples, body["completions"])
            return {"weights": weights.name, "logps": found}
        if path == "complete":
            sampling = Sampling.model_validate(body["sampling"])
            before = weights.name
            groups = weights.backend.complete(samples, sampling, body["seeds"])
            if weights.name != before:
                raise RuntimeError(f"weights changed from {before} to {weights.name} meanwhile")
            drawn = [[[one.ids, one.logps] for one in group] for group in groups]
            return {"weights": before, "drawn": drawn}
        raise UserInputError(f"a generation server has no /{path}")

    def _reply(self, status: int, value: dict[str, Any]) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Not a line for each request."""


class Server(ThreadingHTTPServer):
    """Serves until `shutdown`; a thread for each connection."""

    daemon_threads = True

    def __init__(self, backend: Backend, folder: Path, host: str = "127.0.0.1", port: int = 0):
        super().__init__((host, port), Handler)
        self.weights = Weights(backend, folder)

    @property
    def url(self) -> str:
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}"


def serve(spec: ServerSpec) -> None:
    """Load the engine, then serve until the process is ended."""
    from pelican.storage.checkpoint import check_checkpoint

    check_checkpoint("--checkpoint", spec.checkpoint)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    backend = open_backend(spec.recipe, Path(spec.checkpoint))
    try:
        with Server(backend, Path(spec.folder), spec.host, spec.port) as server:
            print(f"serving completions at {server.url}", flush=True)
            if spec.ready:
                with replacing(Path(spec.ready)) as file:
                    file.write_text(server.url)
            server.serve_forever()
    finally:
        backend.close()


def main(path: str) -> None:
    die_with_parent()
    try:
        serve(ServerSpec.model_validate_json(Path(path).read_bytes()))
    except PelicanError as error:
        print(f"pelican: {error}", file=sys.stderr)
        os._exit(error.exit_code)


if __name__ == "__main__":
    main(sys.argv[1])

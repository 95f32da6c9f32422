"""The generation server of a training: it draws completions with weights that it is told to load."""

from __future__ import annotations

import base64
import json
import os
import queue
import signal
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from pelican.base.files import replacing
from pelican.base.model import Frozen
from pelican.base.process import die_with_parent
from pelican.config import env
from pelican.config.recipe import Recipe, Sampling
from pelican.engines.vllm import VllmEngine
from pelican.errors import InfrastructureError, PelicanError, UserInputError
from pelican.records import Sample

# Engines behind a generation server: several clients at once, and weights that change.


@dataclass(frozen=True)
class Drawn:
    """One completion: its token ids, and the log-probabilities that they were drawn with.

    Those are after temperature and top-p, by the weights that drew them.
    """

    ids: list[int]
    logps: list[float]


class Backend(ABC):
    """What a generation server does; called by several threads."""

    @abstractmethod
    def complete(
        self, samples: Sequence[Sample], sampling: Sampling, seeds: Sequence[Sequence[int]]
    ) -> list[list[Drawn]]:
        """One completion per sample and seed."""

    @abstractmethod
    def logps(
        self, samples: Sequence[Sample], completions: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """Log-probabilities of one given completion of each sample, at temperature 1."""

    @abstractmethod
    def load(self, checkpoint: Path) -> None:
        """Go on with other weights of the same shapes, once what was asked before is done."""

    def close(self) -> None:
        return None


def open_backend(recipe: Recipe, checkpoint: Path) -> Backend:
    """The backend of `rollout.engine`."""
    if recipe.rollout.engine == "vllm":
        return VllmBackend(recipe, checkpoint)
    return TransformersBackend(recipe, checkpoint)


class TransformersBackend(Backend):
    """The transformers engine, one request at a time: for CPUs and for tests of what is around it."""

    def __init__(self, recipe: Recipe, checkpoint: Path) -> None:
        from pelican.engines.transformers import TransformersEngine

        size = env.batch_size(recipe.rollout.batch_size)
        self._engine = TransformersEngine.load(recipe.model, checkpoint, size, recipe.rl.threads)
        self._batch_size = size
        self._lock = threading.Lock()

    def complete(
        self, samples: Sequence[Sample], sampling: Sampling, seeds: Sequence[Sequence[int]]
    ) -> list[list[Drawn]]:
        from pelican.engines.transformers import completion_logps

        encoder, found = self._engine.encoder, []
        at_once = max(1, self._batch_size // max(1, len(seeds[0]))) if seeds else 1
        with self._lock:
            for start in range(0, len(samples), at_once):
                prompts = [encoder.prompt(s) for s in samples[start : start + at_once]]
                groups = self._engine.complete(prompts, sampling, seeds[start : start + at_once])
                for prompt, group in zip(prompts, groups, strict=True):
                    logps = completion_logps(
                        self._engine.policy,
                        encoder,
                        [prompt] * len(group),
                        group,
                        temperature=sampling.temperature or 1.0,
                        top_p=sampling.top_p,
                        without=encoder.media_token_ids,
                    )
                    found.append([Drawn(i, p) for i, p in zip(group, logps, strict=True)])
        return found

    def logps(
        self, samples: Sequence[Sample], completions: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        from pelican.engines.transformers import completion_logps

        encoder = self._engine.encoder
        with self._lock:
            prompts = [encoder.prompt(sample) for sample in samples]
            return completion_logps(self._engine.policy, encoder, prompts, completions)

    def load(self, checkpoint: Path) -> None:
        policy = self._engine.policy
        found = type(policy).from_pretrained(
            checkpoint, dtype=policy.dtype, use_safetensors=True, local_files_only=True
        )
        with self._lock:
            policy.load_state_dict(found.state_dict())


class VllmBackend(VllmEngine, Backend):
    """One vLLM engine; requests of all clients share its batch. One thread talks to the engine."""

    def __init__(self, recipe: Recipe, checkpoint: Path) -> None:
        # The log-probabilities of what was drawn: after temperature and top-p.
        super().__init__(
            recipe.rollout.vllm,
            recipe.model,
            checkpoint,
            recipe.rl.threads,
            logprobs_mode="processed_logprobs",
            worker_extension_cls="pelican.engines.vllm_worker.Reloading",
        )
        self._asked: queue.SimpleQueue[tuple[Any, Any, Future[Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="vllm", daemon=True)
        self._thread.start()

    def complete(
        self, samples: Sequence[Sample], sampling: Sampling, seeds: Sequence[Sequence[int]]
    ) -> list[list[Drawn]]:
        groups = []
        for sample, own in zip(samples, seeds, strict=True):
            self._check_images(sample)
            prompt = self._prompt(sample)
            drawn = []
            for seed in own:
                parameters = self._parameters(sampling, seed)
                parameters.logprobs = 0  # of the drawn token alone
                drawn.append(self._ask(prompt, parameters))
            groups.append(drawn)
        return [[_drawn(future.result()) for future in group] for group in groups]

    def logps(
        self, samples: Sequence[Sample], completions: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        from vllm import SamplingParams

        futures = []
        for sample, ids in zip(samples, completions, strict=True):
            self._check_images(sample)
            prompt = self._prompt(sample)
            prompt["prompt_token_ids"] = [*prompt["prompt_token_ids"], *ids]
            parameters = SamplingParams(
                max_tokens=1, temperature=0, prompt_logprobs=0, detokenize=False
            )
            futures.append(self._ask(prompt, parameters))
        found = []
        for ids, future in zip(completions, futures, strict=True):
            scores = future.result().prompt_logprobs[-len(ids) :]
            found.append([float(s[token].logprob) for s, token in zip(scores, ids, strict=True)])
        return found

    def load(self, checkpoint: Path) -> None:
        done: Future[Any] = Future()
        self._asked.put((checkpoint, None, done))
        done.result()

    def close(self) -> None:
        if self._thread.is_alive():
            self._asked.put(None)
            self._thread.join()
        super().close()

    def _ask(self, prompt: Any, parameters: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self._asked.put((prompt, parameters, future))
        return future

    def _serve(self) -> None:
        """Until told to end: take what is asked, decode a step, hand out what is finished."""
        waiting: dict[str, Future[Any]] = {}
        loads: list[tuple[Path, Future[Any]]] = []
        try:
            while True:
                # Weights change between batches; what is asked meanwhile waits.
                while loads and not waiting:
                    self._reload(loads[0][0])
                    loads.pop(0)[1].set_result(None)
                while not loads:
                    try:
                        asked = self._asked.get(block=not waiting)
                    except queue.Empty:
                        break
                    if asked is None:
                        return
                    prompt, parameters, future = asked
                    if parameters is None:
                        loads.append((prompt, future))
                    else:
                        self._begin(prompt, parameters, future, waiting)
                for output in self._llm.llm_engine.step() if waiting else ():
                    if output.finished:
                        waiting.pop(output.request_id).set_result(output)
        except BaseException as error:  # the engine is gone: nobody may wait for it for ever
            lost = InfrastructureError(f"vLLM's engine ended: {type(error).__name__}: {error}")
            for future in [*waiting.values(), *(future for _, future in loads)]:
                future.set_exception(lost)
            while (left := self._asked.get()) is not None:
                left[2].set_exception(lost)

    def _begin(
        self, prompt: Any, parameters: Any, future: Future[Any], waiting: dict[str, Future[Any]]
    ) -> None:
        from vllm.exceptions import VLLMClientError

        try:
            (name,) = self._llm.enqueue([prompt], [parameters], use_tqdm=False)
        except VLLMClientError as error:  # too long a prompt, above all
            future.set_exception(UserInputError(f"vLLM refuses a request: {error}"))
        else:
            # Inside, vLLM adds a random end to the number that the output has.
            waiting[name.partition("-")[0]] = future

    def _reload(self, checkpoint: Path) -> None:
        """Weights of the same shapes in place; what was computed with the old ones is forgotten."""
        self._llm.collective_rpc("load_pelican_weights", args=(str(checkpoint),))
        self._llm.llm_engine.reset_encoder_cache()
        if not self._llm.reset_prefix_cache():
            raise InfrastructureError("vLLM kept keys of the old weights: requests were running")


def _drawn(output: Any) -> Drawn:
    one = output.outputs[0]
    ids = list(one.token_ids)
    return Drawn(ids, [float(at[i].logprob) for at, i in zip(one.logprobs, ids, strict=True)])


# A generation server: completions over HTTP for a training whose weights change.
#
# `python -m pelican.engines.server FILE` with a ServerSpec in JSON. Three posts, `complete`, `logps`
# and `load`, bodies in JSON, images in base64; `GET /` says which weights are loaded. It has no
# authentication and loads only what lies in its own folder: keep it inside the cluster.


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
    from pelican.storage.checkpoints import check_checkpoint

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

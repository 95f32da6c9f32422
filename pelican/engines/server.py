"""The generation server of a training: samples completions, by weights that the training sends."""

from __future__ import annotations

import base64
import os
import queue
import signal
import socket
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from pydantic import BeforeValidator, ConfigDict, Field, PlainSerializer

from pelican.base.files import replacing
from pelican.base.model import Frozen
from pelican.base.process import die_with_parent
from pelican.config import env
from pelican.config.recipe import Recipe, Sampling
from pelican.engines import vllm_private
from pelican.engines.vllm import VllmEngine
from pelican.errors import InfrastructureError, PelicanError, UserInputError
from pelican.records import Sample

if TYPE_CHECKING:
    from fastapi import FastAPI

# Backends: engines that several clients ask at a time, and whose weights change.


class Completion(NamedTuple):
    """The token ids of a completion, and the log-probability of each by the weights that sampled it.

    Log-probabilities are those after temperature and top-p; an empty list where nobody reads them.
    """

    ids: list[int]
    logps: list[float]


class Backend(ABC):
    """What a generation server samples with. Several threads may call it at a time."""

    @abstractmethod
    def complete(
        self, samples: Sequence[Sample], sampling: Sampling, seeds: Sequence[Sequence[int]]
    ) -> list[list[Completion]]:
        """Sample one completion per sample and seed.

        Args:
            samples: What is asked.
            sampling: Temperature, top-p and length.
            seeds: Of each sample's completions.
        """

    @abstractmethod
    def logps(
        self, samples: Sequence[Sample], completions: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """Log-probabilities of the tokens of one given completion of each sample, at temperature 1."""

    @abstractmethod
    def load(self, checkpoint: Path) -> None:
        """Go on with other weights of the same shapes, once requests that came before are answered."""

    def close(self) -> None:
        """End what the backend started."""
        return None


def open_backend(recipe: Recipe, checkpoint: Path) -> Backend:
    """Load the backend that `rollout.engine` names."""
    if recipe.rollout.engine == "vllm":
        return VllmBackend(recipe, checkpoint)
    return TransformersBackend(recipe, checkpoint)


class TransformersBackend(Backend):
    """The transformers engine, which answers one request at a time: for CPUs and for tests."""

    def __init__(self, recipe: Recipe, checkpoint: Path) -> None:
        from pelican.engines.transformers import TransformersEngine

        size = env.batch_size(recipe.rollout.batch_size)
        self._engine = TransformersEngine.load(recipe.model, checkpoint, size, recipe.rl.threads)
        self._batch_size = size
        self._lock = threading.Lock()

    def complete(
        self, samples: Sequence[Sample], sampling: Sampling, seeds: Sequence[Sequence[int]]
    ) -> list[list[Completion]]:
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
                    found.append([Completion(i, p) for i, p in zip(group, logps, strict=True)])
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
    """One vLLM engine, whose batch the requests of all clients share.

    vLLM's engine may not be called by several threads, so a thread of its own does it: `complete`,
    `logps` and `load` put requests into a queue and wait for their futures.
    """

    def __init__(self, recipe: Recipe, checkpoint: Path) -> None:
        super().__init__(
            recipe.rollout.vllm,
            recipe.model,
            checkpoint,
            recipe.rl.threads,
            logprobs_mode="processed_logprobs",  # after temperature and top-p
            worker_extension_cls=vllm_private.WORKER,
        )
        self._requests: queue.SimpleQueue[tuple[Any, Any, Future[Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="vllm", daemon=True)
        self._thread.start()

    def complete(
        self, samples: Sequence[Sample], sampling: Sampling, seeds: Sequence[Sequence[int]]
    ) -> list[list[Completion]]:
        groups = []
        for sample, own in zip(samples, seeds, strict=True):
            self._check_images(sample)
            prompt = self._prompt(sample)
            group = []
            for seed in own:
                parameters = self._parameters(sampling, seed)
                parameters.logprobs = 0  # of the sampled token alone
                group.append(self._ask(prompt, parameters))
            groups.append(group)
        return [[_read_output(future.result()) for future in group] for group in groups]

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
        self._requests.put((checkpoint, None, done))
        done.result()

    def close(self) -> None:
        if self._thread.is_alive():
            self._requests.put(None)
            self._thread.join()
        super().close()

    def _ask(self, prompt: Any, parameters: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self._requests.put((prompt, parameters, future))
        return future

    def _serve(self) -> None:
        """Take requests, decode a step, hand out what is finished; until the queue gives None."""
        waiting: dict[str, Future[Any]] = {}
        loads: list[tuple[Path, Future[Any]]] = []
        try:
            while True:
                # Weights change while no request runs; the queue waits meanwhile.
                while loads and not waiting:
                    vllm_private.reload_weights(self._llm, loads[0][0])
                    loads.pop(0)[1].set_result(None)
                while not loads:
                    try:
                        request = self._requests.get(block=not waiting)
                    except queue.Empty:
                        break
                    if request is None:
                        return
                    prompt, parameters, future = request
                    if parameters is None:
                        loads.append((prompt, future))
                    else:
                        self._begin(prompt, parameters, future, waiting)
                for output in vllm_private.step(self._llm) if waiting else ():
                    waiting.pop(output.request_id).set_result(output)
        except BaseException as error:  # the engine is gone: no client may wait for it for ever
            lost = error
            if not isinstance(error, PelicanError):
                lost = InfrastructureError(f"vLLM's engine ended: {type(error).__name__}: {error}")
            for future in [*waiting.values(), *(future for _, future in loads)]:
                future.set_exception(lost)
            while (left := self._requests.get()) is not None:
                left[2].set_exception(lost)

    def _begin(
        self, prompt: Any, parameters: Any, future: Future[Any], waiting: dict[str, Future[Any]]
    ) -> None:
        try:
            (name,) = vllm_private.enqueue(self._llm, [prompt], [parameters], "a request")
        except UserInputError as error:
            future.set_exception(error)
        else:
            waiting[name] = future


def _read_output(output: Any) -> Completion:
    one = output.outputs[0]
    ids = list(one.token_ids)
    return Completion(ids, [float(at[i].logprob) for at, i in zip(one.logprobs, ids, strict=True)])


# The service: completions over HTTP for a training whose weights change.
#
# `python -m pelican.engines.server FILE` with a ServerSpec in JSON. Three posts, `complete`, `logps`
# and `load`, whose bodies are the models below; `GET /` says which weights are loaded. Server and
# training are of one release. There is no authentication, and only weights in the server's own folder
# are loaded: keep it inside the cluster.

_THREADS = 1024  # requests at a time; a rank of a training has one


class ServerSpec(Frozen):
    """What a server is started with."""

    recipe: Recipe
    checkpoint: str
    folder: str = Field(description="where the trainer leaves weights")
    host: str = "127.0.0.1"
    port: int = Field(0, ge=0, description="0: any that is free")
    ready: str | None = Field(None, description="file that gets the URL once requests are taken")


def _read_sample(row: Any) -> Any:
    if not isinstance(row, dict):  # a Sample already
        return row
    return {**row, "images": [base64.b64decode(image) for image in row["images"]]}


def _write_sample(sample: Sample) -> dict[str, Any]:
    images = [base64.b64encode(image).decode() for image in sample.images]
    return {**sample.model_dump(mode="json", exclude={"images"}), "images": images}


# As a sample is, but for its images, which are in base64.
WireSample = Annotated[Sample, BeforeValidator(_read_sample), PlainSerializer(_write_sample)]


class Message(Frozen):
    """The body of a request or a reply. A log-probability may be infinite, or not a number."""

    model_config = ConfigDict(ser_json_inf_nan="constants")


class LoadRequest(Message):
    name: str = Field(description="of a folder below the server's own")


class CompleteRequest(Message):
    samples: list[WireSample]
    sampling: Sampling
    seeds: list[list[int]] = Field(description="of each sample's completions")


class LogpsRequest(Message):
    samples: list[WireSample]
    completions: list[list[int]] = Field(description="token ids, one completion of each sample")


class Reply(Message):
    weights: str = Field(description="the name of the weights that gave it")


class CompleteReply(Reply):
    drawn: list[list[Completion]]


class LogpsReply(Reply):
    logps: list[list[float]]


class Weights:
    """Which weights the backend has: the name of their folder below `folder`."""

    def __init__(self, backend: Backend, folder: Path) -> None:
        self.backend, self._folder = backend, folder
        self.name = ""
        self._lock = threading.Lock()

    def load(self, name: str) -> None:
        """Bring the backend to these weights. Raises UserInputError if they are not there."""
        place = self._folder / name
        if Path(name).name != name or not place.is_dir():
            raise UserInputError(
                f"there are no weights {name!r} in {self._folder}; training and server must have the"
                " same folder mounted"
            )
        with self._lock:
            self.backend.load(place)
            self.name = name


def make_app(weights: Weights) -> FastAPI:
    """The service; its functions run in threads, because a batch takes minutes."""
    from anyio.to_thread import current_default_thread_limiter
    from fastapi import FastAPI
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse
    from starlette.exceptions import HTTPException

    @asynccontextmanager
    async def open_threads(_: FastAPI) -> AsyncIterator[None]:
        current_default_thread_limiter().total_tokens = _THREADS
        yield

    app = FastAPI(openapi_url=None, lifespan=open_threads)

    @app.get("/")
    def name_weights() -> Reply:
        return Reply(weights=weights.name)

    @app.post("/load")
    def load(request: LoadRequest) -> Reply:
        weights.load(request.name)
        return Reply(weights=weights.name)

    @app.post("/logps")
    def logps(request: LogpsRequest) -> LogpsReply:
        found = weights.backend.logps(request.samples, request.completions)
        return LogpsReply(weights=weights.name, logps=found)

    @app.post("/complete")
    def complete(request: CompleteRequest) -> CompleteReply:
        before = weights.name
        drawn = weights.backend.complete(request.samples, request.sampling, request.seeds)
        if weights.name != before:
            raise RuntimeError(f"weights changed from {before} to {weights.name} meanwhile")
        return CompleteReply(weights=before, drawn=drawn)

    def answer(error: type[Exception], status: int, describe: Callable[[Any, Any], str]) -> None:
        async def reply(request: Any, error: Exception) -> JSONResponse:
            return JSONResponse({"error": describe(request, error)}, status)

        app.add_exception_handler(error, reply)

    answer(UserInputError, 400, lambda _, error: str(error))
    answer(RequestValidationError, 400, lambda _, error: f"bad request: {_name_fault(error)}")
    answer(HTTPException, 404, lambda request, _: f"a generation server has no {request.url.path}")
    answer(Exception, 500, lambda _, error: f"{type(error).__name__}: {error}")  # logged, too
    return app


def _name_fault(error: Any) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


class Server:
    """Serves a backend until it is stopped. The socket takes requests from the beginning."""

    def __init__(
        self, backend: Backend, folder: Path, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        """Bind the socket.

        Args:
            backend: What answers.
            folder: Where weights to load lie.
            host: The address of this machine to listen at; its loopback unless given.
            port: 0 for any that is free.

        Raises:
            UserInputError: Nothing can listen there.
        """
        import uvicorn

        self.weights = Weights(backend, folder)
        try:
            self._socket = socket.create_server((host, port), backlog=_THREADS)
        except OSError as error:
            raise UserInputError(
                f"a generation server can't listen at {host}:{port} ({error.strerror or error});"
                " choose another --host or --port"
            ) from None
        config = uvicorn.Config(make_app(self.weights), log_level="warning", server_header=False)
        self._server = uvicorn.Server(config)

    @property
    def url(self) -> str:
        host, port = self._socket.getsockname()[:2]
        return f"http://{host}:{port}"

    def run(self) -> None:
        """Serve, in the thread that calls it, until `stop`."""
        self._server.run(sockets=[self._socket])

    def stop(self) -> None:
        """Make `run` return, from another thread."""
        self._server.should_exit = True


def serve(spec: ServerSpec) -> None:
    """Load the engine, then serve until the process is ended.

    Raises:
        UserInputError: There is no such checkpoint, or nothing can listen at the address.
        InfrastructureError: The service ended by itself.
    """
    from pelican.storage.checkpoints import check_checkpoint

    check_checkpoint("--checkpoint", spec.checkpoint)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    backend = open_backend(spec.recipe, Path(spec.checkpoint))
    try:
        server = Server(backend, Path(spec.folder), spec.host, spec.port)
        # In the main thread uvicorn would take SIGTERM for a wish to finish what was asked first.
        thread = threading.Thread(target=server.run, name="server", daemon=True)
        thread.start()
        print(f"serving completions at {server.url}", flush=True)
        if spec.ready:
            with replacing(Path(spec.ready)) as file:
                file.write_text(server.url)
        thread.join()
        raise InfrastructureError("the generation server ended; its last words are above")
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

"""Samplers of GRPO's completions: a copy of the policy in this process, or a generation server."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
import torch

from pelican.base.process import PARENT, all_gather_object, broadcast_object
from pelican.config import env
from pelican.config.recipe import GenerationConfig, Recipe, Sampling
from pelican.engines.server import (
    CompleteReply,
    CompleteRequest,
    Completion,
    LoadRequest,
    LogpsReply,
    LogpsRequest,
    Message,
    Reply,
    ServerSpec,
)
from pelican.engines.transformers import (
    Encoded,
    PromptEncoder,
    TransformersEngine,
    completion_logps,
)
from pelican.errors import InfrastructureError, UserInputError
from pelican.records import Sample
from pelican.training.distributed import copy_weights, save_whole

# Each sampler gets the policy's weights before it samples. For a server this is checked: policy and
# server both compute the log-probabilities of the same completions, the probes.

PROBES = 2  # completions of each process that are compared
_PROBE_TOKENS = 64
R = TypeVar("R", bound=Reply)


class Sampler(ABC):
    """What a trainer samples the policy's completions with."""

    encoder: PromptEncoder

    @abstractmethod
    def sync_weights(self, policy: Any, step: int) -> float | None:
        """Bring the sampler to the policy's weights. Collective: every rank has to call it.

        Returns:
            How much log-probabilities of policy and sampler differ afterwards, on average; None if
            they can't.
        """

    @abstractmethod
    def complete(
        self,
        samples: Sequence[Sample],
        prompts: Sequence[Encoded],
        sampling: Sampling,
        seeds: Sequence[Sequence[int]],
    ) -> list[list[Completion]]:
        """Sample completions.

        Args:
            samples: What is asked.
            prompts: The same, encoded.
            sampling: Temperature, top-p and length.
            seeds: Of each sample's completions.

        Returns:
            One completion per sample and seed. `logps` are empty if the weights are always the
            policy's own, because then nobody reads them.
        """


class LocalSampler(Sampler):
    """A whole copy of the policy in this process."""

    def __init__(self, copy: Any, encoder: PromptEncoder) -> None:
        self.encoder = encoder
        self._engine = TransformersEngine(copy, encoder, batch_size=1)

    def sync_weights(self, policy: Any, step: int) -> None:
        copy_weights(policy, self._engine.policy)

    def complete(
        self,
        samples: Sequence[Sample],
        prompts: Sequence[Encoded],
        sampling: Sampling,
        seeds: Sequence[Sequence[int]],
    ) -> list[list[Completion]]:
        groups = self._engine.complete(prompts, sampling, seeds)
        return [[Completion(ids, []) for ids in group] for group in groups]


class ServerClient:
    """One generation server."""

    def __init__(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            is_http = parts.scheme == "http" and bool(parts.hostname) and parts.port != 0
        except ValueError:  # a port that is no number, say
            is_http = False
        if not is_http:
            raise UserInputError(
                f"{env.GENERATION_SERVERS}: {url!r} is not a URL such as http://host:80"
            )
        self.url = url.rstrip("/")
        self._http = httpx.Client(
            timeout=None,  # a batch may take minutes, and a server that died closes the connection
            transport=httpx.HTTPTransport(
                trust_env=False,  # no proxy
                # A connection for each request: a server closes idle ones, maybe as they are used.
                limits=httpx.Limits(max_keepalive_connections=0),
                # So that a machine that vanished is noticed, however long a batch may take.
                socket_options=[(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)],
            ),
        )

    def post(self, path: str, request: Message, reply: type[R]) -> R:
        """The server's reply; waits for it as long as it takes.

        Args:
            path: What is asked for: `complete`, `logps` or `load`.
            request: The body.
            reply: The model of what comes back.

        Raises:
            InfrastructureError: The server is not there, or failed.
            UserInputError: It refuses the request.
        """
        name = f"the generation server {self.url}"
        headers = {"Content-Type": "application/json"}
        body = request.model_dump_json()
        try:
            response = self._http.post(f"{self.url}/{path}", content=body, headers=headers)
        except httpx.HTTPError as error:
            raise InfrastructureError(
                f"{name} does not answer ({error!r}); is it still there?"
            ) from error
        try:
            if response.is_success:
                return reply.model_validate_json(response.content)
            message = f"{name}: {response.json()['error']}"
        except (ValueError, LookupError, TypeError):
            raise InfrastructureError(
                f"{name} gives a reply (status {response.status_code}) that is not a generation"
                " server's of this release; is it another service, or an older one?"
            ) from None
        raise (UserInputError if response.is_client_error else InfrastructureError)(message)

    def load(self, name: str) -> None:
        """Make the server go on with the weights of this name in the common folder."""
        self.post("load", LoadRequest(name=name), Reply)

    def complete(
        self, samples: Sequence[Sample], sampling: Sampling, seeds: Sequence[Sequence[int]]
    ) -> tuple[str, list[list[Completion]]]:
        """The name of the weights that sampled, and the completions."""
        request = CompleteRequest(
            samples=list(samples), sampling=sampling, seeds=[list(own) for own in seeds]
        )
        found = self.post("complete", request, CompleteReply)
        return found.weights, found.drawn

    def logps(
        self, samples: Sequence[Sample], completions: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """Log-probabilities of the tokens of one completion of each sample, at temperature 1."""
        request = LogpsRequest(
            samples=list(samples), completions=[list(own) for own in completions]
        )
        return self.post("logps", request, LogpsReply).logps


class RemoteSampler(Sampler):
    """Generation servers, which read the policy's weights from a folder that all have mounted.

    Rank r asks server r modulo their number. Each transfer of weights has a folder of its own.
    """

    def __init__(
        self,
        config: GenerationConfig,
        dtype: torch.dtype,
        servers: Sequence[str],
        folder: Path,
        encoder: PromptEncoder,
        probes: Sequence[Sample],
    ) -> None:
        """Load nothing yet.

        Args:
            config: The recipe's section `rl.generation`.
            dtype: The type of the weights in the folder.
            servers: Their URLs.
            folder: Where weights are left for them.
            encoder: Of the policy.
            probes: This rank's samples whose completions, sampled once, are compared after every
                transfer; the first PROBES of them.

        Raises:
            UserInputError: There are more servers than ranks, or an URL is none.
        """
        self.encoder = encoder
        ranks = torch.distributed.is_initialized()
        self._rank = torch.distributed.get_rank() if ranks else 0
        self._world = torch.distributed.get_world_size() if ranks else 1
        if len(servers) > self._world:
            raise UserInputError(
                f"{env.GENERATION_SERVERS} has {len(servers)} servers but training has"
                f" {self._world} processes, each of which asks one; name fewer"
            )
        self._client = ServerClient(servers[self._rank % len(servers)])
        self._loads = self._rank < len(servers)
        self._folder, self._dtype, self._tolerance = folder, dtype, config.tolerance
        self._name = ""
        self._probes = list(probes[:PROBES])
        self._completions: list[list[int]] = []

    def sync_weights(self, policy: Any, step: int) -> float:
        name = f"step-{step:08d}"
        save_whole(
            policy,
            self.encoder.processor,
            self._folder / name,
            self._dtype,
            rank=self._rank,
            world_size=self._world,
        )
        failed = None
        if self._loads:
            try:
                self._client.load(name)
            except (UserInputError, InfrastructureError) as error:
                failed = error
        self._raise_together(failed)
        if self._rank == 0:
            for other in self._folder.glob("step-*"):
                if other.name != name:
                    shutil.rmtree(other)
        self._name = name
        return self._compare(policy, step)

    def _compare(self, policy: Any, step: int) -> float:
        """Mean difference of log-probabilities on the probes, the largest of all ranks.

        Raises:
            UserInputError: It is above `rl.generation.tolerance`.
        """
        failed = None
        theirs: list[list[float]] = []
        try:
            if not self._completions:
                sampling = Sampling(temperature=1.0, max_tokens=_PROBE_TOKENS)
                seeds = [[i] for i in range(len(self._probes))]
                _, groups = self._client.complete(self._probes, sampling, seeds)
                self._completions = [group[0].ids for group in groups]
            theirs = self._client.logps(self._probes, self._completions)
        except (UserInputError, InfrastructureError) as error:
            failed = error
        self._raise_together(failed)
        ours = completion_logps(
            policy,
            self.encoder,
            [self.encoder.prompt(sample) for sample in self._probes],
            self._completions,
            device=next(policy.parameters()).device,
        )
        pairs = [
            abs(a - b)
            for mine, other in zip(ours, theirs, strict=True)
            for a, b in zip(mine, other, strict=True)
        ]
        worst = float(max(all_gather_object(sum(pairs) / len(pairs))))
        if not worst <= self._tolerance:  # not a number, too
            raise UserInputError(
                f"step {step}: after the transfer of weights, log-probabilities of the policy and of"
                f" the generation server differ by {worst:.3g} on average, more than"
                f" rl.generation.tolerance = {self._tolerance:g}; the server draws from another"
                " policy, or its arithmetic is coarser than the tolerance"
            )
        return worst

    def complete(
        self,
        samples: Sequence[Sample],
        prompts: Sequence[Encoded],
        sampling: Sampling,
        seeds: Sequence[Sequence[int]],
    ) -> list[list[Completion]]:
        if not samples:
            return []
        name, groups = self._client.complete(samples, sampling, seeds)
        if name != self._name:
            raise InfrastructureError(
                f"the generation server {self._client.url} has the weights {name!r} instead of"
                f" {self._name!r}; does another training use it?"
            )
        return groups

    def _raise_together(self, failed: Exception | None) -> None:
        """Raise on every rank if one failed, because the others would wait for it for ever."""
        errors = [error for error in all_gather_object(str(failed) if failed else None) if error]
        if failed is not None:
            raise failed
        if errors:
            raise InfrastructureError(f"another process of the training: {errors[0]}")


def serving_dtype(recipe: Recipe) -> torch.dtype:
    """The type in which the sampler has the policy's weights."""
    found: torch.dtype = getattr(torch, recipe.model.dtype)
    return found


# Opening a sampler: at the servers that the environment names, or at one started beside rank 0.

_POLL_S = 0.2
_PATIENCE_S = 60.0
# Variables of torchrun, which vLLM would take for its own.
_TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK")
_RENDEZVOUS = ("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID")


@contextmanager
def open_sampler(
    recipe: Recipe,
    checkpoint: Path,
    work: Path,
    encoder: PromptEncoder,
    probes: Sequence[Sample],
) -> Iterator[Sampler | None]:
    """The sampler of a training, and a server for it if none is named. Every rank has to call it.

    Args:
        recipe: Of the training.
        checkpoint: What a server that is started here loads first.
        work: Its folder, for weights.
        encoder: Of the policy.
        probes: This rank's samples that are compared after each transfer of weights.

    Yields:
        The sampler; None if the recipe wants a copy of the policy in each process, which the trainer
        makes itself.

    Raises:
        UserInputError: The environment names servers without a folder, or there is more than one
            machine without servers.
        InfrastructureError: The server that is started here ends.
    """
    config = recipe.rl.generation
    if config.where == "process":
        yield None
        return
    rank = env.rank()
    if servers := env.generation_servers():
        folder = env.generation_folder()
        if folder is None:
            raise UserInputError(
                f"{env.GENERATION_SERVERS} is set but {env.GENERATION_FOLDER} is not; set"
                " it to the folder that they and the training have mounted"
            )
        yield RemoteSampler(config, serving_dtype(recipe), servers, Path(folder), encoder, probes)
        return
    if env.world_size() != env.local_world_size():
        raise UserInputError(
            "rl.generation.where is 'server' and training has several machines; start `pelican"
            f" generation-server` and name it in {env.GENERATION_SERVERS}"
        )
    server: subprocess.Popen[bytes] | None = None
    url = ""
    failed: Exception | None = None
    try:
        if rank == 0:
            try:
                server, url = _start_server(recipe, checkpoint, work)
            except (UserInputError, InfrastructureError) as error:
                failed = error
        url, failed = broadcast_object((url, failed))
        if failed is not None:
            raise failed
        yield RemoteSampler(config, serving_dtype(recipe), [url], work, encoder, probes)
    finally:
        if server is not None:
            _end_server(server)
            shutil.rmtree(work, ignore_errors=True)


def _start_server(
    recipe: Recipe, checkpoint: Path, work: Path
) -> tuple[subprocess.Popen[bytes], str]:
    """A server's process, and its URL once it takes requests. It dies with this process."""
    work.mkdir(parents=True, exist_ok=True)
    spec, ready = work / "server.json", work / "url"
    ready.unlink(missing_ok=True)
    server_spec = ServerSpec(
        recipe=recipe,
        checkpoint=str(checkpoint.absolute()),
        folder=str(work.absolute()),
        ready=str(ready),
    )
    spec.write_text(server_spec.model_dump_json())
    gpus = recipe.rollout.vllm.tensor_parallel_size if torch.cuda.is_available() else 0
    environment = server_environment(env.read_all(), gpus, torch.cuda.device_count())
    environment[PARENT] = str(os.getpid())
    server = subprocess.Popen(
        [sys.executable, "-m", "pelican.engines.server", str(spec)],
        env=environment,
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # a group of its own, which ends with it
    )
    while not ready.exists():
        if (code := server.poll()) is not None:
            raise (UserInputError if code == UserInputError.exit_code else InfrastructureError)(
                f"the generation server ended with exit status {code}; its last words are above"
            )
        time.sleep(_POLL_S)
    return server, ready.read_text()


def server_environment(environment: Mapping[str, str], gpus: int, visible: int) -> dict[str, str]:
    """The environment of a server that is started beside a training.

    Args:
        environment: That of the training, whose torchrun variables are left out.
        gpus: How many the server needs; it gets those after the training's own.
        visible: How many GPUs the machine shows, where CUDA_VISIBLE_DEVICES is not set.

    Raises:
        UserInputError: There are not enough of them.
    """
    kept = {k: v for k, v in environment.items() if k not in (*_TORCHRUN, *_RENDEZVOUS)}
    if gpus:
        taken = int(environment.get("LOCAL_WORLD_SIZE", "1"))
        given = environment.get("CUDA_VISIBLE_DEVICES")
        devices = given.split(",") if given else [str(i) for i in range(visible)]
        mine = devices[taken : taken + gpus]
        if len(mine) < gpus:
            raise UserInputError(
                f"the generation server needs {gpus} GPUs beside the {taken} of training, but there"
                f" are {len(devices)}; lower rl.processes or rollout.vllm.tensor_parallel_size"
            )
        kept["CUDA_VISIBLE_DEVICES"] = ",".join(mine)
    return kept


def _end_server(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(_PATIENCE_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()

"""A training's generation servers: those that are named, or one started beside rank 0."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from pelican import settings
from pelican.collectives import from_first
from pelican.engines.prompts import PromptEncoder
from pelican.engines.server import ServerSpec
from pelican.errors import InfrastructureError, UserInputError
from pelican.leash import PARENT
from pelican.recipe import Recipe
from pelican.records import Sample
from pelican.training.generation import Generation, Served, dtype_of

_POLL_S = 0.2
_PATIENCE_S = 60.0
# torchrun's, which vLLM would take for its own.
_TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK")
_RENDEZVOUS = ("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID")


@contextmanager
def served_generation(
    recipe: Recipe,
    checkpoint: Path,
    work: Path,
    encoder: PromptEncoder,
    probes: Sequence[Sample],
) -> Iterator[Generation | None]:
    """What the trainer draws from; None if each process has a copy of the policy.

    Called by every rank. `work` is a folder for the weights of a server that is started here.
    """
    config = recipe.rl.generation
    if config.where == "process":
        yield None
        return
    rank = int(os.environ.get("RANK", "0"))
    if servers := settings.generation_servers():
        folder = settings.generation_folder()
        if folder is None:
            raise UserInputError(
                f"{settings.GENERATION_SERVERS} is set but {settings.GENERATION_FOLDER} is not; set"
                " it to the folder that they and the training have mounted"
            )
        yield Served(config, dtype_of(recipe), servers, Path(folder), encoder, probes)
        return
    if os.environ.get("WORLD_SIZE", "1") != os.environ.get("LOCAL_WORLD_SIZE", "1"):
        raise UserInputError(
            "rl.generation.where is 'server' and training has several machines; start `pelican"
            f" generation-server` and name it in {settings.GENERATION_SERVERS}"
        )
    server: subprocess.Popen[bytes] | None = None
    told: str | Exception | None = None
    try:
        if rank == 0:
            try:
                server, told = _start(recipe, checkpoint, work)
            except (UserInputError, InfrastructureError) as error:
                told = error
        told = from_first(told)
        if isinstance(told, Exception):
            raise told
        assert told is not None
        yield Served(config, dtype_of(recipe), [told], work, encoder, probes)
    finally:
        if server is not None:
            _end(server)
            shutil.rmtree(work, ignore_errors=True)


def _start(recipe: Recipe, checkpoint: Path, work: Path) -> tuple[subprocess.Popen[bytes], str]:
    """The server's process, and its URL once it takes requests. It dies with this process."""
    work.mkdir(parents=True, exist_ok=True)
    spec, ready = work / "server.json", work / "url"
    ready.unlink(missing_ok=True)
    asked = ServerSpec(
        recipe=recipe,
        checkpoint=str(checkpoint.absolute()),
        folder=str(work.absolute()),
        ready=str(ready),
    )
    spec.write_text(asked.model_dump_json())
    gpus = recipe.rollout.vllm.tensor_parallel_size if torch.cuda.is_available() else 0
    environment = server_environment(os.environ, gpus, torch.cuda.device_count())
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
    """Without torchrun's variables, and with the `gpus` after those of the training's processes."""
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


def _end(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(_PATIENCE_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()

"""Completions by a server: the policy's weights get there, and it is seen when they do not."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from pelican.config.recipe import Recipe, Sampling
from pelican.engines.server import (
    Backend,
    CompleteReply,
    Completion,
    LoadRequest,
    LogpsReply,
    LogpsRequest,
    Server,
    TransformersBackend,
)
from pelican.errors import InfrastructureError, UserInputError
from pelican.records import Sample
from pelican.training.arguments import grpo_arguments
from pelican.training.distributed import load_for_training
from pelican.training.grpo import StepRecord
from pelican.training.grpo_scale import RolloutQueue, ScaledGrpoTrainer
from pelican.training.sampling import RemoteSampler, ServerClient, server_environment
from tests.endpoints import serving
from tests.training.scaled import recipe_of
from tests.training.trainers import SAMPLES, losses, scaled_grpo

WARM = Sampling(temperature=0.7, max_tokens=6)


class Forgetful(Backend):
    """Says that it loaded weights, and has the old ones."""

    def __init__(self, inner: Backend) -> None:
        self.inner = inner
        self.loaded: list[str] = []

    def complete(
        self, samples: Sequence[Sample], sampling: Sampling, seeds: Sequence[Sequence[int]]
    ) -> list[list[Completion]]:
        return self.inner.complete(samples, sampling, seeds)

    def logps(
        self, samples: Sequence[Sample], completions: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        return self.inner.logps(samples, completions)

    def load(self, checkpoint: Path) -> None:
        self.loaded.append(checkpoint.name)


Serve = Callable[..., Server]


@pytest.fixture
def serve(twin: Path, tmp_path: Path) -> Iterator[Serve]:
    """A server with a real engine, on this machine's loopback."""
    servers: list[Server] = []

    def start(wrap: Callable[[Backend], Backend] = lambda backend: backend) -> Server:
        engine = wrap(TransformersBackend(recipe(), twin))
        servers.append(Server(engine, tmp_path / "weights"))
        threading.Thread(target=servers[-1].run, daemon=True).start()
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def recipe(steps: int = 4, **generation: Any) -> Recipe:
    made = recipe_of({"steps": steps, "strategy": "ddp"})
    tree = made.model_dump()
    tree["rollout"]["engine"] = "transformers"
    tree["rl"]["generation"] = {"where": "server", **generation}
    return Recipe.model_validate(tree)


def trainer_of(
    made: Recipe, twin: Path, folder: Path, url: str | None, records: list[StepRecord]
) -> ScaledGrpoTrainer:
    work, weights = folder / "work", folder / "weights"
    return scaled_grpo(made, twin, work, SAMPLES, records.append, url=url, folder=weights)


def test_a_sample_goes_over_the_wire_whole() -> None:
    request = LogpsRequest(samples=SAMPLES, completions=[[3, 4]] * len(SAMPLES))
    assert LogpsRequest.model_validate_json(request.model_dump_json()) == request
    assert request.samples == SAMPLES
    found = Completion([1, 2, 3], [-0.1, -math.inf, math.nan])
    reply = CompleteReply(weights="w", drawn=[[found]])
    assert str(CompleteReply.model_validate_json(reply.model_dump_json())) == str(reply)
    assert reply.model_dump_json() == '{"weights":"w","drawn":[[[[1,2,3],[-0.1,-Infinity,NaN]]]]}'


def test_a_server_trains_as_a_copy_in_the_process_does(
    twin: Path, tmp_path: Path, serve: Serve
) -> None:
    alone: list[Any] = []
    there: list[Any] = []
    copy = trainer_of(recipe_of({"steps": 3, "strategy": "ddp"}), twin, tmp_path / "a", None, alone)
    copy.train()
    server = serve()
    made = recipe(3, importance_cap=None)
    served = trainer_of(made, twin, tmp_path, server.url, there)
    served.train()
    drawn = [[group.completions for group in record.drawn] for record in there]
    assert drawn == [[group.completions for group in record.drawn] for record in alone]
    assert losses(served) == pytest.approx(losses(copy), rel=1e-3, abs=2e-6)
    log = [row for row in served.state.log_history if "loss" in row]
    assert all(row["sync_difference"] < 1e-4 for row in log)
    assert server.weights.name == "step-00000002"
    assert [path.name for path in (tmp_path / "weights").iterdir()] == ["step-00000002"]


@pytest.mark.parametrize("staleness", [1, 2])
def test_weights_are_at_most_so_many_steps_old(
    twin: Path, tmp_path: Path, serve: Serve, staleness: int
) -> None:
    """Step by step what a server with these weights says, and the truncated ratios."""
    loads: list[str] = []
    drew: list[str] = []

    class Watched(Forgetful):
        def load(self, checkpoint: Path) -> None:
            super().load(checkpoint)
            loads.append(checkpoint.name)
            self.inner.load(checkpoint)

    records: list[StepRecord] = []
    server = serve(Watched)
    made = recipe(5, max_staleness=staleness, importance_cap=1.05)
    trainer = trainer_of(made, twin, tmp_path, server.url, records)
    names: dict[int, str] = {}
    draw = trainer.draw_groups

    def watched(samples: Sequence[int], step: int) -> StepRecord:
        names[step] = server.weights.name
        drew.append(threading.current_thread().name)
        return draw(samples, step)

    trainer.draw_groups = watched  # type: ignore[method-assign]
    seen: list[torch.Tensor] = []
    importance = trainer._importance

    def kept(*args: Any) -> torch.Tensor:
        seen.append(importance(*args))
        return seen[-1]

    trainer._importance = kept  # type: ignore[method-assign, assignment]
    trainer.train()
    ages = [step - int(names[step].removeprefix("step-")) for step in range(5)]
    expected = {1: [0, 1, 1, 1, 1], 2: [0, 1, 2, 1, 2]}[staleness]
    assert ages == expected
    assert drew[1:] == ["rollouts"] * 4
    assert [record.step for record in records] == list(range(5))
    assert len(loads) == {1: 4, 2: 2}[staleness]
    # The sampler leaves out image tokens, to which an untrained policy gives 2 of 320.
    assert torch.allclose(seen[0], torch.ones_like(seen[0]), atol=0.02)
    assert any(float((ratio - 1).abs().max()) > 0.04 for ratio in seen[1:])
    assert max(float(ratio.max()) for ratio in seen) <= 1.05 + 1e-6
    assert all(
        row["sync_difference"] < 1e-4
        for row in trainer.state.log_history
        if "sync_difference" in row
    )


def test_a_server_that_keeps_its_old_weights_is_found_out(
    twin: Path, tmp_path: Path, serve: Serve
) -> None:
    server = serve(Forgetful)
    trainer = trainer_of(recipe(4, tolerance=1e-3), twin, tmp_path, server.url, [])
    with pytest.raises(UserInputError, match=r"step 1: .* differ by 0\.\d+ .*tolerance = 0\.001"):
        trainer.train()


def test_what_goes_wrong_at_the_server_is_told(twin: Path, tmp_path: Path, serve: Serve) -> None:
    server = serve()
    client = ServerClient(server.url)
    with pytest.raises(UserInputError, match=r"no weights 'step-9'.*same folder mounted"):
        client.load("step-9")
    with pytest.raises(UserInputError, match=r"no weights '\.\./twin'"):
        client.load("../twin")
    with pytest.raises(UserInputError, match="has no /nonsense"):
        client.post("nonsense", LoadRequest(name="x"), LogpsReply)
    with pytest.raises(UserInputError, match=r"bad request: body.samples: "):
        client.post("complete", LoadRequest(name="x"), CompleteReply)
    other = ServerClient(server.url + "/other")
    with pytest.raises(UserInputError, match="has no /other/load"):
        other.load("x")
    with (
        serving(lambda request: (200, b"<html>")) as address,
        pytest.raises(InfrastructureError, match=r"not a generation server's .*another service"),
    ):
        ServerClient(address).load("x")
    with pytest.raises(UserInputError, match=r"can't listen at 127\.0\.0\.1:\d+ .*another --host"):
        Server(server.weights.backend, tmp_path, port=int(server.url.rpartition(":")[2]))
    with pytest.raises(UserInputError, match="is not a URL"):
        ServerClient("gpu-3:8000")
    with pytest.raises(UserInputError, match="is not a URL"):
        ServerClient("http://gpu-3:port")
    gone = ServerClient("http://127.0.0.1:9")
    with pytest.raises(InfrastructureError, match=r"127\.0\.0\.1:9 does not answer"):
        gone.load("x")
    encoder = load_for_training(recipe(), twin, grpo_arguments(recipe(), tmp_path, 1, 0))[1]
    with pytest.raises(UserInputError, match=r"2 servers but training has 1"):
        RemoteSampler(
            recipe().rl.generation, torch.float32, [server.url] * 2, tmp_path, encoder, SAMPLES
        )


def test_another_training_at_the_same_server_is_noticed(
    twin: Path, tmp_path: Path, serve: Serve
) -> None:
    server = serve()
    arguments = grpo_arguments(recipe(), tmp_path, 1, 0)
    policy, encoder = load_for_training(recipe(), twin, arguments)
    sampler = RemoteSampler(
        recipe().rl.generation, torch.float32, [server.url], tmp_path / "weights", encoder, SAMPLES
    )
    assert sampler.sync_weights(policy, 7) < 1e-4
    prompts = [encoder.prompt(SAMPLES[0])]
    ((one, _),) = sampler.complete(SAMPLES[:1], prompts, WARM, [[1, 2]])
    assert len(one.ids) == len(one.logps) and max(one.logps) <= 0
    server.weights.name = "step-00000003"
    with pytest.raises(InfrastructureError, match=r"'step-00000003' instead of 'step-00000007'"):
        sampler.complete(SAMPLES[:1], prompts, WARM, [[1]])


@pytest.mark.parametrize(
    ("environment", "gpus", "mine"),
    [
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "1", "HOME": "/h"}, 0, None),
        ({"LOCAL_WORLD_SIZE": "6"}, 2, "6,7"),
        ({"LOCAL_WORLD_SIZE": "2", "CUDA_VISIBLE_DEVICES": "4,5,6,7"}, 1, "6"),
    ],
)
def test_a_server_gets_the_gpus_beside_those_of_training(
    environment: dict[str, str], gpus: int, mine: str | None
) -> None:
    found = server_environment(environment, gpus, 8)
    assert found.get("CUDA_VISIBLE_DEVICES") == mine
    assert not set(found) & {"RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_PORT"}
    with pytest.raises(UserInputError, match=r"needs 9 GPUs beside the"):
        server_environment(environment, 9, 8)


def test_what_is_drawn_ahead_comes_in_order_with_its_errors() -> None:
    queued: RolloutQueue[int] = RolloutQueue()
    queued.submit(lambda: 1)
    queued.submit(lambda: 1 // 0)
    queued.submit(lambda: 3)
    assert len(queued) == 3 and queued.next() == 1
    with pytest.raises(ZeroDivisionError):
        queued.next()
    queued.close()
    assert not queued

"""Gradients of TRL's fused head on a mesh of two dimensions, as a program: `python -m ... TWIN OUT`.

Four gloo processes, two replicas of two shards, each with tokens of its own, in two passes. Writes the
largest error of any gradient, as a share of the largest gradient, by whether the ranks' sum waits for the
last pass.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

torch.set_num_threads(1)

import torch.distributed as dist  # noqa: E402
from torch.distributed.fsdp import fully_shard  # noqa: E402
from transformers import AutoModelForImageTextToText  # noqa: E402
from trl.trainer.utils import add_fused_lm_head  # noqa: E402

from pelican.training.distributed import gather_head  # noqa: E402
from tests.endpoints import free_port  # noqa: E402

MESH = (2, 2)
RANKS, PASSES = 4, 2


def model_of(twin: Path) -> Any:
    model = AutoModelForImageTextToText.from_pretrained(twin, dtype=torch.float32)
    add_fused_lm_head(model)
    gather_head(model)
    return model.train()


def loss_of(model: Any, rank: int, number: int) -> torch.Tensor:
    """The mean loss of one pass: text alone, other tokens on every rank."""
    tokens = torch.randint(
        5, 250, (2, 12), generator=torch.Generator().manual_seed(10 * rank + number)
    )
    output = model(
        input_ids=tokens,
        attention_mask=torch.ones_like(tokens),
        mm_token_type_ids=torch.zeros_like(tokens),
        labels=tokens,
        fused_lm_head=True,
    )
    loss: torch.Tensor = output.loss
    return loss


def whole_gradients(model: Any) -> dict[str, torch.Tensor]:
    return {
        name: p.grad.full_tensor() if hasattr(p.grad, "full_tensor") else p.grad
        for name, p in model.named_parameters()
        if p.grad is not None
    }


def alone(twin: Path) -> dict[str, torch.Tensor]:
    """All ranks' passes in one process."""
    model = model_of(twin)
    for rank in range(RANKS):
        for number in range(PASSES):
            (loss_of(model, rank, number) / RANKS).backward()
    return whole_gradients(model)


def shard(model: Any) -> None:
    mesh = dist.device_mesh.init_device_mesh("cpu", MESH, mesh_dim_names=("replicate", "shard"))
    for layer in model.model.language_model.layers:
        fully_shard(layer, mesh=mesh)
    if model.config.tie_word_embeddings:  # as accelerate does: a parameter has one unit
        text = model.model.language_model
        fully_shard([text.norm, text.embed_tokens, model.lm_head], mesh=mesh)
    else:
        fully_shard(model.lm_head, mesh=mesh)
    fully_shard(model, mesh=mesh)


def error(twin: Path, expected: dict[str, torch.Tensor], rank: int, deferred: bool) -> float:
    model = model_of(twin)
    shard(model)
    for number in range(PASSES):
        model.set_requires_gradient_sync(not deferred or number + 1 == PASSES)
        loss_of(model, rank, number).backward()
    found = whole_gradients(model)
    assert set(found) == set(expected)
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    return max(float((found[n] - g).abs().max()) for n, g in expected.items()) / largest


def main(twin: Path, out: Path) -> None:
    expected, port = alone(twin), free_port()
    children = []
    for rank in range(RANKS):
        child = os.fork()
        if child == 0:
            os.environ.update(RANK=str(rank), WORLD_SIZE=str(RANKS))
            os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
            dist.init_process_group("gloo")
            found = {str(late): error(twin, expected, rank, late) for late in (False, True)}
            if rank == 0:
                out.write_text(json.dumps(found))
            os._exit(0)
        children.append(child)
    if any(os.waitpid(child, 0)[1] for child in children):
        sys.exit("a rank failed")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

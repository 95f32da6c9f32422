"""Small trainings over several processes, as a program: `python -m tests.training.scaled FILE`.

The file names cases; each is run by forked ranks of a gloo group, after torch and TRL were imported
once. A case's curve and what went wrong are written beside its checkpoints.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

import torch

torch.set_num_threads(1)

import trl  # noqa: E402, F401
from safetensors.torch import save_file  # noqa: E402
from transformers import TrainerCallback  # noqa: E402

from pelican.config.recipe import (  # noqa: E402
    Data,
    GenerationConfig,
    ModelConfig,
    Models,
    ParallelConfig,
    Recipe,
    RlConfig,
    RolloutConfig,
    Sampling,
    SftConfig,
)
from pelican.training.distributed import base_model  # noqa: E402
from tests.data.factory import (  # noqa: E402
    clip,
    sample,
    text_sample,
)
from tests.endpoints import free_port  # noqa: E402
from tests.training.trainers import (  # noqa: E402
    losses,
    scaled_grpo,
)

SAMPLES = [sample(i) for i in range(7)] + [clip(7, (0.0, 8.0))]
# Two questions in text alone are shorter than two with an image, so that of two processes one gets both.
TEXT_TOO = [text_sample(0), text_sample(1), sample(2), sample(3)]


def recipe_of(case: dict[str, Any]) -> Recipe:
    return Recipe(
        name="test",
        models=Models(policy="-", teacher="-"),
        data=Data(train="-", replay="-", evaluation="-", general="-"),
        model=ModelConfig(
            dtype=case.get("dtype", "float32"),
            freeze_vision=case.get("freeze", True),
            gradient_checkpointing=case.get("checkpointing", False),
        ),
        rollout=RolloutConfig(engine="transformers"),
        rl=RlConfig(
            group_size=4,
            prompts_per_step=4,
            learning_rate=case.get("rate", 5e-3),
            kl=0.05,
            refill=1,
            max_steps=case["steps"],
            save_steps=case.get("save", 100),
            sampling=Sampling(temperature=1.0, max_tokens=6),
            generation=GenerationConfig(
                where="server" if "stale" in case else "process",
                max_staleness=case.get("stale", 0),
                importance_cap=2.0 if case.get("stale") else None,
                tolerance=1e-3,
            ),
            **case.get("rl", {}),
        ),
        sft=SftConfig(
            learning_rate=case.get("rate", 5e-3), batch_size=4, save_steps=case.get("save", 100)
        ),
        parallel=ParallelConfig(
            strategy=case["strategy"],
            micro_tokens=case.get("micro_tokens", 120),
            lora_rank=4 if case.get("lora") else None,
        ),
    )


class FirstGradients(TrainerCallback):  # type: ignore[misc]
    """Keeps the whole gradients of the first step, as the optimiser gets them, clipping apart."""

    def __init__(self, trainer: Any) -> None:
        self.found: dict[str, torch.Tensor] = {}
        self.trainer = trainer

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.found:
            return
        for name, parameter in base_model(self.trainer.model_wrapped).named_parameters():
            if parameter.requires_grad:
                self.found[name] = whole_gradient(parameter).detach().float().clone()


def whole_gradient(parameter: torch.Tensor) -> torch.Tensor:
    """Collective. Zeros where no pass reached the parameter."""
    if hasattr(parameter, "ds_id"):
        from deepspeed.utils import safe_get_full_grad

        found: torch.Tensor = safe_get_full_grad(parameter)
        return found
    gradient = parameter.grad
    if gradient is None:
        gradient = torch.zeros_like(parameter)
    return gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient


class StopAt(TrainerCallback):  # type: ignore[misc]
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop |= state.global_step >= self.step


def train(case: dict[str, Any], twin: Path, folder: Path, world: int) -> dict[str, Any]:
    from pelican.training.arguments import sft_arguments
    from pelican.training.checkpoints import check_world_size, last_checkpoint, save_trained
    from pelican.training.checkpoints import train as resume
    from pelican.training.distributed import full_weights, load_for_training
    from pelican.training.sft import Demonstration, ScaledSftTrainer

    recipe = recipe_of(case)
    work = Path(case.get("work", folder))
    torch.manual_seed(0)
    drawn: list[list[str]] = []
    samples = TEXT_TOO if case.get("text") else SAMPLES
    if case["kind"] == "sft":
        rows = [
            Demonstration(s, f"<think>{i}</think><answer>{i}{'x' * i}</answer>")
            for i, s in enumerate(samples)
        ]
        args = sft_arguments(recipe, work, world, 0, case["steps"])
        args.logging_steps = 1
        policy, encoder = load_for_training(recipe, twin, args)
        trainer: Any = ScaledSftTrainer(
            policy,
            args=args,
            processing_class=encoder.processor,
            recipe=recipe,
            encoder=encoder,
            rows=rows,
        )
    else:
        served = "stale" in case
        trainer = scaled_grpo(
            recipe,
            twin,
            work,
            samples,
            lambda record: drawn.append([g.sample.id for g in record.drawn]),
            world=world,
            url=(folder / "url").read_text() if served else None,
            folder=folder / "weights" if served else None,
        )
    images = count_images(trainer)
    gradients = FirstGradients(trainer)
    trainer.add_callback(gradients)
    if "stop" in case:
        trainer.add_callback(StopAt(case["stop"]))
    start = {k: v.float().clone() for k, v in load_copy_of(twin).named_parameters()}
    checkpoint = last_checkpoint(work)
    check_world_size(recipe, checkpoint, world)
    resume(trainer, checkpoint)
    save_trained(trainer, trainer.processing_class, folder / "checkpoint", recipe)
    if int(os.environ.get("RANK", "0")) == 0:
        save_file(gradients.found, folder / "gradients.safetensors")
    kept = [row for row in trainer.state.log_history if "loss" in row]
    return {
        "losses": losses(trainer),
        "norms": [float(row.get("grad_norm", 0)) for row in kept],
        "backend": str(trainer.accelerator.distributed_type),
        "dtypes": sorted({str(p.dtype) for p in trainer.model.parameters()}),
        "moved": max(
            float((whole.detach().float() - start[name]).abs().max())
            for name, whole in full_weights(trainer.model_wrapped)
        ),
        "state_bytes": state_bytes(trainer),
        "drawn": drawn,
        "images": images,
    }


def count_images(trainer: Any) -> list[int]:
    """A list that gets the number of images of every pass."""
    found: list[int] = []
    passes = trainer.passes

    def counted(inputs: dict[str, Any]) -> Any:
        parts = passes(inputs)
        found.extend(len(part.get("image_grid_thw", ())) for part, _ in parts)
        return parts

    trainer.passes = counted
    return found


def load_copy_of(twin: Path) -> Any:
    """The start, whole and in float32, in every process."""
    from transformers import AutoModelForImageTextToText

    from pelican.engines.transformers_private import unsharded

    asked = os.environ.pop("ACCELERATE_USE_FSDP", None)
    with unsharded():
        model = AutoModelForImageTextToText.from_pretrained(twin, dtype=torch.float32)
    if asked is not None:
        os.environ["ACCELERATE_USE_FSDP"] = asked
    return model


def state_bytes(trainer: Any) -> int:
    """Bytes of weights and of the optimiser's moments that this process holds."""
    moments = [
        value
        for state in trainer.optimizer.optimizer.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor) and value.dim()
    ]
    held = [getattr(p, "ds_tensor", p) for p in trainer.model.parameters()]
    return sum(
        (t.to_local() if hasattr(t, "to_local") else t).numel() * t.element_size()
        for t in [*held, *moments]
    )


def rank_main(case: dict[str, Any], twin: Path, folder: Path, rank: int, port: int) -> int:
    world = case["world"]
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world))
    os.environ.update(LOCAL_WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    try:
        if world > 1:
            torch.distributed.init_process_group("gloo")
        result = train(case, twin, folder, world)
    except BaseException as error:
        traceback.print_exc()
        (folder / f"error-{rank}.json").write_text(json.dumps(f"{type(error).__name__}: {error}"))
        return 1
    (folder / f"result-{rank}.json").write_text(json.dumps(result))
    return 0


def serve(case: dict[str, Any], twin: Path, folder: Path) -> NoReturn:
    """A generation server, until it is killed."""
    from pelican.engines.server import ServerSpec
    from pelican.engines.server import serve as serve_spec

    spec = ServerSpec(
        recipe=recipe_of(case),
        checkpoint=str(twin),
        folder=str(folder / "weights"),
        ready=str(folder / "url"),
    )
    try:
        serve_spec(spec)
    finally:
        os._exit(1)


class Planted:
    """Pickled, it is a call that makes the folder `mark`."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def run(case: dict[str, Any], twin: Path, root: Path) -> None:
    folder = root / case["name"]
    folder.mkdir(parents=True, exist_ok=True)
    if "planted" in case:
        (file,) = Path(case["work"]).glob(case["planted"])
        planted = Planted(folder / "mark")
        if file.suffix == ".pt":
            torch.save(planted, file)
        else:
            file.write_bytes(pickle.dumps(planted))
    port = free_port()
    if "stale" in case:
        server = os.fork()
        if server == 0:
            serve(case, twin, folder)
        while not (folder / "url").exists():
            time.sleep(0.05)
    children = []
    for rank in range(case["world"]):
        child = os.fork()
        if child == 0:
            code = rank_main(case, twin, folder, rank, port)
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    if "stale" in case:
        os.kill(server, signal.SIGKILL)
        os.waitpid(server, 0)


def main(path: str) -> None:
    asked = json.loads(Path(path).read_text())
    for case in asked["cases"]:
        run(case, Path(asked["untied" if case.get("untied") else "twin"]), Path(path).parent)


if __name__ == "__main__":
    main(sys.argv[1])

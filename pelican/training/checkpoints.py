"""Checkpoints of a training, its result, and its log."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from pelican.base.files import resolve_below
from pelican.base.parse import parse_json
from pelican.base.process import all_gather_object
from pelican.config import env
from pelican.config.recipe import Recipe
from pelican.errors import UserInputError
from pelican.monitoring import record
from pelican.training.distributed import save_whole
from pelican.training.torch_private import find_fault, only_data

TRAINER_STATE = "trainer_state.json"
# Quantities of a trainer's log that are kept; a trainer that does not log one has no column for it.
LOGGED = (
    *("loss", "grad_norm", "learning_rate", "entropy", "kl", "mean_token_accuracy"),
    *("clip_ratio/low_mean", "clip_ratio/high_mean", "perception_kl", "masked_entropy"),
    *("importance_ratio", "sync_difference"),
)

# With several processes on CPUs, accelerate 1.15 calls rank r's device cpu:r, transformers loads the
# optimiser there, and torch.load knows "cpu" alone.
torch.serialization.register_package(
    9, lambda _: None, lambda storage, where: storage if where.startswith("cpu:") else None
)


REFUSED = "refused-"  # before the name of a checkpoint that is not gone on from


def last_checkpoint(folder: Path, *more: str) -> Path | None:
    """The newest checkpoint in `folder` to go on from, or None. Collective: all ranks take part.

    The trainer writes its state last, and callbacks write the files `more` after it: what was cut off
    before is deleted. What is damaged, or holds a pickle that would run code, is named in the log and set aside.
    """
    steps = {
        path: path.name.rpartition("-")[2] for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*")
    }
    numbered = {path: int(step) for path, step in steps.items() if step.isdecimal()}
    for found in sorted(numbered, key=numbered.__getitem__, reverse=True):
        if not all((found / name).exists() for name in (TRAINER_STATE, *more)):
            shutil.rmtree(found, ignore_errors=True)  # another rank may have deleted it
            continue
        # One process of a machine looks at the folder, which lies on the machine's disk.
        faults = all_gather_object(find_fault(found) if env.local_rank() == 0 else "")
        fault = next(filter(None, faults), None)
        if fault is None:
            return found
        if env.local_rank() == 0:
            print(f"{found.name} is passed over: {fault}", flush=True)
            set_aside = found.with_name(REFUSED + found.name)
            shutil.rmtree(set_aside, ignore_errors=True)
            with suppress(FileNotFoundError):  # another machine's process has done it
                found.rename(set_aside)
    return None


def train(trainer: Any, checkpoint: Path | None) -> None:
    """Train from `checkpoint`, or from the start; what is read from disk meanwhile runs nothing."""
    with only_data():
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)


def save_policy(policy: Any, processor: Any, folder: Path) -> None:
    """Write a folder that `from_pretrained` and vLLM load: under a temporary name, then renamed."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    policy.save_pretrained(temporary, safe_serialization=True)
    processor.save_pretrained(temporary)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def save_trained(trainer: Any, processor: Any, folder: Path, recipe: Recipe) -> None:
    """Write the policy at the end of a phase, in the type that it is served in. Collective."""
    accelerator = trainer.accelerator
    if recipe.parallel.at_scale:
        save_whole(
            trainer.model_wrapped,
            processor,
            folder,
            getattr(torch, recipe.model.dtype),
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
        )
    elif accelerator.is_main_process:
        save_policy(trainer.model, processor, folder)


class KeepCheckpoints(TrainerCallback):  # type: ignore[misc]
    """Calls `keep` with the name of every checkpoint once it is whole.

    It must be the last callback, because others write into the checkpoint.
    """

    def __init__(self, keep: Callable[[str], None]) -> None:
        self._keep = keep

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._keep(f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}")


class Losses(TrainerCallback):  # type: ignore[misc]
    """Keeps the rows of the trainer's log, and reports progress."""

    def __init__(self, report: Any) -> None:
        self.rows: list[dict[str, float]] = []
        self._report = report
        self._began = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if logs:
            record.logged(logs)
            self._keep(state.global_step, logs)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._began = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            record.stepped(time.monotonic() - self._began)
        self._report(state.global_step, state.max_steps)

    def restore(self, checkpoint: Path) -> None:
        """Restore the log of an interrupted training from its checkpoint."""
        for logs in parse_json((checkpoint / TRAINER_STATE).read_text())["log_history"]:
            self._keep(logs["step"], logs)

    def _keep(self, step: int, logs: Mapping[str, Any]) -> None:
        if "loss" in logs:  # else it is the summary at the end
            row = {key: float(logs[key]) for key in LOGGED if key in logs}
            self.rows.append({"step": step, **row})


# DeepSpeed's ZeRO-3 writes a file for each process, which only as many processes read again. Checkpoints
# of ddp and fsdp2 suit any number: torch's distributed checkpoint reshards by itself.


def check_world_size(recipe: Recipe, checkpoint: Path | None, world_size: int) -> None:
    """Refuse a ZeRO-3 checkpoint that another number of processes wrote.

    Raises:
        UserInputError: `checkpoint` has not one file of the optimiser for each of `world_size`.
    """
    if checkpoint is None or recipe.parallel.strategy != "zero3":
        return
    folder = resolve_below(checkpoint, (checkpoint / "latest").read_text().strip())
    written = len(list(folder.glob("*zero_pp_rank_*_optim_states.pt")))
    if written != world_size:
        raise UserInputError(
            f"{written} processes wrote the ZeRO-3 checkpoint {checkpoint.name} and {world_size}"
            f" would read it; go on with {written} processes, or train anew with"
            " parallel.strategy=fsdp2, whose checkpoints suit any number"
        )

"""Checkpoints of a training: what is kept, how it goes on exactly."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from pelican.config import env
from pelican.config.recipe import Recipe
from pelican.monitoring import record
from pelican.training.distributed import save_whole

# Checkpoints: those a trainer resumes from, and the Hugging Face folder a phase ends with.

TRAINER_STATE = "trainer_state.json"
# What is kept of a trainer's log; a quantity that it does not log is left out.
LOGGED = (
    *("loss", "grad_norm", "learning_rate", "entropy", "kl", "mean_token_accuracy"),
    *("clip_ratio/low_mean", "clip_ratio/high_mean", "perception_kl", "masked_entropy"),
    *("importance_ratio", "sync_difference"),
)

# Several processes on CPUs: accelerate names rank r's device cpu:r, transformers loads the optimiser
# there, and torch.load knows only "cpu".
torch.serialization.register_package(
    9, lambda _: None, lambda storage, where: storage if where.startswith("cpu:") else None
)


def last_checkpoint(folder: Path, *more: str) -> Path | None:
    """The newest checkpoint that was written whole; those that were cut off are deleted.

    The trainer writes its state last, callbacks the files `more` after that.
    """
    checkpoints = folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*")
    for found in sorted(checkpoints, key=lambda path: int(path.name.split("-")[-1]), reverse=True):
        if all((found / name).exists() for name in (TRAINER_STATE, *more)):
            return found
        shutil.rmtree(found, ignore_errors=True)  # another rank may have deleted it
    return None


def save_policy(policy: Any, processor: Any, folder: Path) -> None:
    """Write a folder that `from_pretrained` and vLLM load: under a temporary name, then renamed."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    policy.save_pretrained(temporary, safe_serialization=True)
    processor.save_pretrained(temporary)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def save_trained(trainer: Any, processor: Any, folder: Path, recipe: Recipe) -> None:
    """The phase's result, in the type that it is served in. Called by every rank."""
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


class ExactResume:
    """Trainer mix-in: a resumed training really has the checkpoint's weights.

    transformers saves Qwen2.5-VL under older names than its modules have, and Trainer loads them
    with strict=False: every weight of the language model would silently stay as it was. The
    model's own reader knows the names.
    """

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        trainer: Any = self
        adapted = hasattr(trainer.model, "peft_config")
        if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled or adapted:
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]
            return
        policy = trainer.model
        saved = type(policy).from_pretrained(resume_from_checkpoint, dtype=policy.dtype)
        policy.load_state_dict(saved.state_dict())


class KeepCheckpoints(TrainerCallback):  # type: ignore[misc]
    """Hands on every checkpoint once it is whole; it comes after the callbacks that write into it."""

    def __init__(self, keep: Callable[[str], None]) -> None:
        self._keep = keep

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._keep(f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}")


class Losses(TrainerCallback):  # type: ignore[misc]
    """Keeps what the trainer logs, and reports progress."""

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
        """Take the log of an interrupted training from its checkpoint."""
        for logs in json.loads((checkpoint / TRAINER_STATE).read_text())["log_history"]:
            self._keep(logs["step"], logs)

    def _keep(self, step: int, logs: Mapping[str, Any]) -> None:
        if "loss" in logs:  # else it is the summary at the end
            row = {key: float(logs[key]) for key in LOGGED if key in logs}
            self.rows.append({"step": step, **row})


# A checkpoint of DeepSpeed's ZeRO-3 for another number of processes than wrote it.
#
# DeepSpeed has a file for each process. Every tensor lies in them flat, in equal parts, the last one
# padded; the parts of another number are cut from these.

_MASTER = "master"
_MOMENTS = ("exp_avg", "exp_avg_sq")
_Shapes = OrderedDict[str, torch.Size]


def fit_to_world_size(recipe: Recipe, checkpoint: Path | None, world_size: int) -> None:
    """Lay `checkpoint` out for `world_size` processes. Collective.

    Every machine has the whole checkpoint, of its own or shared, and its processes share the work.
    `latest` names the files of the old number until all are there. Checkpoints of ddp and fsdp2 suit
    any number.
    """
    if checkpoint is None or recipe.parallel.strategy != "zero3":
        return
    latest = checkpoint / "latest"
    written = checkpoint / latest.read_text().strip()
    if len(_files(written, "optim")) == world_size:
        return
    fitted = checkpoint / f"{written.name.partition('-of-')[0]}-of-{world_size}"
    fitted.mkdir(exist_ok=True)
    local, processes = env.local_rank(), env.local_world_size()
    _write_shards(written, fitted, range(local, world_size, processes), world_size)
    torch.distributed.barrier()
    if local == 0:
        with _replacing(latest) as file:
            file.write_text(fitted.name)
        shutil.rmtree(written, ignore_errors=True)  # on a shared disk another machine does, too
    torch.distributed.barrier()


def piece(parts: Sequence[Tensor], numel: int, rank: int, world_size: int) -> Tensor:
    """The part of `rank` among `world_size` of a flat tensor of `numel` elements, given in `parts`.

    Parts are of equal size, rounded up; what is beyond the tensor is 0.
    """
    old, size = -(-numel // len(parts)), -(-numel // world_size)
    start, stop = rank * size, min((rank + 1) * size, numel)
    found = torch.zeros(size, dtype=parts[0].dtype)
    for number, part in enumerate(parts):
        first, last = max(start, number * old), min(stop, (number + 1) * old)
        if first < last:
            found[first - start : last - start] = part[first - number * old : last - number * old]
    return found


def _write_shards(written: Path, folder: Path, ranks: Iterable[int], world_size: int) -> None:
    """The two files of each of `ranks`, in `folder`."""
    # As DeepSpeed's own loader reads them, but mapped: what is not cut out is not read.
    models = [_load(path) for path in _files(written, "model")]
    optimisers = [_load(path) for path in _files(written, "optim")]
    shapes = models[0]["param_shapes"]
    groups = _sub_groups(shapes, optimisers[0], world_size)
    weights = {
        name: [_laid_out(shapes, flat, len(models)) for flat in _flat(optimisers, name)]
        for name in (_MASTER, *_MOMENTS)
    }
    for rank in ranks:
        optimiser = _optimiser(optimisers[0], weights, groups, rank, world_size)
        _save(optimiser, written, folder, "optim", rank)
        _save(_model(models, groups, rank, world_size), written, folder, "model", rank)


def _optimiser(
    saved: dict[str, Any],
    weights: dict[str, list[dict[str, Tensor]]],
    groups: list[list[_Shapes]],
    rank: int,
    world_size: int,
) -> dict[str, Any]:
    """What DeepSpeed saves of the optimiser in a process."""

    def cut(name: str, shapes: _Shapes) -> Tensor:
        parts = [
            piece([part[key] for part in weights[name]], shape.numel(), rank, world_size)
            for key, shape in shapes.items()
        ]
        return torch.cat(parts)

    inner = saved["optimizer_state_dict"]
    adam = inner["optimizer_state_dict"]
    sub_groups = [shapes for group in groups for shapes in group]
    numbers = iter(range(len(sub_groups)))
    state = {
        number: {"step": adam["state"][0]["step"].clone()}  # Adam counts in place
        | {name: cut(name, shapes) for name in _MOMENTS}
        for number, shapes in enumerate(sub_groups)
    }
    param_groups = [
        {**options, "params": [next(numbers) for _ in group]}
        for options, group in zip(adam["param_groups"], groups, strict=True)
    ]
    new = {
        "partition_count": world_size,
        "optimizer_state_dict": {"state": state, "param_groups": param_groups},
        "fp32_flat_groups": [cut(_MASTER, shapes) for shapes in sub_groups],
    }
    return {**saved, "optimizer_state_dict": {**inner, **new}}


def _model(
    saved: Sequence[dict[str, Any]], groups: list[list[_Shapes]], rank: int, world_size: int
) -> dict[str, Any]:
    """What DeepSpeed saves of the model in a process: its part of what is frozen."""
    fragments: OrderedDict[str, Tensor] | None = None
    if saved[0]["frozen_param_fragments"]:
        fragments = OrderedDict(
            (
                name,
                piece(
                    [one["frozen_param_fragments"][name] for one in saved],
                    shape.numel(),
                    rank,
                    world_size,
                ),
            )
            for name, shape in saved[0]["frozen_param_shapes"].items()
        )
    return {
        **saved[0],
        "dp_world_size": world_size,
        "param_shapes": [shapes for group in groups for shapes in group],
        "frozen_param_fragments": fragments,
    }


def _flat(optimisers: Sequence[dict[str, Any]], name: str) -> list[list[Tensor]]:
    """Of every process that wrote: its flat tensors, one for each sub-group."""
    saved = [one["optimizer_state_dict"] for one in optimisers]
    if name == _MASTER:
        return [one["fp32_flat_groups"] for one in saved]
    states = [one["optimizer_state_dict"]["state"] for one in saved]
    return [[state[number][name] for number in sorted(state)] for state in states]


def _laid_out(
    sub_groups: Sequence[_Shapes], flat: Sequence[Tensor], processes: int
) -> dict[str, Tensor]:
    """The parts of one process by the weights' names."""
    found: dict[str, Tensor] = {}
    for shapes, tensor in zip(sub_groups, flat, strict=True):
        offset = 0
        for name, shape in shapes.items():
            size = -(-shape.numel() // processes)
            found[name] = tensor[offset : offset + size]
            offset += size
    return found


def _sub_groups(
    written: Sequence[_Shapes], optimiser: dict[str, Any], world_size: int
) -> list[list[_Shapes]]:
    """Shapes of the weights that are flat together, as DeepSpeed cuts each of Adam's groups.

    A sub-group is closed once a process holds `sub_group_size` elements of it.
    """
    limit = _sub_group_size(optimiser["ds_config"])
    saved = optimiser["optimizer_state_dict"]["optimizer_state_dict"]["param_groups"]
    found: list[list[_Shapes]] = []
    for group in saved:
        cut: list[_Shapes] = [OrderedDict()]
        filled = 0
        for number in group["params"]:
            for name, shape in written[number].items():
                if filled >= limit:
                    cut.append(OrderedDict())
                    filled = 0
                cut[-1][name] = shape
                filled += -(-shape.numel() // world_size)
        found.append(cut)
    return found


def _sub_group_size(config: dict[str, Any]) -> int:
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    return int(DeepSpeedZeroConfig(**config["zero_optimization"]).sub_group_size)


def _files(folder: Path, kind: str) -> list[Path]:
    """Those of model or optimiser, in the order of the processes."""

    def rank(path: Path) -> int:
        return int(re.findall(r"pp_rank_(\d+)_", path.name)[0])

    return sorted(folder.glob(f"*zero_pp_rank_*_{kind}_states.pt"), key=rank)


def _load(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(path, map_location="cpu", mmap=True, weights_only=False)
    return found


def _save(state: dict[str, Any], written: Path, folder: Path, kind: str, rank: int) -> None:
    name = re.sub(r"pp_rank_\d+_", f"pp_rank_{rank}_", _files(written, kind)[0].name)
    with _replacing(folder / name) as file:
        torch.save(state, file)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """As `files.replacing`; on a shared disk two machines may write the same at once."""
    temporary = path.with_name(f".{path.name}.{env.rank()}.tmp")
    yield temporary
    temporary.replace(path)

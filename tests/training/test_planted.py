"""A checkpoint with a pickle that would write a file: it is told and set aside, and writes none.

Each kind of file is read by the library that reads it in a training; without Pelican's restriction the
file is written.
"""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save

from pelican.training.checkpoints import REFUSED, last_checkpoint
from pelican.training.torch_private import find_fault, only_data

WEIGHTS = "pytorch_model_fsdp_0"
INDEX = "optimizer_0/.metadata"
OPTIMIZER = "global_step2/zero_pp_rank_0_mp_rank_00_optim_states.pt"


class Planted:
    """Pickled, it is a call that makes the folder `mark`."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def write_checkpoint(folder: Path) -> Path:
    """What Trainer, torch's distributed checkpoint and DeepSpeed write, all in one."""
    (folder / OPTIMIZER).parent.mkdir(parents=True)
    (folder / "latest").write_text("global_step2")
    (folder / "trainer_state.json").write_text('{"log_history": []}')
    (folder / "zero_to_fp32.py").write_text("raise SystemExit")
    save_file({"w": torch.ones(3)}, folder / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", OPTIMIZER):
        torch.save({"state": {0: torch.ones(3)}, "lr": 0.1}, folder / name)
    rng = {"python": (3, (1, 2), None), "numpy": np.random.get_state(), "cpu": torch.ones(2)}
    torch.save(rng, folder / "rng_state_0.pth")
    torch.save(Planted, folder / "training_args.bin")  # a class; nobody reads the file
    for part in (WEIGHTS, "optimizer_0"):
        state = {"state": {"w": torch.ones(3)}, "groups": {"lr": 0.1, "betas": (0.9, 0.99)}}
        dcp_save(state, checkpoint_id=folder / part, no_dist=True)
    return folder


def load(path: Path) -> None:
    torch.load(path, weights_only=False)  # as DeepSpeed does


def load_distributed(path: Path) -> None:
    dcp_load({"groups": {"lr": 0.0}}, checkpoint_id=path.parent, no_dist=True)


def plant_index(path: Path, planted: Planted) -> None:
    path.write_bytes(pickle.dumps(planted))


def plant_value(path: Path, planted: Planted) -> None:
    shutil.rmtree(path.parent)
    dcp_save({"groups": {"lr": planted}}, checkpoint_id=path.parent, no_dist=True)


def plant(path: Path, planted: Planted) -> None:
    torch.save({"state": planted}, path)


def plant_legacy(path: Path, planted: Planted) -> None:
    torch.save({"state": planted}, path, _use_new_zipfile_serialization=False)


KINDS: dict[str, tuple[str, Callable[[Path, Planted], None], Callable[[Path], None]]] = {
    "optimizer": ("optimizer.pt", plant, load),
    "scheduler": ("scheduler.pt", plant, load),
    "generators": ("rng_state_0.pth", plant, load),
    "weights": ("pytorch_model.bin", plant, load),
    "DeepSpeed": (OPTIMIZER, plant, load),
    "DeepSpeed, legacy": (OPTIMIZER, plant_legacy, load),
    "index": (INDEX, plant_index, load_distributed),
    "index of the weights": (f"{WEIGHTS}/.metadata", plant_index, load_distributed),
    "value": (INDEX, plant_value, load_distributed),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_pickle_runs_nothing_and_the_older_checkpoint_is_taken(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, put, read = KINDS[kind]
    mark = tmp_path / "mark"
    old, new = (write_checkpoint(tmp_path / f"checkpoint-{step}") for step in (20, 40))
    assert last_checkpoint(tmp_path) == new
    put(new / name, Planted(mark))

    with suppress(CheckpointException):  # what the call gives is no index
        read(new / name)
    mark.rmdir()  # so it is a pickle that runs

    with (
        only_data(),
        pytest.raises((pickle.UnpicklingError, CheckpointException), match="mkdir"),
    ):
        read(new / name)
    assert not mark.exists()

    assert last_checkpoint(tmp_path) == old
    told = capsys.readouterr().out
    assert told.startswith("checkpoint-40 is passed over: ") and "would run" in told
    assert "mkdir" in told and told.count("\n") == 1
    assert not mark.exists() and (tmp_path / f"{REFUSED}checkpoint-40").exists()

    put(old / name, Planted(mark))
    assert last_checkpoint(tmp_path) is None  # the stage's start
    assert not mark.exists()


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def outside(path: Path) -> None:
    index = pickle.loads(path.read_bytes())
    for part in index.storage_data.values():
        part.relative_path = "../optimizer.pt"
    path.write_bytes(pickle.dumps(index))


FAULTS: list[tuple[str, Callable[[Path], object], str]] = [
    ("trainer_state.json", cut, "is damaged"),
    ("model.safetensors", cut, "is damaged"),
    ("optimizer.pt", cut, "is damaged"),
    ("rng_state_0.pth", lambda path: path.write_bytes(b""), "is damaged"),
    (INDEX, cut, "is damaged"),
    ("optimizer_0/__0_0.distcp", cut, "is damaged"),
    ("optimizer_0/__0_0.distcp", Path.unlink, "not beside it"),
    (INDEX, Path.unlink, "without its .metadata"),
    (INDEX, lambda path: path.rename(path.with_name("__0.metadata")), "without its .metadata"),
    (INDEX, outside, "'../optimizer.pt', which is not beside it"),
    ("latest", lambda path: path.write_text("../other"), "'../other', which is not beside it"),
]


@pytest.mark.parametrize(("name", "damage", "words"), FAULTS)
def test_a_damaged_checkpoint_is_told(
    name: str, damage: Callable[[Path], object], words: str, tmp_path: Path
) -> None:
    folder = write_checkpoint(tmp_path / "checkpoint-1")
    assert find_fault(folder) == ""
    damage(folder / name)
    assert words in find_fault(folder)


@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="of the extra 'gpu'")
def test_deepspeeds_own_classes_are_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum

    folder = write_checkpoint(tmp_path / "checkpoint-1")
    torch.save({"stage": ZeroStageEnum(3), "scale": LossScaler(2.0)}, folder / OPTIMIZER)
    assert find_fault(folder) == ""
    with only_data():
        assert torch.load(folder / OPTIMIZER, weights_only=False)["scale"].cur_scale == 2.0


def test_only_while_a_training_runs(tmp_path: Path) -> None:
    before = pickle.load, os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD")
    with only_data():
        assert json.loads(os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"]) == 1
    assert (pickle.load, os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD")) == before

"""Checkpoints: those a trainer resumes from, and the Hugging Face folder a phase ends with."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

# Several processes on CPUs: accelerate names rank r's device cpu:r, transformers loads the optimiser
# there, and torch.load knows only "cpu".
torch.serialization.register_package(
    9, lambda _: None, lambda storage, where: storage if where.startswith("cpu:") else None
)


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written whole: its trainer state is written last."""
    while folder.is_dir():
        found = get_last_checkpoint(str(folder))
        if found is None:
            return None
        if (Path(found) / "trainer_state.json").exists():
            return Path(found)
        shutil.rmtree(found)
    return None


def save_policy(policy: Any, processor: Any, folder: Path) -> None:
    """Write a folder that `from_pretrained` and vLLM load: under a temporary name, then renamed."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    policy.save_pretrained(temporary, safe_serialization=True)
    processor.save_pretrained(temporary)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


class ExactResume:
    """Trainer mix-in: a resumed training really has the checkpoint's weights.

    transformers saves Qwen2.5-VL under older names than its modules have, and Trainer loads them
    with strict=False: every weight of the language model would silently stay as it was. The
    model's own reader knows the names.
    """

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        trainer: Any = self
        if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]
            return
        policy = trainer.model
        saved = type(policy).from_pretrained(resume_from_checkpoint, dtype=policy.dtype)
        policy.load_state_dict(saved.state_dict())


class Losses(TrainerCallback):  # type: ignore[misc]
    """Keeps what the trainer logs, and reports progress."""

    def __init__(self, report: Any) -> None:
        self.rows: list[dict[str, float]] = []
        self._report = report

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if logs and "loss" in logs:
            keys = ("loss", "grad_norm", "learning_rate", "entropy", "kl", "mean_token_accuracy")
            row = {key: float(logs[key]) for key in keys if key in logs}
            self.rows.append({"step": state.global_step, **row})

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._report(state.global_step, state.max_steps)

    def restore(self, checkpoint: Path) -> None:
        """Take the log of an interrupted training from its checkpoint."""
        import json

        history = json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]
        for logs in history:
            if "loss" in logs:
                keys = ("loss", "grad_norm", "learning_rate", "entropy", "kl")
                row = {key: float(logs[key]) for key in keys if key in logs}
                self.rows.append({"step": logs["step"], **row})

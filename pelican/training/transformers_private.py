"""What Pelican's training uses of transformers 5.17 beyond its documented interface.

tests/training/test_private.py checks the names and the parameters.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class ExactResume:
    """Trainer mix-in: a resumed training has the weights of its checkpoint.

    transformers saves Qwen2.5-VL under older names than its modules have, and Trainer loads them with
    strict=False, so every weight of the language model would silently stay as it was. The model's own
    `from_pretrained` knows the names.
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


def to_device(trainer: Any, inputs: Any) -> dict[str, Any]:
    """The inputs of a step as `Trainer.training_step` prepares them: on the trainer's device."""
    prepared: dict[str, Any] = trainer._prepare_inputs(inputs)
    return prepared


@contextmanager
def unsharded() -> Iterator[None]:
    """Models made meanwhile are whole, although DeepSpeed's ZeRO-3 is on and would shard them."""
    from transformers.integrations import deepspeed

    kept = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed._hf_deepspeed_config_weak_ref = None
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = kept


def name_in_file(model: Any, name: str) -> str:
    """A weight's name in the files of the checkpoint; the modules may have a newer one."""
    from transformers.core_model_loading import revert_weight_conversion

    names = list(revert_weight_conversion(model, {name: torch.empty(1, device="meta")}))
    if len(names) != 1:
        raise RuntimeError(f"the weight {name!r} is not one tensor of a file but {names}")
    return str(names[0])

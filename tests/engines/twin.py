"""An untrained twin, small enough for tests, and samples that it can read."""

from __future__ import annotations

from pathlib import Path

import torch

from pelican.training.checkpoints import save_policy
from tiny.model.architecture import make_model, make_processor, train_tokenizer

WORDS = ["How many cups of kind are there? <think>one two</think><answer>3</answer>"] * 4


def write_twin(folder: Path, seed: int = 0, *, tied: bool = True) -> Path:
    """A checkpoint of an untrained model of 0.1 M parameters."""
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(WORDS, 320)
    model = make_model(
        tokenizer, hidden=32, layers=2, heads=1, vision_hidden=32, vision_depth=1, tied=tied
    )
    save_policy(model, make_processor(tokenizer), folder)
    return folder

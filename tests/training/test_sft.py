"""SFT: the loss is on the assistant's tokens alone, it falls, and a resumed training is the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from pelican.engines.transformers import load_model
from pelican.errors import UserInputError
from pelican.training.arguments import per_process
from pelican.training.sft import collate
from tests.training.trainers import DEMONSTRATIONS, sft, sft_recipe


def test_labels_are_the_completion_and_its_end_and_nothing_else(twin: Path) -> None:
    _, encoder = load_model(sft_recipe().model, twin)
    batch = collate(encoder, DEMONSTRATIONS)
    for i, row in enumerate(DEMONSTRATIONS):
        learned = batch["labels"][i][batch["labels"][i] != -100].tolist()
        assert learned == encoder.completion(row.completion)
        assert learned[-1] == encoder.eos_token_id
        start = len(encoder.prompt(row.sample).ids)
        assert (batch["labels"][i, :start] == -100).all()
    images = sum(len(row.sample.images) for row in DEMONSTRATIONS)
    assert len(batch["image_grid_thw"]) == images


def test_the_loss_falls(twin: Path, tmp_path: Path) -> None:
    trainer = sft(twin, tmp_path, 60)
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert losses[-1] < 0.6 * losses[0]


def test_a_resumed_training_ends_where_an_uninterrupted_one_does(
    twin: Path, tmp_path: Path
) -> None:
    whole = sft(twin, tmp_path / "whole", 8)
    whole.train()

    class Stop(TrainerCallback):  # type: ignore[misc]
        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop = True

    first = sft(twin, tmp_path / "half", 8)
    first.add_callback(Stop())
    first.train()
    assert first.state.global_step == 4
    resumed = sft(twin, tmp_path / "half", 8)
    resumed.train(resume_from_checkpoint=str(tmp_path / "half" / "checkpoint-4"))
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_a_batch_that_does_not_divide_is_refused_in_one_sentence() -> None:
    with pytest.raises(UserInputError, match=r"sft.batch_size = 5 does not divide by 2"):
        per_process(5, 2, "sft.batch_size")

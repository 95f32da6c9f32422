"""What the trainers rely on when they resume."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pelican.training.checkpoints import last_checkpoint


@pytest.mark.parametrize("device", ["cpu", "cpu:0", "cpu:1"])
def test_an_optimiser_is_read_back_on_any_of_several_cpu_processes(
    tmp_path: Path, device: str
) -> None:
    torch.save({"moment": torch.arange(3.0)}, tmp_path / "optimizer.pt")
    found = torch.load(tmp_path / "optimizer.pt", map_location=device, weights_only=True)
    assert found["moment"].tolist() == [0.0, 1.0, 2.0]


def test_a_checkpoint_that_was_cut_off_is_passed_over(tmp_path: Path) -> None:
    for step, whole in ((20, True), (40, False)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if whole:
            (folder / "trainer_state.json").write_text("{}")
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-20"
    assert not (tmp_path / "checkpoint-40").exists()

"""What the trainers rely on when they resume."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pelican.config.recipe import RlConfig, StopConfig
from pelican.errors import UserInputError
from pelican.training.checkpoints import Losses, check_world_size, last_checkpoint
from pelican.training.curve import STATE, RlCurve
from tests.training.scaled import recipe_of


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


def test_a_checkpoint_without_its_curve_is_passed_over(tmp_path: Path) -> None:
    for step, names in ((9, ["trainer_state.json", STATE]), (10, ["trainer_state.json"])):
        (tmp_path / f"checkpoint-{step}").mkdir()
        for name in names:
            (tmp_path / f"checkpoint-{step}" / name).write_text("{}")
    assert last_checkpoint(tmp_path, STATE) == tmp_path / "checkpoint-9"


def test_a_resumed_log_is_the_one_that_was_kept(tmp_path: Path) -> None:
    history = [
        {"step": 5, "loss": 2.0, "mean_token_accuracy": 0.5, "epoch": 1},
        {"step": 9, "train_loss": 1.0},
    ]
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    kept, restored = Losses(print), Losses(print)
    for logs in history:
        kept.on_log(None, SimpleNamespace(global_step=logs["step"]), None, logs)
    restored.restore(tmp_path)
    assert restored.rows == kept.rows == [{"step": 5, "loss": 2.0, "mean_token_accuracy": 0.5}]


def test_a_resumed_curve_goes_on_where_it_was_saved(tmp_path: Path) -> None:
    arguments = SimpleNamespace(output_dir=str(tmp_path))
    state = SimpleNamespace(global_step=2, is_world_process_zero=True)
    (tmp_path / "checkpoint-2").mkdir()
    config = RlConfig(min_steps=0, stop=StopConfig(window=2))

    def make() -> RlCurve:
        return RlCurve(config, lambda value: [value], lambda *_: None)

    before, after = make(), make()
    before.rows = [{"step": 2, "family": "counting", "reward": 0.5}]
    before.totals["groups_drawn"] = 3
    before._window["counting"] = [1.0, 1.0]
    before.on_step_end(arguments, state, SimpleNamespace())
    before.on_save(arguments, state, None)
    after.load(tmp_path / "checkpoint-2")
    assert (after.rows, after.stagnation, after.totals) == (
        before.rows,
        before.stagnation,
        before.totals,
    )
    for curve in (before, after):
        curve._window["counting"] = [1.0]
        control = SimpleNamespace(should_training_stop=False)
        curve.on_step_end(arguments, SimpleNamespace(global_step=4), control)
        assert control.should_training_stop and curve.stop_reason == "stagnation"


def test_a_zero3_checkpoint_of_another_number_of_processes_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-20" / "global_step20"
    folder.mkdir(parents=True)
    (tmp_path / "checkpoint-20" / "latest").write_text("global_step20\n")
    for rank in range(4):
        for kind in ("model", "optim"):
            (folder / f"bf16_zero_pp_rank_{rank}_mp_rank_00_{kind}_states.pt").touch()
    made = recipe_of({"steps": 1, "strategy": "zero3"})
    check_world_size(made, tmp_path / "checkpoint-20", 4)
    check_world_size(made, None, 2)
    with pytest.raises(UserInputError, match=r"^4 processes wrote .* go on with 4 processes, or"):
        check_world_size(made, tmp_path / "checkpoint-20", 2)

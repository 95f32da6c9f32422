"""What Pelican uses of TRL 1.16 beyond its documented interface.

GRPOTrainer has no hook between a row of the data set and the loss, so Pelican replaces private methods.
They have public names here: subclasses override `next_batch`, `token_logps` and `grpo_loss`. A TRL whose
methods have other names or parameters fails in tests/training/test_private.py.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import PrinterCallback
from trl import GRPOTrainer

from pelican.engines.transformers_private import ExactResume


class GrpoTrainer(ExactResume, GRPOTrainer):  # type: ignore[misc]
    """TRL's GRPOTrainer, with the optimiser, the clipped loss, KL and checkpoints; no batches.

    A subclass makes the batches in `next_batch`, so there is no reward function.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, reward_funcs=_no_reward, **kwargs)
        self.remove_callback(PrinterCallback)  # the curve has what it prints

    def next_batch(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """The tensors of an optimiser step, for this rank's `rows` of the data set.

        TRL's loss reads, with one row per completion: `prompt_ids`, `prompt_mask` [rows, prompt],
        `completion_ids`, `completion_mask` [rows, width], `advantages` [rows], `num_items_in_batch`
        [], and, where there are, `ref_per_token_logps`, `old_per_token_logps`,
        `importance_sampling_ratio` [rows, width].
        """
        raise NotImplementedError

    def token_logps(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        **inputs: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Log-probabilities and entropies of the last `logits_to_keep` tokens, and no auxiliary loss.

        Args:
            model: the policy or the reference.
            input_ids: [rows, prompt + width]
            attention_mask: [rows, prompt + width]
            logits_to_keep: the width of the completions.
            inputs: those of the images, `pixel_values`, `image_grid_thw`, `num_images` and
                `mm_token_type_ids`; and options of TRL's.

        Returns:
            [rows, width] twice, the second None unless asked for; the third is for experts' routers.
        """
        found: tuple[Tensor, Tensor | None, Tensor | None] = (
            super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, **inputs
            )
        )
        return found

    def grpo_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        """The loss of a batch of `next_batch`, or of some of its rows: a scalar."""
        loss: Tensor = super()._compute_loss(model, inputs)
        return loss

    def record_metric(self, name: str, value: float) -> None:
        """Log the mean of the values since the last row of the log."""
        self._metrics["train"][name].append(value)

    def count_step(self) -> None:
        """Say that a step was made: TRL's `training_step` does, a replaced one must."""
        self._step += 1

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        return self.next_batch(generation_batch)

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        return self.token_logps(*args, **kwargs)

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        return self.grpo_loss(model, inputs)


def _no_reward(**_: Any) -> list[float]:
    """Only there because TRL asks for a reward function."""
    raise AssertionError("Pelican scores completions itself")

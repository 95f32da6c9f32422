"""Log-probabilities of given completions, by a transformers model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from pelican.engines.nucleus import outside
from pelican.engines.prompts import Encoded, PromptEncoder


@torch.no_grad()
def completion_logps(
    model: Any,
    encoder: PromptEncoder,
    prompts: Sequence[Encoded],
    completions: Sequence[Sequence[int]],
    *,
    temperature: float = 1.0,
    top_p: float = 1.0,
    without: Sequence[int] = (),
    device: torch.device | None = None,
) -> list[list[float]]:
    """Of every token of `completions`, one of each prompt; the tokens `without` are impossible.

    With `top_p` they are those of the draw: among the likeliest tokens alone, and the drawn one,
    which rounding may have put beside them. One plain forward pass, so `model` may be sharded and
    wrapped: then it is collective.
    """
    device = device or model.device
    prompt_ids, prompt_mask = encoder.pad([prompt.ids for prompt in prompts], "left")
    ids, mask = encoder.pad(completions, "right")
    types = torch.cat(
        [encoder.token_types(prompt_ids), torch.zeros_like(ids, dtype=torch.int32)], 1
    )
    inputs = {
        "input_ids": torch.cat([prompt_ids, ids], 1),
        "attention_mask": torch.cat([prompt_mask, mask], 1),
        "mm_token_type_ids": types,
        **encoder.image_inputs(prompts),
    }
    width = ids.shape[1]
    output = model(
        **{name: value.to(device) for name, value in inputs.items()},
        logits_to_keep=width + 1,
        use_cache=False,
    )
    logits = output.logits[:, -width - 1 : -1].float()
    logits[..., list(without)] = -torch.inf
    logps = (logits / temperature).log_softmax(-1)
    own = ids.to(device).unsqueeze(-1)
    if top_p < 1:
        impossible = outside(logps.exp(), top_p).scatter_(-1, own, False)
        logps = logps.masked_fill(impossible, -torch.inf).log_softmax(-1)
    chosen = logps.gather(-1, own).squeeze(-1).tolist()
    return [row[: len(one)] for row, one in zip(chosen, completions, strict=True)]

"""Decoding all rollouts of a prompt as one sequence: the prompt's keys and values are there once.

Rollout j of n puts its token of step t at place j of the t-th n after the prompt, and a mask lets it
see the prompt and its own tokens alone. So a step reads prompt + n * t keys a prompt instead of
n * (prompt + t), and nothing is repeated or concatenated: with short answers on long prompts the
reading is most of the work.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

_ROOM_STEPS = 16  # what a cache grows by


class GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values [batch, heads, length, width] in buffers with room: a step copies nothing."""

    def __init__(self, layer: DynamicLayer, room: int) -> None:
        super().__init__()
        self.dtype, self.device = layer.keys.dtype, layer.keys.device
        self.is_initialized = True
        self._room = room
        self._buffers = (_with_room(layer.keys, room), _with_room(layer.values, room))
        self._show(layer.keys.shape[-2])

    def _show(self, length: int) -> None:
        self.keys, self.values = (buffer[..., :length, :] for buffer in self._buffers)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        start = self.keys.shape[-2]
        stop = start + key_states.shape[-2]
        if stop > self._buffers[0].shape[-2]:
            room = max(self._room, stop - start)
            self._buffers = (_with_room(self.keys, room), _with_room(self.values, room))
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[..., start:stop, :] = new
        self._show(stop)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        length = self.keys.shape[-2]
        self._buffers = (self._buffers[0][indices], self._buffers[1][indices])
        self._show(length)


def _with_room(states: Tensor, room: int) -> Tensor:
    batch, heads, length, width = states.shape
    buffer = states.new_empty(batch, heads, length + room, width)
    buffer[..., :length, :] = states
    return buffer


class Decoder:
    """The rollouts of some prompts, a token each at a step.

    `cache` and `mask` [groups, length] are those of the prompts' forward pass, `positions`
    [3, groups, length] their rotary positions.
    """

    def __init__(self, model: Any, cache: Any, mask: Tensor, positions: Tensor, n: int) -> None:
        self._model, self._cache, self._n = model, cache, n
        cache.layers = [GrowingLayer(layer, n * _ROOM_STEPS) for layer in cache.layers]
        self._sees = mask.bool().unsqueeze(1).expand(-1, n, -1)
        self._position = positions.amax((0, 2)) + 1
        self._own = torch.eye(n, dtype=torch.bool, device=mask.device)

    def step(self, tokens: Tensor) -> Tensor:
        """Logits [groups, n, vocabulary] after `tokens` [groups, n]."""
        groups = len(tokens)
        self._sees = torch.cat([self._sees, self._own.expand(groups, -1, -1)], 2)
        text = self._model.model.language_model
        output = text(
            inputs_embeds=text.embed_tokens(tokens),
            attention_mask={"full_attention": self._sees.unsqueeze(1)},
            position_ids=self._position.view(1, -1, 1).expand(3, -1, self._n),
            past_key_values=self._cache,
            use_cache=True,
        )
        self._position = self._position + 1
        logits: Tensor = self._model.lm_head(output.last_hidden_state)
        return logits

    def keep(self, groups: Tensor) -> None:
        """Go on with these groups alone."""
        self._cache.batch_select_indices(groups)
        self._sees, self._position = self._sees[groups], self._position[groups]

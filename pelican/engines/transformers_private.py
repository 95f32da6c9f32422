"""What Pelican uses of transformers 5.17 beyond its documented interface: for engines, then for training.

tests/engines/test_borrowed_names.py and tests/training/test_private.py check names, parameters and what
comes back, so a new version that differs fails there, and this module is the one to change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling

# Engines: the parts of Qwen2.5-VL, and its cache.


class GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """A layer's keys and values [batch, heads, length, width] in buffers with room.

    `DynamicLayer` concatenates at every step, which copies the whole prompt for each token.
    """

    def __init__(self, layer: DynamicLayer, room: int) -> None:
        super().__init__()
        self.dtype, self.device = layer.keys.dtype, layer.keys.device
        self.is_initialized = True
        self._room = room
        self._buffers = (_add_room(layer.keys, room), _add_room(layer.values, room))
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
            self._buffers = (_add_room(self.keys, room), _add_room(self.values, room))
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[..., start:stop, :] = new
        self._show(stop)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        length = self.keys.shape[-2]
        self._buffers = (self._buffers[0][indices], self._buffers[1][indices])
        self._show(length)


def _add_room(states: Tensor, room: int) -> Tensor:
    """A copy of `states` [batch, heads, length, width], with space for `room` more tokens behind
    the length.
    """
    batch, heads, length, width = states.shape
    buffer = states.new_empty(batch, heads, length + room, width)
    buffer[..., :length, :] = states
    return buffer


def make_room(cache: Any, room: int) -> None:
    """Let the layers of a prompt's cache grow by `room` tokens at a time."""
    cache.layers = [GrowingLayer(layer, room) for layer in cache.layers]


def next_logits(model: Any, tokens: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> Tensor:
    """Logits [groups, n, vocabulary] of the language model after some tokens, without images.

    Args:
        model: A Qwen2.5-VL with its head.
        tokens: [groups, n] ids, appended to each group's sequence.
        mask: [groups, n, keys], true where a token sees a key; its own are the last n keys.
        positions: [3, groups, n] rotary positions.
        cache: Keys and values of what came before, to which those of `tokens` are added.
    """
    text = model.model.language_model
    output = text(
        inputs_embeds=text.embed_tokens(tokens),
        # As a dictionary the mask is taken as it is; else a causal one would be put over it.
        attention_mask={"full_attention": mask.unsqueeze(1)},
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
    )
    logits: Tensor = model.lm_head(output.last_hidden_state)
    return logits


def rotary_positions(
    model: Any, ids: Tensor, mask: Tensor, types: Tensor, grids: Tensor | None
) -> Tensor:
    """Rotary positions (temporal, height, width) of prompts, shape [3, batch, length].

    Args:
        model: A Qwen2.5-VL.
        ids: [batch, length] token ids.
        mask: [batch, length], 0 where padding is.
        types: [batch, length], 1 where a token stands for an image.
        grids: [images, 3] in patches, None without images.
    """
    if grids is not None:
        positions: Tensor = model.model.get_rope_index(
            ids, mm_token_type_ids=types, image_grid_thw=grids, attention_mask=mask
        )[0]
        return positions
    plain = (mask.cumsum(-1) - 1).clamp(min=0)
    return plain.unsqueeze(0).expand(3, -1, -1)


def vision_tower(policy: Any) -> Any:
    """The part of a Qwen2.5-VL that turns patches into features."""
    return policy.model.visual


def patches_per_token(visual: nn.Module) -> int:
    """How many patches the tower merges into one feature."""
    return int(visual.spatial_merge_size) ** 2  # type: ignore[arg-type]


def feature_width(visual: nn.Module) -> int:
    """Numbers of one feature that the tower gives."""
    return int(visual.config.out_hidden_size)  # type: ignore[union-attr,arg-type]


def replace_forward(
    visual: nn.Module, look_up: Callable[[Tensor, Tensor], Tensor]
) -> Callable[[Tensor, Tensor], Tensor]:
    """Make a tower give what `look_up` says.

    Args:
        visual: The tower.
        look_up: Features [tokens, hidden] of rows [patches, width] and grids [images, 3].

    Returns:
        What the tower itself computes, in the same form.
    """
    forward = visual.forward

    def encode(rows: Tensor, grids: Tensor) -> Tensor:
        features: Tensor = forward(rows, grid_thw=grids).pooler_output
        return features

    def give_features(hidden_states: Tensor, grid_thw: Tensor, **_: Any) -> Any:
        features = look_up(hidden_states, grid_thw)
        return BaseModelOutputWithPooling(last_hidden_state=features, pooler_output=features)

    visual.forward = give_features
    return encode


def has_replaced_forward(visual: nn.Module) -> bool:
    """Whether `replace_forward` was called for this tower."""
    return getattr(visual.forward, "__name__", "") == "give_features"


def encode_in_every_pass(policy: Any) -> None:
    """Let a pass without an image run the vision tower, too, on a blank picture that counts 0 times.

    A batch of text alone would leave the tower out, on one process and not on another. Then FSDP2 and
    ZeRO-3, whose every block gathers its weights and scatters its gradients together, wait for
    each other for ever, and DDP refuses a step in which parameters got no gradient. So the tower
    gets a gradient of 0, and the embeddings a sum that is 0: no number of the pass changes. Passes that go
    on from kept keys, and a tower whose features are looked up, need nothing.
    """
    visual, language = policy.model.visual, policy.model.language_model
    side: int = visual.config.spatial_merge_size
    width = (
        visual.config.in_channels * visual.config.temporal_patch_size * visual.config.patch_size**2
    )
    encoded = False

    def note(*_: Any) -> None:
        nonlocal encoded
        encoded = True

    def add_blank(_: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        nonlocal encoded
        done, encoded = encoded, False
        cache = kwargs.get("past_key_values")
        if done or has_replaced_forward(visual) or (cache is not None and cache.get_seq_length()):
            return None
        embeds: Tensor = kwargs["inputs_embeds"]
        grid = torch.tensor([[1, side, side]], device=embeds.device)
        blank = visual(embeds.new_zeros(side * side, width), grid_thw=grid).pooler_output
        encoded = False
        return args, kwargs | {"inputs_embeds": embeds + (0 * blank.sum()).to(embeds.dtype)}

    visual.register_forward_hook(note)
    language.register_forward_pre_hook(add_blank, with_kwargs=True)


def count_patches(image_processor: Any, height: int, width: int) -> int:
    """Patches of an image of this size in pixels, without decoding one."""
    patches: int = image_processor.get_number_of_image_patches(height, width)
    return patches


# Training: what Trainer loads, where it puts its inputs, and how weights are named in files.


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

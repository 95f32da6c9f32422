"""The engine on transformers: prompts, decoding in batches, log-probabilities."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pelican.config import env
from pelican.config.recipe import ModelConfig, Sampling
from pelican.data.images import seen_size
from pelican.engines.base import Engine, conversation, rollout_seed
from pelican.engines.transformers_private import (
    count_patches,
    encode_in_every_pass,
    make_room,
    next_logits,
    rotary_positions,
    vision_tower,
)
from pelican.engines.vision import FeatureBank, FeatureFiles, ImageSource, PixelSource, Prepared
from pelican.errors import UserInputError
from pelican.records import Rollout, Sample

# Decoding. All n rollouts of a prompt are one sequence, so the prompt's keys and values are there once.
#
# At step t rollout j of n appends its token at position prompt + n * t + j, and a mask lets it see the
# prompt and its own tokens alone. For example, with n = 2 the sequence is: prompt, first tokens of
# rollouts 0 and 1, second tokens of rollouts 0 and 1. A step reads prompt + n * t keys instead of
# n * (prompt + t). This is faster because most of a step is reading keys, with short answers on long
# prompts.

_ROOM_STEPS = 16  # what a cache grows by


class Decoder:
    """Decodes the rollouts of some prompts, one token each at a step. A prompt's rollouts are a group."""

    def __init__(self, model: Any, cache: Any, mask: Tensor, positions: Tensor, n: int) -> None:
        """Take over after the forward pass of the prompts.

        Args:
            model: A Qwen2.5-VL with its head.
            cache: The keys and values of the prompts.
            mask: [groups, length], 0 where padding is.
            positions: [3, groups, length] rotary positions.
            n: Rollouts of each prompt.
        """
        self._model, self._cache, self._n = model, cache, n
        make_room(cache, n * _ROOM_STEPS)
        self._visible = mask.bool().unsqueeze(1).expand(-1, n, -1)
        self._position = positions.amax((0, 2)) + 1
        self._own = torch.eye(n, dtype=torch.bool, device=mask.device)

    def step(self, tokens: Tensor) -> Tensor:
        """Logits [groups, n, vocabulary] after `tokens` [groups, n]."""
        groups = len(tokens)
        self._visible = torch.cat([self._visible, self._own.expand(groups, -1, -1)], 2)
        positions = self._position.view(1, -1, 1).expand(3, -1, self._n)
        self._position = self._position + 1
        return next_logits(self._model, tokens, self._visible, positions, self._cache)

    def keep(self, groups: Tensor) -> None:
        """Go on with these groups alone; `groups` are indices, shape [kept]."""
        self._cache.batch_select_indices(groups)
        self._visible, self._position = self._visible[groups], self._position[groups]


# Top-p sampling: the likeliest tokens alone.


def top_p_mask(probabilities: Tensor, top_p: float) -> Tensor:
    """True where a token is not sampled, shape [..., tokens] as `probabilities`.

    The likeliest tokens stay, until they reach `top_p` together. For example, of 0.5, 0.3, 0.2 and
    `top_p` 0.6 the first two stay.
    """
    ranked, order = probabilities.sort(-1, descending=True)
    return (ranked.cumsum(-1) - ranked >= top_p).gather(-1, order.argsort(-1))


# Encoding of a sample: the model's chat template, tokens of images, padding.


@dataclass(frozen=True)
class Encoded:
    """Token ids of a prompt (and of its completion, if there is one) with its images."""

    ids: list[int]
    images: list[Prepared]


def messages(sample: Sample, system_prompt: str | None) -> list[dict[str, Any]]:
    """The sample's turns for a processor's chat template, with a mark where each image stands."""
    return conversation(sample, system_prompt, lambda _: {"type": "image"})


class PromptEncoder:
    """Renders the processor's chat template and expands every image to its tokens."""

    def __init__(self, processor: Any, images: ImageSource, system_prompt: str | None) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.images = images
        self._system_prompt = system_prompt
        self._merge: int = processor.image_processor.merge_size**2
        self.image_token: str = processor.image_token
        self.image_token_id: int = processor.image_token_id
        self.media_token_ids = [processor.image_token_id, processor.video_token_id]
        self.pad_token_id: int = self.tokenizer.pad_token_id
        self.eos_token_id: int = self.tokenizer.eos_token_id

    def prompt(self, sample: Sample) -> Encoded:
        """The prompt, ready for the assistant's first token."""
        text = self._text(sample)
        prepared = self.images.prepare(sample.images)
        parts = text.split(self.image_token)
        pieces = [parts[0]]
        for image, part in zip(prepared, parts[1:], strict=True):
            t, h, w = image.grid
            pieces += [self.image_token * (t * h * w // self._merge), part]
        ids = self.tokenizer("".join(pieces), add_special_tokens=False)["input_ids"]
        return Encoded(ids, prepared)

    def length(self, sample: Sample) -> int:
        """How many tokens the prompt has. Images are not decoded; only their sizes are read."""
        text: list[int] = self.tokenizer(self._text(sample), add_special_tokens=False)["input_ids"]
        return len(text) + sum(self._tokens(image) - 1 for image in sample.images)

    def _tokens(self, image: bytes) -> int:
        width, height = seen_size(image)
        return count_patches(self.processor.image_processor, height, width) // self._merge

    def _text(self, sample: Sample) -> str:
        """The chat as text, with one token for each image.

        Raises UserInputError if the sample's own words hold such a token.
        """
        text: str = self.processor.apply_chat_template(
            messages(sample, self._system_prompt), add_generation_prompt=True, tokenize=False
        )
        if text.count(self.image_token) != len(sample.images):
            raise UserInputError(
                f"sample {sample.id!r} has {len(sample.images)} images and"
                f" {text.count(self.image_token)} places for them; take {self.image_token!r} out of"
                " its text"
            )
        return text

    def completion(self, text: str) -> list[int]:
        """Token ids of a completion, its end token included."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return [*ids, self.eos_token_id]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of completion ids; special tokens are left out."""
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        return text

    def image_inputs(self, prompts: Sequence[Encoded]) -> dict[str, Tensor]:
        """The images of all prompts, one after the other.

        `pixel_values` is [patches, width], `image_grid_thw` [images, 3]; both are left out if there
        is no image.
        """
        images = [image for prompt in prompts for image in prompt.images]
        if not images:
            return {}
        return {
            "pixel_values": torch.cat([image.rows for image in images]),
            "image_grid_thw": torch.tensor([image.grid for image in images]),
        }

    def pad(self, rows: Sequence[Sequence[int]], side: str) -> tuple[Tensor, Tensor]:
        """Token ids and mask, shape [len(rows), longest]; padding goes to `side`, left or right."""
        width = max(len(row) for row in rows)
        ids = torch.full((len(rows), width), self.pad_token_id)
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        for i, row in enumerate(rows):
            where = slice(width - len(row), width) if side == "left" else slice(0, len(row))
            ids[i, where] = torch.tensor(row)
            mask[i, where] = 1
        return ids, mask

    def token_types(self, ids: Tensor) -> Tensor:
        """`mm_token_type_ids`, shape as `ids`: 1 where a token stands for an image."""
        return (ids == self.image_token_id).to(torch.int32)


# Log-probabilities of given completions, by a transformers model.


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
    """Log-probabilities of the tokens of given completions, by one forward pass.

    Args:
        model: A policy; it may be sharded and wrapped, then every rank has to call this.
        encoder: Of the policy.
        prompts: What was asked.
        completions: Token ids, one completion of each prompt.
        temperature: That of the sampling.
        top_p: That of the sampling: the likeliest tokens alone count, and the completion's own,
            which rounding may have put just outside of them.
        without: Ids of tokens that can't be sampled.
        device: Where the inputs go, the model's device if None.

    Returns:
        A list of numbers for each completion, one per token.
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
        impossible = top_p_mask(logps.exp(), top_p).scatter_(-1, own, False)
        logps = logps.masked_fill(impossible, -torch.inf).log_softmax(-1)
    chosen = logps.gather(-1, own).squeeze(-1).tolist()
    return [row[: len(one)] for row, one in zip(chosen, completions, strict=True)]


# The engine: batches of prompts, one forward pass of a prompt for all its rollouts.

_COMPACT = 0.75  # of the prompts of a batch; once fewer are unfinished, the finished ones leave it


def load_model(model: ModelConfig, checkpoint: Path) -> tuple[Any, PromptEncoder]:
    """The checkpoint's model and prompt encoder. A frozen tower is cached if the recipe says so."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":  # else every rank of a job would load onto the first GPU
        torch.cuda.set_device(env.local_rank() % torch.cuda.device_count())
    policy = AutoModelForImageTextToText.from_pretrained(
        checkpoint, dtype=getattr(torch, model.dtype), use_safetensors=True
    ).to(device)
    processor = AutoProcessor.from_pretrained(checkpoint)
    policy.eval()
    return policy, prepare_model(model, policy, processor)


def prepare_model(model: ModelConfig, policy: Any, processor: Any) -> PromptEncoder:
    """Freeze and cache the vision tower as the recipe says; returns the prompt encoder."""
    visual = vision_tower(policy)
    encode_in_every_pass(policy)
    if model.freeze_vision:
        visual.requires_grad_(False)
    if model.freeze_vision and model.cache_vision:
        files = (
            FeatureFiles(visual, processor.image_processor) if visual.device.type == "cpu" else None
        )
        images: FeatureBank | PixelSource = FeatureBank(visual, processor.image_processor, files)
    else:
        images = PixelSource(processor.image_processor)
    return PromptEncoder(processor, images, model.system_prompt)


class TransformersEngine(Engine):
    """Generation in this process. Samples of similar prompt length are decoded together."""

    def __init__(self, policy: Any, encoder: PromptEncoder, batch_size: int) -> None:
        self.policy = policy
        self.encoder = encoder
        self._batch_size = batch_size

    @classmethod
    def load(
        cls, model: ModelConfig, checkpoint: Path, batch_size: int, threads: int
    ) -> TransformersEngine:
        if not torch.cuda.is_available():
            torch.set_num_threads(threads)
        return cls(*load_model(model, checkpoint), batch_size)

    def generate(
        self, samples: Iterable[Sample], sampling: Sampling, n: int, seed: int
    ) -> Iterator[list[Rollout]]:
        per_batch = max(1, self._batch_size // n)
        window = 16 * per_batch  # lengths are sorted within a window, so results flow early
        samples = list(samples)
        for start in range(0, len(samples), window):
            chunk = samples[start : start + window]
            prompts = [self.encoder.prompt(sample) for sample in chunk]
            order = sorted(range(len(chunk)), key=lambda i: len(prompts[i].ids))
            done: dict[int, list[Rollout]] = {}
            for at in range(0, len(order), per_batch):
                members = order[at : at + per_batch]
                ids = self.complete(
                    [prompts[i] for i in members],
                    sampling,
                    [[rollout_seed(seed, chunk[i].id, j) for j in range(n)] for i in members],
                )
                for i, completions in zip(members, ids, strict=True):
                    done[i] = [
                        Rollout(
                            sample_id=chunk[i].id,
                            index=j,
                            seed=rollout_seed(seed, chunk[i].id, j),
                            completion=self.encoder.decode(tokens),
                            tokens=len(tokens),
                            finish=self._finish(tokens),
                            prompt_tokens=len(prompts[i].ids),
                        )
                        for j, tokens in enumerate(completions)
                    ]
            if isinstance(self.encoder.images, FeatureBank):
                self.encoder.images.flush()
            for i in range(len(chunk)):
                yield done[i]

    def _finish(self, ids: list[int]) -> Literal["stop", "length"]:
        return "stop" if ids and ids[-1] == self.encoder.eos_token_id else "length"

    @torch.no_grad()
    def complete(
        self, prompts: Sequence[Encoded], sampling: Sampling, seeds: Sequence[Sequence[int]]
    ) -> list[list[list[int]]]:
        """Sample completions of encoded prompts.

        Args:
            prompts: Encoded prompts, all decoded as one batch.
            sampling: Temperature, top-p and length.
            seeds: For each prompt one seed per completion; every prompt has the same number.

        Returns:
            Token ids, one list per prompt and seed, with the end token if the completion has one.
        """
        n = len(seeds[0])
        model, device = self.policy, self.policy.device
        ids, mask = self.encoder.pad([prompt.ids for prompt in prompts], "left")
        types = self.encoder.token_types(ids)
        images = {k: v.to(device) for k, v in self.encoder.image_inputs(prompts).items()}
        ids, mask, types = ids.to(device), mask.to(device), types.to(device)
        positions = rotary_positions(model, ids, mask, types, images.get("image_grid_thw"))
        output = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            logits_to_keep=1,
            use_cache=True,
            **images,
        )
        decoder = Decoder(model, output.past_key_values, mask, positions, n)
        logits = output.logits[:, -1:].expand(-1, n, -1).clone()
        noise = _draw_uniforms(seeds, sampling.max_tokens).to(device)
        ends = self.encoder.eos_token_id
        finished: list[list[list[int]]] = [[[] for _ in range(n)] for _ in prompts]
        alive = torch.arange(len(prompts), device=device)
        done = torch.zeros(len(prompts), n, dtype=torch.bool, device=device)
        for step in range(sampling.max_tokens):
            # An image token must not be sampled: in training it would be taken for an image.
            logits[..., self.encoder.media_token_ids] = -torch.inf
            token = _sample_token(logits.flatten(0, 1), sampling, noise[alive, :, step].flatten())
            token = token.view(-1, n)
            for group, values, over in zip(
                alive.tolist(), token.tolist(), done.tolist(), strict=True
            ):
                for row, value, ended in zip(finished[group], values, over, strict=True):
                    if not ended:
                        row.append(value)
            done |= token == ends
            going = ~done.all(1)
            if not going.any() or step + 1 == sampling.max_tokens:
                break
            if going.float().mean() < _COMPACT:
                keep = going.nonzero().squeeze(1)
                alive, token, done = alive[keep], token[keep], done[keep]
                decoder.keep(keep)
            logits = decoder.step(token)
        return finished

    def embed(self, samples: Sequence[Sample]) -> npt.NDArray[np.float32]:
        images = self.encoder.images
        if not isinstance(images, FeatureBank):
            raise NotImplementedError("embeddings need model.cache_vision")
        means = []
        for sample in samples:  # one by one: a pool may have more images than fit into memory
            means.append(images.mean(sample.images).float().cpu().numpy())
            images.forget()
        return np.stack(means)

    def close(self) -> None:
        """Free the memory of the device, for what this process loads next."""
        del self.policy, self.encoder
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _draw_uniforms(seeds: Sequence[Sequence[int]], steps: int) -> Tensor:
    """Random numbers in [0, 1), shape [prompts, n, steps].

    Those of a rollout depend on its own seed alone, so a completion is the same in any batch.
    """
    return torch.from_numpy(
        np.array(
            [
                [np.random.Generator(np.random.Philox(seed)).random(steps) for seed in group]
                for group in seeds
            ]
        )
    )


def _sample_token(logits: Tensor, sampling: Sampling, noise: Tensor) -> Tensor:
    """The next token of each row, shape [rows].

    Args:
        logits: [rows, vocabulary].
        sampling: Temperature 0 takes the likeliest token.
        noise: [rows] random numbers; a token is where the cumulative distribution reaches it.
    """
    if sampling.temperature == 0:
        return logits.argmax(-1)
    probabilities = (logits.double() / sampling.temperature).softmax(-1)
    if sampling.top_p < 1:
        probabilities = probabilities.masked_fill(top_p_mask(probabilities, sampling.top_p), 0)
    cumulative = probabilities.cumsum(-1)
    token = torch.searchsorted(cumulative, (noise * cumulative[:, -1]).unsqueeze(1), right=True)
    return token.squeeze(1).clamp(max=logits.shape[-1] - 1)

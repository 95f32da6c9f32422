"""Batched generation with transformers: one prefill per prompt, shared by its rollouts."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pelican.engines.base import Engine, rollout_seed
from pelican.engines.decoding import Decoder
from pelican.engines.features import FeatureFiles
from pelican.engines.nucleus import outside
from pelican.engines.prompts import Encoded, PromptEncoder
from pelican.engines.vision import FeatureBank, PixelSource
from pelican.recipe import ModelConfig, Sampling
from pelican.records import Rollout, Sample

_COMPACT = 0.75  # finished prompts leave the batch once less than this share is alive


def load_model(model: ModelConfig, checkpoint: Path) -> tuple[Any, PromptEncoder]:
    """The checkpoint's model and prompt encoder; a frozen tower is cached if the recipe says so."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":  # else every rank of a job would load onto the first GPU
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    policy = AutoModelForImageTextToText.from_pretrained(
        checkpoint, dtype=getattr(torch, model.dtype), use_safetensors=True
    ).to(device)
    processor = AutoProcessor.from_pretrained(checkpoint)
    policy.eval()
    return policy, prepare_model(model, policy, processor)


def prepare_model(model: ModelConfig, policy: Any, processor: Any) -> PromptEncoder:
    """Freeze and cache the vision tower as the recipe says; returns the prompt encoder."""
    visual = policy.model.visual
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
                        self._rollout(chunk[i].id, j, rollout_seed(seed, chunk[i].id, j), tokens)
                        for j, tokens in enumerate(completions)
                    ]
            if isinstance(self.encoder.images, FeatureBank):
                self.encoder.images.flush()
            for i in range(len(chunk)):
                yield done[i]

    def _rollout(self, sample_id: str, index: int, seed: int, ids: list[int]) -> Rollout:
        stopped = bool(ids) and ids[-1] == self.encoder.eos_token_id
        return Rollout(
            sample_id=sample_id,
            index=index,
            seed=seed,
            completion=self.encoder.decode(ids),
            tokens=len(ids),
            finish="stop" if stopped else "length",
        )

    @torch.no_grad()
    def complete(
        self, prompts: Sequence[Encoded], sampling: Sampling, seeds: Sequence[Sequence[int]]
    ) -> list[list[list[int]]]:
        """Completion ids, one list per prompt and seed; the end token is kept where it came."""
        n = len(seeds[0])
        model, device = self.policy, self.policy.device
        ids, mask = self.encoder.pad([prompt.ids for prompt in prompts], "left")
        types = self.encoder.token_types(ids)
        images = {k: v.to(device) for k, v in self.encoder.image_inputs(prompts).items()}
        ids, mask, types = ids.to(device), mask.to(device), types.to(device)
        positions = _positions(model, ids, mask, types, images.get("image_grid_thw"))
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
        noise = _uniforms(seeds, sampling.max_tokens).to(device)
        ends = self.encoder.eos_token_id
        finished: list[list[list[int]]] = [[[] for _ in range(n)] for _ in prompts]
        alive = torch.arange(len(prompts), device=device)
        done = torch.zeros(len(prompts), n, dtype=torch.bool, device=device)
        for step in range(sampling.max_tokens):
            # A sampled image token would be taken for an image when the policy is trained.
            logits[..., self.encoder.media_token_ids] = -torch.inf
            token = _sample(logits.flatten(0, 1), sampling, noise[alive, :, step].flatten())
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
        for sample in samples:  # a pool may have more images than memory has room for
            means.append(images.mean(sample.images).float().cpu().numpy())
            images.forget()
        return np.stack(means)

    def close(self) -> None:
        """Give the memory of the device back, for who comes next in this process."""
        del self.policy, self.encoder
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _positions(
    model: Any, ids: Tensor, mask: Tensor, types: Tensor, grids: Tensor | None
) -> Tensor:
    """Rotary positions (temporal, height, width), shape [3, batch, length]."""
    if grids is not None:
        positions: Tensor = model.model.get_rope_index(
            ids, mm_token_type_ids=types, image_grid_thw=grids, attention_mask=mask
        )[0]
        return positions
    plain = (mask.cumsum(-1) - 1).clamp(min=0)
    return plain.unsqueeze(0).expand(3, -1, -1)


def _uniforms(seeds: Sequence[Sequence[int]], steps: int) -> Tensor:
    """Uniform numbers [prompts, n, steps], each rollout's from its own seed: no batch changes them."""
    return torch.from_numpy(
        np.array(
            [
                [np.random.Generator(np.random.Philox(seed)).random(steps) for seed in group]
                for group in seeds
            ]
        )
    )


def _sample(logits: Tensor, sampling: Sampling, noise: Tensor) -> Tensor:
    """Next token by inverting the cumulative distribution at `noise`; greedy at temperature 0."""
    if sampling.temperature == 0:
        return logits.argmax(-1)
    probabilities = (logits.double() / sampling.temperature).softmax(-1)
    if sampling.top_p < 1:
        probabilities = probabilities.masked_fill(outside(probabilities, sampling.top_p), 0)
    cumulative = probabilities.cumsum(-1)
    token = torch.searchsorted(cumulative, (noise * cumulative[:, -1]).unsqueeze(1), right=True)
    return token.squeeze(1).clamp(max=logits.shape[-1] - 1)

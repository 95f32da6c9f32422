"""Stages 2 and 3 of `make base-model`: the language model learns to look, think and answer.

First with the tower in training, then with its features computed once (`Lookup.freeze`). Batches hold rows of one number of frames and of like length.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pelican.sim.questions import questions
from pelican.sim.records import QA
from pelican.twin.corpus import Corpus, Scene
from pelican.twin.looking import looking
from pelican.twin.optimizer import Optimizer
from pelican.twin.tower import encode

_IGNORED = -100


@dataclass(frozen=True)
class Row:
    """One question as token ids, its images still placeholders."""

    first: int
    frames: int
    prompt: NDArray[np.uint16]
    completion: NDArray[np.uint16]
    family: str
    template: str
    narrow: bool
    small: bool


def prompt_text(question: str, times_s: tuple[float, ...], tokens: int) -> str:
    """The chat template's text with every image expanded; a test compares it with the processor's."""
    image = "<|vision_start|>" + "<|image_pad|>" * tokens + "<|vision_end|>"
    media = image if len(times_s) == 1 else "".join(f"{t:g} s{image}" for t in times_s)
    return f"<|im_start|>user\n{media}{question}<|im_end|>\n<|im_start|>assistant\n"


def completion_text(qa: QA) -> str:
    """What the model is to say."""
    return f"<think>{qa.think}</think><answer>{qa.gold}</answer><|im_end|>"


def make_rows(corpus: Corpus, tokenizer: Any, seed: int, scenes: range) -> list[Row]:
    """All questions of `scenes`, tokenised."""
    rng = np.random.default_rng(seed)
    found: list[tuple[Scene, QA]] = []
    for index in scenes:
        scene = corpus.scenes[index]
        qas = list(scene.card) if scene.episode is None else questions(scene.episode, rng)
        if scene.episode is not None:
            qas += looking(scene.episode, rng)
        found += [(scene, qa) for qa in qas]
    prompts = tokenizer([prompt_text(qa.question, s.times_s, 16) for s, qa in found])["input_ids"]
    completions = tokenizer([completion_text(qa) for _, qa in found])["input_ids"]
    return [
        Row(
            scene.first,
            len(scene.times_s),
            np.array(prompt, np.uint16),
            np.array(completion, np.uint16),
            qa.family,
            qa.template,
            qa.narrow,
            is_small(scene),
        )
        for (scene, qa), prompt, completion in zip(found, prompts, completions, strict=True)
    ]


def is_small(scene: Scene) -> bool:
    """At most 4 objects, 4 frames and 2 events: the scenes that the base is trained on."""
    e = scene.episode
    return e is None or (len(e.first) <= 4 and len(scene.times_s) <= 4 and len(e.events) <= 2)


class Mixture:
    """Draws rows: first a family, then a template in it, then a row; `weight` tilts templates."""

    def __init__(self, rows: list[Row], weight: Callable[[Row], float], seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        total: Counter[tuple[str, str, int]] = Counter()
        groups: dict[tuple[str, str, int], list[Row]] = defaultdict(list)
        weights: dict[tuple[str, str, int], list[float]] = defaultdict(list)
        for row in rows:
            w = weight(row)
            if w > 0:
                key = (row.family, row.template, row.frames)
                groups[key].append(row)
                weights[key].append(w)
                total[key] += 1
        self._groups = groups
        self._chance = {k: np.cumsum(w) / np.sum(w) for k, w in weights.items()}
        # Mean weight of a group, so that a template that is rare in `weight` is rare in the mixture.
        mean = {k: float(np.mean(w)) for k, w in weights.items()}
        family: Counter[str] = Counter()
        for key, m in mean.items():
            family[key[0]] += m * min(1.0, total[key] / 200)  # type: ignore[assignment]
        self._keys = list(groups)
        share = [mean[k] * min(1.0, total[k] / 200) / family[k[0]] for k in self._keys]
        self._share = np.array(share) / np.sum(share)

    def batches(self, size: int, pool: int = 24) -> Iterator[list[Row]]:
        """Endless batches of one number of frames and like length."""
        while True:
            drawn: dict[int, list[Row]] = defaultdict(list)
            for i in self._rng.choice(len(self._keys), size=size * pool, p=self._share):
                key = self._keys[i]
                at = int(np.searchsorted(self._chance[key], self._rng.random()))
                drawn[key[2]].append(self._groups[key][at])
            batches = []
            for rows in drawn.values():
                rows.sort(key=lambda r: len(r.prompt) + len(r.completion))
                batches += [rows[i : i + size] for i in range(0, len(rows) - size + 1, size)]
            for i in self._rng.permutation(len(batches)):
                yield batches[i]


class Lookup:
    """Where the features of frames come from."""

    def __init__(self, corpus: Corpus, visual: Any, processor: Any) -> None:
        self._corpus, self._visual, self._processor = corpus, visual, processor
        self._cache: Tensor | None = None

    @torch.no_grad()
    def freeze(self) -> None:
        """Compute the features of all frames once; under torchrun every process takes its share."""
        rank, size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        count = len(self._corpus.pixels)
        cache = torch.zeros(count, 16, self._visual.config.out_hidden_size)
        for start in range(256 * rank, count, 256 * size):
            rows = list(range(start, min(start + 256, count)))
            cache[rows] = encode(self._visual, self._corpus.images(rows, self._processor))
        if size > 1:
            dist.all_reduce(cache)
        self._cache = cache
        self._visual.requires_grad_(False)

    def __call__(self, frames: list[int]) -> Tensor:
        """[len(frames) * 16, hidden]; a frame asked for twice is encoded once."""
        if self._cache is not None:
            return self._cache[frames].flatten(0, 1)
        unique, inverse = np.unique(frames, return_inverse=True)
        features = encode(self._visual, self._corpus.images(unique, self._processor))
        return features[torch.from_numpy(inverse)].flatten(0, 1)


def row_loss(model: Any, rows: list[Row], lookup: Lookup) -> tuple[Tensor, Tensor]:
    """Mean loss over completion tokens, and whether each row is right everywhere (teacher-forced)."""
    width = max(len(r.prompt) + len(r.completion) for r in rows)
    ids = torch.full((len(rows), width), model.config.text_config.pad_token_id)
    mask = torch.zeros_like(ids)
    labels = torch.full_like(ids, _IGNORED)
    for i, row in enumerate(rows):
        p, c = len(row.prompt), len(row.completion)
        ids[i, :p] = torch.from_numpy(row.prompt.astype(np.int64))
        ids[i, p : p + c] = torch.from_numpy(row.completion.astype(np.int64))
        labels[i, p : p + c] = ids[i, p : p + c]
        mask[i, : p + c] = 1
    image = ids == model.config.image_token_id
    grids = torch.tensor([[1, 8, 8]] * sum(r.frames for r in rows))
    positions = model.model.get_rope_index(
        ids, mm_token_type_ids=image.int(), image_grid_thw=grids, attention_mask=mask
    )[0]
    features = lookup([r.first + k for r in rows for k in range(r.frames)])
    embeds = model.model.language_model.embed_tokens(ids)
    embeds = embeds.masked_scatter(image.unsqueeze(-1), features)
    hidden = model.model.language_model(
        inputs_embeds=embeds, attention_mask=mask, position_ids=positions, use_cache=False
    ).last_hidden_state
    wanted = labels[:, 1:] != _IGNORED
    logits = model.lm_head(hidden[:, :-1][wanted])
    targets = labels[:, 1:][wanted]
    loss = F.cross_entropy(logits, targets)
    with torch.no_grad():
        wrong = torch.zeros(wanted.shape)
        wrong[wanted] = (logits.argmax(-1) != targets).float()
    return loss, wrong.sum(1) == 0


def train_language(
    model: Any,
    lookup: Lookup,
    mixture: Mixture,
    *,
    steps: int,
    batch: int,
    lr: float,
    save: Callable[[int], None],
    save_every: int,
    name: str,
) -> None:
    """Trains `model` in place; `save(step)` is called now and then and at the end."""
    optimizer = Optimizer(model.named_parameters(), lr, steps)
    start, losses = time.time(), []
    right: dict[str, list[float]] = defaultdict(list)
    for step, rows in zip(range(steps), mixture.batches(batch), strict=False):
        loss, correct = row_loss(model, rows, lookup)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        for row, ok in zip(rows, correct.tolist(), strict=True):
            right[f"{row.family[:4]}/{row.template}"].append(ok)
        if (step + 1) % 100 == 0:
            shares = " ".join(f"{k} {np.mean(v):.2f}" for k, v in sorted(right.items()))
            print(
                f"{name} {step + 1} {time.time() - start:.0f}s loss {np.mean(losses):.3f} {shares}",
                flush=True,
            )
            losses.clear()
            right.clear()
        if (step + 1) % save_every == 0 or step + 1 == steps:
            save(step + 1)

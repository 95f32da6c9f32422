"""The language model's part of `make base-model`: it learns to look, think and answer.

The tower is frozen and its features are computed once.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tiny.model.corpus import Corpus
from tiny.model.optimizer import Optimizer
from tiny.model.rows import Mixture, Row
from tiny.model.tower import encode


@torch.no_grad()
def encode_all(corpus: Corpus, visual: Any, processor: Any) -> Tensor:
    """Features [frames, 16, hidden] of the frozen tower; under torchrun every process does a share."""
    rank, size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    count = len(corpus.pixels)
    features = torch.zeros(count, 16, visual.config.out_hidden_size)
    for start in range(256 * rank, count, 256 * size):
        rows = list(range(start, min(start + 256, count)))
        features[rows] = encode(visual, corpus.images(rows, processor))
    if size > 1:
        dist.all_reduce(features)
    return features


def bundle_loss(
    model: Any, bundles: list[list[Row]], features: Tensor
) -> tuple[Tensor, list[tuple[Row, bool]]]:
    """Mean loss over completion tokens, and whether each row is right everywhere (teacher-forced).

    `features` [frames, tokens, hidden] are those of all the corpus's frames.

    A bundle is one sequence: the media, then each question with its answer, which see the media and
    themselves. Every question has the positions that it would have alone.
    """
    media, own = _pad([b[0].media for b in bundles]), [[_whole(r) for r in b] for b in bundles]
    width = media.shape[1]
    rest = _pad([np.concatenate(parts) for parts in own])
    ids = torch.cat([media, rest], 1).clamp(min=0)
    segment = torch.where(media < 0, -1, 0)
    grids = torch.tensor([[1, 8, 8]] * sum(b[0].frames for b in bundles))
    image = media == model.config.image_token_id
    positions = model.model.get_rope_index(
        media.clamp(min=0),
        mm_token_type_ids=image.int(),
        image_grid_thw=grids,
        attention_mask=(media >= 0).long(),
    )[0]
    after = torch.zeros_like(rest)
    part = torch.full_like(rest, -1)
    wanted = torch.zeros_like(rest, dtype=torch.bool)
    for i, (bundle, parts) in enumerate(zip(bundles, own, strict=True)):
        start = 0
        begin = int(positions[:, i, : len(bundle[0].media)].max()) + 1
        for k, (row, tokens) in enumerate(zip(bundle, parts, strict=True)):
            stop = start + len(tokens)
            after[i, start:stop] = begin + torch.arange(len(tokens))
            part[i, start:stop] = k + 1
            wanted[i, start + len(row.question) - 1 : stop - 1] = True
            start = stop
    segment = torch.cat([segment, part], 1)
    embeds = model.model.language_model.embed_tokens(ids)
    images = torch.cat([image, torch.zeros_like(rest, dtype=torch.bool)], 1)
    frames = [b[0].first + k for b in bundles for k in range(b[0].frames)]
    embeds = embeds.masked_scatter(images.unsqueeze(-1), features[frames].flatten(0, 1))
    hidden = model.model.language_model(
        inputs_embeds=embeds,
        attention_mask={"full_attention": _visible(segment)},
        position_ids=torch.cat([positions, after.expand(3, -1, -1)], 2),
        use_cache=False,
    ).last_hidden_state[:, width:]
    logits = model.lm_head(hidden[wanted])
    targets = rest.roll(-1, 1)[wanted]
    loss = F.cross_entropy(logits, targets)
    wrong = torch.zeros(wanted.shape)
    wrong[wanted] = (logits.detach().argmax(-1) != targets).float()
    judged = [
        (row, not wrong[i][part[i] == k + 1].any())
        for i, bundle in enumerate(bundles)
        for k, row in enumerate(bundle)
    ]
    return loss, judged


def _whole(row: Row) -> NDArray[np.uint16]:
    return np.concatenate([row.question, row.completion])


def _pad(rows: list[NDArray[np.uint16]]) -> Tensor:
    """[len(rows), longest], -1 where nothing is."""
    return torch.nn.utils.rnn.pad_sequence(
        [torch.from_numpy(row.astype(np.int64)) for row in rows],
        batch_first=True,
        padding_value=-1,
    )


def _visible(segment: Tensor) -> Tensor:
    """Bool [n, 1, length, length]: who sees whom. Segment 0 is seen by all, -1 by itself alone."""
    length = segment.shape[1]
    mine, theirs = segment.unsqueeze(2), segment.unsqueeze(1)
    visible = ((theirs == 0) | (theirs == mine)) & (theirs >= 0)
    visible &= torch.ones(length, length, dtype=torch.bool).tril()
    return (visible | torch.eye(length, dtype=torch.bool)).unsqueeze(1)


def train_language(
    model: Any,
    features: Tensor,
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
    rows = 0
    for step, bundles in zip(range(steps), mixture.batches(batch), strict=False):
        loss, judged = bundle_loss(model, bundles, features)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        rows += len(judged)
        for row, ok in judged:
            right[f"{row.family[:4]}/{row.template}"].append(ok)
        if (step + 1) % 100 == 0:
            shares = " ".join(f"{k} {np.mean(v):.2f}" for k, v in sorted(right.items()))
            print(
                f"{name} {step + 1} {time.time() - start:.0f}s {rows} rows "
                f"loss {np.mean(losses):.3f} {shares}",
                flush=True,
            )
            losses.clear()
            right.clear()
        if (step + 1) % save_every == 0 or step + 1 == steps:
            save(step + 1)

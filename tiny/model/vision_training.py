"""Stage 1 of `make base-model`: the vision tower learns what is where."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tiny.model.corpus import Corpus
from tiny.model.optimizer import Optimizer
from tiny.model.tower import DenseHead, dense_loss, encode

CARD_SHARE = 0.25  # of a batch


def train_tower(
    visual: Any, processor: Any, corpus: Corpus, *, steps: int, batch: int, lr: float, seed: int
) -> dict[str, float]:
    """Trains `visual` in place; returns the accuracies on a twentieth kept out, of scenes and of cards."""
    rng = np.random.default_rng(seed)
    head = DenseHead(visual.config.out_hidden_size)
    parameters = [
        *visual.named_parameters(),
        *((f"head.{n}", p) for n, p in head.named_parameters()),
    ]
    optimizer = Optimizer(parameters, lr, steps)
    scenes = [s.first + k for s in corpus.scenes if s.episode for k in range(len(s.times_s))]
    cards = [s.first for s in corpus.scenes if s.episode is None]
    pools = [_Pool(frames) for frames in (scenes, cards) if frames]
    shares = [1 - CARD_SHARE, CARD_SHARE] if cards else [1.0]
    start = time.time()
    for step in range(steps):
        sizes = rng.multinomial(batch, shares)
        rows = np.concatenate([p.draw(rng, n) for p, n in zip(pools, sizes, strict=True)])
        loss, report = _loss(visual, head, processor, corpus, rows)
        loss.backward()
        optimizer.step()
        if step % 50 == 0 or step == steps - 1:
            figures = " ".join(f"{k} {v:.3f}" for k, v in report.items())
            print(
                f"tower {step} {time.time() - start:.0f}s loss {loss.item():.3f} {figures}",
                flush=True,
            )
    found: dict[str, float] = {}
    with torch.no_grad():
        for name, pool in zip(("scenes", "cards"), pools, strict=False):
            parts = np.array_split(pool.held_out, len(pool.held_out) // 100 + 1)
            reports = [_loss(visual, head, processor, corpus, rows)[1] for rows in parts]
            for key in reports[0]:
                mean = float(np.mean([report[key] for report in reports]))
                if np.isfinite(mean):  # cards have no gripper
                    found[f"{name}_{key}"] = round(mean, 3)
    return found


class _Pool:
    """Rows of frames; a twentieth is kept out of training."""

    def __init__(self, frames: list[int]) -> None:
        order = np.random.default_rng(0).permutation(frames)
        self.held_out, self._trained = np.split(order, [len(order) // 20])

    def draw(self, rng: np.random.Generator, count: int) -> NDArray[np.int64]:
        """`count` rows to train on."""
        return self._trained[rng.integers(len(self._trained), size=count)]


def _loss(visual: Any, head: DenseHead, processor: Any, corpus: Corpus, rows: Any) -> Any:
    features = encode(visual, corpus.images(rows, processor))
    labels = torch.from_numpy(corpus.labels[rows]).long()
    places, gripper = head(features)
    return dense_loss(places, gripper, labels, torch.from_numpy(corpus.grips[rows]).float())

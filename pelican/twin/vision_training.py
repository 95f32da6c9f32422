"""Stage 1 of `make base-model`: the vision tower learns what is where."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from pelican.twin.corpus import Corpus
from pelican.twin.optimizer import Optimizer
from pelican.twin.tower import DenseHead, dense_loss, encode


def train_tower(
    visual: Any, processor: Any, corpus: Corpus, *, steps: int, batch: int, lr: float, seed: int
) -> dict[str, float]:
    """Trains `visual` in place; returns the accuracies on the last twentieth of the frames."""
    rng = np.random.default_rng(seed)
    head = DenseHead(visual.config.out_hidden_size)
    named = [*visual.named_parameters(), *((f"head.{n}", p) for n, p in head.named_parameters())]
    optimizer = Optimizer(named, lr, steps)
    frames = [s.first + k for s in corpus.scenes if s.episode for k in range(len(s.times_s))]
    order = np.random.default_rng(0).permutation(frames)
    held_out = len(order) // 20
    trained = len(order) - held_out
    start = time.time()
    for step in range(steps):
        rows = order[rng.integers(trained, size=batch)]
        loss, report = _loss(visual, head, processor, corpus, rows)
        loss.backward()
        optimizer.step()
        if step % 50 == 0 or step == steps - 1:
            figures = " ".join(f"{k} {v:.3f}" for k, v in report.items())
            print(
                f"tower {step} {time.time() - start:.0f}s loss {loss.item():.3f} {figures}",
                flush=True,
            )
    with torch.no_grad():
        reports = [
            _loss(visual, head, processor, corpus, rows)[1]
            for rows in np.array_split(order[trained:], held_out // 100 + 1)
        ]
    return {key: float(np.mean([report[key] for report in reports])) for key in reports[0]}


def _loss(visual: Any, head: DenseHead, processor: Any, corpus: Corpus, rows: Any) -> Any:
    features = encode(visual, corpus.images(rows, processor))
    labels = torch.from_numpy(corpus.labels[rows]).long()
    places, gripper = head(features)
    return dense_loss(places, gripper, labels, torch.from_numpy(corpus.grips[rows]).float())

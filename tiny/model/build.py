"""`make base-model`: trains the small base and its teacher from nothing.

    python -m torch.distributed.run --standalone --nproc-per-node 2 -m tiny.model.build

1. corpus   render scenes (seeds apart from those of every sample set)
2. tower    the vision tower learns what is where, on all scenes and cards
3. look     the language model, the tower frozen, learns to read the picture (`looking.py`)
4. trunk    goes on from there with few objects, short clips, easy questions and some of the hard ones
5. base     goes on from the trunk, briefly, on easy questions most of which are answered at once
6. teacher  goes on from the trunk, on the wide distribution

Each step leaves a checkpoint and is skipped where that is there.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor

from pelican.training.checkpoints import save_policy
from tiny.model.architecture import make_model, make_processor, train_tokenizer
from tiny.model.corpus import Corpus, load_corpus
from tiny.model.language_training import encode_all, train_language
from tiny.model.looking import FAMILY
from tiny.model.rows import (
    Mixture,
    Row,
    completion_text,
    make_rows,
    prompt_text,
    read_rows,
    write_rows,
)
from tiny.model.vision_training import train_tower
from tiny.sim.build import render_corpus
from tiny.sim.questions import questions

VOCABULARY = 640
CORPUS_SEED = 1000
STILLS, CLIPS, CARDS = 20_000, 5_000, 8_000
# Of the hard question types on small scenes.
BASE_HARD, TRUNK_HARD = 0.02, 0.15
# The base's last rows are as those of web VQA: most have an answer and no reasoning. So it can
# reason and seldom does; RL finds that reasoning pays.
AT_ONCE = 0.7


def narrow_weight(row: Row, hard: float) -> float:
    """Weights of the narrow distribution: easy questions on small scenes, and few of the hard ones."""
    if row.family == FAMILY:
        return 0.3
    if row.family == "general" or row.narrow:
        return 1.0
    return hard if row.small else 0.0


def base_weight(row: Row) -> float:
    """Weights of the last training of the base, which decides what it knows."""
    return narrow_weight(row, BASE_HARD)


def trunk_weight(row: Row) -> float:
    """Weights of the training that base and teacher share at their beginning."""
    return narrow_weight(row, TRUNK_HARD)


def answered_at_once(rows: list[Row], end_of_thinking: int, seed: int) -> list[Row]:
    """`rows`, of which the share `AT_ONCE` answers without reasoning first."""
    rng = np.random.default_rng(seed)

    def shorten(row: Row) -> Row:
        if row.family == FAMILY or rng.random() > AT_ONCE:
            return row
        ends = np.flatnonzero(row.completion == end_of_thinking)
        return replace(row, completion=row.completion[ends[0] + 1 :]) if len(ends) else row

    return [shorten(row) for row in rows]


def look_weight(row: Row) -> float:
    """Weights of questions about what is where, of those nearest to them, and of the cards."""
    near = ("point_object", "count_all", "count_colour", "count_kind")
    return 1.0 if row.family in (FAMILY, "general") or row.template in near else 0.0


def teacher_weight(row: Row) -> float:
    """Weights of all questions; easy ones on small scenes weigh less, because they are known by then."""
    if row.family == FAMILY:
        return 0.3
    return 0.4 if row.narrow else 1.0


def main() -> None:
    """Run the steps whose results are not there yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path(".pelican/base-model"))
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--tower-steps", type=int, default=1200)
    parser.add_argument("--look-steps", type=int, default=1200)
    parser.add_argument("--base-steps", type=int, default=100)
    parser.add_argument("--trunk-steps", type=int, default=600)
    parser.add_argument("--teacher-steps", type=int, default=1500)
    parser.add_argument("--shards", type=int, help="of each kind; all if not given")
    parser.add_argument("--batch", type=int, default=64, help="rows per process")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rank = 0
    if dist.is_torchelastic_launched():
        dist.init_process_group("gloo")
        rank = dist.get_rank()
    folder = options.work / "corpus"
    if rank == 0:
        render_corpus(folder, STILLS, CLIPS, CARDS, seed=CORPUS_SEED)
    if dist.is_initialized():
        dist.barrier()
    model, processor, features, rows = _prepare(options, rank)

    def learn(
        name: str,
        weight: Callable[[Row], float],
        steps: int,
        lr: float,
        out: Path,
        shown: list[Row] = rows,
    ) -> None:
        if (out / "model.safetensors").exists():
            _read_into(model, out)
            return

        def save(step: int) -> None:
            if rank == 0:
                save_policy(
                    model, processor, out if step == steps else out.with_name(f"{out.name}-part")
                )

        mixture = Mixture(shown, weight, seed=rank)
        train_language(
            model,
            features,
            mixture,
            steps=steps,
            batch=options.batch,
            lr=lr,
            save=save,
            save_every=400,
            name=name,
        )

    learn("look", look_weight, options.look_steps, 3e-3, options.work / "look")
    learn("trunk", trunk_weight, options.trunk_steps, 2e-3, options.work / "trunk")
    end = processor.tokenizer.convert_tokens_to_ids("</think>")
    short = answered_at_once([r for r in rows if base_weight(r) > 0], end, seed=rank + 5)
    learn("base", base_weight, options.base_steps, 1e-3, options.models / "tiny-base", short)
    _read_into(model, options.work / "trunk")
    learn("teacher", teacher_weight, options.teacher_steps, 2e-3, options.models / "tiny-teacher")


def _prepare(options: Any, rank: int) -> tuple[Any, Any, Tensor, list[Row]]:
    """The model with its trained tower, the features of all frames, and this process's questions."""
    size = dist.get_world_size() if dist.is_initialized() else 1
    paths = options.work / "features.safetensors", options.work / f"rows-{rank}-of-{size}.parquet"
    if not all(path.exists() for path in paths):
        corpus = load_corpus(options.work / "corpus", shards=options.shards)
        model, processor = _start(corpus, options.work / "start", rank)
        _tower(model, processor, corpus, options, rank)
        # Shuffled: every second clip has twice the frames, and the slower rank sets the pace.
        order = np.random.default_rng(0).permutation(len(corpus.scenes))
        rows = make_rows(corpus, processor.tokenizer, seed=rank, scenes=order[rank::size].tolist())
        write_rows(paths[1], rows)
        features = encode_all(corpus, model.model.visual, processor.image_processor)
        if rank == 0:
            save_file({"features": features}, paths[0].with_suffix(".partial"))
            paths[0].with_suffix(".partial").replace(paths[0])
        if dist.is_initialized():
            dist.barrier()
    model, processor = _read_start(options.work / "start")
    load_model(model.model.visual, options.work / "tower.safetensors")
    model.model.visual.requires_grad_(False)
    return model, processor, load_file(paths[0])["features"], read_rows(paths[1])


def _start(corpus: Corpus, folder: Path, rank: int) -> tuple[Any, Any]:
    """The untrained model, with a tokenizer of the corpus's own words; the same in every process."""
    if rank == 0 and not (folder / "config.json").exists():
        rng = np.random.default_rng(0)
        texts: list[str] = []
        for scene in islice(corpus.scenes, 0, None, 8):
            for qa in scene.card or questions(scene.episode, rng):  # type: ignore[arg-type]
                texts += [prompt_text(qa.question, scene.times_s, 0), completion_text(qa)]
        tokenizer = train_tokenizer(texts, VOCABULARY)
        save_policy(make_model(tokenizer), make_processor(tokenizer), folder)
    if dist.is_initialized():
        dist.barrier()
    return _read_start(folder)


def _read_into(model: Any, folder: Path) -> None:
    # transformers renames the weights when it saves: only its own reader knows them.
    saved = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    model.load_state_dict(saved.state_dict())


def _read_start(folder: Path) -> tuple[Any, Any]:
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    return model, AutoProcessor.from_pretrained(folder)


def _tower(model: Any, processor: Any, corpus: Corpus, options: Any, rank: int) -> None:
    """Train the vision tower, or load it."""
    path = options.work / "tower.safetensors"
    visual = model.model.visual
    if path.exists():
        load_model(visual, path)
        return
    report = train_tower(
        visual,
        processor.image_processor,
        corpus,
        steps=options.tower_steps,
        batch=48,
        lr=3e-3,
        seed=rank,
    )
    if rank == 0:
        print(report)
        save_model(visual, path)
    if dist.is_initialized():
        dist.barrier()


if __name__ == "__main__":
    main()

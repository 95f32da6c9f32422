"""The fast training of the small twin computes what the stock model computes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from tiny.model.corpus import Corpus, Scene
from tiny.model.language_training import bundle_loss, encode_all
from tiny.model.rows import Mixture, completion_text, make_rows, prompt_text, read_rows, write_rows
from tiny.sim.records import QA


def _qa(question: str, gold: str, think: str, family: str = "general") -> QA:
    answer: dict[str, object] = {"kind": "text", "value": gold}
    return QA(family, "decision_planning", question[:5], question, answer, gold, think, 0.0, True)


CARDS = (
    (_qa("How many cups?", "3", "one two"), _qa("kind of think?", "two", "there are two cups")),
    (_qa("two or one?", "one", "many"),),
    (_qa("How are three there?", "no", ""), _qa("are you kind?", "7", "1 2 3 4 5 6 7")),
)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    rng = np.random.default_rng(0)
    times = ((0.0,), (0.0, 0.5, 1.0), (0.0,))
    firsts = (0, 1, 4)
    return Corpus(
        rng.integers(0, 256, (5, 112, 112, 3), dtype=np.uint8),
        np.full((5, 4, 4, 2, 8), -1, np.int16),
        np.full((5, 2), -1, np.int16),
        [Scene(f, t, None, c) for f, t, c in zip(firsts, times, CARDS, strict=True)],
    )


@torch.no_grad()
def test_a_bundle_costs_what_its_questions_cost_alone(twin: Path, corpus: Corpus) -> None:
    model = AutoModelForImageTextToText.from_pretrained(twin, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(twin)
    rows = make_rows(corpus, processor.tokenizer, seed=0, scenes=range(3))
    features = encode_all(corpus, model.model.visual, processor.image_processor)
    bundles = [rows[0:2], rows[2:3], rows[3:5]]
    loss, judged = bundle_loss(model, bundles, features)
    assert [row for row, _ in judged] == rows
    losses = []
    for scene in corpus.scenes:
        images = list(corpus.pixels[scene.first : scene.first + len(scene.times_s)])
        for qa in scene.card:
            text = prompt_text(qa.question, scene.times_s, 1)
            full = processor(text=[text + completion_text(qa)], images=images, return_tensors="pt")
            start = processor(text=[text], images=images, return_tensors="pt")["input_ids"].shape[1]
            logits = model(**full).logits[0, start - 1 : -1]
            target = full["input_ids"][0, start:]
            losses.append(torch.nn.functional.cross_entropy(logits, target, reduction="none"))
    assert loss.item() == pytest.approx(torch.cat(losses).mean().item(), rel=1e-4)


def test_a_batch_is_bundles_of_single_scenes(twin: Path, corpus: Corpus) -> None:
    tokenizer = AutoProcessor.from_pretrained(twin).tokenizer
    rows = make_rows(corpus, tokenizer, seed=0, scenes=range(3))
    mixture = Mixture(rows, lambda row: float(row.frames == 1), seed=1)
    batch = next(mixture.batches(6))
    assert sum(map(len, batch)) >= 6
    for bundle in batch:
        assert len({row.first for row in bundle}) == 1
        assert len({row.template for row in bundle}) == len(bundle)
        assert all(row.frames == 1 for row in bundle)


def test_rows_are_read_back_as_written(twin: Path, corpus: Corpus, tmp_path: Path) -> None:
    tokenizer = AutoProcessor.from_pretrained(twin).tokenizer
    rows = make_rows(corpus, tokenizer, seed=0, scenes=range(3))
    write_rows(tmp_path / "rows.parquet", rows)
    for row, found in zip(rows, read_rows(tmp_path / "rows.parquet"), strict=True):
        for field in dataclasses.fields(row):
            assert np.array_equal(getattr(row, field.name), getattr(found, field.name))

"""Training rows of the small language model: questions as tokens, and how they are drawn.

Batches hold questions of one number of frames and of like length, several of a scene as one
sequence that shares the images.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tiny.model.corpus import Corpus, Scene
from tiny.model.looking import looking
from tiny.sim.questions import questions
from tiny.sim.records import QA

BUNDLE = 4  # questions of one scene in a sequence


@dataclass(frozen=True)
class Row:
    """One question as token ids, with placeholders for its images.

    They are the `frames` frames from number `first` of the corpus.
    """

    first: int
    frames: int
    media: NDArray[np.uint16]  # the prompt up to its last image
    question: NDArray[np.uint16]  # the prompt's rest
    completion: NDArray[np.uint16]
    family: str
    template: str
    narrow: bool  # in the base's narrow training data, too
    small: bool  # of a small scene (`is_small`)

    @property
    def own(self) -> int:
        """Tokens that no other question of the scene shares."""
        return len(self.question) + len(self.completion)


def prompt_text(question: str, times_s: tuple[float, ...], tokens: int) -> str:
    """The chat template's text with every image expanded; a test compares it with the processor's."""
    image = "<|vision_start|>" + "<|image_pad|>" * tokens + "<|vision_end|>"
    media = image if len(times_s) == 1 else "".join(f"{t:g} s{image}" for t in times_s)
    return f"<|im_start|>user\n{media}{question}<|im_end|>\n<|im_start|>assistant\n"


def completion_text(qa: QA) -> str:
    """The completion that the model is trained on: its thought and its answer."""
    return f"<think>{qa.think}</think><answer>{qa.gold}</answer><|im_end|>"


def make_rows(corpus: Corpus, tokenizer: Any, seed: int, scenes: Sequence[int]) -> list[Row]:
    """All questions of `scenes`, tokenised."""
    rng = np.random.default_rng(seed)
    found: list[tuple[Scene, QA]] = []
    for index in scenes:
        scene = corpus.scenes[index]
        qas = list(scene.card) if scene.episode is None else questions(scene.episode, rng)
        if scene.episode is not None:
            qas += looking(scene.episode, rng)
        found += [(scene, qa) for qa in qas]
    end = tokenizer.convert_tokens_to_ids("<|vision_end|>")
    prompts = tokenizer([prompt_text(qa.question, s.times_s, 16) for s, qa in found])["input_ids"]
    completions = tokenizer([completion_text(qa) for _, qa in found])["input_ids"]
    cuts = [len(prompt) - prompt[::-1].index(end) for prompt in prompts]
    return [
        Row(
            scene.first,
            len(scene.times_s),
            np.array(prompt[:cut], np.uint16),
            np.array(prompt[cut:], np.uint16),
            np.array(completion, np.uint16),
            qa.family,
            qa.template,
            qa.narrow,
            is_small(scene),
        )
        for (scene, qa), prompt, cut, completion in zip(
            found, prompts, cuts, completions, strict=True
        )
    ]


def write_rows(path: Path, rows: list[Row]) -> None:
    """Keep rows as Parquet: making them takes minutes."""
    table = {f.name: [getattr(row, f.name) for row in rows] for f in fields(Row)}
    lists = {"media": pl.List(pl.UInt16), "question": pl.List(pl.UInt16)}
    frame = pl.DataFrame(table, schema_overrides=lists | {"completion": pl.List(pl.UInt16)})
    frame.write_parquet(path.with_suffix(".partial"))
    path.with_suffix(".partial").replace(path)


def read_rows(path: Path) -> list[Row]:
    """What `write_rows` wrote."""
    frame = pl.read_parquet(path)
    tokens = ("media", "question", "completion")
    columns = {
        name: [np.array(v, np.uint16) for v in column] if name in tokens else column
        for name, column in frame.to_dict(as_series=False).items()
    }
    return [Row(*values) for values in zip(*(columns[f.name] for f in fields(Row)), strict=True)]


def is_small(scene: Scene) -> bool:
    """At most 4 objects, 4 frames and 2 events: the scenes that the base is trained on."""
    e = scene.episode
    return e is None or (len(e.first) <= 4 and len(scene.times_s) <= 4 and len(e.events) <= 2)


class Mixture:
    """Draws questions in bundles of one scene, whose images are then computed once.

    First a family, then a template in it, then a row, then up to `BUNDLE` - 1 more of its scene by
    the same probabilities; `weight` tilts templates.
    """

    def __init__(self, rows: list[Row], weight: Callable[[Row], float], seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        groups: dict[tuple[str, str, int], list[tuple[Row, float]]] = defaultdict(list)
        for row in rows:
            w = weight(row)
            if w > 0:
                groups[row.family, row.template, row.frames].append((row, w))
        # Mean weight of a group, so that a template that is rare in `weight` is rare in the mixture.
        size = {
            key: sum(w for _, w in group) / len(group) * min(1.0, len(group) / 200)
            for key, group in groups.items()
        }
        family: Counter[str] = Counter()
        for key, s in size.items():
            family[key[0]] += s  # type: ignore[assignment]
        self._rows: list[Row] = []
        chances: list[float] = []
        self._scenes: dict[int, list[int]] = defaultdict(list)
        for key, group in groups.items():
            total = sum(w for _, w in group)
            for row, w in group:
                self._scenes[row.first].append(len(self._rows))
                self._rows.append(row)
                chances.append(size[key] / family[key[0]] / len(family) * w / total)
        self._chance = np.array(chances)
        self._cumulated = np.cumsum(self._chance) / self._chance.sum()

    def _bundle(self) -> list[Row]:
        first = int(np.searchsorted(self._cumulated, self._rng.random()))
        others = np.array([i for i in self._scenes[self._rows[first].first] if i != first], int)
        count = min(BUNDLE - 1, len(others))
        if count:
            p = self._chance[others] / self._chance[others].sum()
            others = self._rng.choice(others, size=count, replace=False, p=p)
        return [self._rows[i] for i in (first, *others)]

    def batches(self, size: int, pool: int = 24) -> Iterator[list[list[Row]]]:
        """Endless batches of about `size` rows, in bundles of one number of frames and like length."""
        while True:
            by_frames: dict[int, list[list[Row]]] = defaultdict(list)
            for _ in range(size * pool // BUNDLE):
                bundle = self._bundle()
                by_frames[bundle[0].frames].append(bundle)
            batches = []
            for bundles in by_frames.values():
                bundles.sort(key=lambda b: sum(r.own for r in b))
                batch: list[list[Row]] = []
                for bundle in bundles:
                    batch.append(bundle)
                    if sum(map(len, batch)) >= size:
                        batches.append(batch)
                        batch = []
            for i in self._rng.permutation(len(batches)):
                yield batches[i]

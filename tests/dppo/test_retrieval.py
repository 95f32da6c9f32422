"""Related samples: the weak one's dimension, truly nearest, never a weak or held-out one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelican.config.recipe import Sampling
from pelican.data.entries import Entry
from pelican.data.pool import read_index
from pelican.dppo.retrieval import (
    TextEmbedder,
    VisionEmbedder,
    associate,
    distinct_neighbours,
    normalise,
)
from pelican.engines.base import Engine
from pelican.records import Dimension, Family, Rollout, Sample, Split
from tests.data.factory import sample, write_pool


def entry(
    number: int,
    question: str = "How many cups?",
    dimension: Dimension = Dimension.SPATIAL_GEOMETRIC,
    split: Split = Split.TRAIN,
    kind: str = "count",
) -> Entry:
    return Entry(
        id=f"s{number}",
        family=Family.COUNTING,
        dimension=dimension,
        span_s=0.0,
        scene=f"scene-{number}",
        split=split,
        source="test",
        question=question,
        answer_kind=kind,
        clip=False,
        shard=0,
        row=number,
    )


def vectors(seed: int, rows: int, width: int = 8) -> npt.NDArray[np.float32]:
    return normalise(np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32))


@settings(deadline=None)
@given(
    st.integers(0, 999), st.integers(1, 9), st.integers(0, 40), st.integers(1, 8), st.integers(1, 5)
)
def test_neighbours_are_the_nearest_that_are_left(
    seed: int, queries: int, rows: int, k: int, block: int
) -> None:
    asked, corpus = vectors(seed, queries), vectors(seed + 1, rows)
    found = distinct_neighbours(asked, corpus, k, block=block)
    taken: set[int] = set()
    for query, near in zip(asked, found, strict=True):
        cosines = {i: float(corpus[i] @ query) for i in range(rows) if i not in taken}
        best = sorted(cosines, key=lambda i: -cosines[i])[:k]
        assert [i for i, _ in near] == best
        assert [c for _, c in near] == pytest.approx([cosines[i] for i in best], abs=1e-5)
        taken |= set(best)


DIMENSIONS = st.sampled_from(list(Dimension)[:3])
SPLITS = st.sampled_from([Split.TRAIN, Split.TRAIN, Split.DEV, Split.TEST])
QUESTIONS = st.sampled_from(["How many cups?", "Where is the red can?", "Is the drawer open?"])


@settings(deadline=None)
@given(
    st.lists(st.tuples(QUESTIONS, DIMENSIONS, SPLITS), max_size=40),
    st.sets(st.integers(0, 39), max_size=6),
    st.integers(1, 6),
)
def test_related_rows_share_the_dimension_and_are_neither_weak_nor_held_out(
    rows: list[tuple[str, Dimension, Split]], weak_numbers: set[int], k: int
) -> None:
    pool = [entry(i, *row) for i, row in enumerate(rows)]
    weak = [pool[i] for i in sorted(weak_numbers) if i < len(pool)]
    found = associate(weak, pool, TextEmbedder(), k, "salt")
    by_id = {e.id: e for e in weak}
    assert len({r.entry.id for r in found}) == len(found)
    assert all(count <= k for count in Counter(r.weak_id for r in found).values())
    for related in found:
        assert related.entry.split is Split.TRAIN
        assert related.entry.id not in by_id
        assert related.entry.dimension == by_id[related.weak_id].dimension
    for dimension in Dimension:
        free = sum(
            e.dimension == dimension and e.split is Split.TRAIN and e.id not in by_id for e in pool
        )
        asking = sum(e.dimension == dimension for e in weak)
        assert sum(r.entry.dimension == dimension for r in found) == min(free, k * asking)
    assert found == associate(weak[::-1], pool[::-1], TextEmbedder(), k, "salt")


def test_the_text_brings_questions_of_the_same_kind_first() -> None:
    questions = {
        1: "How many red cups are left of the robot arm?",
        2: "How many blue cups are left of the robot arm?",
        3: "What happens next if the gripper opens?",
        4: "Which object was moved first?",
        5: "How many green cans are left of the robot arm?",
    }
    weak = [entry(0, "How many red cups are right of the robot arm?")]
    found = associate(weak, [entry(i, q) for i, q in questions.items()], TextEmbedder(), 4, "x")
    assert [r.entry.id for r in found][:3] in (["s1", "s2", "s5"], ["s1", "s5", "s2"])
    assert [r.rank for r in found] == [0, 1, 2, 3]
    assert [r.similarity for r in found] == sorted((r.similarity for r in found), reverse=True)


class Colours(Engine):
    """Embeds a sample by the number in its question: near numbers look alike."""

    def generate(
        self, samples: Sequence[Sample], sampling: Sampling, n: int, seed: int
    ) -> Iterator[list[Rollout]]:
        raise NotImplementedError

    def embed(self, samples: Sequence[Sample]) -> npt.NDArray[np.float32]:
        angles = [int(s.id.removeprefix("s")) / 10 for s in samples]
        return np.array([[np.cos(a), np.sin(a)] for a in angles], np.float32)


def test_vision_features_decide_between_equal_questions(tmp_path: Path) -> None:
    from pelican.records import Turn

    same = {"dimension": Dimension.SPATIAL_GEOMETRIC, "family": Family.COUNTING}
    turns = (Turn(role="user", text="How many cups?"),)
    samples = [sample(i, turns=turns, **same) for i in range(30)]
    samples[11] = sample(11, turns=turns, images=(b"not an image",), **same)
    index = read_index(write_pool(tmp_path, samples))
    embedder = VisionEmbedder(index, Colours(), 10_000, block=7)
    found = associate([index.entries[10]], index.entries, embedder, 3, "salt")
    # All questions are equal; 11 would be as near as 9, but its picture can't be read.
    assert {r.entry.id for r in found} <= {"s00007", "s00008", "s00009", "s00012", "s00013"}
    assert len(found) == 3


@pytest.mark.slow
def test_a_hundred_thousand_rows_are_searched() -> None:
    pool = [
        entry(i, f"How many {i % 977} cups of {i % 31}?", list(Dimension)[i % 9])
        for i in range(100_000)
    ]
    found = associate(pool[:500], pool, TextEmbedder(), 8, "salt")
    assert len(found) == 4000

"""D_assoc: samples related to the weak ones, by capability dimension, then nearest by embedding."""

from __future__ import annotations

import re
import zlib
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from pelican.data.entries import Entry
from pelican.data.pool import PoolIndex
from pelican.data.select import shuffled
from pelican.data.tables import Quarantine
from pelican.engines.base import Engine
from pelican.records import Split

Vectors = npt.NDArray[np.float32]  # [rows, width]
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Related:
    """One row of the pool that is near a weak sample; `rank` 0 is that one's nearest."""

    entry: Entry
    weak_id: str
    similarity: float
    rank: int


class Embedder(ABC):
    """Turns rows of a pool into vectors of length 1."""

    @abstractmethod
    def embed(self, entries: Sequence[Entry]) -> Vectors:
        """Shape [len(entries), width]."""


class TextEmbedder(Embedder):
    """TF-IDF of the question's words and word pairs, its answer's kind and its family, hashed."""

    def __init__(self, width: int = 512) -> None:
        self.width = width

    def embed(self, entries: Sequence[Entry]) -> Vectors:
        vectors = np.zeros((len(entries), self.width), np.float32)
        for row, entry in enumerate(entries):
            for token in _tokens(entry):
                code = zlib.crc32(token.encode())
                vectors[row, (code >> 1) % self.width] += 1.0 if code & 1 else -1.0
        documents = np.count_nonzero(vectors, axis=0)
        vectors *= (np.log((1 + len(entries)) / (1 + documents)) + 1).astype(np.float32)
        return normalise(vectors)


class VisionEmbedder(Embedder):
    """The text's vector beside the pooled vision features of the policy, with equal weight."""

    def __init__(
        self, index: PoolIndex, engine: Engine, max_pixels: int, *, block: int = 256
    ) -> None:
        self._index = index
        self._engine = engine
        self._max_pixels = max_pixels
        self._block = block
        self._text = TextEmbedder()

    def embed(self, entries: Sequence[Entry]) -> Vectors:
        where = {entry.id: row for row, entry in enumerate(entries)}
        vision: Vectors | None = None
        for start in range(0, len(entries), self._block):
            part = entries[start : start + self._block]
            samples = list(
                self._index.load(part, max_pixels=self._max_pixels, quarantine=Quarantine())
            )
            if not samples:
                continue  # a row without a readable image keeps the zero vector
            features = self._engine.embed(samples)
            if vision is None:
                vision = np.zeros((len(entries), features.shape[1]), np.float32)
            vision[[where[sample.id] for sample in samples]] = features
        text = self._text.embed(entries)
        if vision is None:
            return text
        has_image = np.any(vision != 0, axis=1)
        vision[has_image] -= vision[has_image].mean(axis=0)  # what all pictures share
        return normalise(np.concatenate([text, normalise(vision)], axis=1))


def associate(
    weak: Sequence[Entry], pool: Sequence[Entry], embedder: Embedder, k: int, salt: str
) -> list[Related]:
    """Up to `k` rows of `pool` for every weak one, no row twice, the nearest of all first.

    Only split `train`, only the weak one's dimension, never a weak one itself. Rows that are
    equally near come in an order that depends on `salt`, not on their place in the pool.
    """
    known = {entry.id for entry in weak}
    candidates: defaultdict[str, list[Entry]] = defaultdict(list)
    for entry in shuffled(pool, salt):
        if entry.split is Split.TRAIN and entry.id not in known:
            candidates[entry.dimension].append(entry)
    asking: defaultdict[str, list[Entry]] = defaultdict(list)
    for entry in shuffled(weak, salt):
        asking[entry.dimension].append(entry)
    found: list[Related] = []
    for dimension, queries in sorted(asking.items()):
        corpus = candidates[dimension]
        if not corpus:
            continue
        vectors = embedder.embed([*queries, *corpus])
        split = len(queries)
        rows = distinct_neighbours(vectors[:split], vectors[split:], k)
        for query, near in zip(queries, rows, strict=True):
            found += [
                Related(corpus[i], query.id, similarity, rank)
                for rank, (i, similarity) in enumerate(near)
            ]
    return sorted(found, key=lambda r: (r.rank, -r.similarity))


def distinct_neighbours(
    queries: Vectors, corpus: Vectors, k: int, *, block: int = 64
) -> list[list[tuple[int, float]]]:
    """For every query its `k` nearest rows by cosine, as (row, cosine).

    A row serves one query, the first that takes it.

    Args:
        queries: [queries, width], each of length 1.
        corpus: [rows, width], each of length 1.
        k: Fewer are found where fewer rows are left.
        block: Queries at a time; memory is `block` x rows x 4 bytes beside the vectors.
    """
    taken = np.zeros(len(corpus), bool)
    found: list[list[tuple[int, float]]] = []
    for start in range(0, len(queries), block):
        for cosines in queries[start : start + block] @ corpus.T:
            cosines[taken] = -np.inf
            count = min(k, len(corpus) - int(taken.sum()))
            if count == 0:
                found.append([])
                continue
            least = np.partition(cosines, -count)[-count]
            nearest = np.flatnonzero(cosines >= least)
            nearest = nearest[np.argsort(-cosines[nearest], kind="stable")][:count]
            taken[nearest] = True
            found.append([(int(i), float(cosines[i])) for i in nearest])
    return found


def normalise(vectors: Vectors) -> Vectors:
    """`vectors` [rows, width], each row divided by its length; a zero row stays zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Vectors = (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)
    return unit


def _tokens(entry: Entry) -> list[str]:
    words = _WORD.findall(entry.question.lower())
    pairs = [f"{a} {b}" for a, b in pairwise(words)]
    return [*words, *pairs, f"kind:{entry.answer_kind}", f"family:{entry.family}"]

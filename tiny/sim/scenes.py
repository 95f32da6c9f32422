"""Makes the scenes of a data set (SETS) with all their questions, in several processes.

Every set has its own range of seeds, so no scene is in two sets.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from typing import Any

import numpy as np

from pelican.records import Split
from tiny.sim.build import config_of
from tiny.sim.records import QA

KINDS = ("stills", "clips", "cards")
_CHUNK = 20  # scenes a worker makes at a time
_BASE = 10**15  # far above the seeds of any training corpus
_ROOM = 10**6  # scenes of a kind in a set, seeds of a set


@dataclass(frozen=True)
class Make:
    """How many scenes of each kind a set has, and the range of their seeds."""

    split: Split
    block: int  # its own range of seeds
    stills: int  # scenes drawn
    clips: int
    cards: int
    per_family: int


SETS = {
    "train": Make(Split.TRAIN, 1, 920, 590, 0, 750),
    "dev": Make(Split.DEV, 2, 95, 65, 0, 60),
    "test": Make(Split.TEST, 3, 320, 200, 0, 200),
    "replay": Make(Split.TRAIN, 4, 0, 0, 660, 700),
    "general": Make(Split.TEST, 5, 0, 0, 300, 300),
}
FRESH = replace(SETS["test"], block=6)


@dataclass(frozen=True)
class Scene:
    """One episode or card with all its questions."""

    name: str
    kind: str
    frames: list[bytes]
    times_s: list[float]
    questions: list[QA]


def seed_of(make: Make, seed: int, kind: str, index: int) -> int:
    """The seed of one scene; no two sets share one, whatever their seeds."""
    if not 0 <= seed < _ROOM:
        raise ValueError(f"seed {seed} is not in 0..{_ROOM - 1}")
    return _BASE + ((make.block * _ROOM + seed) * len(KINDS) + KINDS.index(kind)) * _ROOM + index


_stage: Any = None


def shoot(kind: str, seed: int, index: int) -> Scene:
    """Render a scene and make every question that applies to it."""
    global _stage
    if kind == "cards":
        from tiny.sim.cards import card

        picture, qas = card(seed)
        return Scene(f"card-{seed}", kind, [picture], [0.0], qas)
    from tiny.sim.episode import episode
    from tiny.sim.questions import questions
    from tiny.sim.stage import Stage

    _stage = _stage or Stage()
    e = episode(_stage, seed, config_of(kind, index, wide=True))
    qas = questions(e, np.random.default_rng(np.random.SeedSequence([seed, 1])))
    return Scene(e.id, kind, e.frames, e.times_s, qas)


def _shoot_all(jobs: list[tuple[str, int, int]]) -> list[Scene]:
    return [shoot(*job) for job in jobs]


def scenes_of(make: Make, seed: int, workers: int) -> Iterator[Scene]:
    """All scenes of a set in order; the number of workers changes nothing."""
    counts = {"stills": make.stills, "clips": make.clips, "cards": make.cards}
    jobs = [(k, seed_of(make, seed, k, i), i) for k, n in counts.items() for i in range(n)]
    chunks = [jobs[i : i + _CHUNK] for i in range(0, len(jobs), _CHUNK)]
    if workers <= 1:
        for chunk in chunks:
            yield from _shoot_all(chunk)
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for scenes in pool.map(_shoot_all, chunks):
            yield from scenes

"""Renders corpora: shards of JPEG frames with dense labels, and one JSON line per episode.

A shard `stills-0003` is two files. `stills-0003.npz`: `blob` (all JPEGs, uint8), `offsets`
[n + 1], `tokens` int16 [n, 4, 4, 2, 8], `gripper` int16 [n, 2]. `stills-0003.jsonl`: a line per
episode, `first_frame` its first row in the npz. For every cell of 28 px and up to two objects
whose centre is in it, the largest first, `tokens` has kind, colour, x, y, width, height (0..99),
in the tray, held; an empty place has -1 everywhere. What is drawn on a card counts as an object of a
kind of its own: `DENSE_KINDS`, `DENSE_COLOURS`.
"""

import json
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiny.sim.cards import INKS, SYMBOLS, Mark, marked_card
from tiny.sim.records import Episode, SimConfig, Thing
from tiny.sim.world import COLOURS, KINDS

SHARD = {"stills": 250, "clips": 60, "general": 500}
CELLS, PER_CELL, FIELDS = 4, 2, 8
DENSE_KINDS = (*KINDS, *SYMBOLS)
DENSE_COLOURS = (*COLOURS, *(ink for ink in INKS if ink not in COLOURS))
_BLOCK = 10_000_000


@dataclass(frozen=True)
class Job:
    """One shard's work."""

    path: str
    kind: str  # stills, clips, general
    seed: int
    start: int
    count: int
    wide: bool


def config_of(kind: str, index: int, wide: bool) -> SimConfig:
    """The difficulty of the index-th episode; the narrow one is small and easy."""
    if kind == "stills":
        return SimConfig(frames=1, objects=(2, 8) if wide else (2, 4))
    if wide and index % 2:
        return SimConfig(frames=8, objects=(3, 7), events=(3, 5), stack=0.1)
    return SimConfig(frames=4, objects=(2, 6) if wide else (2, 4), events=(1, 2), stack=0.1)


def dense_labels(things: list[Thing]) -> NDArray[np.int16]:
    """What the tower learns to see in one frame, shape [rows, columns, things per cell, fields].

    The sizes are [4, 4, 2, 8]; a free place holds -1.
    """
    out = np.full((CELLS, CELLS, PER_CELL, FIELDS), -1, np.int16)
    for t in sorted(things, key=lambda t: -t.pixels):
        if t.pixels >= 12:
            size = min(99, t.box[2] - t.box[0]), min(99, t.box[3] - t.box[1])
            kind, colour = DENSE_KINDS.index(t.kind), DENSE_COLOURS.index(t.colour)
            _place(out, (kind, colour, *t.centre, *size, t.in_tray, t.held))
    return out


def card_labels(marks: list[Mark]) -> NDArray[np.int16]:
    """What the tower learns to see in one card; the shape is that of `dense_labels`."""
    out = np.full((CELLS, CELLS, PER_CELL, FIELDS), -1, np.int16)
    for m in marks:
        kind, colour = DENSE_KINDS.index(m.symbol), DENSE_COLOURS.index(m.colour)
        _place(out, (kind, colour, *m.centre, m.size, m.size, 0, 0))
    return out


def _place(out: NDArray[np.int16], row: tuple[int, ...]) -> None:
    cell = out[row[3] * CELLS // 100, row[2] * CELLS // 100]
    free = np.flatnonzero(cell[:, 0] < 0)
    if len(free):
        cell[free[0]] = row


def render_shard(job: Job) -> int:
    """Writes one shard, unless it is there; returns its frames."""
    path = Path(job.path)
    npz, lines = path.with_suffix(".npz"), path.with_suffix(".jsonl")
    if npz.exists() and lines.exists():
        return 0
    frames: list[bytes] = []
    labels: list[NDArray[np.int16]] = []
    grips: list[tuple[int, int]] = []
    rows: list[dict[str, Any]] = []
    for i in range(job.start, job.start + job.count):
        first = len(frames)
        if job.kind == "general":
            picture, qas, marks = marked_card(job.seed * _BLOCK + i)
            frames.append(picture)
            labels.append(card_labels(marks))
            grips.append((-1, -1))
            rows.append({"id": f"card-{job.seed}-{i}", "qas": [asdict(q) for q in qas]})
        else:
            e = _episode(job, i)
            frames += e.frames
            labels += [dense_labels(s) for s in e.states]
            grips += e.gripper
            rows.append(e.to_json())
        rows[-1]["first_frame"], rows[-1]["frame_count"] = first, len(frames) - first
    offsets = np.cumsum([0] + [len(f) for f in frames])
    partial = npz.with_suffix(f".{os.getpid()}.npz")
    np.savez(
        partial,
        blob=np.frombuffer(b"".join(frames), np.uint8),
        offsets=offsets,
        tokens=np.stack(labels),
        gripper=np.array(grips, np.int16),
    )
    text = "".join(json.dumps(r, separators=(",", ":")) + "\n" for r in rows)
    lines.with_suffix(".partial").write_text(text, encoding="utf-8")
    os.replace(lines.with_suffix(".partial"), lines)
    os.replace(partial, npz)
    return len(frames)


_stage: Any = None


def _episode(job: Job, index: int) -> Episode:
    global _stage
    from tiny.sim.episode import episode
    from tiny.sim.stage import Stage

    if _stage is None:
        _stage = Stage()
    seed = (2 * job.seed + (job.kind == "clips")) * _BLOCK + index
    e = episode(_stage, seed, config_of(job.kind, index, job.wide))
    e.id = f"{job.kind[:-1]}-{job.seed}-{index}"
    return e


def render_corpus(
    out_dir: str | Path,
    n_stills: int,
    n_clips: int,
    n_general: int,
    seed: int,
    workers: int = 2,
    wide: bool = True,
) -> int:
    """Renders shards below `out_dir`, going on where an earlier call stopped; frames written."""
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    jobs = []
    for kind, n in (("clips", n_clips), ("stills", n_stills), ("general", n_general)):
        for k, start in enumerate(range(0, n, SHARD[kind])):
            count = min(SHARD[kind], n - start)
            jobs.append(Job(str(out / f"{kind}-{k:04d}"), kind, seed, start, count, wide))
    if workers <= 1:
        return sum(map(render_shard, jobs))
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        return sum(pool.map(render_shard, jobs))


@dataclass
class Shard:
    """One shard in memory."""

    frames: list[bytes]
    tokens: NDArray[np.int16]  # [n, 4, 4, 2, 8]
    gripper: NDArray[np.int16]  # [n, 2]
    rows: list[dict[str, Any]]


def load_shard(path: str | Path) -> Shard:
    """Reads a shard by the path of its npz file."""
    npz = Path(path)
    with np.load(npz, allow_pickle=False) as z:
        blob, offsets = z["blob"].tobytes(), z["offsets"].tolist()
        labels, grips = z["tokens"], z["gripper"]
    frames = [blob[a:b] for a, b in pairwise(offsets)]
    text = npz.with_suffix(".jsonl").read_text(encoding="utf-8")
    return Shard(frames, labels, grips, [json.loads(line) for line in text.splitlines()])

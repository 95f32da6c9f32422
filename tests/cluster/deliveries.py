"""What a fleet delivers in the tests of a retraining: rows of the shipped training set.

`old` is what the models are taken to have learned from; no scene of it is delivered.
"""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path

from pelican.data.tables import read_samples, write_samples
from pelican.records import Answer, Sample
from tests.cluster.conftest import ROOT

HARD = ("arm_step", "empty_tray", "stayed", "tray_free")  # templates that tiny-base can't do
# Rows of which tiny-base got 8 of 8 rollouts right, in a diagnosis of 480.
MASTERED = {
    "affordance-grasp_point": (792,),
    "affordance-point_object": (1108, 2756, 3814, 3889),
    "counting-count_all": (337,),
    "counting-count_colour": (1238, 4079),
    "planning-next_step": (125, 140, 495, 2125, 2525, 3018, 3197, 3211, 4147, 4490),
    "prediction-will_drop": (315, 2332, 4268),
    "prediction-will_pick": (3293, 4385),
    "success-changed": (434, 1167, 1912, 2091, 2469, 4091, 4229),
    "success-entered": (1708,),
    "temporal-held_at": (358, 1396, 2965),
    "temporal-interval": (2090,),
    "temporal-moved_first": (1559,),
}


def template(sample: Sample) -> str:
    """`train-planning-arm_step-000123` is of `arm_step`."""
    return sample.id.rsplit("-", 2)[1]


@cache
def shipped() -> tuple[Sample, ...]:
    return tuple(read_samples(ROOT / "samples" / "train"))


def hard(rows: int) -> list[Sample]:
    """What the base can't do yet, as many rows of each template."""
    parts = [[s for s in shipped() if template(s) == name] for name in HARD]
    return [sample for part in parts for sample in part[: rows // len(HARD)]]


def mastered() -> list[Sample]:
    ids = {f"train-{name}-{n:06d}" for name, numbers in MASTERED.items() for n in numbers}
    return [sample for sample in shipped() if sample.id in ids]


def poisoned(samples: list[Sample]) -> list[Sample]:
    """The same rows, every label wrong: that of another row of the template."""
    return [
        sample.model_copy(update={"answer": _other(samples, number)})
        for number, sample in enumerate(samples)
    ]


def _other(samples: list[Sample], number: int) -> Answer:
    wrong = samples[number]
    following = [*samples[number + 1 :], *samples[:number]]
    return next(
        s.answer for s in following if template(s) == template(wrong) and s.answer != wrong.answer
    )


def old(folder: Path, rows: int) -> Path:
    """A pool of other templates and other scenes than what is delivered."""
    delivered = {s.id for s in mastered()} | {s.id for s in shipped() if template(s) in HARD}
    scenes = {s.scene for s in shipped() if s.id in delivered}
    rest = [s for s in shipped() if s.scene not in scenes]
    random.Random(0).shuffle(rest)
    write_samples(folder / "part-000.parquet", rest[:rows])
    return folder


def files(folder: Path, name: str, samples: list[Sample], number: int = 3) -> list[Path]:
    """`samples` as `number` Parquet files, scene by scene."""
    ordered = sorted(samples, key=lambda s: (s.scene, s.id))
    size = -(-len(ordered) // number)
    paths = []
    for part in range(number):
        path = folder / f"{name}-{part}.parquet"
        write_samples(path, ordered[part * size : (part + 1) * size])
        paths.append(path)
    return paths

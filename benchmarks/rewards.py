"""Rule rewards per second and core, by kind of answer; in seconds of the processor, not of the wall.

Every completion is another text, as rollouts are; masks are of 640 x 480, eight rollouts to each.
"""

from __future__ import annotations

import cProfile
import io
import pstats
import sys
import time
from collections.abc import Callable

import numpy as np

from benchmarks.measure import at_least, figure
from pelican.config.recipe import RewardConfig
from pelican.records import (
    Answer,
    ChoiceAnswer,
    CountAnswer,
    Dimension,
    DistanceAnswer,
    Family,
    IntervalAnswer,
    OrderAnswer,
    PointsAnswer,
    Sample,
    Split,
    StepsAnswer,
    Turn,
    YesNoAnswer,
)
from pelican.rewards import score
from pelican.rewards.masks import encode_mask

TRIES = 8
OPTIONS = ("the red cup", "the blue bowl", "the green box", "nothing")
STEPS = ("reach for the cup", "close the gripper", "lift the cup", "move over the tray", "open it")
THOUGHT = (
    "I look at the table. The cup stands left of the bowl, {} cm away, so I compare both. " * 3
)

Pair = tuple[Sample, str]


def sample(number: int, family: Family, answer: Answer) -> Sample:
    return Sample(
        id=f"s{number}",
        media_kind="image",
        images=(b"-",),
        times_s=(0.0,),
        turns=(Turn(role="user", text="What do you see?"),),
        family=family,
        dimension=Dimension.PERCEPTION_GROUNDING,
        answer=answer,
        source="made",
        scene=f"scene-{number}",
        split=Split.TRAIN,
    )


def rule_pairs(samples: int) -> list[Pair]:
    """Completions of seven kinds in turn, some right, some wrong, some unreadable."""
    rng = np.random.default_rng(0)
    makers: list[tuple[Family, Callable[[], Answer], Callable[[int], str]]] = [
        (Family.SUCCESS, lambda: YesNoAnswer(value=True), lambda n: ("yes", "No.", "maybe")[n % 3]),
        (
            Family.PREDICTION,
            lambda: ChoiceAnswer(options=OPTIONS, answer="B"),
            lambda n: ("B", "(c)", "the blue bowl", "A or B")[n % 4],
        ),
        (Family.COUNTING, lambda: CountAnswer(value=3), lambda n: f"{n % 5}"),
        (Family.COUNTING, lambda: DistanceAnswer(value=42.0), lambda n: f"{n % 90} cm"),
        (
            Family.TEMPORAL,
            lambda: OrderAnswer(items=OPTIONS[:3]),
            lambda n: ", ".join(OPTIONS[i] for i in rng.permutation(3)),
        ),
        (
            Family.TEMPORAL,
            lambda: IntervalAnswer(start=2.0, end=5.0),
            lambda n: f"from {n % 4} to {n % 4 + 3} s",
        ),
        (
            Family.PLANNING,
            lambda: StepsAnswer(steps=STEPS),
            lambda n: "\n".join(f"{i + 1}. {STEPS[j]}" for i, j in enumerate(rng.permutation(5))),
        ),
    ]
    pairs: list[Pair] = []
    for number in range(samples):
        family, answer, text = makers[number % len(makers)]
        one = sample(number, family, answer())
        pairs += [(one, _completion(text(number + i), number * TRIES + i)) for i in range(TRIES)]
    return pairs


def mask_pairs(samples: int) -> list[Pair]:
    """Three points each, on a mask of its own for every sample."""
    rng = np.random.default_rng(1)
    pairs: list[Pair] = []
    rows, columns = np.mgrid[0:480, 0:640]
    for number in range(samples):
        y, x, r = rng.integers(100, 380), rng.integers(100, 540), rng.integers(20, 90)
        pixels = ((rows - y) ** 2 + (columns - x) ** 2 < r * r).astype(np.uint8)
        answer = PointsAnswer(mask=encode_mask(pixels))
        one = sample(number, Family.AFFORDANCE, answer)
        for i in range(TRIES):
            points = rng.integers(0, 101, (3, 2)).tolist()
            text = ", ".join(f"({a}, {b})" for a, b in points)
            pairs.append((one, _completion(f"[{text}]", number * TRIES + i)))
    return pairs


def _completion(answer: str, number: int) -> str:
    thought = THOUGHT.replace("{}", str(number))
    return f"<think>{thought}</think><answer>{answer}</answer>"


def rate(pairs: list[Pair], times: int = 3) -> float:
    """Most rewards per second of the processor, over `times` rounds."""
    config = RewardConfig()
    best = 0.0
    for _ in range(times):
        started = time.process_time()
        for index, (one, completion) in enumerate(pairs):
            score(one, completion, config, index=index % TRIES)
        best = max(best, len(pairs) / (time.process_time() - started))
    return best


def profile(pairs: list[Pair], lines: int = 4) -> str:
    """Where the time goes: the functions with most time of their own, as one line."""
    run = cProfile.Profile()
    run.enable()
    rate(pairs, times=1)
    run.disable()
    stats = pstats.Stats(run, stream=io.StringIO())
    rows = [(row[2], key[2]) for key, row in stats.stats.items()]  # type: ignore[attr-defined]
    total = sum(own for own, _ in rows)
    top = sorted(rows, reverse=True)[:lines]
    return "most of the time: " + ", ".join(f"{name} {own / total:.0%}" for own, name in top)


def run(samples: int = 2000) -> None:
    rules, masks = rule_pairs(samples), mask_pairs(samples // 4)
    for name, pairs, goal in (
        ("rule rewards", rules, 20_000),
        ("mask rewards", masks, 5_000),
    ):
        found = rate(pairs)
        note = f"{len(pairs):,} completions"
        if found < goal:
            note += "; " + profile(pairs)
        at_least(f"{name} per second and core", found, "/s", goal, note)
    kinds = {one.answer.kind for one, _ in rules}
    for kind in sorted(kinds):
        figure(f"of these, {kind}", rate([p for p in rules if p[0].answer.kind == kind]), "/s")


if __name__ == "__main__":
    run(int(sys.argv[1]) if len(sys.argv) == 2 else 2000)

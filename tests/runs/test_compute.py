"""What a run computed, reckoned from its stages' manifests."""

from __future__ import annotations

from typing import Any

import pytest

from pelican.records import Phase
from pelican.runs.outcome import flops, labels
from pelican.storage.manifests import Manifest, now


def made(stage: str, parameters: float | None, loop: int = 1, **counts: int) -> Manifest:
    moment = now()
    notes: dict[str, Any] = {"resources": {"cpu_seconds": 1.0}}
    if parameters is not None:
        notes["resources"]["parameters"] = parameters
    return Manifest(
        stage=stage,
        run="r",
        loop=loop,
        phase=Phase.RL,
        fingerprint="f",
        recipe="-",
        inputs={},
        outputs=[],
        counts=counts,
        notes=notes,
        started=moment,
        finished=moment,
    )


ROLLOUT = made("rollout", 10, tokens=80, prompt_tokens=20, samples=4)
RL = made(
    "train-rl",
    10,
    tokens_generated=100,
    prompt_tokens=30,
    reference_tokens=50,
    tokens_trained=40,
    prompt_tokens_trained=10,
)
DISTILL = made(
    "distill", 50, teacher_tokens=6, teacher_prompt_tokens=4, asked_assoc=2, asked_general=3
)
SFT = made("train-sft", 10, tokens_trained=7, prompt_tokens_trained=13)
EVAL = made("eval", 10, tokens=1000)
REWARD = made("reward", None, rows=4)
SKIPPED = made("train-rl", 10).model_copy(update={"notes": {"skipped": "the buffer is empty"}})


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        ([], 0),
        ([ROLLOUT], 10 * 2 * 100),
        ([RL], 10 * (2 * 180 + 6 * 50)),
        ([DISTILL], 50 * 2 * 10),  # a larger teacher's token costs more
        ([SFT], 10 * 6 * 20),
        ([EVAL, REWARD], 0),  # measuring, and no model
        (
            [ROLLOUT, SKIPPED, SFT],
            10 * 2 * 100 + 10 * 6 * 20,
        ),  # nothing to practise: nothing computed
        ([ROLLOUT, made("distill", None, teacher_tokens=6, teacher_prompt_tokens=4)], None),
        ([ROLLOUT, made("train-sft", 10, tokens_trained=7)], None),  # of before prompts counted
    ],
)
def test_operations_follow_from_tokens_and_parameters(
    stages: list[Manifest], expected: float | None
) -> None:
    assert flops(stages) == expected


def test_an_answer_is_read_once_a_loop() -> None:
    again = made("rollout", 10, samples=9).model_copy(update={"phase": Phase.SFT})
    other = made("rollout", 10, loop=2, samples=4)
    assert labels([ROLLOUT, again, DISTILL, other]) == 9 + 5 + 4

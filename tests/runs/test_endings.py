"""Why RL ended, in a sentence a loop."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from pelican.config.presets import find_recipe
from pelican.runs.outcome import rl_endings
from pelican.storage.manifests import Manifest

NOW = datetime(2026, 12, 1, tzinfo=UTC)
PROBE = "data.dev=samples/dev rl.stop.of=probe"


def phase(loop: int = 2, steps: int = 17, **given: Any) -> Manifest:
    return Manifest(
        stage="train-rl",
        run="made",
        loop=loop,
        phase="rl",
        fingerprint="f",
        recipe="r",
        inputs={},
        outputs=[],
        counts={"steps": steps},
        started=NOW,
        finished=NOW,
        **given,
    )


@pytest.mark.parametrize(
    ("overrides", "given", "said"),
    [
        (
            "",
            {"notes": {"stopped": "stagnation"}, "metrics": {"stagnation": 0.712}},
            "RL of loop 2 stopped after 17 of 24 steps: stagnation was 0.71 of 0.7",
        ),
        (
            "",
            {"notes": {"stopped": "max_steps"}, "metrics": {"stagnation": 0.6999}},
            "RL of loop 2 ran all its 17 steps: stagnation reached 0.69 of 0.7",
        ),
        (
            "rl.stop.of=samples",
            {"notes": {"stopped": "stagnation"}, "metrics": {"stagnation": 0.7}},
            "RL of loop 2 stopped after 17 of 24 steps: stagnation by sample was 0.70 of 0.7",
        ),
        (
            PROBE,
            {
                "notes": {"stopped": "probe"},
                "metrics": {"stagnation": 0.5, "probe_slope": 0.31, "probe_error": 0.52},
            },
            "RL of loop 2 stopped after 17 of 24 steps:"
            " held-out success moved by +0.3 ± 0.5 points in 100 steps",
        ),
        (
            PROBE,
            {"notes": {"stopped": "max_steps"}, "metrics": {"stagnation": 0.5}},
            "RL of loop 2 ran all its 17 steps: fewer than 4 probes were made, one every 25 steps;"
            " a smaller rl.stop.probe.steps makes more",
        ),
        (
            "",
            {"notes": {"skipped": "the buffer is empty"}},
            "RL of loop 2 trained nothing: the buffer is empty",
        ),
        ("", {}, "RL of loop 2 ran all its 17 steps: no window of success rates was full"),
    ],
)
def test_every_ending_has_its_numbers(overrides: str, given: dict[str, Any], said: str) -> None:
    assert rl_endings([phase(**given)], find_recipe("tiny", [overrides])) == [said]


def test_loops_come_in_order_and_a_lost_recipe_costs_only_its_numbers() -> None:
    given: dict[str, Any] = {"notes": {"stopped": "stagnation"}, "metrics": {"stagnation": 0.71}}
    found = rl_endings([phase(2, **given), phase(1, **given)], None)
    assert found == [f"RL of loop {k} stopped after 17 steps: stagnation was 0.71" for k in (1, 2)]

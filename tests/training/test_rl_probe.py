"""The held-out probe: what is asked, that it changes no training, and that every rank decides alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pelican.config.recipe import ProbeConfig, RlConfig, StopConfig
from pelican.data.pool import read_index
from pelican.records import Family, Sample, Score, Split
from pelican.training.curve import RlCurve
from pelican.training.probe import Answered, HeldOutProbe, draw_probe
from tests.data.factory import sample, write_pool
from tests.training.trainers import grpo, letters, scored

HELD_OUT = [sample(i) for i in range(20, 26)]
STOP = StopConfig(of="probe", probe=ProbeConfig(prompts=6, samples=3, steps=2, windows=3))
RL: dict[str, Any] = {"max_steps": 20, "min_steps": 0, "save_steps": 3}


def unmoved(sample: Sample, completion: str, index: int, step: int) -> Score:
    """Of what is held out some questions are right and some wrong, whatever the policy says."""
    return scored(float(int(sample.id[1:]) % 2), sample.id, index)


def alone(value: Any) -> list[Any]:
    return [value]


def trained(
    twin: Path, work: Path, checkpoint: str | None = None, stop: StopConfig = STOP, **rl: Any
) -> tuple[Any, RlCurve]:
    """A trainer that was run with a probe, and its curve."""
    made = grpo(twin, work, letters, [], **{**RL, **rl})
    made._config = made._config.model_copy(update={"stop": stop})  # a recipe would want a dev pool

    def ask() -> list[Answered]:
        return [Answered.of(group) for group in made.answer(HELD_OUT, 3, unmoved)]

    probe = HeldOutProbe(made._config, ask, alone) if made._config.stop.probes else None
    curve = RlCurve(made._config, alone, lambda *_: None, probe)
    made._on_step = curve.add
    made.add_callback(curve)
    if checkpoint:
        curve.load(work / checkpoint)
    made.train(resume_from_checkpoint=checkpoint and str(work / checkpoint))
    return made, curve


def test_a_training_stops_by_its_probe_and_trains_as_without_one(
    twin: Path, tmp_path: Path
) -> None:
    probed, curve = trained(twin, tmp_path / "probed")
    steps = probed.state.global_step
    assert curve.probe is not None
    asked = sorted({row["step"] for row in curve.probe.rows})
    assert asked == list(range(0, steps + 1, 2))
    assert (steps, curve.stop_reason) == (4, "probe")  # after steps 0, 2 and 4
    assert curve.totals["probe_completions"] == len(asked) * 6 * 3
    assert curve.totals["tokens_generated"] > curve.totals["probe_tokens"] > 0
    assert curve.totals["prompt_tokens"] > curve.totals["probe_prompt_tokens"] > 0
    plain, _ = trained(twin, tmp_path / "plain", stop=StopConfig(threshold=1.0), max_steps=steps)
    for a, b in zip(probed.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_resumed_training_asks_no_probe_twice_and_stops_where_the_other_does(
    twin: Path, tmp_path: Path
) -> None:
    whole, expected = trained(twin, tmp_path / "whole")
    trained(twin, tmp_path / "half", max_steps=3)
    resumed, found = trained(twin, tmp_path / "half", "checkpoint-3")
    assert resumed.state.global_step == whole.state.global_step
    assert found.stop_reason == expected.stop_reason
    assert found.totals == expected.totals
    assert found.probe is not None and expected.probe is not None
    assert [(r["step"], r["family"]) for r in found.probe.rows] == [
        (r["step"], r["family"]) for r in expected.probe.rows
    ]


def made_probe(
    ask: Callable[[], list[Answered]], gather: Callable[[Any], list[Any]]
) -> HeldOutProbe:
    return HeldOutProbe(RlConfig(stop=STOP), ask, gather)


def test_ranks_that_ask_a_share_each_decide_by_all_of_them() -> None:
    def answered(name: str, rate: float) -> Answered:
        return Answered("counting", name, rate, 4, 40, 10)

    shares = [[answered("a", 0.25)], [answered("b", 0.75), answered("c", 0.5)]]
    probes = [made_probe(lambda mine=mine: mine, lambda _: shares) for mine in shares]  # type: ignore[misc]
    counts = [probe.look(2) for probe in probes]
    assert counts[0] == counts[1]
    assert counts[0]["probe_tokens"] == 120 and counts[0]["probe_completions"] == 12
    assert probes[0].state_dict() == probes[1].state_dict()
    assert probes[0].rows == [{"step": 2, "family": "counting", "success_rate": 0.5}]
    assert not probes[0].look(2) and not probes[0].look(3)


def test_the_questions_are_as_many_of_each_family_and_the_same_for_a_seed(tmp_path: Path) -> None:
    kinds = [Family.COUNTING] * 9 + [Family.PLANNING] * 4 + [Family.SUCCESS]
    pool = [sample(i, split=Split.DEV, family=kind) for i, kind in enumerate(kinds)]
    write_pool(tmp_path, pool)
    entries = read_index(tmp_path).entries
    drawn = draw_probe(entries, 5, seed=1)
    families = [entry.family for entry in drawn]
    assert families.count(Family.COUNTING) == 5 and families.count(Family.PLANNING) == 4
    assert Family.SUCCESS not in families  # one question alone tells no noise
    assert [e.id for e in draw_probe(entries, 5, seed=1)] == [e.id for e in drawn]
    assert [e.id for e in draw_probe(entries, 5, seed=2)] != [e.id for e in drawn]


@pytest.mark.parametrize("of", ["families", "samples"])
def test_only_stagnation_by_samples_keeps_their_rates(twin: Path, tmp_path: Path, of: str) -> None:
    stop = StopConfig(of=of, window=1, threshold=1.0)  # type: ignore[arg-type]
    _, curve = trained(twin, tmp_path, stop=stop, max_steps=2)
    kept = curve._tracker.state_dict()["extremes"]
    assert bool(kept) == (of == "samples")
    assert all(0 <= value <= 1 for known in kept.values() for value in known.values())

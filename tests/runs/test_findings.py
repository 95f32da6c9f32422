"""Each finding on made manifests: where it is said, where it is not, and what the sentence holds."""

from __future__ import annotations

from typing import Any

import pytest

from pelican.records import Phase
from pelican.runs.findings import RULES, Finding, evidence_of, findings
from pelican.runs.records import Change, Compared, Scores
from pelican.storage.manifests import Manifest, now


def made(
    stage: str,
    loop: int = 1,
    phase: Phase = Phase.RL,
    metrics: dict[str, float] | None = None,
    notes: dict[str, Any] | None = None,
    **counts: int,
) -> Manifest:
    moment = now()
    return Manifest(
        stage=stage,
        run="r",
        loop=loop,
        phase=phase,
        fingerprint="f",
        recipe="-",
        inputs={},
        outputs=[],
        counts={name.replace("__", "/"): n for name, n in counts.items()},
        metrics=metrics or {},
        notes=notes or {},
        started=moment,
        finished=moment,
    )


def rl(
    loop: int, stagnation: float, first: float, last: float, stopped: str = "max_steps"
) -> Manifest:
    metrics = {"stagnation": stagnation, "success_rate/first": first, "success_rate/last": last}
    return made(
        "train-rl", loop, metrics=metrics, notes={"stopped": stopped}, samples=100, groups_drawn=400
    )


def compared(**changes: tuple[float, float, float]) -> dict[str, Change]:
    return {name: Change(delta=d, low=lo, high=hi) for name, (d, lo, hi) in changes.items()}


def said(*stages: Manifest, scores: dict[tuple[int, str], Scores] | None = None) -> list[Finding]:
    known = scores or {}
    evidence = evidence_of(stages, lambda m: known.get((m.loop, m.phase), Scores()), threshold=0.7)
    return findings(evidence)


def rules(*stages: Manifest, scores: dict[tuple[int, str], Scores] | None = None) -> set[str]:
    return {finding.rule for finding in said(*stages, scores=scores)}


def test_a_run_that_has_not_begun_says_nothing() -> None:
    assert said() == []
    assert (
        said(made("rollout"), made("filter"), made("distill"), made("train-rl"), made("eval")) == []
    )


def test_stagnation_that_never_comes() -> None:
    assert rules(rl(1, 0.4, 0.4, 0.42), rl(2, 0.72, 0.5, 0.5, "stagnation")) == set()
    (still,) = said(rl(1, 0.4, 0.4, 0.5), rl(2, 0.6, 0.5, 0.51))
    assert "2 of 2 RL phases" in still.sentence and "0.60 of 0.7" in still.sentence
    assert "mis-specified" in still.sentence
    (rising,) = said(rl(1, 0.4, 0.4, 0.6))
    assert "mis-specified" not in rising.sentence and "rl.max_steps" in rising.sentence


def test_a_phase_that_a_probe_ends_needs_no_stagnation() -> None:
    probed = rl(1, 0.4, 0.4, 0.5)
    assert rules(probed) == {"stagnation"}
    counts = probed.counts | {"probe_completions": 160}
    assert rules(probed.model_copy(update={"counts": counts})) == set()


def test_the_looks_at_the_sealed_set_are_no_steps_of_the_training() -> None:
    """They come last and ask other questions, whose thoughts may be longer and whose losses larger."""
    lost = {"base": Compared(embodied=None, **compared(general=(-9.0, -12.0, -6.0)))}
    lengths = {(0, "base"): 41.0, (1, "sft"): 30.0, (0, "start"): 300.0, (0, "end"): 290.0}
    stages = [
        made("eval", loop, Phase(phase), metrics={"mean_think_chars": length})
        for (loop, phase), length in lengths.items()
    ]
    assert said(*stages, scores={(0, "end"): Scores(comparisons=lost)}) == []


@pytest.mark.parametrize(
    ("changes", "told", "grows"),
    [
        ([(-4.0, -7.0, -1.0)], True, False),
        ([(-4.0, -7.0, -1.0), (-8.0, -11.0, -5.0)], True, True),
        ([(-4.0, -9.0, 1.0)], False, False),  # within noise
        ([(-1.0, -1.5, -0.5)], False, False),  # what the paper's DPPO forgets, too
        ([(5.0, 2.0, 8.0)], False, False),
    ],
)
def test_forgetting(changes: list[tuple[float, float, float]], told: bool, grows: bool) -> None:
    stages = [made("eval", loop, Phase.SFT) for loop in range(1, len(changes) + 1)]
    scores = {
        (loop, "sft"): Scores(
            comparisons={"base": Compared(embodied=None, **compared(general=change))}
        )
        for loop, change in enumerate(changes, 1)
    }
    found = said(*stages, scores=scores)
    assert bool(found) == told
    assert all(f.rule == "forgetting" and ("grows" in f.sentence) == grows for f in found)


def test_thoughts_that_shrink() -> None:
    def lengths(*values: float) -> list[Manifest]:
        return [made("eval", k, metrics={"mean_think_chars": v}) for k, v in enumerate(values)]

    assert rules(*lengths(0.0, 41.0, 40.0)) == set()
    (lost,) = said(*lengths(0.0, 41.0, 2.0))  # the base thought nothing, the best policy did
    assert "from 41 to 2 characters" in lost.sentence


def test_what_rl_learned_by_heart() -> None:
    def scores(low: float) -> dict[tuple[int, str], Scores]:
        change = compared(embodied=(low + 1, low, low + 2))
        return {(1, "rl"): Scores(comparisons={"previous": Compared(general=None, **change)})}

    stages = rl(1, 0.8, 0.4, 0.6, "stagnation"), made("eval", 1)
    assert rules(*stages, scores=scores(0.5)) == set()
    (heart,) = said(*stages, scores=scores(-1.0))
    assert (
        heart.rule == "memory" and "20 points" in heart.sentence and "4.0 times" in heart.sentence
    )


@pytest.mark.parametrize(
    ("stage", "rule"),
    [
        (made("train-rl", groups_drawn=100, groups_without_variance=51), "flat groups"),
        (made("train-rl", groups_drawn=100, groups_without_variance=50), None),
        (made("distill", asked__planning=12, accepted__planning=3), "teacher"),
        (made("distill", asked__planning=12, accepted__planning=4), None),
        (made("distill", asked__planning=4, accepted__planning=0), None),  # too few to tell
        (made("distill", asked_weak=10, asked_assoc=80, asked_general=10), "calls"),
        (made("distill", asked_weak=50, asked_assoc=50), None),
        (made("distill", asked_weak=0, asked_general=50), None),  # nothing was weak
        (made("rollout", samples=100, fresh=60), "fresh"),
        (made("rollout", samples=100, fresh=100), None),
        (made("rollout", rollouts=100, truncated=6), "truncated"),
        (made("rollout", rollouts=100, truncated=5), None),
    ],
)
def test_a_limit_is_where_the_rule_says(stage: Manifest, rule: str | None) -> None:
    assert rules(stage) == ({rule} if rule else set())


def test_a_finding_is_one_sentence_with_a_number_and_a_way_out() -> None:
    stages = [
        rl(1, 0.4, 0.4, 0.6),
        made("train-rl", 2, groups_drawn=4000, groups_without_variance=3900),
        made("distill", asked__planning=12, accepted__planning=1, asked_weak=12, asked_assoc=90),
        made("rollout", samples=10, fresh=1, rollouts=10, truncated=9),
    ]
    found = said(*stages)
    assert {f.rule for f in found} >= {"stagnation", "flat groups", "teacher", "calls", "fresh"}
    for finding in found:
        assert finding.sentence.endswith(".") and any(c.isdigit() for c in finding.sentence)
        assert ": " in finding.sentence


def test_the_page_about_reports_has_every_rule() -> None:
    from tests.conftest import ROOT

    page = (ROOT / "docs/report.md").read_text(encoding="utf-8")
    for rule in RULES:
        assert f"| {rule.name} | {rule.of} | {rule.limit:.3g} | {rule.source} |" in page

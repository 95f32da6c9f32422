"""What a run's own records say is wrong: one sentence each, with the number and the way out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pelican.base.model import Frozen
from pelican.records import Phase
from pelican.runs.layout import place_of
from pelican.runs.records import Scores
from pelican.storage.manifests import Manifest


class Finding(Frozen):
    """One thing that a person should look at; `rule` is the row of RULES that found it."""

    rule: str
    sentence: str
    value: float
    limit: float


@dataclass(frozen=True)
class Evidence:
    """The manifests of a run's finished stages in the order of training, its evaluations' scores.

    `threshold`: of stagnation, by the recipe; None where that can't be read.
    """

    stages: Sequence[Manifest]
    scores: Sequence[tuple[Manifest, Scores]]
    threshold: float | None

    def finished(self, stage: str, phase: str | None = None) -> list[Manifest]:
        return [m for m in self.stages if m.stage == stage and phase in (None, m.phase)]


@dataclass(frozen=True)
class Rule:
    """`limit`: where the finding begins, in the unit of `of`. `source`: why there."""

    name: str
    of: str
    limit: float
    source: str
    look: Callable[[Evidence, float], Iterator[tuple[float, str]]]


def findings(evidence: Evidence) -> list[Finding]:
    """What the rules find, in the order of RULES; of a run that goes on, what is known so far."""
    return [
        Finding(rule=rule.name, sentence=sentence, value=value, limit=rule.limit)
        for rule in RULES
        for value, sentence in rule.look(evidence, rule.limit)
    ]


def evidence_of(
    found: Sequence[Manifest], scores: Callable[[Manifest], Scores], threshold: float | None
) -> Evidence:
    """The evidence of a run, from its manifests in any order.

    The looks at the sealed set are left out: they ask other questions than the evaluations in training,
    so that a score or a length of theirs is no step of the same way.
    """
    read = (m for m in found if not Phase(m.phase).sealed)
    stages = sorted(read, key=lambda m: place_of(m.loop, m.phase))
    return Evidence(stages, [(m, scores(m)) for m in stages if m.stage == "eval"], threshold)


# The rules. Each yields (value, sentence); the sentence ends with the way out.


def _no_stagnation(run: Evidence, limit: float) -> Iterator[tuple[float, str]]:
    """A phase whose success still rises is only short; one that stands still and never stagnates is odd.

    Where a probe decides, stagnation is measured and ends nothing.
    """
    ended_by_it = (m for m in run.finished("train-rl") if "probe_completions" not in m.counts)
    phases = [m for m in ended_by_it if "stagnation" in m.metrics]
    open_ended = [m for m in phases if m.notes.get("stopped") == "max_steps"]
    if not phases or len(open_ended) / len(phases) < limit:
        return
    highest = max(m.metrics["stagnation"] for m in phases)
    last = open_ended[-1].metrics
    rise = last.get("success_rate/last", 0.0) - last.get("success_rate/first", 0.0)
    threshold = f" of {run.threshold:g}" if run.threshold is not None else ""
    way = (
        "success on its prompts still rose: give rl.max_steps more"
        if rise > STILL
        else "success on its prompts stood still: the reward may be mis-specified; look"
        " at the ledger's samples that are worth a look, and at docs/rewards.md; else lower"
        " rl.stop.threshold"
    )
    yield (
        highest,
        f"Stagnation never came: {_of(len(open_ended), len(phases), 'RL phase')} ran to rl.max_steps"
        f" at a stagnation of {hundredths(highest)}{threshold} or less, and in the last of them {way}.",
    )


def _forgetting(run: Evidence, limit: float) -> Iterator[tuple[float, str]]:
    """General replay is too little if the loss is beyond noise; worse if it grows from loop to loop."""
    losses = [
        (manifest, name, compared.general)
        for manifest, scores in run.scores
        for name, compared in scores.comparisons.items()
        if name != "previous" and compared.general is not None
    ]
    if not losses:
        return
    manifest, name, change = min(losses[-3:], key=lambda found: found[2].delta)
    if change.high >= 0 or -change.delta < limit:
        return
    same = [found[2].delta for found in losses if found[1] == name]
    grows = len(same) > 1 and same[-1] < same[-2] < 0
    yield (
        -change.delta,
        f"The general suite lost {-change.delta:.1f} points ({-change.high:.1f} to {-change.low:.1f})"
        f" against {name} by {_moment(manifest)}{', and the loss grows' if grows else ''}: general"
        " replay is too little; raise the third part of distill.ratio, or rl.kl.",
    )


def _thought(run: Evidence, limit: float) -> Iterator[tuple[float, str]]:
    lengths = [
        (m, m.metrics["mean_think_chars"])
        for m in run.finished("eval")
        if "mean_think_chars" in m.metrics
    ]
    if len(lengths) < 2:
        return
    last, now = lengths[-1]
    longest = max(length for _, length in lengths[:-1])
    if longest and now / longest < limit:
        yield (
            now / longest,
            f"Thoughts shrank from {longest:.0f} to {now:.0f} characters by {_moment(last)}: a policy"
            " that only answers is a known hack of the reward; raise reward.format_weight, and practise"
            " by difficulty (filter.strategy).",
        )


def _memory(run: Evidence, limit: float) -> Iterator[tuple[float, str]]:
    """RL that learns its own prompts and nothing else."""
    after = {(m.loop, m.phase): scores for m, scores in run.scores}
    for phase in run.finished("train-rl"):
        metrics, counts = phase.metrics, phase.counts
        own = 100 * (metrics.get("success_rate/last", 0) - metrics.get("success_rate/first", 0))
        scores = after.get((phase.loop, phase.phase))
        compared = scores.comparisons.get("previous") if scores else None
        change = compared.embodied if compared else None
        if change is None or own < limit or change.low > 0:
            continue
        draws = counts.get("groups_drawn", 0) / max(1, counts.get("samples", 0))
        yield (
            own,
            f"RL of loop {phase.loop} gained {own:.0f} points on its own {counts.get('samples', 0):,}"
            f" prompts, each drawn {draws:.1f} times, and {change.delta:+.1f} ({change.low:+.1f} to"
            f" {change.high:+.1f}) on held-out ones: it may have learned them by heart; raise"
            " data.samples_per_loop, or lower rl.max_steps.",
        )


def _flat(run: Evidence, limit: float) -> Iterator[tuple[float, str]]:
    phases = run.finished("train-rl")
    drawn = sum(m.counts.get("groups_drawn", 0) for m in phases)
    flat = sum(m.counts.get("groups_without_variance", 0) for m in phases)
    if drawn and flat / drawn > limit:
        yield (
            flat / drawn,
            f"{_percent(flat, drawn)} of RL's groups had equal rewards, from which nothing is learned:"
            " their prompts are too easy or too hard by now; roll out more (data.samples_per_loop), or"
            " keep phases shorter (rl.max_steps).",
        )


def _trained_flat(run: Evidence, limit: float) -> Iterator[tuple[float, str]]:
    for phase in run.finished("train-rl"):
        trained = phase.counts.get("groups_trained", 0)
        flat = phase.counts.get("groups_trained_flat", 0)  # not counted before 2026-12
        if trained and flat / trained > limit:
            yield (
                flat / trained,
                f"In loop {phase.loop} {_percent(flat, trained)} of the groups that RL trained on had"
                " equal rewards, so its steps were smaller than rl.prompts_per_step says; more prompts,"
                " rl.oversample or rl.refill help.",
            )


def _teacher(run: Evidence, limit: float) -> Iterator[tuple[float, str]]:
    stages = run.finished("distill")
    if not stages:
        return
    counts = stages[-1].counts
    for name in sorted(n.removeprefix("asked/") for n in counts if n.startswith("asked/")):
        asked, accepted = counts[f"asked/{name}"], counts.get(f"accepted/{name}", 0)
        if asked >= LEAST and accepted / asked < limit:
            yield (
                accepted / asked,
                f"The teacher solved {accepted} of {asked} weak questions of the family {name} in loop"
                f" {stages[-1].loop}: what it can't answer SFT can't teach; take a better teacher, or"
                " have people answer them (`pelican weaknesses` lists them).",
            )


def _calls(run: Evidence, limit: float) -> Iterator[tuple[float, str]]:
    stages = run.finished("distill")
    asked = {
        name: sum(m.counts.get(f"asked_{name}", 0) for m in stages)
        for name in ("weak", "assoc", "general")
    }
    whole = sum(asked.values())
    if whole and 0 < asked["weak"] / whole < limit:
        yield (
            asked["weak"] / whole,
            f"{_percent(asked['weak'], whole)} of the {whole:,} questions that the teacher was asked"
            " were weak ones, the others related or general: where its calls are dear, lower the"
            " second and third part of distill.ratio, or distill.max_rows.",
        )


def _fresh(run: Evidence, limit: float) -> Iterator[tuple[float, str]]:
    stages = [m for m in run.finished("rollout") if m.counts.get("samples") and "fresh" in m.counts]
    short = [m for m in stages if 1 - m.counts["fresh"] / m.counts["samples"] > limit]
    if short:
        worst = min(short, key=lambda m: m.counts["fresh"] / m.counts["samples"])
        fresh, samples = worst.counts["fresh"], worst.counts["samples"]
        yield (
            1 - fresh / samples,
            f"Of the {samples:,} prompts of loop {worst.loop} only {fresh:,} were fresh; with the"
            " others RL practises what was taught, and success rates tell of memory: import more"
            " scenes, or lower data.samples_per_loop.",
        )


def _truncated(run: Evidence, limit: float) -> Iterator[tuple[float, str]]:
    stages = run.finished("rollout")
    cut = sum(m.counts.get("truncated", 0) for m in stages)
    whole = sum(m.counts.get("rollouts", 0) for m in stages)
    if whole and cut / whole > limit:
        yield (
            cut / whole,
            f"{_percent(cut, whole)} of the rollouts were cut off at the longest length, and counted as"
            " wrong: raise rollout.sampling.max_tokens and rl.sampling.max_tokens.",
        )


STILL = 0.05  # rise of the success rate in a phase below which it stood still
LEAST = 10  # questions that a family's share of accepted answers needs

RULES: tuple[Rule, ...] = (
    Rule(
        "stagnation",
        "share of the RL phases that ended without it",
        1.0,
        "arXiv 2511.16602: a stagnation that never comes suggests a mis-specified reward",
        _no_stagnation,
    ),
    Rule(
        "forgetting",
        "points that the general suite lost, beyond noise",
        1.9,
        "arXiv 2511.16602: what DPPO itself forgets (MMStar, 7B); more is too little replay",
        _forgetting,
    ),
    Rule(
        "thought",
        "length of thoughts, of the longest before",
        0.25,
        "arXiv 2511.16602 saw the chain of thought lost; the share is the gate's",
        _thought,
    ),
    Rule(
        "memory",
        "points gained on own prompts, and none beyond noise on others",
        10.0,
        "docs/results.md, why RL adds nothing after loop 1: 19 to 24 points by heart",
        _memory,
    ),
    Rule(
        "flat groups",
        "share of RL's groups without variance",
        0.5,
        "ours: then more is generated in vain than is learned from",
        _flat,
    ),
    Rule(
        "trained flat",
        "share of the groups of a batch without variance",
        0.2,
        "ours: they give no gradient but of the KL term",
        _trained_flat,
    ),
    Rule(
        "teacher",
        "accepted answers to a family's weak questions",
        1 / 3,
        "ours: docs/report.md, Teacher and SFT",
        _teacher,
    ),
    Rule(
        "calls",
        "share of the teacher's questions that are weak",
        0.25,
        "ours: less than a fourth part, and which ones are weak hardly matters",
        _calls,
    ),
    Rule(
        "fresh",
        "share of a loop's prompts that an earlier one saw",
        0.05,
        "ours: in tiny 29 % seen ones raised the measured success rate from 30 to 42 %",
        _fresh,
    ),
    Rule("truncated", "share of rollouts cut off", 0.05, "ours", _truncated),
)


def hundredths(value: float) -> str:
    """Cut and not rounded, so that what was not reached does not look so."""
    return f"{math.floor(100 * value + 1e-9) / 100:.2f}"


def _moment(manifest: Manifest) -> str:
    return (
        "the base" if manifest.phase == "base" else f"loop {manifest.loop} {manifest.phase.upper()}"
    )


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %"


def _of(part: int, whole: int, what: str) -> str:
    return f"{part} of {whole} {what}{'s' if whole != 1 else ''}"

"""The complete runs of a set, as a store has them: which variant each is, and what came of it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from pelican.experiments.variants import ABLATIONS, run_name, submit_command
from pelican.records import Phase
from pelican.report.comparison import RunRow, pair_of, row_of
from pelican.report.run import Evaluation, Run, open_run
from pelican.runs import Submission, list_runs, require_recipe, state
from pelican.storage.manifests import Manifest
from pelican.storage.objects import ObjectStore

FIRST = "dppo"  # what the others are compared with


@dataclass(frozen=True)
class Found:
    """One run. `settings` is its recipe's digest but for the seed: what may be averaged over seeds.

    `row.against_first` is paired with the run of `dppo` of the same seed. `thinking` is mean characters of an
    embodied answer's reasoning, of the base and at the end. `after_rl` is the embodied score after
    the last RL phase.
    """

    label: str
    seed: int
    name: str
    settings: str
    overrides: str
    command: str
    row: RunRow
    thinking: tuple[float | None, float | None]
    after_rl: float | None
    stopped: bool
    rl_steps: int
    code: str
    finished: datetime

    @property
    def compute(self) -> int:
        """In generated tokens. A trained one is three: forward, and backward at twice that.

        Source: Kaplan et al., "Scaling Laws for Neural Language Models", section 2.1. Prompts are
        not counted, nor RL's reference pass: that is less than was computed, and most so in SFT, which
        computes a prompt for every row where RL does for every group.
        """
        return self.row.cost.generated_tokens + 3 * self.row.cost.trained_tokens


def find(store: ObjectStore, tag: str) -> tuple[list[Found], list[str]]:
    """The complete runs `TAG-VARIANT-sSEED`, by variant and seed; and the names of the others."""
    submissions = {submission.run: submission for submission in list_runs(store)}
    of_set = {
        run_name(label, seed, tag): (label, seed) for label, seed in _of_set(submissions, tag)
    }
    runs = {name: open_run(store, name) for name in of_set if state(store, name) == "complete"}
    found = [
        _found(submissions[name], *of_set[name], runs, run_name(FIRST, of_set[name][1], tag))
        for name in runs
    ]
    return found, [name for name in of_set if name not in runs]


def _of_set(names: Collection[str], tag: str) -> Iterator[tuple[str, int]]:
    seeds: dict[str, list[int]] = {}
    for name in names:
        if match := re.fullmatch(rf"{re.escape(tag)}-(.+)-s(\d+)", name):
            seeds.setdefault(match[1], []).append(int(match[2]))
    for label in ABLATIONS:
        yield from ((label, seed) for seed in sorted(seeds.get(label.replace("_", "-"), [])))


def _found(asked: Submission, label: str, seed: int, runs: Mapping[str, Run], first: str) -> Found:
    run = runs[asked.run]
    done = [stage.manifest for stage in run.stages if stage.manifest is not None]
    against = None
    if first in runs and first != run.name:
        against = pair_of(first, run.name, {first: runs[first], run.name: run})
    words = [word for text in asked.overrides for word in shlex.split(text)]
    recipe = require_recipe(run.store, run.name)
    last = [m for m in done if m.stage == "eval"][-1]
    return Found(
        label=label,
        seed=seed,
        name=run.name,
        settings=recipe.model_copy(update={"seed": 0}).digest(),
        overrides=" ".join(word for word in words if not word.startswith("seed=")),
        command=submit_command(asked.address, " ".join(words), run.name),
        row=row_of(run.name, run, against),
        thinking=(_thinking(run.base), _thinking(run.final)),
        after_rl=_after_rl(run),
        stopped=(
            last.metrics.get("go_on", 1.0) < 0.5
            and recipe.can_stop_after(last.loop, Phase(last.phase))
        ),
        rl_steps=sum(m.counts.get("steps", 0) for m in done if m.stage == "train-rl"),
        code=_code(done),
        finished=max(m.finished for m in done),
    )


def _after_rl(run: Run) -> float | None:
    found = [e.summary.embodied for e in run.evaluations if e.phase == "rl"]
    return found[-1].score if found and found[-1] else None


def _thinking(evaluation: Evaluation | None) -> float | None:
    return evaluation.summary.mean_think_chars if evaluation else None


def _code(done: list[Manifest]) -> str:
    """The digests of Pelican's sources that the stages were done by, shortened."""
    return ", ".join(sorted({m.versions.get("code", "?")[:6] for m in done}))

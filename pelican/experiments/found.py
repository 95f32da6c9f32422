"""The complete runs of a set, as a store has them: which variant each is, and what came of it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from pelican.evaluation.metrics import Difference
from pelican.experiments.variants import ABLATIONS, run_name
from pelican.report.comparison import RunRow, compare_runs
from pelican.report.run import Run, open_run
from pelican.runs import Submission, list_runs, manifests, require_recipe, state
from pelican.storage.manifests import Manifest
from pelican.storage.objects import ObjectStore

FIRST = "dppo"  # what the others are compared with


@dataclass(frozen=True)
class Found:
    """One run. `settings` is its recipe's digest but for the seed: what may be averaged over seeds.

    `against` is paired with the run of `dppo` of the same seed. `thinking` is mean characters of an
    embodied answer's reasoning, of the base and at the end.
    """

    label: str
    seed: int
    name: str
    settings: str
    overrides: str
    command: str
    row: RunRow
    against: Difference | None
    thinking: tuple[float | None, float | None]
    stopped: bool
    rl_steps: int
    code: str
    finished: datetime

    @property
    def compute(self) -> int:
        """In generated tokens. A trained one is three: forward, and backward at twice that.

        Source: Kaplan et al., "Scaling Laws for Neural Language Models", section 2.1. Prompts are
        not counted; there is one for every completion that is trained on.
        """
        return self.row.cost.generated_tokens + 3 * self.row.cost.trained_tokens


def find(store: ObjectStore, tag: str) -> tuple[list[Found], list[str]]:
    """The complete runs `TAG-VARIANT-sSEED`, by variant and seed; and the names of the others."""
    submissions = {submission.run: submission for submission in list_runs(store)}
    found, others = [], []
    for label, seed in _of_set(submissions, tag):
        name = run_name(label, seed, tag)
        if state(store, name) == "complete":
            found.append(_found(store, submissions[name], label, seed, tag))
        else:
            others.append(name)
    return found, others


def _of_set(names: dict[str, Submission], tag: str) -> Iterator[tuple[str, int]]:
    seeds: dict[str, list[int]] = {}
    for name in names:
        if match := re.fullmatch(rf"{re.escape(tag)}-(.+)-s(\d+)", name):
            seeds.setdefault(match[1], []).append(int(match[2]))
    for label in ABLATIONS:
        yield from ((label, seed) for seed in sorted(seeds.get(label.replace("_", "-"), [])))


def _found(store: ObjectStore, asked: Submission, label: str, seed: int, tag: str) -> Found:
    recipe, done = require_recipe(store, asked.run), manifests(store, asked.run)
    run = open_run(store, asked.run)
    row, against = _compared(store, run, run_name(FIRST, seed, tag))
    evaluations = [m for m in done if m.stage == "eval"]
    last = max(evaluations, key=lambda m: (m.loop, m.finished))
    words = [word for text in asked.overrides for word in shlex.split(text)]
    typed = f"make submit RECIPE={shlex.quote(asked.address)} SET={shlex.quote(' '.join(words))}"
    return Found(
        label=label,
        seed=seed,
        name=asked.run,
        settings=recipe.model_copy(update={"seed": 0}).digest(),
        overrides=" ".join(word for word in words if not word.startswith("seed=")),
        command=f"{typed} RUN={asked.run}",
        row=row,
        against=against,
        thinking=_thinking(run),
        stopped=last.metrics.get("go_on", 1.0) < 0.5,
        rl_steps=sum(m.counts.get("steps", 0) for m in done if m.stage == "train-rl"),
        code=_code(done),
        finished=max(m.finished for m in done),
    )


def _compared(store: ObjectStore, run: Run, first: str) -> tuple[RunRow, Difference | None]:
    """The run's row, and what it is ahead of the run `first`, if that is complete."""
    runs = {run.name: run}
    if first != run.name and state(store, first) == "complete":
        runs = {first: open_run(store, first)} | runs
    row = compare_runs(runs).rows[-1]
    return row, row.against_first


def _thinking(run: Run) -> tuple[float | None, float | None]:
    base, final = (e.summary.mean_think_chars if e else None for e in (run.base, run.final))
    return base, final


def _code(done: list[Manifest]) -> str:
    """The digests of Pelican's sources that the stages were done by, shortened."""
    return ", ".join(sorted({m.versions.get("code", "?")[:6] for m in done}))

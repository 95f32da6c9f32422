"""A set of ablations: which runs belong to it, what they show, and its section of a document."""

from __future__ import annotations

import re
import shlex
import statistics
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pelican.base.files import replacing
from pelican.config.overrides import parse_overrides
from pelican.errors import UserInputError
from pelican.evaluation.crossed import Pooled, pool_suite
from pelican.evaluation.metrics import Difference
from pelican.report.compare import RunRow, pair_of, row_of
from pelican.report.run import Evaluation, Run, open_run
from pelican.runs.layout import Submission, list_runs, require_recipe, state
from pelican.storage.manifests import Manifest
from pelican.storage.store import ObjectStore

# A section of a Markdown file that a command writes; the rest of the file is a person's.


def around(path: Path, name: str) -> tuple[str, str]:
    """The text up to the first mark of section `name` and from the second; marks are made if none.

    Raises UserInputError if only one mark is there, or in the wrong order, or no folder for `path`.
    """
    if not path.parent.is_dir():
        raise UserInputError(f"there is no folder {path.parent} for {path.name}; make it")
    begin, end = (f"<!-- {name}: {what} -->" for what in ("begin", "end"))
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    counts = (text.count(begin), text.count(end))
    if counts == (0, 0):
        text = f"{text.rstrip()}\n\n{begin}\n{end}\n".lstrip()
    elif counts != (1, 1) or text.index(end) < text.index(begin):
        raise UserInputError(
            f"{path} has not one {begin!r} followed by one {end!r}; mend them, or delete them all"
        )
    before, _, rest = text.partition(begin)
    return before + begin, end + rest.partition(end)[2]


def rewrite(path: Path, name: str, lines: Sequence[str]) -> None:
    """Put `lines` between the marks of section `name`. Raises what `around` raises."""
    before, after = around(path, name)
    body = "\n".join(lines)
    with replacing(path) as file:
        file.write_text(f"{before}\n{body}\n{after}", encoding="utf-8")


# The complete runs of a set, as a store has them: which variant each is, and what came of it.

FIRST = "dppo"  # what the others are compared with


@dataclass(frozen=True)
class Found:
    """One run. `settings` is its recipe's digest but for the seed: what may be averaged over seeds.

    `row.against_first` is paired with the run of `dppo` of the same seed. `thinking` is mean characters of an
    embodied answer's reasoning, of the base and at the end. `after_rl` is the embodied score after
    the last RL phase; None where gates read a pool of their own, for the end is measured on another.
    `refused`: the gate refused the last loop, so that the end is an earlier policy.
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
    refused: bool
    rl_steps: int
    code: str
    finished: datetime
    final: Evaluation | None

    @property
    def compute(self) -> float | None:
        """Floating-point operations, reckoned; None for a run of before prompts were counted."""
        return self.row.cost.flops


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
    for label in VARIANTS:
        yield from ((label, seed) for seed in sorted(seeds.get(label.replace("_", "-"), [])))


def _found(asked: Submission, label: str, seed: int, runs: Mapping[str, Run], first: str) -> Found:
    run = runs[asked.run]
    done = [stage.manifest for stage in run.stages if stage.manifest is not None]
    against = None
    if first in runs and first != run.name:
        against = pair_of(first, run.name, {first: runs[first], run.name: run})
    words = [word for text in asked.overrides for word in shlex.split(text)]
    recipe = require_recipe(run.store, run.name)
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
        refused=run.offer.refused is not None,
        rl_steps=sum(m.counts.get("steps", 0) for m in done if m.stage == "train-rl"),
        code=_code(done),
        finished=max(m.finished for m in done),
        final=run.final,
    )


def _after_rl(run: Run) -> float | None:
    found = [e.summary.embodied for e in run.evaluations if e.phase == "rl" and not run.has_dev]
    return found[-1].score if found and found[-1] else None


def _thinking(evaluation: Evaluation | None) -> float | None:
    return evaluation.summary.mean_think_chars if evaluation else None


def _code(done: list[Manifest]) -> str:
    """The digests of Pelican's sources that the stages were done by, shortened."""
    return ", ".join(sorted({m.versions.get("code", "?")[:6] for m in done}))


# The tables of a set of runs, in Markdown: a row per variant, then a row per run.

NOTHING = "No run of the set is complete."
_VARIANTS = [
    "variant",
    "runs",
    "after RL",
    "final",
    "gain",
    f"against {FIRST}",
    "general",
    "thinking, base",
]
_VARIANTS += ["end", "RL steps", "k tokens generated", "trained", "compute", "CPU h"]
_VARIANTS += ["teacher calls", "labels"]
_RUNS = ["run", "base", "final", "gain (95 %)", f"against {FIRST} (95 %)", "general (95 %)"]
_RUNS += ["loops", "min", "finished, code", "command"]


def table(store: ObjectStore, tag: str) -> list[str]:
    """Lines of both tables: of every complete run of the set, whoever asked for it and when.

    Runs of one variant with different settings have a row each. Scores are points of 100, thinking
    is characters an embodied answer, ± is the standard deviation over seeds.
    """
    found, others = find(store, tag)
    if not found:
        return [NOTHING]
    groups: dict[tuple[str, str], list[Found]] = {}
    for run in found:
        groups.setdefault((run.label, run.settings), []).append(run)
    several = {label for label, _ in groups if sum(label == other for other, _ in groups) > 1}
    dppo = {run.seed: run.compute for run in found if run.label == FIRST and run.compute}
    lines = _head(_VARIANTS)
    lines += [_summary(runs, dppo, runs[0].label in several) for runs in groups.values()]
    lines += ["", *_notes(found, others)]
    if rows := _pooled(groups, several):
        lines += ["", *_head(_POOLED), *rows, "", *_POOLED_NOTES]
    lines += ["", *_head(_RUNS)]
    return lines + [_detail(run) for run in found]


# Seeds together: what an experiment of several may say of DPPO.
#
# Claims are tested in an order that was fixed before the runs, each at 5 %, and testing ends with the first
# that fails: so all of them together are wrong in at most 5 % of experiments. What is not in the order gets an
# interval and no verdict. The order asks for the question that matters most last: does RL in the loop add
# to SFT on what was mined?

Key = tuple[str, str]  # a variant's label, and the digest of its settings
CLAIMS = ("rl_only", "sft_uniform", "one_loop", "sft_mined")
MARGIN = 1.0  # points that a difference must have to be claimed
_POOLED = ["variant", "seeds", f"against {FIRST}, pooled (95 %)", "p", "general (95 %)", "verdict"]
_POOLED += ["told from 0 in 4 of 5 experiments: now", "5 seeds", "10 seeds"]
_POOLED_NOTES = [
    "Pooled over the seeds that both have, on the questions that all answered: a t interval over the seeds' paired"
    " differences, widened by what their common choice of scenes adds (all seeds answer the same questions, so"
    f" more seeds don't lessen it). {FIRST} is said to be ahead if the difference is {MARGIN:g} point or more and"
    " its interval excludes 0; the verdicts are asked for in the order of"
    f" {', '.join(CLAIMS)}, and after the first that is not shown none is asked. The last columns are the"
    " difference that so many seeds find in 4 of 5 experiments.",
]


def _pooled(groups: Mapping[Key, Sequence[Found]], ambiguous: Collection[str]) -> list[str]:
    """A row for each variant that has two seeds or more in common with `dppo`."""
    first = {run.seed: run for (label, _), runs in groups.items() if label == FIRST for run in runs}
    rows: dict[Key, tuple[Pooled, Pooled | None]] = {}
    for key, runs in groups.items():
        pairs = [
            (before.final.results, run.final.results)
            for run in runs
            if key[0] != FIRST and (before := first.get(run.seed)) and before.final and run.final
        ]
        embodied = pool_suite(pairs, "embodied")
        if embodied is not None and len(pairs) > 1:
            rows[key] = embodied, pool_suite(pairs, "general")
    verdicts = decide({key: embodied for key, (embodied, _) in rows.items()})
    return [
        _line(
            [
                label
                + (f" (`{groups[label, settings][0].overrides}`)" if label in ambiguous else ""),
                str(embodied.seeds),
                _with_interval(embodied),
                f"{embodied.p:.3f}",
                _with_interval(general) if general else "-",
                verdicts.get((label, settings), "interval only"),
                *(f"{embodied.detectable(seeds):.1f}" for seeds in (embodied.seeds, 5, 10)),
            ]
        )
        for (label, settings), (embodied, general) in rows.items()
    ]


def decide(found: Mapping[Key, Pooled]) -> dict[Key, str]:
    """The verdicts on the claims, by (variant, settings), in their order; none of other variants.

    A variant that was run with several settings is no claim: which would count was not fixed before.
    """
    verdicts: dict[Key, str] = {}
    failed = ""
    for claim in CLAIMS:
        keys = [key for key in found if key[0] == claim]
        if len(keys) != 1:
            continue
        pooled = found[keys[0]]
        if failed:
            verdicts[keys[0]] = f"not asked, after {failed}"
        elif pooled.delta <= -MARGIN and pooled.high < 0:
            verdicts[keys[0]] = f"{FIRST} is ahead"
        else:
            failed = claim
            verdicts[keys[0]] = _not_ahead(pooled)
    return verdicts


def _not_ahead(pooled: Pooled) -> str:
    if pooled.low > 0:
        return f"{FIRST} is behind"
    also = f", and not behind by {MARGIN:g} or more" if pooled.high < MARGIN else ""
    return f"{FIRST} is not shown to be ahead{also}"


def _with_interval(pooled: Pooled) -> str:
    return f"{pooled.delta:+.1f} ({pooled.low:+.1f} to {pooled.high:+.1f})"


def _notes(found: Sequence[Found], others: Sequence[str]) -> list[str]:
    notes = [
        f"Compute is against {FIRST} of the same seeds, in operations reckoned from the tokens of"
        " completions, prompts and RL's reference, a trained token as three, times the parameters of"
        " the model that computes; - where a run is of before prompts were counted. Teacher calls are"
        " answers asked of the teacher, labels the questions whose answers were read. ± is over seeds,"
        " which all answer the same questions: what their choice adds is in the intervals, which are"
        " paired."
    ]
    codes = sorted({run.code for run in found})
    if len(codes) > 1:
        notes.append(f"The runs are of different sources (digests {'; '.join(codes)}).")
    if others:
        notes.append(f"Not complete, so not here: {', '.join(others)}.")
    return notes


def _summary(runs: Sequence[Found], dppo: dict[int, float], ambiguous: bool) -> str:
    name = f"{runs[0].label}: {VARIANTS[runs[0].label].meaning}"
    if ambiguous:
        name += f" (`{runs[0].overrides or 'as it is'}`)"
    refused = sum(run.refused for run in runs)
    compute = [run.compute / dppo[run.seed] for run in runs if run.compute and run.seed in dppo]
    return _line(
        [
            name + (f"; {refused} whose last loop the gate refused" if refused else ""),
            str(len(runs)),
            _mean([run.after_rl for run in runs]),
            _mean([run.row.final for run in runs]),
            _mean([_delta(run.row.gain) for run in runs], "+"),
            _mean([_delta(run.row.against_first) for run in runs], "+"),
            _mean([_delta(run.row.general_gain) for run in runs], "+"),
            _mean([run.thinking[0] for run in runs], digits=0),
            _mean([run.thinking[1] for run in runs], digits=0),
            _mean([run.rl_steps for run in runs], digits=0),
            _mean([run.row.cost.generated_tokens / 1000 for run in runs], digits=0),
            _mean([run.row.cost.trained_tokens / 1000 for run in runs], digits=0),
            _mean(compute, digits=2),
            _mean([run.row.cost.cpu_hours for run in runs], digits=2),
            _mean([run.row.cost.teacher_calls for run in runs], digits=0),
            _mean([run.row.cost.labels for run in runs], digits=0),
        ]
    )


def _detail(run: Found) -> str:
    return _line(
        [
            run.name,
            _mean([run.row.base]),
            _mean([run.row.final]),
            _interval(run.row.gain),
            _interval(run.row.against_first),
            _interval(run.row.general_gain),
            f"{run.row.loops}{', the last refused by the gate' if run.refused else ''}",
            f"{run.row.cost.seconds / 60:.0f}",
            f"{run.finished:%Y-%m-%d}, {run.code}",
            f"`{run.command}`",
        ]
    )


def _head(names: Sequence[str]) -> list[str]:
    return [_line(names), _line(["---"] * len(names))]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _delta(difference: Difference | None) -> float | None:
    return difference.delta if difference else None


def _mean(values: Sequence[float | None], sign: str = "", digits: int = 1) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    text = f"{statistics.fmean(known):{sign}.{digits}f}"
    return f"{text} ± {statistics.stdev(known):.{digits}f}" if len(known) > 1 else text


def _interval(difference: Difference | None) -> str:
    if difference is None:
        return "-"
    return f"{difference.delta:+.1f} ({difference.low:+.1f} to {difference.high:+.1f})"


# The variants of `tiny` that are compared, and the budgets at which they are.
#
# Sources of the ideas, and what each is measured by: `docs/results.md`.

BASE = "tiny"  # the budgets are chosen for it
TAG = "results"  # what the runs' names begin with


@dataclass(frozen=True)
class Variant:
    """A recipe, what is changed in it, and how a table names it."""

    recipe: str
    overrides: str
    meaning: str

    def settings(self, seed: int, more: str = "") -> str:
        """The overrides of one run; `more` has the last word."""
        given = parse_overrides([more])
        mine = parse_overrides([self.overrides])
        kept = [f"{name}={value}" for name, value in mine.items() if name not in given]
        return " ".join([*kept, f"seed={seed}", *filter(None, [more])])


# DPPO against its controls, each with about its compute, and its teacher calls where there is a
# teacher. One run of dppo (seed 0, three loops) took 40.4e12 operations and 19,410 teacher calls: its
# steps of RL 9.3e12, its two passes of SFT 20.8e12, first rollouts 1.8e12, mining 2.7e12, teacher 5.8e12.
# So 96 steps a loop of RL alone are 39e12, three passes of SFT 40e12 with mining, 39e12 without.
_PASSES = "sft.epochs=3"
_UNIFORM = "distill.max_calls=6700"  # in loop 1 the pool has fewer samples that may be taught
CONTROLS: dict[str, Variant] = {
    "dppo": Variant("tiny", "", "RL and SFT in turn, three loops"),
    "rl_only": Variant("tiny+rl_only", "rl.max_steps=96", "RL phases alone, longer"),
    "sft_mined": Variant("tiny+sft_mined", _PASSES, "SFT phases alone, longer"),
    "sft_uniform": Variant(
        "tiny+sft_uniform", f"{_UNIFORM} {_PASSES}", "the same on random samples, nothing mined"
    ),
    "one_loop": Variant("tiny+one_loop", "", "one RL and one SFT phase of three times the length"),
    "random_sampling": Variant(
        "tiny+random_sampling", "", "RL on random samples, no group drawn again"
    ),
    "replay_only": Variant("tiny+replay_only", "sft.epochs=15", "SFT on general replay alone"),
}

# In the 24 steps of `tiny` stagnation hardly comes to 0.5, in 72 to 0.65: `docs/results.md`.
_LONG = "rl.max_steps=72"

ABLATIONS: dict[str, Variant] = {
    **CONTROLS,
    "sft_uniform_bare": Variant(
        "tiny+sft_uniform_bare",
        f"{_UNIFORM} {_PASSES}",
        "SFT on random samples without general replay",
    ),
    "dppo_uniform": Variant(
        "tiny+dppo_uniform", _UNIFORM, "RL, then SFT on random samples, nothing mined"
    ),
    "weak_teacher": Variant("tiny+weak_teacher", "", "the base as its own teacher"),
    **{
        f"threshold_{value}".replace(".", "_"): Variant(
            f"tiny+threshold({value})",
            _LONG,
            f"RL of up to 72 steps ends at a stagnation of {value}",
        )
        for value in ("0.4", "0.5", "0.6", "0.9")
    },
    **{
        f"noisy_reward_{value}".replace(".", "_"): Variant(
            f"tiny+noisy_reward({value})", "", f"{float(value):.0%} of RL's rewards flipped"
        )
        for value in ("0.1", "0.25", "0.5")
    },
    "asymmetric_clipping": Variant(
        "tiny+asymmetric_clipping", "", "two updates a batch, clipped at 0.8 and 1.28"
    ),
    "symmetric_clipping": Variant(
        "tiny+symmetric_clipping", "", "two updates a batch, clipped at 0.8 and 1.2"
    ),
    "down_sampling": Variant(
        "tiny+down_sampling", "", "of each group the four of eight with most variance trained on"
    ),
    "perception_loss": Variant(
        "tiny+perception_loss", "", "PAPO's perception loss and double entropy"
    ),
    "hints": Variant("tiny+hints", "", "groups that all fail drawn again with a hint"),
}
# Names of runs that a store may have, and that can be asked for; the set does without them.
FORMER: dict[str, Variant] = {
    "sft_only": Variant("tiny+sft_only", "sft.epochs=4", "SFT phases alone, of four passes")
}
VARIANTS = {**ABLATIONS, **FORMER}


def run_name(variant: str, seed: int, tag: str) -> str:
    """Such as `results-dppo-s0`."""
    return f"{tag}-{variant.replace('_', '-')}-s{seed}"


def make_command(variant: Variant, name: str, seed: int, more: str) -> str:
    """The command line of one run."""
    return submit_command(variant.recipe, variant.settings(seed, more), name)


def submit_command(address: str, overrides: str, name: str) -> str:
    """The command line of a run of any recipe, by its address and overrides."""
    return f"make submit RECIPE={shlex.quote(address)} SET={shlex.quote(overrides)} RUN={name}"

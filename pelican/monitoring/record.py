"""Events of stages, trainers and launchers as metrics, one function per event."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast, get_args

from pelican.base import metrics as m
from pelican.base.metrics import active
from pelican.config import env
from pelican.config.stages import STAGES
from pelican.errors import InfrastructureError, ResourceError, UserInputError
from pelican.monitoring.exporter import JOB, pushed

if TYPE_CHECKING:
    from pelican.dppo.distillation import Reply
    from pelican.evaluation.gate import Gate
    from pelican.evaluation.metrics import Summary
    from pelican.records import Rollout, Score
    from pelican.storage.manifests import Manifest

# The state of a stage's job as its launcher sees it, pushed at each change.

State = Literal["pending", "running", "succeeded", "failed"]
_KINDS: dict[type[BaseException], str] = {
    UserInputError: "user",
    InfrastructureError: "infrastructure",
    ResourceError: "memory",
}


class JobWatch:
    """One job of a stage: pending until its first sign of work."""

    def __init__(self, send: Callable[[], None]) -> None:
        self._send = send
        self._launched = time.time()
        self._state: State | None = None
        self._enter("pending")

    def working(self) -> None:
        """The job reported progress; only the first time counts."""
        if self._state == "pending":
            m.JOB_WAIT.set(time.time() - self._launched)
            self._enter("running")

    def succeeded(self, attempts: int) -> None:
        """The stage is committed."""
        m.JOB_ATTEMPTS.set(attempts)
        self._enter("succeeded")

    def failed(self, error: BaseException) -> None:
        """The launcher gave up, or was stopped."""
        kind = next((kind for cls, kind in _KINDS.items() if isinstance(error, cls)), "stage")
        if isinstance(error, SystemExit | KeyboardInterrupt):
            kind = "cancelled"
        m.JOB_FAILED.set(1, kind=kind)
        self._enter("failed")

    def _enter(self, state: State) -> None:
        self._state = state
        for name in get_args(State):
            m.JOB_STATE.set(float(name == state), state=name)
        m.JOB_SINCE.set(time.time())
        self._send()


@contextmanager
def watched(stage: str, phase: str) -> Iterator[JobWatch]:
    """Watch one job from its launch to its end."""
    with pushed(stage, phase, job=JOB) as send:
        watch = JobWatch(send)
        try:
            yield watch
        except BaseException as error:
            watch.failed(error)
            raise


# Events of stages and trainers, one function each; without an exporter they do nothing.

T = TypeVar("T")
_END = object()
_PAGE = os.sysconf("SC_PAGE_SIZE")
# A trainer's log -> series; TRL logs the share that was clipped under the longer name.
_LOGGED = {
    "loss": m.LOSS,
    "grad_norm": m.GRADIENT_NORM,
    "learning_rate": m.LEARNING_RATE,
    "kl": m.KL,
    "entropy": m.ENTROPY,
    "clip_ratio/region_mean": m.CLIP,
}
_SETS = ("samples", "mastered", "practice", "intractable", "buffer", "weak")


@contextmanager
def timed(part: str) -> Iterator[None]:
    """Add the time inside to a part of the stage."""
    if not active():
        yield
        return
    began = time.monotonic()
    try:
        yield
    finally:
        m.STAGE_TIME.inc(time.monotonic() - began, part=part)


def timed_each(part: str, items: Iterable[T]) -> Iterator[T]:
    """The items; the time until each is there is added to a part of the stage."""
    waiting = iter(items)
    while True:
        with timed(part):
            item = next(waiting, _END)
        if item is _END:
            return
        yield cast(T, item)


def began(stage: str) -> None:
    """A stage begins, which is its first sign of life: its counters at 0 before it does anything.

    Without, a stage that never makes its first step would not show as stuck. A rate takes two
    scrapes, and the first value that is scraped counts for nothing: counters that came into being
    with what they count would show nothing of a stage that works for seconds.
    """
    if not active():
        return
    m.LAST_STEP.set(time.time())
    row = STAGES[stage]
    if row.generated or row.endings:
        m.TOKENS_GENERATED.inc(0)
    for finish in row.endings:
        m.COMPLETIONS.inc(0, finish=finish)
    if stage == "train-rl":
        for variance in ("yes", "no"):
            m.GROUPS.inc(0, variance=variance)
            m.GROUPS_TRAINED.inc(0, variance=variance)
    if row.trained:
        m.STEPS.inc(0)
        m.TOKENS_TRAINED.inc(0)


def waited() -> None:
    """There is nothing to do now but what other processes hold; in another pod, a stuck one shows.

    The processes of one pod are one target: there the one that waits would hide the one that is stuck.
    """
    if env.local_world_size() == 1:
        m.LAST_STEP.set(time.time())


def progressed(done: int, total: int, counted: bool) -> None:
    """A stage did something; `counted`: `done` and `total` are this process's share."""
    if not active():
        return
    m.LAST_STEP.set(time.time())
    if counted:
        m.PROGRESS_DONE.set(done)
        m.PROGRESS_EXPECTED.set(total)
    _memory()


def generated(completions: Sequence[Rollout | Reply]) -> None:
    """An engine or a teacher gave these completions."""
    if not active():
        return
    m.LAST_STEP.set(time.time())
    m.TOKENS_GENERATED.inc(sum(completion.tokens for completion in completions))
    for completion in completions:
        m.COMPLETIONS.inc(finish=getattr(completion, "finish", "unknown"))


def scored(family: str, scores: Sequence[Score]) -> None:
    """Count the rewards of one sample's rollouts, and observe their success rate."""
    if not active() or not scores:
        return
    from pelican.rewards import PARSE_FAILURES, reason_class

    for score in scores:
        unreadable = reason_class(score.reason) in PARSE_FAILURES
        outcome = "success" if score.success else "unreadable" if unreadable else "failure"
        m.ROLLOUTS.inc(family=family, outcome=outcome)
        m.THINK.observe(score.think_chars)
        for name, value in (
            ("format", score.format),
            ("task", score.task),
            ("total", score.reward),
        ):
            m.REWARD.observe(value, family=family, component=name)
    m.SUCCESS.observe(sum(s.success for s in scores) / len(scores), family=family)


def practised(drawn: Iterable[Any], hinted: Iterable[Any], trained: Iterable[Any]) -> None:
    """Count one rank's groups of a GRPO step (`pelican.training.grpo.Group`).

    Groups drawn with a hint count towards the generated tokens only, not towards success rates or
    rewards.
    """
    if not active():
        return
    for group in drawn:
        m.GROUPS.inc(variance="yes" if group.has_variance else "no")
        m.GROUP_DEVIATION.observe(float(group.rewards.std()))
        m.TOKENS_GENERATED.inc(sum(len(ids) for ids in group.completions))
        scored(group.sample.family.value, group.scores)
    for group in trained:
        m.GROUPS_TRAINED.inc(variance="yes" if group.has_variance else "no")
    for group in hinted:
        m.TOKENS_GENERATED.inc(sum(len(ids) for ids in group.completions))


def trained(labels: Any, ignored: int) -> None:
    """Count the tokens of an SFT batch that are learned.

    `labels` [rows, tokens] are token ids, or `ignored` where the loss leaves a token out.
    """
    if active():
        trained_on(int((labels != ignored).sum()))


def trained_on(tokens: int) -> None:
    """Count the completion tokens that one rank trained on in an optimiser step."""
    m.TOKENS_TRAINED.inc(tokens)


def stepped(seconds: float) -> None:
    """Count one optimiser step of the whole job, which took `seconds`."""
    m.STEPS.inc()
    m.STEP_DURATION.observe(seconds)


def logged(logs: Mapping[str, Any]) -> None:
    """Set the quantities that a trainer logged; NaN and infinity are counted, too."""
    if not active():
        return
    for name, series in _LOGGED.items():
        if name in logs:
            value = float(logs[name])
            series.set(value)
            m.NOT_FINITE.inc(not math.isfinite(value), quantity=name.partition("/")[0])


def stagnated(tasks: Mapping[str, float], mean: float) -> None:
    """Set the stagnation of each family, and its mean, at the end of a window of RL."""
    for family, value in tasks.items():
        m.STAGNATION.set(value, family=family)
    m.STAGNATION_MEAN.set(mean)


def evaluated(summary: Summary, gate: Gate, obeyed: bool) -> None:
    """Set the series of an evaluation: scores and their changes as shares of 1, and its gate's
    limits. What the gate decided is set only if the run obeys it (`obeyed`).
    """
    if not active():
        return
    for suite, estimate in (("embodied", summary.embodied), ("general", summary.general)):
        if estimate is not None:
            m.SCORE.set(estimate.score / 100, suite=suite)
    for name, estimate in summary.families.items():
        m.FAMILY_SCORE.set(estimate.score / 100, family=name)
    for name, estimate in summary.dimensions.items():
        m.DIMENSION_SCORE.set(estimate.score / 100, dimension=name)
    m.FORMAT_RATE.set(summary.format_rate)
    m.THINK_LENGTH.set(summary.mean_think_chars)
    for against, compared in summary.comparisons.items():
        for suite, change in (("embodied", compared.embodied), ("general", compared.general)):
            if change is not None:
                m.SCORE_CHANGE.set(change.delta / 100, suite=suite, against=against)
                m.SCORE_CHANGE_HIGH.set(change.high / 100, suite=suite, against=against)
        if against == "base":
            m.FORGOTTEN.set(compared.embodied_flips.forgotten_share, suite="embodied")
            m.FORGOTTEN.set(compared.general_flips.forgotten_share, suite="general")
    if obeyed:
        m.GATE.set(float(gate.go_on))
    for check in gate.checks:
        if obeyed:
            m.GATE_CHECK.set(float(check.passed), check=check.name)
        if check.name in ("embodied", "general") and "limit" in check.numbers:
            m.GATE_LIMIT.set(check.numbers["limit"] / 100, check=check.name)


def finished(manifest: Manifest, processes: int) -> None:
    """A stage was committed: what its manifest counts."""
    if not active():
        return
    torch = sys.modules.get("torch")
    accelerator = "gpu" if torch is not None and torch.cuda.is_available() else "cpu"
    m.DURATION.set(manifest.seconds)
    m.PROCESS_TIME.set(manifest.seconds * processes, accelerator=accelerator)
    m.LAST_SUCCESS.set(manifest.finished.timestamp())
    m.OUTPUT_BYTES.set(sum(output.size for output in manifest.outputs))
    m.LOOP.set(manifest.loop)
    counts = manifest.counts
    for name, value in counts.items():
        if name.startswith("quarantined"):
            m.QUARANTINED.set(value, code=name.removeprefix("quarantined").lstrip("_") or "any")
    if manifest.stage == "filter":
        for name in _SETS:
            if name in counts:
                m.BUFFER.set(counts[name], set=name)
    if manifest.stage == "distill":
        for origin in ("weak", "assoc", "general", "uniform"):
            asked, accepted = counts.get(f"asked_{origin}"), counts.get(f"accepted_{origin}")
            if asked is not None and accepted is not None:
                m.TEACHER_ANSWERS.set(accepted, origin=origin, accepted="yes")
                m.TEACHER_ANSWERS.set(asked - accepted, origin=origin, accepted="no")
        for name, share in manifest.metrics.items():
            if name.startswith("acceptance/"):
                m.TEACHER_ACCEPTANCE.set(share, family=name.removeprefix("acceptance/"))


def checked(pools: Mapping[str, tuple[int, str]]) -> None:
    """Preflight found these pools in order: name -> usable samples, its path or s3:// URI."""
    if not active():
        return
    from pelican.storage.checkpoints import newest_shard

    for name, (samples, where) in pools.items():
        m.POOL_SAMPLES.set(samples, pool=name)
        with suppress(InfrastructureError):  # a look that fails ends no preflight
            m.POOL_NEWEST.set(newest_shard(where), pool=name)


def _memory() -> None:
    with suppress(OSError), open("/proc/self/statm", encoding="ascii") as file:  # Linux only
        m.MEMORY.set(int(file.read().split()[1]) * _PAGE)
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return
    device = torch.cuda.current_device()
    for state, value in (
        ("allocated", torch.cuda.memory_allocated(device)),
        ("reserved", torch.cuda.memory_reserved(device)),
        ("peak", torch.cuda.max_memory_allocated(device)),
    ):
        m.GPU_MEMORY.set(value, device=str(device), state=state)

"""Every metric that Pelican exports, by name, with its labels; and how a process keeps their values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

# How a value gets into prometheus_client, which is imported with the first value that is kept.

Kind = Literal["counter", "gauge", "histogram", "summary"]
Unit = Literal["items", "seconds", "bytes", "ratio", "nats", "characters", "tokens", "none"]
# How the values of several processes become one; counters, histograms and summaries are summed.
Across = Literal["sum", "max", "mostrecent"]
# live: while a stage works; end: once, when it has finished; job: by whoever launches it.
Moment = Literal["live", "end", "job"]
COMMON = ("stage", "phase")
TENTHS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
# What a sample of a series is called, after the series' own name.
_SAMPLES: dict[Kind, tuple[str, ...]] = {
    "counter": ("",),
    "gauge": ("",),
    "histogram": ("_bucket", "_sum", "_count"),
    "summary": ("_sum", "_count"),
}

SERIES: dict[str, Series] = {}


@dataclass(frozen=True)
class Recorder:
    """prometheus_client's metrics of one process, with the labels that all of them carry."""

    registry: CollectorRegistry
    common: tuple[str, str]  # values of COMMON
    made: dict[str, Any] = field(default_factory=dict)


_recorder: Recorder | None = None


@dataclass(frozen=True)
class Series:
    """One metric family. `labels` are its own, beside COMMON; each has few values.

    Without a recorder, setting a value does nothing.
    """

    name: str
    kind: Kind
    unit: Unit
    help: str
    labels: tuple[str, ...] = ()
    across: Across = "mostrecent"
    moment: Moment = "live"
    buckets: tuple[float, ...] = TENTHS

    def __post_init__(self) -> None:
        SERIES[self.name] = self

    @property
    def samples(self) -> tuple[str, ...]:
        """The names of its samples as Prometheus sees them; `_created` is none of them."""
        return tuple(self.name + suffix for suffix in _SAMPLES[self.kind])

    def inc(self, amount: float = 1.0, **labels: str) -> None:
        """Add to a counter."""
        if _recorder is not None:
            self._labelled(_recorder, labels).inc(amount)

    def set(self, value: float, **labels: str) -> None:
        """Set a gauge."""
        if _recorder is not None:
            self._labelled(_recorder, labels).set(value)

    def observe(self, value: float, **labels: str) -> None:
        """Add a value to a histogram or summary."""
        if _recorder is not None:
            self._labelled(_recorder, labels).observe(value)

    def _labelled(self, recorder: Recorder, labels: dict[str, str]) -> Any:
        """A metric comes into being with its first value: a gauge that is not set is not 0."""
        made = recorder.made.get(self.name)
        if made is None:
            made = recorder.made[self.name] = self._make(recorder.registry)
        return made.labels(*recorder.common, *(labels[name] for name in self.labels))

    def _make(self, registry: CollectorRegistry) -> Any:
        import prometheus_client

        make = getattr(prometheus_client, self.kind.capitalize())
        more: dict[str, Any] = {}
        if self.kind == "gauge":
            more["multiprocess_mode"] = self.across
        elif self.kind == "histogram":
            more["buckets"] = self.buckets
        return make(self.name, self.help, (*COMMON, *self.labels), registry=registry, **more)


def active() -> bool:
    """Whether values are kept."""
    return _recorder is not None


def record_into(registry: CollectorRegistry | None, stage: str = "", phase: str = "") -> None:
    """From now on values go to `registry`, as those of this stage; None: nowhere."""
    global _recorder
    _recorder = None if registry is None else Recorder(registry, (stage, phase))


# Every Prometheus series that Pelican has: the one place where they are named.
#
# All carry the labels `stage` and `phase`; none carries the run, because there is no end to the number of runs.
# `docs/monitoring.md` is this list for a reader, and a test compares the two.

LENGTHS = (0.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0)

# While a stage works
PROGRESS_DONE = Series(
    "pelican_progress_done_items", "gauge", "items", "Units of work done", across="sum"
)
PROGRESS_EXPECTED = Series(
    "pelican_progress_expected_items", "gauge", "items", "Units of work in all", across="sum"
)
LAST_STEP = Series(
    "pelican_last_step_timestamp_seconds",
    "gauge",
    "seconds",
    "Unix time of the start or the last step or piece of work, so that a stuck stage shows",
    across="max",
)
STAGE_TIME = Series(
    "pelican_stage_time_seconds_total",
    "counter",
    "seconds",
    "Time by part: data (waiting for samples), generate, wait (for other ranks); all ranks added up",
    ("part",),
)
MEMORY = Series(
    "pelican_resident_memory_bytes",
    "gauge",
    "bytes",
    "Resident memory of the stage's processes",
    across="sum",
)
GPU_MEMORY = Series(
    "pelican_gpu_memory_bytes",
    "gauge",
    "bytes",
    "Memory of a GPU that torch holds: allocated, reserved, or allocated at most; GPUs only",
    ("device", "state"),
    across="max",
)
TOKENS_GENERATED = Series(
    "pelican_tokens_generated_total", "counter", "tokens", "Tokens that an engine generated"
)
COMPLETIONS = Series(
    "pelican_completions_total",
    "counter",
    "items",
    "Completions by how they ended: stop, length (cut off), unknown (a teacher's)",
    ("finish",),
)
# Rewards, in the reward stage and of RL's own rollouts
ROLLOUTS = Series(
    "pelican_rollouts_total",
    "counter",
    "items",
    "Scored rollouts by outcome: success, failure, or unreadable",
    ("family", "outcome"),
)
REWARD = Series(
    "pelican_reward_ratio",
    "summary",
    "ratio",
    "Reward of a rollout by component (format, task, total), 0 to 1; format is the format rate",
    ("family", "component"),
)
SUCCESS = Series(
    "pelican_success_ratio",
    "histogram",
    "ratio",
    "Success rate of one sample's rollouts",
    ("family",),
)
THINK = Series(
    "pelican_think_characters",
    "histogram",
    "characters",
    "Length of a rollout's thinking",
    buckets=LENGTHS,
)
# Training
GROUPS = Series(
    "pelican_groups_total",
    "counter",
    "items",
    "Groups that RL drew; those without variance (no) give no gradient",
    ("variance",),
)
GROUPS_TRAINED = Series(
    "pelican_groups_trained_total",
    "counter",
    "items",
    "Groups that RL trained on; those without variance (no) fill a batch and teach nothing",
    ("variance",),
)
GROUP_DEVIATION = Series(
    "pelican_group_reward_deviation_ratio",
    "summary",
    "ratio",
    "Standard deviation of the rewards within a group of RL",
)
TOKENS_TRAINED = Series(
    "pelican_tokens_trained_total", "counter", "tokens", "Completion tokens in optimiser steps"
)
STEPS = Series("pelican_training_steps_total", "counter", "items", "Optimiser steps")
STEP_DURATION = Series(
    "pelican_training_step_duration_seconds",
    "summary",
    "seconds",
    "Time of one optimiser step, its rollouts included",
)
LOSS = Series("pelican_training_loss", "gauge", "none", "Loss of the last steps logged")
GRADIENT_NORM = Series("pelican_training_gradient_norm", "gauge", "none", "Norm before clipping")
LEARNING_RATE = Series("pelican_training_learning_rate", "gauge", "none", "Learning rate")
KL = Series("pelican_training_kl_nats", "gauge", "nats", "KL divergence from the phase's start")
ENTROPY = Series("pelican_training_entropy_nats", "gauge", "nats", "Mean entropy of a token")
CLIP = Series(
    "pelican_training_clip_ratio",
    "gauge",
    "ratio",
    "Share of tokens whose probability ratio was clipped",
)
NOT_FINITE = Series(
    "pelican_training_not_finite_total",
    "counter",
    "items",
    "Times that a logged quantity was NaN or infinite; there from the first log on",
    ("quantity",),
)
STAGNATION = Series(
    "pelican_stagnation_ratio", "gauge", "ratio", "Stagnation TS of a task family", ("family",)
)
STAGNATION_MEAN = Series(
    "pelican_stagnation_mean_ratio", "gauge", "ratio", "Mean stagnation, which ends the RL phase"
)
STORE_BYTES = Series(
    "pelican_store_bytes_total",
    "counter",
    "bytes",
    "Bytes read from and written to the store",
    ("direction",),
)
STORE_RETRIES = Series(
    "pelican_store_retries_total", "counter", "items", "Requests to the store that were repeated"
)
STORE_ERRORS = Series(
    "pelican_store_errors_total", "counter", "items", "Requests to the store that failed for good"
)


def _end(
    name: str, unit: Unit, help: str, labels: tuple[str, ...] = (), across: Across = "mostrecent"
) -> Series:
    return Series(name, "gauge", unit, help, labels, across, "end")


# When a stage has finished
DURATION = _end("pelican_stage_duration_seconds", "seconds", "From start to commit")
PROCESS_TIME = _end(
    "pelican_stage_process_seconds",
    "seconds",
    "Duration times processes, by what they computed on: gpu or cpu",
    ("accelerator",),
)
LAST_SUCCESS = _end(
    "pelican_stage_last_success_timestamp_seconds", "seconds", "Unix time of the last commit"
)
OUTPUT_BYTES = _end("pelican_stage_output_bytes", "bytes", "Size of what the stage committed")
LOOP = _end("pelican_loop", "none", "Loop of the stage that finished last; 0 is the base")
POOL_SAMPLES = _end("pelican_pool_samples", "items", "Usable samples of a pool", ("pool",))
POOL_NEWEST = _end(
    "pelican_pool_newest_shard_timestamp_seconds",
    "seconds",
    "Unix time at which a pool's newest shard was written",
    ("pool",),
)
QUARANTINED = _end(
    "pelican_quarantined_samples",
    "items",
    "Samples left out, by reason",
    ("code",),
)
BUFFER = _end(
    "pelican_buffer_samples",
    "items",
    "Samples by difficulty (mastered, practice, intractable) and those taken (buffer, weak)",
    ("set",),
)
TEACHER_ANSWERS = _end(
    "pelican_teacher_answers",
    "items",
    "Samples that the teacher answered, by origin and whether the reward accepts it",
    ("origin", "accepted"),
)
TEACHER_ACCEPTANCE = _end(
    "pelican_teacher_acceptance_ratio",
    "ratio",
    "Share of the weak samples that the teacher solves",
    ("family",),
)
SCORE = _end("pelican_evaluation_score_ratio", "ratio", "Held-out score", ("suite",))
FAMILY_SCORE = _end(
    "pelican_evaluation_family_score_ratio", "ratio", "Embodied score of a family", ("family",)
)
DIMENSION_SCORE = _end(
    "pelican_evaluation_dimension_score_ratio",
    "ratio",
    "Embodied score of a dimension",
    ("dimension",),
)
SCORE_CHANGE = _end(
    "pelican_evaluation_change_ratio",
    "ratio",
    "Score minus that of the base or the previous evaluation, same questions",
    ("suite", "against"),
)
SCORE_CHANGE_HIGH = _end(
    "pelican_evaluation_change_high_ratio",
    "ratio",
    "Upper end of its 95 % interval: below 0 the loss is more than noise",
    ("suite", "against"),
)
FORGOTTEN = _end(
    "pelican_evaluation_forgotten_ratio",
    "ratio",
    "Share of what the base answered rightly that is now wrong",
    ("suite",),
)
FORMAT_RATE = _end("pelican_evaluation_format_ratio", "ratio", "Mean format reward, embodied")
THINK_LENGTH = _end(
    "pelican_evaluation_think_characters", "characters", "Mean length of thinking, embodied"
)
# The gate of the base and of a loop's last phase: after RL it is not obeyed if SFT follows.
GATE = _end("pelican_gate_open", "none", "1: the metaloop goes on; 0: the gate stopped it")
GATE_CHECK = _end(
    "pelican_gate_check_passed", "none", "1 or 0 for one check of a gate that is obeyed", ("check",)
)
GATE_LIMIT = _end("pelican_gate_limit_ratio", "ratio", "Loss that the recipe allows", ("check",))


def _job(name: str, unit: Unit, help: str, labels: tuple[str, ...] = ()) -> Series:
    return Series(name, "gauge", unit, help, labels, "mostrecent", "job")


# Pushed by the launcher of a stage
JOB_STATE = _job(
    "pelican_job_state",
    "none",
    "1 for the state the stage's job is in: pending, running, succeeded, failed; else 0",
    ("state",),
)
JOB_SINCE = _job(
    "pelican_job_state_timestamp_seconds", "seconds", "Unix time at which it came into that state"
)
JOB_WAIT = _job(
    "pelican_job_wait_seconds", "seconds", "From launching a job to its first sign of work"
)
JOB_ATTEMPTS = _job("pelican_job_attempts", "items", "Attempts that the last job took")
JOB_FAILED = _job(
    "pelican_job_failed",
    "none",
    "1 for the kind of the last failure: user, infrastructure, memory, cancelled, stage",
    ("kind",),
)

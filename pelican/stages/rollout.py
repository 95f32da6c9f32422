"""Rollout: the policy answers every sample of the loop T times, in shards that replicas share out."""

from __future__ import annotations

import json
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import pyarrow as pa

from pelican.base.model import Frozen, digest_of, pop_check, with_check
from pelican.base.parse import parse_json
from pelican.base.process import in_order
from pelican.config.recipe import Recipe
from pelican.data.entries import Entry
from pelican.data.frames import read_frame
from pelican.data.pool import PoolIndex, read_index
from pelican.data.select import LoopSamples, Stratum, failures_before, loop_samples
from pelican.data.tables import Quarantine, QuarantineRow, write_rows, write_table
from pelican.dppo.difficulty import measure_of
from pelican.engines import Engine, open_engine
from pelican.errors import DamagedError, InfrastructureError
from pelican.monitoring import record
from pelican.records import Phase, Rollout, Sample
from pelican.rewards import Judge, judge_workers, score
from pelican.stages.job import Lease, Leases, StageJob
from pelican.stages.stage import Inputs, StageResult

SELECTION = pa.schema(
    [
        ("sample_id", pa.string()),
        ("family", pa.string()),
        ("dimension", pa.string()),
        ("shard", pa.int32()),
    ]
)


Shards = list[Sequence[Entry]]


@dataclass(frozen=True)
class Plan:
    """What is rolled out: the samples of this loop and phase, and the shards in which they are."""

    index: PoolIndex
    samples: LoopSamples
    shards: Shards
    failures: Mapping[Stratum, float]  # by which samples were drawn; empty: by the pool's shares


def work(inputs: Inputs, config: Recipe, job: StageJob) -> Plan:
    """Inputs policy and pool; writes `rollouts-*.parquet`, shard by shard as they are claimed.

    Returns when all shards are there, by whichever replica. A shard that is there is not made again.
    """
    plan = _plan(inputs, config, job)
    index, shards = plan.index, plan.shards
    tries = config.rollout.weak_samples if job.phase is Phase.SFT else config.rollout.samples
    numbers = {_shard_name(number): number for number in range(len(shards))}
    leases = job.leases(list(numbers), lambda: _finished(job))
    rollouts = [tries * len(shard) for shard in shards]
    share = _fair_share(rollouts, job)
    # What an earlier attempt left counts as replica 0's.
    done = sum(rollouts[numbers[name]] for name in _finished(job)) if job.rank == 0 else 0
    seed = phase_seed(config.seed, job.loop, job.phase)

    def load(name: str, quarantine: Quarantine) -> Iterator[Sample]:
        pixels = config.data.max_pixels
        return index.load(shards[numbers[name]], max_pixels=pixels, quarantine=quarantine)

    def commit(name: str, rows: list[Rollout], quarantine: Quarantine) -> None:
        _commit(job, numbers[name], rows, quarantine, tries)

    in_flight = InFlightShards(leases, load, commit)
    again = config.filter.zeros_again if job.phase is Phase.SFT else 0
    judge = job.judge(config.reward) if again else None
    engine: Engine | None = None
    generated, began = 0, time.monotonic()
    try:
        while (lease := leases.take()) is not None or leases.wait():
            if lease is None:
                continue
            engine = engine or open_engine(config.rollout, config.model, inputs["policy"])
            samples = in_flight.samples(lease, more=engine.continuous and not again)
            held: list[Sample] = []
            if again or not engine.continuous:
                with record.timed("data"):
                    held = list(samples)
                samples = iter(held)
            answered: dict[str, list[Rollout]] = {}
            groups = engine.generate(samples, config.rollout.sampling, tries, seed)
            for group in record.timed_each("generate", groups):
                in_flight.answer(group)
                record.generated(group)
                generated += len(group)
                rate = generated / max(1e-9, time.monotonic() - began)
                if again:
                    answered[group[0].sample_id] = group
                else:
                    done += sum(rollouts[numbers[name]] for name in in_flight.commit())
                there = done + in_flight.rollouts()
                # A replica that is faster than others does more than its share.
                job.progress(min(there, share - 1), share, "rollouts", rate=rate)
            if again:
                _roll_zeros_again(engine, config, job, held, answered, judge)
            # A shard may have no usable sample.
            done += sum(rollouts[numbers[name]] for name in in_flight.commit())
    finally:
        in_flight.release()
        if engine is not None:
            engine.close()
    job.progress(share, share, "rollouts")
    return plan


def finish(inputs: Inputs, config: Recipe, job: StageJob, plan: Plan) -> StageResult:
    """Write `selection.parquet`, and count what all replicas made; `plan` is what `work` gave."""
    _write_selection(job, plan.shards)
    result = StageResult()
    result.counts.update(plan.index.corrected)
    result.counts["fresh"] = plan.samples.fresh
    if plan.failures:
        result.notes["failures"] = {
            f"{family}/{dimension}": rate
            for (family, dimension), rate in sorted(plan.failures.items())
        }
    _count_quarantine(result, plan.index.quarantine.rows)
    for number in range(len(plan.shards)):
        facts = _read_facts(job, number)
        result.counts.update(facts.counts)
        _count_quarantine(result, facts.quarantine)
    return result


def _roll_zeros_again(
    engine: Engine,
    config: Recipe,
    job: StageJob,
    samples: Sequence[Sample],
    answered: Mapping[str, list[Rollout]],
    judge: Judge | None,
) -> None:
    """Add further rollouts to the groups in which none succeeded.

    Args:
        engine: With the policy.
        config: The recipe.
        job: Of the stage.
        samples: Of one shard.
        answered: Their rollouts, by id; they get more.
        judge: Of free text.
    """

    def failed(sample: Sample) -> bool:
        return not any(
            score(sample, one.completion, config.reward, index=one.index, judge=judge).success
            for one in answered[sample.id]
        )

    all_failed = list(in_order(failed, samples, judge_workers(config.reward, judge)))
    zeros = [sample for sample, none in zip(samples, all_failed, strict=True) if none]
    seed = phase_seed(config.seed, job.loop, job.phase, "again")
    more = engine.generate(zeros, config.rollout.sampling, config.filter.zeros_again, seed)
    for group in record.timed_each("generate", more):
        record.generated(group)
        first = answered[group[0].sample_id]
        start = len(first)
        first += [one.model_copy(update={"index": start + one.index}) for one in group]


def _plan(inputs: Inputs, config: Recipe, job: StageJob) -> Plan:
    index = read_index(inputs["pool"], inputs.corrections())
    ledgers = [read_frame(folder / "ledger.parquet") for folder in inputs.earlier()]
    measures = [measure_of(ledger) for ledger in ledgers if len(ledger)]
    samples = loop_samples(index, config, job.loop, job.phase, measures)
    entries, size = samples.entries, config.rollout.shard_size
    shards: Shards = [entries[i : i + size] for i in range(0, len(entries), size)]
    return Plan(index, samples, shards, failures_before(measures, job.loop, job.phase))


def _fair_share(rollouts: Sequence[int], job: StageJob) -> int:
    """What this replica's progress counts to; the shares of all sum to the whole."""
    whole, size = sum(rollouts), job.world_size
    return whole * (job.rank + 1) // size - whole * job.rank // size


def phase_seed(seed: int, loop: int, phase: Phase, *which: str) -> int:
    """The seed of one phase's rollouts; an engine adds the sample's id and the rollout's index.

    `which`: of the phase's rollouts, other than the first ones.
    """
    return int(digest_of([seed, loop, phase.value, *which]), 16) >> 1


def _shard_name(number: int) -> str:
    return f"rollouts-{number:05d}.parquet"


def _facts_name(number: int) -> str:
    return f"work/shard-{number:05d}.json"


def _finished(job: StageJob) -> set[str]:
    """Names of the shards that are there, with the file of facts that is written after them."""
    files = job.names()
    facts = {name for name in files if name.startswith("work/shard-")}
    shards = {f"rollouts-{name[len('work/shard-') : -len('.json')]}.parquet" for name in facts}
    return shards & files


def _commit(
    job: StageJob, number: int, rows: Sequence[Rollout], quarantine: Quarantine, tries: int
) -> None:
    """Write the shard, then what is known about it: with that it counts as finished.

    `tries`: rollouts of a sample, after which those that were made again begin.
    """
    write_rows(job.output(_shard_name(number)), rows, Rollout)
    job.put(_shard_name(number))
    counts = Counter(
        samples=len({row.sample_id for row in rows}),
        rollouts=len(rows),
        tokens=sum(row.tokens for row in rows),
        prompt_tokens=sum(row.prompt_tokens for row in rows if row.index in (0, tries)),
        truncated=sum(row.finish == "length" for row in rows),
    )
    if again := sum(row.index == tries for row in rows):
        counts["rolled_again"] = again
    facts = Facts(counts=dict(counts), quarantine=quarantine.rows)
    job.write(_facts_name(number), json.dumps(with_check(facts.model_dump(mode="json"))).encode())


class Facts(Frozen):
    """What is known of a finished shard."""

    counts: dict[str, int]
    quarantine: list[QuarantineRow]


def _read_facts(job: StageJob, number: int) -> Facts:
    """The facts of a finished shard.

    Raises:
        InfrastructureError: they are damaged; they are deleted, so that the shard is made again.
    """
    name = _facts_name(number)
    with suppress(ValueError, DamagedError):
        tree = parse_json(job.read(name))
        if isinstance(tree, dict) and pop_check(tree):
            return Facts.model_validate(tree)
    job.store.delete(f"{job.prefix}/{name}")
    raise InfrastructureError(
        f"{job.prefix}/{name} is damaged; the next attempt rolls that shard out again"
    )


def _count_quarantine(result: StageResult, rows: Sequence[QuarantineRow]) -> None:
    """Count rows by code and keep the first 200 for the report."""
    quarantine = Quarantine(list(rows))
    result.counts.update({f"quarantined_{code}": n for code, n in quarantine.counts.items()})
    kept = result.notes.setdefault("quarantine", [])
    kept += quarantine.notes(200 - len(kept))


def _write_selection(job: StageJob, shards: Sequence[Sequence[Entry]]) -> None:
    """The subset of this loop and phase, for the later stages and the report."""
    rows = [
        {
            "sample_id": entry.id,
            "family": entry.family.value,
            "dimension": entry.dimension.value,
            "shard": number,
        }
        for number, shard in enumerate(shards)
        for entry in shard
    ]
    table = pa.Table.from_pylist(rows, schema=SELECTION)
    write_table(job.output("selection.parquet"), table)
    job.put("selection.parquet")


__all__ = ["SELECTION", "finish", "phase_seed", "work"]

# The shards that a replica has in flight: leased, handed to the engine, answered, committed.

Load = Callable[[str, Quarantine], Iterator[Sample]]
Commit = Callable[[str, list[Rollout], Quarantine], None]


@dataclass
class _Shard:
    lease: Lease
    asked: int = 0  # samples that the engine got
    all_asked: bool = False
    groups: list[list[Rollout]] = field(default_factory=list)  # of the samples that it answered
    quarantine: Quarantine = field(default_factory=Quarantine)


class InFlightShards:
    """Shards in the order in which the engine got their samples.

    `load` gives the samples of a shard by its name, `commit` writes what was answered of it.
    """

    def __init__(self, leases: Leases, load: Load, commit: Commit) -> None:
        self._leases, self._load, self._commit = leases, load, commit
        self._shards: deque[_Shard] = deque()

    def samples(self, lease: Lease, *, more: bool) -> Iterator[Sample]:
        """The samples of a leased shard and, if `more`, of the next that is free, and so on.

        An engine that takes samples as it has room then never waits for the slowest of a shard. It
        asks for the next shard with the last samples of the one before still in work, so this
        replica may hold two.
        """
        taken: Lease | None = lease
        while taken is not None:
            shard = _Shard(taken)
            self._shards.append(shard)
            for sample in self._load(taken.name, shard.quarantine):
                shard.asked += 1
                yield sample
            shard.all_asked = True
            taken = self._leases.take() if more else None

    def answer(self, group: list[Rollout]) -> None:
        """Take the rollouts of one sample.

        Calls must follow the order in which `samples` yielded the samples.
        """
        next(shard for shard in self._shards if len(shard.groups) < shard.asked).groups.append(
            group
        )

    def commit(self) -> list[str]:
        """Write the shards of which all is answered; their names."""
        names = []
        while self._shards and self._shards[0].all_asked:
            shard = self._shards[0]
            if len(shard.groups) < shard.asked:
                break
            if not shard.lease.claim.lost:  # else another replica writes it
                rows = [rollout for group in shard.groups for rollout in group]
                self._commit(shard.lease.name, rows, shard.quarantine)
                names.append(shard.lease.name)
            self._shards.popleft().lease.release()
        return names

    def rollouts(self) -> int:
        """How many rollouts there are in shards that are not committed yet."""
        return sum(len(group) for shard in self._shards for group in shard.groups)

    def release(self) -> None:
        """Leave the shards that are not committed to other replicas."""
        while self._shards:
            self._shards.popleft().lease.release()

"""The rollout stage, with a deterministic engine: shards, seeds, resuming, ranks."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest

from pelican.config.recipe import (
    Data,
    FilterConfig,
    Models,
    Recipe,
    RewardConfig,
    RolloutConfig,
    Sampling,
)
from pelican.data.tables import read_rows
from pelican.engines.base import Engine, rollout_seed
from pelican.errors import InfrastructureError, UserInputError
from pelican.records import EMBODIED_FAMILIES, CountAnswer, Dimension, Phase, Rollout, Sample
from pelican.stages import rollout
from pelican.stages.fingerprint import stage_fingerprint
from pelican.stages.runner import run_stage, stage_arguments
from pelican.stages.stage import StageSpec
from pelican.storage import open_store
from pelican.storage.claims import Claim, Claims
from pelican.storage.store import MANIFEST
from tests.data.factory import clip, picture, sample, write_pool


class Fake(Engine):
    """Answers with its seed; counts what it was asked, and dies before a sample if told so."""

    def __init__(self, dies_at: int | None = None) -> None:
        self.asked: list[str] = []
        self.dies_at = dies_at

    def generate(
        self, samples: Sequence[Sample], sampling: Sampling, n: int, seed: int
    ) -> Iterator[list[Rollout]]:
        for each in samples:
            if self.dies_at is not None and len(self.asked) >= self.dies_at:
                raise KeyboardInterrupt
            self.asked.append(each.id)
            seeds = [rollout_seed(seed, each.id, i) for i in range(n)]
            yield [
                Rollout(
                    sample_id=each.id,
                    index=i,
                    seed=s,
                    completion=f"answer {s}",
                    tokens=i + 1,
                    finish="length" if i == 2 else "stop",
                )
                for i, s in enumerate(seeds)
            ]


class Continuous(Fake):
    """Takes samples as it has room: answers one only once it has six, or no more come."""

    continuous = True
    room = 6

    def generate(
        self, samples: Iterable[Sample], sampling: Sampling, n: int, seed: int
    ) -> Iterator[list[Rollout]]:
        todo = iter(samples)
        waiting: list[Any] = []
        self.calls = getattr(self, "calls", 0) + 1
        while True:
            while len(waiting) < self.room and (one := next(todo, None)) is not None:
                waiting.append(one)
            if not waiting:
                return
            yield from super().generate([waiting.pop(0)], sampling, n, seed)


def use(monkeypatch: pytest.MonkeyPatch, engine: Fake) -> Fake:
    monkeypatch.setattr(rollout, "open_engine", lambda *_: engine)
    return engine


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    samples = [sample(i) for i in range(30)]
    samples[4] = sample(4, images=(picture()[:90],))
    return write_pool(tmp_path / "pool", [*samples, clip(90, [0, 50])], per_shard=12)


def spec(
    tmp_path: Path, pool: Path, phase: Phase = Phase.RL, run: str = "r", **data: int
) -> StageSpec:
    (tmp_path / "policy").mkdir(exist_ok=True)
    (tmp_path / "policy" / "config.json").write_text("{}")
    return StageSpec(
        stage="rollout",
        store=str(tmp_path / "store"),
        run=run,
        loop=1,
        phase=phase,
        output=f"runs/{run}/loop-1/rollout-{phase.value}",
        inputs={"policy": str(tmp_path / "policy"), "pool": str(pool)},
        recipe=Recipe(
            name="test",
            models=Models(policy="p", teacher="t"),
            data=Data(train="a", replay="b", evaluation="c", general="d", **data),
            rollout=RolloutConfig(samples=4, weak_samples=2, shard_size=8),
        ),
    )


def folder(spec: StageSpec) -> Path:
    return Path(spec.store) / spec.output


def shards(spec: StageSpec) -> list[Path]:
    return sorted(folder(spec).glob("rollouts-*.parquet"))


def test_every_sample_of_the_loop_is_answered_t_times(
    tmp_path: Path, pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Fake())
    job = spec(tmp_path, pool)
    manifest = run_stage(job)
    rows = list(read_rows(shards(job), Rollout))
    assert [p.name for p in shards(job)] == [f"rollouts-{i:05d}.parquet" for i in range(4)]
    assert len(rows) == 29 * 4 and "s00004" not in {r.sample_id for r in rows}
    assert len({r.seed for r in rows}) == len(rows)
    assert manifest.counts == {
        "samples": 29,
        "fresh": 30,
        "prompt_tokens": 0,  # the engine does not say
        "rollouts": 116,
        "tokens": 29 * 10,
        "truncated": 29,
        "quarantined_image_unreadable": 1,
    }
    assert manifest.notes["quarantine"][0]["id"] == "s00004"
    selection = pq.read_table(folder(job) / "selection.parquet").to_pylist()
    assert len(selection) == 30 and selection[29]["shard"] == 3
    assert "s00090" not in {row["sample_id"] for row in selection}  # beyond the horizon


def test_weak_mining_takes_fewer_tries_of_more_samples_with_other_seeds(
    tmp_path: Path, pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Fake())
    rl = spec(tmp_path, pool, samples_per_loop=6)
    sft = spec(tmp_path, pool, Phase.SFT, samples_per_loop=6)
    run_stage(rl), run_stage(sft)
    one = {(r.sample_id, r.index): r.seed for r in read_rows(shards(rl), Rollout)}
    two = {(r.sample_id, r.index): r.seed for r in read_rows(shards(sft), Rollout)}
    assert {index for _, index in one} == {0, 1, 2, 3} and {i for _, i in two} == {0, 1}
    assert not set(one.values()) & set(two.values())
    first, both = {s for s, _ in one}, {s for s, _ in two}
    assert first - {"s00004"} <= both and len(both) > len(first)


@pytest.mark.parametrize("after", [0, 3, 8, 13, 28])
def test_a_killed_stage_continues_at_the_next_shard_with_the_same_rows(
    tmp_path: Path, pool: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    use(monkeypatch, Fake())
    whole = spec(tmp_path, pool, run="whole")
    expected = run_stage(whole)
    job = spec(tmp_path, pool, run="killed")
    use(monkeypatch, Fake(dies_at=after))
    with pytest.raises(KeyboardInterrupt):
        run_stage(job)
    kept = {p: p.stat().st_mtime_ns for p in shards(job)}
    assert len(kept) == max(0, (after + 1) // 8)  # the first shard lacks a bad sample
    assert not (folder(job) / "manifest.json").exists()
    again = use(monkeypatch, Fake())
    manifest = run_stage(job)
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    assert len(again.asked) == 29 - sum(7 if "00000" in p.name else 8 for p in kept)
    assert manifest.counts == expected.counts
    assert manifest.notes["quarantine"] == expected.notes["quarantine"]
    assert manifest.outputs == expected.outputs  # the same bytes in every file
    quiet = use(monkeypatch, Fake())
    assert run_stage(job) == manifest and not quiet.asked


@pytest.mark.parametrize("after", [None, 0, 3, 7, 8, 12, 28])
def test_shards_follow_each_other_in_an_engine_that_takes_samples_as_it_has_room(
    tmp_path: Path, pool: Path, monkeypatch: pytest.MonkeyPatch, after: int | None
) -> None:
    use(monkeypatch, Fake())
    expected = run_stage(spec(tmp_path, pool, run="whole"))
    job = spec(tmp_path, pool, run="continuous")
    if after is not None:
        use(monkeypatch, Continuous(dies_at=after))
        with pytest.raises(KeyboardInterrupt):
            run_stage(job)
        assert len(shards(job)) == max(0, (after + 1) // 8)  # all that was answered is there
    engine = use(monkeypatch, Continuous())
    manifest = run_stage(job)
    assert engine.calls == 1  # type: ignore[attr-defined]  # it was never left without samples before the end
    assert manifest.outputs == expected.outputs
    assert manifest.counts == expected.counts
    assert manifest.notes["quarantine"] == expected.notes["quarantine"]


def test_a_replica_that_holds_two_shards_leaves_one_that_it_lost(
    tmp_path: Path, pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first shard is another's by the time that its last answer is there."""
    use(monkeypatch, Fake())
    expected = run_stage(spec(tmp_path, pool, run="whole"))
    job = spec(tmp_path, pool, run="slow")
    held: list[Claim] = []
    hold = Claims.hold

    @contextmanager
    def noted(claims: Claims, name: str) -> Iterator[Claim | None]:
        with hold(claims, name) as claim:
            if claim is not None and name != "commit":
                held.append(claim)
                if len(held) == 2:  # asked for while the first shard's last answers are awaited
                    held[0].lost = True
            yield claim

    monkeypatch.setattr(Claims, "hold", noted)
    engine = use(monkeypatch, Continuous())
    manifest = run_stage(job)
    assert len(engine.asked) == 29 + 7  # here nobody else had it, so its seven were asked again
    assert manifest.outputs == expected.outputs and manifest.counts == expected.counts


def test_a_shard_without_its_note_is_made_again(
    tmp_path: Path, pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Fake(dies_at=20))
    job = spec(tmp_path, pool)
    with pytest.raises(KeyboardInterrupt):
        run_stage(job)
    shards(job)[0].write_bytes(b"half")
    (folder(job) / "work" / "shard-00000.json").unlink()
    use(monkeypatch, Fake())
    run_stage(job)
    assert len(list(read_rows(shards(job), Rollout))) == 116


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: d.replace(b'"tokens":', b'"tokens":1', 1),
        lambda d: d[:20],
        lambda d: b"[" * 9,
        lambda d: b"\xff" + d,
    ],
)
def test_a_shard_whose_note_is_damaged_is_made_again(
    tmp_path: Path, pool: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[bytes], bytes]
) -> None:
    """What is not as it was written is no count: the shard is rolled out once more."""
    use(monkeypatch, Fake())
    job = spec(tmp_path, pool)
    whole = run_stage(job)
    (folder(job) / MANIFEST).unlink()
    note = folder(job) / "work" / "shard-00000.json"
    note.write_bytes(damage(note.read_bytes()))
    with pytest.raises(InfrastructureError, match=r"shard-00000\.json is damaged"):
        run_stage(job)
    engine = use(monkeypatch, Fake())
    again = run_stage(job)
    assert again.counts == whole.counts and again.outputs == whole.outputs
    assert engine.asked


def test_replicas_share_the_shards_and_each_could_commit(
    tmp_path: Path, pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Fake())
    alone, shared = spec(tmp_path, pool, run="alone"), spec(tmp_path, pool, run="shared")
    expected = run_stage(alone)
    store = open_store(shared.store)
    given = [stage_arguments(store, shared, rank, 3) for rank in (2, 0, 1)]
    plans = [rollout.work(*arguments) for arguments in given]
    for arguments, plan in zip(given, plans, strict=True):
        result = rollout.finish(*arguments, plan)
        assert result.counts == expected.counts  # whoever commits, all is counted once
    for one, other in zip(shards(alone), shards(shared), strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_a_commit_that_was_taken_over_and_won_back_counts_once(
    tmp_path: Path, pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Fake())
    expected = run_stage(spec(tmp_path, pool, run="whole"))
    held = Claims.hold
    turns: list[Any] = []

    @contextmanager
    def lost_at_first(claims: Claims, name: str) -> Iterator[Claim | None]:
        with held(claims, name) as claim:
            if claim is not None and name == "commit":
                claim.lost = not turns
                turns.append(name)
            yield claim

    monkeypatch.setattr(Claims, "hold", lost_at_first)
    manifest = run_stage(spec(tmp_path, pool, run="slow"))
    assert len(turns) == 2
    assert manifest.counts == expected.counts
    assert manifest.notes["quarantine"] == expected.notes["quarantine"]


def test_progress_ends_at_the_total(
    tmp_path: Path, pool: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(monkeypatch, Fake())
    run_stage(spec(tmp_path, pool))
    lines = [x for x in capsys.readouterr().out.splitlines() if x.startswith("::progress ")]
    events = [json.loads(line.removeprefix("::progress ")) for line in lines]
    assert events[-1]["done"] == events[-1]["total"] == 120
    assert all(e["unit"] == "rollouts" and e["done"] < 120 for e in events[:-1])


def test_a_pool_without_a_usable_sample_ends_before_an_engine_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollout, "open_engine", lambda *_: pytest.fail("opened"))
    pool = write_pool(tmp_path / "pool", [clip(1, [0, 50])])
    with pytest.raises(UserInputError, match="no sample of split train within the horizon of 32 s"):
        run_stage(spec(tmp_path, pool))


class Sometimes(Fake):
    """Right about every third sample at once, and about every other third when asked again."""

    def generate(
        self, samples: Iterable[Sample], sampling: Sampling, n: int, seed: int
    ) -> Iterator[list[Rollout]]:
        again = seed == rollout.phase_seed(0, 1, Phase.SFT, "again")
        for group, each in self._answered(samples, sampling, n, seed):
            number = int(each.id[1:])
            right = number % 3 == 0 or (again and number % 3 == 1)
            assert isinstance(each.answer, CountAnswer)
            value = each.answer.value if right else 99
            text = f"<think>I count.</think><answer>{value}</answer>"
            yield [one.model_copy(update={"completion": text}) for one in group]

    def _answered(
        self, samples: Iterable[Sample], sampling: Sampling, n: int, seed: int
    ) -> Iterator[tuple[list[Rollout], Sample]]:
        for each in samples:
            (group,) = super().generate([each], sampling, n, seed)
            yield group, each


class SometimesContinuous(Sometimes):
    continuous = True


def again(job: StageSpec, more: int) -> StageSpec:
    recipe = job.recipe.model_copy(update={"filter": FilterConfig(zeros_again=more)})
    return job.model_copy(update={"recipe": recipe})


@pytest.mark.parametrize("engine", [Sometimes, SometimesContinuous])
def test_what_never_succeeded_is_rolled_out_again_and_only_that(
    tmp_path: Path, pool: Path, monkeypatch: pytest.MonkeyPatch, engine: type[Sometimes]
) -> None:
    asked = use(monkeypatch, engine()).asked
    job = again(spec(tmp_path, pool, Phase.SFT), 3)
    manifest = run_stage(job)
    of: dict[str, list[Rollout]] = {}
    for row in read_rows(shards(job), Rollout):
        of.setdefault(row.sample_id, []).append(row)
    for name, rows in of.items():
        zero = int(name[1:]) % 3 != 0
        assert [row.index for row in rows] == list(range(5 if zero else 2))
        assert asked.count(name) == (2 if zero else 1)
    zeros = sum(int(name[1:]) % 3 != 0 for name in of)
    assert manifest.counts["rolled_again"] == zeros
    assert manifest.counts["rollouts"] == 2 * len(of) + 3 * zeros
    seeds = [row.seed for rows in of.values() for row in rows]
    assert len(set(seeds)) == len(seeds)


@pytest.mark.parametrize("dies_at", [3, 11, 30])
def test_a_killed_mining_rolls_the_same_out_again(
    tmp_path: Path, pool: Path, monkeypatch: pytest.MonkeyPatch, dies_at: int
) -> None:
    use(monkeypatch, Sometimes())
    expected = run_stage(again(spec(tmp_path, pool, Phase.SFT, "whole"), 3))
    use(monkeypatch, Sometimes(dies_at))
    job = again(spec(tmp_path, pool, Phase.SFT, "killed"), 3)
    with pytest.raises(KeyboardInterrupt):
        run_stage(job)
    use(monkeypatch, Sometimes())
    manifest = run_stage(job)
    assert (manifest.counts, manifest.outputs) == (expected.counts, expected.outputs)


def test_only_mining_rolls_out_again_and_another_reward_makes_it_anew(
    tmp_path: Path, pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Sometimes())
    assert "rolled_again" not in run_stage(again(spec(tmp_path, pool, Phase.RL), 3)).counts
    store = open_store(str(tmp_path / "store"))
    for more in (0, 3):
        job = again(spec(tmp_path, pool, Phase.SFT), more)
        rewards = RewardConfig(success_threshold=0.9)
        other = job.model_copy(update={"recipe": job.recipe.model_copy(update={"reward": rewards})})
        same = stage_fingerprint(store, job) == stage_fingerprint(store, other)
        assert same == (more == 0)


def test_what_the_run_measured_decides_which_samples_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Fake())
    pool = write_pool(tmp_path / "pool", [sample(i) for i in range(600)])
    drawn = {}
    for failing in (None, *EMBODIED_FAMILIES[:2]):
        job = spec(tmp_path, pool, Phase.SFT, f"r-{failing or 'none'}", samples_per_loop=60)
        data = job.recipe.data.model_copy(update={"draws": "weakness" if failing else "pool"})
        update: dict[str, Any] = {"recipe": job.recipe.model_copy(update={"data": data})}
        if failing:
            ledger = tmp_path / f"filter-{failing}"
            ledger.mkdir()
            rows = [
                (family.value, dimension.value, 0.0 if family is failing else 1.0, 1, "rl")
                for family in EMBODIED_FAMILIES
                for dimension in Dimension
                for _ in range(20)
            ]
            columns = ["family", "dimension", "success_rate", "loop", "phase"]
            frame = pl.DataFrame(rows, schema=columns, orient="row")
            frame.write_parquet(ledger / "ledger.parquet")
            update["inputs"] = {**job.inputs, "earlier-01-rl": str(ledger)}
        manifest = run_stage(job.model_copy(update=update))
        assert ("failures" in manifest.notes) == bool(failing)
        selection = pq.read_table(folder(job) / "selection.parquet").to_pylist()
        drawn[failing] = Counter(row["family"] for row in selection)
        assert sum(drawn[failing].values()) == 120
    plain = drawn.pop(None)
    assert set(plain.values()) == {20}
    for failing, families in drawn.items():
        assert failing is not None
        first = 10  # of the first draw, before which nothing was measured
        assert families[failing.value] - first > 40
        assert all(families[f] >= first for f in families)

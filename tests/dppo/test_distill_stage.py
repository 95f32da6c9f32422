"""The distill stage with a teacher that is right about what it should be: files, resume, controls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pelican.config.recipe import Data, DistillConfig, Models, Recipe, RewardConfig, Sampling
from pelican.dppo.distillation import Reply, verify
from pelican.engines.base import Engine
from pelican.errors import UserInputError
from pelican.records import CountAnswer, Phase, Rollout, Sample, Split
from pelican.stages import distill
from pelican.stages.fingerprint import finished_manifest
from pelican.stages.runner import run_stage, stage_arguments
from pelican.stages.stage import StageSpec
from pelican.storage import open_store
from tests.data.factory import clip, general, picture, sample, write_pool


class Knows(Engine):
    """Counts right at its last try, but never in samples whose number divides by `blind`."""

    def __init__(self, blind: int = 4, dies_at: int | None = None) -> None:
        self.blind = blind
        self.dies_at = dies_at
        self.asked: list[str] = []

    def generate(
        self, samples: Sequence[Sample], sampling: Sampling, n: int, seed: int
    ) -> Iterator[list[Rollout]]:
        for each in samples:
            if self.dies_at is not None and len(self.asked) >= self.dies_at:
                raise KeyboardInterrupt
            self.asked.append(each.id)
            assert isinstance(each.answer, CountAnswer)
            rollouts = []
            for i in range(n):
                knows = i == n - 1 and int(each.id[1:]) % self.blind != 0
                count = each.answer.value if knows else 99
                text = f"<think>I count {count}.</think><answer>{count}</answer>"
                rollouts.append(
                    Rollout(
                        sample_id=each.id, index=i, seed=i, completion=text, tokens=6, finish="stop"
                    )
                )
            yield rollouts


def use(monkeypatch: pytest.MonkeyPatch, engine: Knows) -> Knows:
    monkeypatch.setattr(distill, "open_engine", lambda *_: engine)
    return engine


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distill, "PART", 16)


def write_weak(tmp_path: Path, numbers: Sequence[int]) -> None:
    folder = tmp_path / "store" / "weak"
    folder.mkdir(parents=True, exist_ok=True)
    ids = pa.array([f"s{n:05d}" for n in numbers], pa.string())
    rewards = pa.array([n % 5 / 10 for n in numbers], pa.float64())
    pq.write_table(pa.table({"sample_id": ids, "mean_reward": rewards}), folder / "weak.parquet")


def spec(tmp_path: Path, run: str = "r", **config: Any) -> StageSpec:
    for name in ("teacher", "policy"):
        (tmp_path / name).mkdir(exist_ok=True)
    if not (tmp_path / "pool").exists():
        rows = [sample(i) for i in range(120)]
        rows[100] = sample(100, split=Split.TEST)
        rows[18] = sample(18, images=(picture()[:99],))
        write_pool(tmp_path / "pool", [*rows, clip(900, [0, 50])])
        write_pool(tmp_path / "replay", [general(i) for i in range(40)])
    return StageSpec(
        stage="distill",
        store=str(tmp_path / "store"),
        run=run,
        loop=1,
        phase=Phase.SFT,
        output=f"runs/{run}/loop-1/distill-sft",
        inputs={
            "weak": "weak",
            **{n: str(tmp_path / n) for n in ("pool", "replay", "teacher", "policy")},
        },
        recipe=Recipe(
            name="test",
            models=Models(policy="p", teacher="teacher-of-test"),
            data=Data(train="a", replay="b", evaluation="c", general="d"),
            reward=RewardConfig(flip=0.5),
            distill=DistillConfig(tries=3, **config),
        ),
    )


def rows_of(job: StageSpec, name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(Path(job.store) / job.output / name).to_pylist()
    return rows


def test_flipped_rewards_do_not_reach_the_verification(tmp_path: Path) -> None:
    job = spec(tmp_path)
    recipe = job.recipe.model_copy(update={"reward": RewardConfig(flip=1.0)})
    flipped = job.model_copy(update={"recipe": recipe}).rewards
    question = sample(0, answer=CountAnswer(value=3))
    right, wrong = (Reply(f"<think>I look.</think><answer>{n}</answer>", 5) for n in (3, 4))
    assert verify(question, [right], flipped).accepted
    assert not verify(question, [wrong], flipped).accepted


def test_the_mixture_holds_what_the_teacher_knows_with_where_it_came_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Knows())
    write_weak(tmp_path, range(8))
    job = spec(tmp_path, neighbours=3)
    manifest = run_stage(job)
    teacher, mixture = rows_of(job, "teacher.parquet"), rows_of(job, "mixture.parquet")
    weak = {r["sample_id"]: r for r in teacher if r["origin"] == "weak"}
    assert len(weak) == 8
    assert {i for i, r in weak.items() if not r["accepted"]} == {"s00000", "s00004"}
    assert weak["s00000"]["reason"] and "99" in weak["s00000"]["answer_text"]
    assert (weak["s00001"]["tries"], weak["s00001"]["accepted_tries"]) == (3, 1)
    assert weak["s00001"]["tokens"] == 18
    related = [r for r in teacher if r["origin"] == "assoc"]
    assert 20 <= len(related) <= 24  # one may have the picture that can't be read
    assert not {r["sample_id"] for r in related} & {*weak, "s00100", "s00900"}
    dimension = {f"s{i:05d}": sample(i).dimension.value for i in range(120)}
    assert all(r["dimension"] == dimension[r["weak_id"]] for r in related)
    accepted = {(r["pool"], r["sample_id"]) for r in teacher if r["accepted"]}
    assert {(r["pool"], r["sample_id"]) for r in mixture} <= accepted
    assert Counter(r["origin"] for r in mixture) == {
        o: manifest.counts[f"rows_{o}"] for o in ("weak", "assoc", "general")
    }
    assert all(r["completion"] and r["teacher"] == "teacher-of-test" for r in mixture)
    assert {r["pool"] for r in mixture if r["origin"] == "general"} == {"replay"}
    counts = manifest.counts
    assert (counts["asked_weak"], counts["accepted_weak"]) == (8, 6)
    assert counts["teacher_failed"] == 2
    assert counts["teacher_tokens"] == 18 * len(teacher) and counts["rows"] == len(mixture)
    families = {r["family"] for r in teacher if r["origin"] == "weak"}
    assert sum(counts[f"asked/{family}"] for family in families) == 8
    assert sum(counts[f"accepted/{family}"] for family in families) == 6
    by_family = {name.partition("/")[2] for name in manifest.metrics if "acceptance/" in name}
    assert by_family == families
    assert manifest.metrics["acceptance_of/weak"] == 0.75
    assert {o.path for o in manifest.outputs} == {"teacher.parquet", "mixture.parquet"}


@pytest.mark.parametrize("after", [0, 5, 16, 40])
def test_a_killed_stage_continues_at_the_next_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    write_weak(tmp_path, range(8))
    whole = use(monkeypatch, Knows())
    expected = run_stage(spec(tmp_path, "whole", neighbours=4))
    use(monkeypatch, Knows(dies_at=after))
    with pytest.raises(KeyboardInterrupt):
        run_stage(spec(tmp_path, "killed", neighbours=4))
    again = use(monkeypatch, Knows())
    manifest = run_stage(spec(tmp_path, "killed", neighbours=4))
    assert (manifest.outputs, manifest.counts) == (expected.outputs, expected.counts)
    redone = len(whole.asked) - len(again.asked)
    assert after - 16 < redone <= after
    quiet = use(monkeypatch, Knows())
    assert run_stage(spec(tmp_path, "killed", neighbours=4)) == manifest and not quiet.asked


def test_ranks_answer_different_parts_and_rank_0_joins_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_weak(tmp_path, range(10))
    use(monkeypatch, Knows())
    alone, shared = spec(tmp_path, "alone"), spec(tmp_path, "shared")
    run_stage(alone)
    asked = []
    for rank in (1, 0):
        engine = use(monkeypatch, Knows())
        distill.run(*stage_arguments(open_store(shared.store), shared, rank, 2))
        asked.append(engine.asked)
    assert asked[0] and asked[1]
    for name in ("teacher.parquet", "mixture.parquet"):
        assert rows_of(alone, name) == rows_of(shared, name)


def test_nothing_weak_gives_a_mixture_of_replay_and_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Knows())
    write_weak(tmp_path, [])
    job = spec(tmp_path)
    manifest = run_stage(job)
    assert {r["origin"] for r in rows_of(job, "mixture.parquet")} == {"general"}
    assert manifest.counts["rows"] == 30 and "replay alone" in manifest.notes["empty_weak_set"]


def test_the_control_learns_replay_alone_and_asks_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = use(monkeypatch, Knows())
    write_weak(tmp_path, range(8))
    job = spec(tmp_path, only_replay=True, max_rows=20)
    run_stage(job)
    assert Counter(r["origin"] for r in rows_of(job, "mixture.parquet")) == {"general": 20}
    assert all(name.startswith("g") for name in engine.asked)


def test_max_rows_bounds_what_the_teacher_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Knows())
    write_weak(tmp_path, range(1, 8, 2))
    job = spec(tmp_path, neighbours=12, max_rows=30)
    manifest = run_stage(job)
    assert manifest.counts["asked_assoc"] <= 14 and manifest.counts["asked_general"] == 14
    assert {manifest.counts[f"rows_{o}"] for o in ("assoc", "general")} == {10}
    assert manifest.counts["rows_weak"] == 8  # each twice, no more


def test_a_teacher_that_is_never_right_ends_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Knows(blind=1))
    write_weak(tmp_path, range(4))
    with pytest.raises(UserInputError, match="'teacher-of-test' gave no answer that the reward"):
        run_stage(spec(tmp_path))


def test_weak_samples_of_another_pool_end_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Knows())
    write_weak(tmp_path, [1, 2, 7777])
    with pytest.raises(UserInputError, match=r"1 weak samples are not in pool .*'s07777'"):
        run_stage(spec(tmp_path))


def test_an_endpoint_needs_no_teacher_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []

    class Endpoint(distill.EngineTeacher):  # type: ignore[name-defined]
        def __init__(self, url: str, model: str, **options: Any) -> None:
            opened.append((url, model, options))
            super().__init__(Knows())

    monkeypatch.setattr(distill, "EndpointTeacher", Endpoint)
    monkeypatch.setattr(distill, "open_engine", lambda *_: pytest.fail("opened an engine"))
    write_weak(tmp_path, range(4))
    job = spec(tmp_path, endpoint="http://teacher:8000/v1")
    del job.inputs["teacher"]
    manifest = run_stage(job)
    assert opened == [("http://teacher:8000/v1", "teacher-of-test", {"system_prompt": None})]
    assert "teacher" not in manifest.inputs
    assert finished_manifest(open_store(job.store), job) == manifest
    models = job.recipe.models.model_copy(update={"teacher": "another-model"})
    other = job.recipe.model_copy(update={"models": models})
    again = job.model_copy(update={"recipe": other})
    assert finished_manifest(open_store(job.store), again) is None  # the endpoint serves several


@pytest.mark.parametrize(
    ("max_calls", "asked"),
    [
        (3, {"weak": 1}),
        (23, {"weak": 7}),
        (24, {"weak": 8}),
        (60, {"weak": 8, "assoc": 12}),
        (75, {"weak": 8, "assoc": 16, "general": 1}),
    ],
)
def test_a_budget_of_calls_is_kept_and_spent_on_what_is_weak_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, max_calls: int, asked: dict[str, int]
) -> None:
    engine = use(monkeypatch, Knows())
    write_weak(tmp_path, range(1, 9))
    unlimited = run_stage(spec(tmp_path, "unlimited", neighbours=2)).counts
    assert not [name for name in unlimited if name.startswith("unasked")]
    engine.asked.clear()
    job = spec(tmp_path, neighbours=2, max_calls=max_calls)
    manifest = run_stage(job)
    teacher = rows_of(job, "teacher.parquet")
    assert Counter(row["origin"] for row in teacher) == asked
    assert manifest.counts["teacher_calls"] == 3 * len(engine.asked) <= max_calls
    for origin in ("weak", "assoc", "general"):
        there = unlimited[f"asked_{origin}"]
        assert manifest.counts[f"unasked_{origin}"] == there - asked.get(origin, 0)
    assert f"distill.max_calls = {max_calls} left" in manifest.notes["told"][0]


def test_a_budget_that_reaches_for_all_leaves_nothing_to_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Knows())
    write_weak(tmp_path, range(1, 5))
    manifest = run_stage(spec(tmp_path, neighbours=2, max_calls=300))
    assert manifest.counts["unasked_weak"] == manifest.counts["unasked_general"] == 0
    assert "told" not in manifest.notes


@pytest.mark.parametrize("after", [0, 5, 20])
def test_a_budget_is_of_all_attempts_and_ranks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    write_weak(tmp_path, range(1, 9))
    use(monkeypatch, Knows())
    expected = run_stage(spec(tmp_path, "whole", neighbours=4, max_calls=90))
    use(monkeypatch, Knows(dies_at=after))
    with pytest.raises(KeyboardInterrupt):
        run_stage(spec(tmp_path, "killed", neighbours=4, max_calls=90))
    use(monkeypatch, Knows())
    again = run_stage(spec(tmp_path, "killed", neighbours=4, max_calls=90))
    assert (again.outputs, again.counts) == (expected.outputs, expected.counts)
    shared = spec(tmp_path, "shared", neighbours=4, max_calls=90)
    asked = []
    for rank in (1, 0):
        engine = use(monkeypatch, Knows())
        result = distill.run(*stage_arguments(open_store(shared.store), shared, rank, 2))
        asked += engine.asked
        assert ("kept_for_later" in result.counts) == (rank == 0)
    assert len(set(asked)) == len(asked) and 3 * len(asked) == 90
    assert result.counts["teacher_calls"] == 90
    assert result.counts["unasked_general"] == expected.counts["unasked_general"]


def test_random_samples_are_taught_without_anything_weak(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = use(monkeypatch, Knows())
    job = spec(tmp_path, prompts="uniform", ratio=(1.0, 4.0, 1.0), max_calls=180)
    del job.inputs["weak"]
    manifest = run_stage(job)
    teacher, mixture = rows_of(job, "teacher.parquet"), rows_of(job, "mixture.parquet")
    of = Counter(row["origin"] for row in teacher)
    assert of.keys() == {"uniform", "general"} and of["uniform"] > 2 * of["general"] > 0
    assert 59 <= len(engine.asked) <= 60  # one may have the picture that can't be read
    assert not set(engine.asked) & {"s00100", "s00900"}
    counts = manifest.counts
    assert (counts["asked_uniform"], counts["rows_uniform"]) == (
        of["uniform"],
        sum(row["origin"] == "uniform" for row in mixture),
    )
    assert counts["unasked_uniform"] > 0 and "asked_weak" not in counts
    assert all(row["weak_id"] == "" for row in mixture)
    assert "weak" not in manifest.inputs


def loop_of(job: StageSpec, loop: int, earlier: Sequence[int] = ()) -> StageSpec:
    """The same stage in another loop, which reads what those `earlier` made."""
    place = "runs/{}/loop-{}/distill-sft"
    places = {f"earlier-{k:02d}-sft": place.format(job.run, k) for k in earlier}
    output = place.format(job.run, loop)
    update = {"loop": loop, "output": output, "inputs": {**job.inputs, **places}}
    return job.model_copy(update=update)


def test_what_earlier_loops_were_taught_returns_without_a_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config: dict[str, Any] = {"neighbours": 2, "max_rows": 60, "keep_rows": True}
    first = spec(tmp_path, **config)
    engine = use(monkeypatch, Knows())
    write_weak(tmp_path, [1, 2, 3, 4])  # the teacher does not know 4
    counts = run_stage(first).counts
    assert counts["kept_earlier"] == counts["rows_earlier"] == 0
    write_weak(tmp_path, [3, 5, 6])
    engine.asked.clear()
    second = loop_of(first, 2, [1])
    manifest = run_stage(second)
    mixture = rows_of(second, "mixture.parquet")
    earlier = {row["sample_id"]: row for row in mixture if row["origin"] == "earlier"}
    assert earlier.keys() == {"s00001", "s00002"}  # of 3 this loop has an answer of its own
    taught = {r["sample_id"]: r for r in rows_of(first, "teacher.parquet") if r["accepted"]}
    assert all(row["completion"] == taught[i]["answer_text"] for i, row in earlier.items())
    assert manifest.counts["kept_earlier"] == 2 and manifest.counts["rows_earlier"] == 4
    assert manifest.counts["rows_weak"] == 6  # both share a part of 20 rows, no row thrice
    assert manifest.counts["teacher_calls"] == 3 * len(engine.asked)
    assert manifest.counts["asked_weak"] == 3
    write_weak(tmp_path, [7])
    third = loop_of(first, 3, [1, 2])
    run_stage(third)
    mixture = rows_of(third, "mixture.parquet")
    earlier = {row["sample_id"]: row for row in mixture if row["origin"] == "earlier"}
    assert earlier.keys() == {f"s0000{i}" for i in (1, 2, 3, 5, 6)}
    assert len({(row["pool"], row["sample_id"], row["repeat"]) for row in mixture}) == len(mixture)
    newest = {r["sample_id"]: r for r in rows_of(second, "teacher.parquet")}["s00003"]
    assert earlier["s00003"]["completion"] == newest["answer_text"]


def test_with_nothing_weak_the_earlier_rows_are_learned_beside_replay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Knows())
    write_weak(tmp_path, [1, 2])
    first = spec(tmp_path, neighbours=2, keep_rows=True)
    run_stage(first)
    write_weak(tmp_path, [])
    manifest = run_stage(loop_of(first, 2, [1]))
    assert manifest.counts["rows_earlier"] == 2 and manifest.counts["rows_general"] > 0
    assert "rows of earlier loops" in manifest.notes["empty_weak_set"]


def test_a_loop_is_taught_again_if_what_an_earlier_one_was_taught_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Knows())
    write_weak(tmp_path, [1, 2])
    first = spec(tmp_path, neighbours=2, keep_rows=True)
    run_stage(first)
    second = loop_of(first, 2, [1])
    done = run_stage(second)
    store = open_store(first.store)
    assert finished_manifest(store, second) == done
    write_weak(tmp_path, [1, 2, 3])
    run_stage(first)
    assert finished_manifest(store, second) is None


def test_with_draws_by_weakness_only_what_was_rolled_out_is_taught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Knows())
    write_weak(tmp_path, [1, 2])
    seen = [f"s{n:05d}" for n in range(40)]
    pq.write_table(pa.table({"sample_id": seen}), tmp_path / "store" / "weak" / "ledger.parquet")
    job = spec(tmp_path, neighbours=30)
    data = job.recipe.data.model_copy(update={"draws": "weakness", "samples_per_loop": 20})
    job = job.model_copy(update={"recipe": job.recipe.model_copy(update={"data": data})})
    counts = run_stage(job).counts
    related = {r["sample_id"] for r in rows_of(job, "teacher.parquet") if r["origin"] == "assoc"}
    assert related and related <= set(seen)
    assert counts["kept_for_later"] == 80  # of the 120 within the horizon
    last = loop_of(job, 3)
    assert run_stage(last).counts["kept_for_later"] == 0
    related = {r["sample_id"] for r in rows_of(last, "teacher.parquet") if r["origin"] == "assoc"}
    assert related - set(seen)

"""The reward and filter stages on made data: results, resuming, and refusals."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from pelican.config.recipe import Data, FilterConfig, Models, Recipe, RewardConfig
from pelican.data.tables import pool_columns, questions, read_rows, write_rows
from pelican.errors import UserInputError
from pelican.records import (
    CountAnswer,
    Family,
    LedgerRow,
    OpenAnswer,
    Phase,
    Rollout,
    Sample,
    Score,
)
from pelican.rewards import score
from pelican.stages import reward
from pelican.stages.runner import run_stage
from pelican.stages.stage import StageSpec, input_digest
from pelican.storage import open_store
from pelican.storage.manifests import Manifest
from tests.data.factory import sample, write_pool
from tests.rewards.endpoint import judging

T = 4
RIGHT = {0: 0, 1: 1, 2: 2, 3: 4, 4: 3, 5: 2}  # right answers of T, by sample number modulo 6


def recipe(**sections: object) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "test",
            "models": Models(policy="p", teacher="t"),
            "data": Data(train="", replay="", evaluation="", general=""),
            **sections,
        }
    )


def spec(
    root: Path,
    stage: str,
    inputs: dict[str, str],
    made: Recipe | None = None,
    phase: str = "rl",
    loop: int = 1,
) -> StageSpec:
    return StageSpec.model_validate(
        {
            "stage": stage,
            "store": str(root / "store"),
            "run": "r",
            "loop": loop,
            "phase": phase,
            "output": f"runs/r/loop-{loop}/{stage}-{phase}",
            "inputs": inputs,
            "recipe": made or recipe(),
        }
    )


def write_rollouts(root: Path, samples: list[Sample], per_shard: int = 6) -> Path:
    """T rollouts a sample, RIGHT of them right; one of every sample without format."""
    for shard in range(0, len(samples), per_shard):
        rows = []
        for number, one in enumerate(samples[shard : shard + per_shard], shard):
            assert isinstance(one.answer, CountAnswer)
            for i in range(T):
                value = one.answer.value + (i >= RIGHT[number % 6])
                text = f"<think>four</think><answer>{value}</answer>" if i else str(value)
                rows.append(
                    Rollout(
                        sample_id=one.id, index=i, seed=i, completion=text, tokens=9, finish="stop"
                    )
                )
        write_rows(root / f"rollouts-{shard // per_shard:05d}.parquet", rows, Rollout)
    return root


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, str]:
    samples = [sample(i) for i in range(24)]
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "config.json").write_text("{}")
    return {
        "pool": str(write_pool(tmp_path / "pool", samples, per_shard=7)),
        "rollouts": str(write_rollouts(tmp_path / "rollouts", samples)),
        "policy": str(tmp_path / "policy"),
    }


def run_reward(tmp_path: Path, inputs: dict[str, str], made: Recipe | None = None) -> Manifest:
    given = {name: inputs[name] for name in ("rollouts", "pool")}
    return run_stage(spec(tmp_path, "reward", given, made))


def run_filter(
    tmp_path: Path,
    inputs: dict[str, str],
    made: Recipe | None = None,
    phase: str = "rl",
    loop: int = 1,
) -> Manifest:
    given = {
        "scores": "runs/r/loop-1/reward-rl",
        "pool": inputs["pool"],
        "policy": inputs["policy"],
    }
    return run_stage(spec(tmp_path, "filter", given, made, phase, loop))


def table(tmp_path: Path, name: str, stage: str = "filter-rl", loop: int = 1) -> pl.DataFrame:
    return pl.read_parquet(tmp_path / f"store/runs/r/loop-{loop}" / stage / name)


def test_reward_scores_every_rollout(tmp_path: Path, inputs: dict[str, str]) -> None:
    manifest = run_reward(tmp_path, inputs)
    assert [o.path for o in manifest.outputs] == [f"scores-{i:05d}.parquet" for i in range(4)]
    assert manifest.counts["rollouts"] == 96
    assert manifest.counts["successes"] == 4 * 12
    assert manifest.counts["reason/wrong"] == 48
    assert manifest.counts["parse_failures"] == 0
    assert manifest.metrics["success_rate"] == 0.5
    assert manifest.metrics["format_rate"] == 0.75
    assert manifest.metrics["mean_think_chars"] == 3.0
    assert manifest.metrics["mean_reward"] == pytest.approx(0.1 * 0.75 + 0.9 * 0.5)
    assert manifest.metrics["success_rate/planning"] == 0.75  # the fifth family: 3 of 4
    assert manifest.metrics["reward/affordance"] == pytest.approx(0.075)


def test_reward_counts_what_it_could_not_read(tmp_path: Path, inputs: dict[str, str]) -> None:
    texts = ["", "<answer>2 or 3</answer>", "<answer>many</answer>", "<answer>0</answer>"]
    rows = [
        Rollout(sample_id="s00000", index=i, seed=0, completion=t, tokens=1, finish="stop")
        for i, t in enumerate(texts)
    ]
    folder = tmp_path / "odd"
    write_rows(folder / "rollouts-00000.parquet", rows, Rollout)
    manifest = run_reward(tmp_path, {**inputs, "rollouts": str(folder)})
    assert manifest.counts["parse_failures"] == 3
    assert manifest.counts["reason/no answer"] == 1
    assert manifest.counts["reason/several answers"] == 1
    assert manifest.counts["reason/unreadable"] == 1
    assert manifest.counts["successes"] == 1


def test_reward_resumes_after_the_last_whole_shard(
    tmp_path: Path, inputs: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_reward(tmp_path / "whole", inputs)
    calls = 0

    def dies(*args: object, **named: object) -> Score:
        nonlocal calls
        calls += 1
        if calls == 60:
            raise KeyboardInterrupt
        return score(*args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(reward, "score", dies)
    with pytest.raises(KeyboardInterrupt):
        run_reward(tmp_path, inputs)
    calls = 1000
    manifest = run_reward(tmp_path, inputs)
    assert calls == 1000 + 2 * 24  # two of four shards were there
    assert (manifest.counts, manifest.metrics) == (whole.counts, whole.metrics)
    assert [o.sha256 for o in manifest.outputs] == [o.sha256 for o in whole.outputs]
    run_reward(tmp_path, inputs)
    assert calls == 1000 + 2 * 24  # done is done


def test_reward_flips_as_the_recipe_says(tmp_path: Path, inputs: dict[str, str]) -> None:
    flipping = recipe(reward=RewardConfig(flip=1.0))
    manifest = run_reward(tmp_path, inputs, flipping)
    assert manifest.counts["reason/flipped"] == 48
    assert manifest.metrics["success_rate/planning"] == 0.25
    assert len({reward.flip_seed(s, k) for s in (0, 1) for k in (1, 2)}) == 4
    # Of phase sft the weak set is mined: nothing is flipped there.
    given = {name: inputs[name] for name in ("rollouts", "pool")}
    taught = run_stage(spec(tmp_path, "reward", given, flipping, "sft"))
    assert "reason/flipped" not in taught.counts
    assert taught.metrics["success_rate/planning"] == 0.75


def test_reward_asks_the_judge_of_the_recipe(tmp_path: Path) -> None:
    open_question = sample(1, family=Family.PLANNING, answer=OpenAnswer(reference="4"))
    write_pool(tmp_path / "pool", [open_question])
    rows = [
        Rollout(sample_id="s00001", index=i, seed=0, completion=str(i), tokens=1, finish="stop")
        for i in range(8)
    ]
    write_rows(tmp_path / "rollouts" / "rollouts-00000.parquet", rows, Rollout)
    given = {"pool": str(tmp_path / "pool"), "rollouts": str(tmp_path / "rollouts")}
    none = run_reward(tmp_path / "none", given)
    assert none.counts["reason/no judge configured"] == 8
    with judging() as endpoint:
        endpoint.always, endpoint.right = "no", "<<<\n4\n>>>"
        made = recipe(reward=RewardConfig(judge=endpoint.config))
        manifest = run_reward(tmp_path, given, made)
    assert (manifest.counts["successes"], manifest.counts["judged"]) == (1, 8)
    assert manifest.metrics["judge_agreement"] == 1.0


def test_rollouts_of_another_pool_are_refused(tmp_path: Path, inputs: dict[str, str]) -> None:
    other = write_pool(tmp_path / "other", [sample(i) for i in range(5)])
    with pytest.raises(UserInputError, match=r"rollouts-00000.parquet answers sample 's00005'"):
        run_reward(tmp_path, {**inputs, "pool": str(other)})


def test_no_rollouts_are_refused(tmp_path: Path, inputs: dict[str, str]) -> None:
    (tmp_path / "nothing").mkdir()
    with pytest.raises(UserInputError, match="holds no rollouts"):
        run_reward(tmp_path, {**inputs, "rollouts": str(tmp_path / "nothing")})


def test_filter_writes_ledger_buffer_and_weak_set(tmp_path: Path, inputs: dict[str, str]) -> None:
    run_reward(tmp_path, inputs)
    manifest = run_filter(tmp_path, inputs)
    assert sorted(o.path for o in manifest.outputs) == [
        "buffer.parquet",
        "ledger.parquet",
        "weak.parquet",
    ]
    assert {k: manifest.counts[k] for k in ("mastered", "practice", "intractable", "weak")} == {
        "mastered": 4,
        "practice": 16,
        "intractable": 4,
        "weak": 4,
    }
    assert manifest.counts["buffer"] == 17  # 1 / 17 is under 10 %, 2 / 18 is not
    assert manifest.metrics["mean_success_rate"] == 0.5
    assert manifest.metrics["success_rate/affordance"] == 0.0
    assert manifest.metrics["success_rate/success"] == 1.0
    ledger = tmp_path / "store/runs/r/loop-1/filter-rl/ledger.parquet"
    rows = list(read_rows([ledger], LedgerRow))
    assert len({row.sample_id for row in rows}) == len(rows) == 24
    policy = input_digest(open_store(str(tmp_path / "store")), inputs["policy"])
    assert {row.policy for row in rows} == {policy}
    assert {(row.loop, row.phase, row.rollouts, row.source) for row in rows} == {
        (1, Phase.RL, T, "test")
    }
    weak = table(tmp_path, "weak.parquet")
    assert weak["sample_id"].to_list() == ["s00000", "s00006", "s00012", "s00018"]
    assert weak.columns == table(tmp_path, "buffer.parquet").columns


def test_guesses_go_to_the_teacher_with_their_success_rates(
    tmp_path: Path, inputs: dict[str, str]
) -> None:
    run_reward(tmp_path, inputs)
    published = run_filter(tmp_path, inputs)
    before = table(tmp_path, "ledger.parquet")
    samples = [sample(i, chance=0.25 if i < 12 else 0.0) for i in range(24)]
    guessable = {**inputs, "pool": str(write_pool(tmp_path / "guessable", samples))}
    made = recipe(filter=FilterConfig(chance_p=0.1))
    manifest = run_filter(tmp_path, guessable, made, loop=2)
    ledger = table(tmp_path, "ledger.parquet", loop=2)
    assert ledger["success_rate"].equals(before["success_rate"])
    assert manifest.metrics == published.metrics
    was = dict(zip(before["sample_id"], before["outcome"], strict=True))
    changed = {
        i: (rate, outcome)
        for i, rate, outcome in ledger.select("sample_id", "success_rate", "outcome").iter_rows()
        if outcome != was[i]
    }
    assert {outcome for _, outcome in changed.values()} == {"intractable"}
    assert set(changed) == {
        f"s{i:05d}" for i in range(12) if RIGHT[i % 6] in (1, 2)
    }  # at chance 1/4 two of four come in 26 %, three in 5 %
    assert manifest.counts["guessed"] == len(changed)
    assert manifest.counts["weak"] == published.counts["weak"] + len(changed)
    assert not set(changed) & set(table(tmp_path, "buffer.parquet", loop=2)["sample_id"])


def test_both_phases_write_the_same_tables(tmp_path: Path, inputs: dict[str, str]) -> None:
    run_reward(tmp_path, inputs)
    run_filter(tmp_path, inputs)
    run_filter(tmp_path, inputs, phase="sft")
    for name in ("buffer.parquet", "weak.parquet"):
        assert table(tmp_path, name).equals(table(tmp_path, name, "filter-sft"))
    assert set(table(tmp_path, "ledger.parquet", "filter-sft")["phase"]) == {"sft"}


def test_filter_limits_the_buffer(tmp_path: Path, inputs: dict[str, str]) -> None:
    run_reward(tmp_path, inputs)
    made = recipe(filter=FilterConfig(buffer_size=8))
    assert run_filter(tmp_path, inputs, made).counts["buffer"] == 8
    assert set(table(tmp_path, "buffer.parquet")["success_rate"]) == {0.5}


def test_another_loop_draws_other_samples_of_the_same_rates(
    tmp_path: Path, inputs: dict[str, str]
) -> None:
    run_reward(tmp_path, inputs)
    made = recipe(filter=FilterConfig(strategy="random", buffer_size=8))
    drawn = set()
    for loop in (1, 2, 3):
        run_filter(tmp_path, inputs, made, loop=loop)
        drawn.add(tuple(table(tmp_path, "buffer.parquet", loop=loop)["sample_id"]))
    assert len(drawn) == 3


def test_an_empty_buffer_is_said_not_raised(tmp_path: Path, inputs: dict[str, str]) -> None:
    samples = [sample(i) for i in (0, 6, 12)]
    rows = [
        Rollout(sample_id=s.id, index=0, seed=0, completion="?", tokens=1, finish="stop")
        for s in samples
    ]
    write_rows(tmp_path / "hard" / "rollouts-00000.parquet", rows, Rollout)
    run_reward(tmp_path, {**inputs, "rollouts": str(tmp_path / "hard")})
    manifest = run_filter(tmp_path, inputs)
    assert manifest.counts["buffer"] == 0 and manifest.counts["weak"] == 3
    assert manifest.notes["buffer"].startswith("the buffer is empty: of 3 samples 0 are mastered")
    assert table(tmp_path, "buffer.parquet").is_empty()


def test_an_empty_pool_is_refused(tmp_path: Path, inputs: dict[str, str]) -> None:
    run_reward(tmp_path, inputs)
    empty = write_pool(tmp_path / "empty", [])
    empty.mkdir()
    with pytest.raises(UserInputError, match=r"no .*parquet shard"):
        run_filter(tmp_path, {**inputs, "pool": str(empty)})
    from pelican.data.tables import write_samples

    write_samples(empty / "part-000.parquet", [])
    with pytest.raises(UserInputError, match="holds no sample"):
        run_filter(tmp_path, {**inputs, "pool": str(empty)})


def test_scores_of_another_pool_are_refused(tmp_path: Path, inputs: dict[str, str]) -> None:
    run_reward(tmp_path, inputs)
    other = write_pool(tmp_path / "other", [sample(i) for i in range(5)])
    with pytest.raises(UserInputError, match="19 scored samples are not in the pool"):
        run_filter(tmp_path, {**inputs, "pool": str(other)})


def test_a_rollout_that_was_scored_twice_is_refused(tmp_path: Path, inputs: dict[str, str]) -> None:
    run_reward(tmp_path, inputs)
    folder = tmp_path / "store/runs/r/loop-1/reward-rl"
    rows = list(read_rows([folder / "scores-00000.parquet"], Score))
    write_rows(folder / "scores-00009.parquet", rows, Score)
    with pytest.raises(UserInputError, match="6 samples have a rollout that was scored twice"):
        run_filter(tmp_path, inputs)


def test_questions_carry_no_images(tmp_path: Path) -> None:
    samples = [sample(i) for i in range(9)]
    read = list(questions(pool_columns(write_pool(tmp_path / "pool", samples, per_shard=4))))
    assert [q.id for q in read] == [s.id for s in samples]
    assert all(q.images == () for q in read)
    assert [(q.question, q.answer, q.family) for q in read] == [
        (s.question, s.answer, s.family) for s in samples
    ]


def test_a_question_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    from tests.data.factory import raw_row, write_raw

    folder = write_raw(tmp_path / "pool" / "a.parquet", [raw_row(1, answer='{"kind": "odd"}')])
    with pytest.raises(UserInputError, match="sample 's00001' can't be scored"):
        list(questions(pool_columns(folder)))

"""Every stage as a function: paths, the view of the recipe and a folder in, files and a result out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

import polars as pl
import pytest

from pelican.config.presets import find_recipe
from pelican.config.recipe import Recipe, Sampling
from pelican.config.stages import STAGES, value_of
from pelican.data.tables import read_rows, write_rows
from pelican.engines.base import Engine
from pelican.engines.server import ServerSpec
from pelican.records import CountAnswer, Phase, Rollout, Sample, Score, Split
from pelican.stages import distill, filter, reward, rollout, train_rl, train_sft
from pelican.stages import eval as evaluation
from pelican.stages.job import StageJob
from pelican.stages.stage import HiddenFieldError, Inputs, stage_view, whole_recipe
from tests.data.factory import general, sample, write_pool

# Small, and without what needs a GPU, features in a cache, or a second process.
SMALL = (
    "model.cache_vision=false rl.group_size=2 rl.prompts_per_step=2 rl.processes=1 rl.max_steps=1"
    " rl.min_steps=1 rl.refill=0 rl.kl=0 rl.sampling.max_tokens=4 sft.batch_size=2 sft.processes=1"
    " sft.max_steps=1 rollout.samples=2 rollout.shard_size=4 distill.tries=1"
)


class Right(Engine):
    """Counts right in every second sample, by its number."""

    def generate(
        self, samples: Sequence[Sample], sampling: Sampling, n: int, seed: int
    ) -> Iterator[list[Rollout]]:
        for each in samples:
            assert isinstance(each.answer, CountAnswer)
            value = each.answer.value + int(each.id[1:]) % 2
            text = f"<think>look</think><answer>{value}</answer>"
            rest = {"completion": text, "tokens": 5, "finish": "stop"}
            yield [Rollout(sample_id=each.id, index=i, seed=i, **rest) for i in range(n)]


def view(stage: str, *overrides: str, phase: Phase = Phase.RL) -> Recipe:
    return stage_view(find_recipe("tiny", [SMALL, *overrides]), stage, phase)


@pytest.fixture
def made(tmp_path: Path) -> dict[str, str]:
    """Pools, and what earlier stages wrote: a rollout's completions, a filter's tables, a mixture."""
    pool = [sample(i) for i in range(8)]
    write_pool(tmp_path / "pool", pool)
    write_pool(tmp_path / "replay", [general(i) for i in range(20, 28)])
    write_pool(tmp_path / "held", [sample(i, split=Split.TEST) for i in range(40, 44)])
    write_pool(tmp_path / "general", [general(i, split=Split.TEST) for i in range(60, 64)])
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "config.json").write_text("{}")
    answered = Right().generate(pool, Sampling(), 2, 0)
    rows = [one for group in answered for one in group]
    write_rows(tmp_path / "rollouts" / "rollouts-00000.parquet", rows, Rollout)
    scores = [
        Score(
            **{"sample_id": row.sample_id, "index": row.index, "answer": "", "think_chars": 4},
            **dict.fromkeys(("reward", "format", "task"), float(number % 3 > 0)),
            success=number % 3 > 0,
        )
        for number, row in enumerate(rows)
    ]
    write_rows(tmp_path / "scores" / "scores-00000.parquet", scores, Score)
    (tmp_path / "filtered").mkdir()
    ids = pl.DataFrame({"sample_id": ["s00001", "s00003"]})
    ids.write_parquet(tmp_path / "filtered" / "weak.parquet")
    ids.write_parquet(tmp_path / "filtered" / "buffer.parquet")
    (tmp_path / "mixture").mkdir()
    pl.DataFrame(
        {
            "pool": ["pool", "replay"],
            "sample_id": ["s00001", "g00020"],
            "completion": ["<think>a</think><answer>1</answer>"] * 2,
        }
    ).write_parquet(tmp_path / "mixture" / "mixture.parquet")
    return {path.name: str(path) for path in tmp_path.iterdir()}


def inputs(made: dict[str, str], **names: str) -> Inputs:
    """Each input by the folder of `made` that it is."""
    return Inputs({name: made[folder] for name, folder in names.items()})


def test_rollout(made: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout, "open_engine", lambda *_: Right())
    job = StageJob.in_folder(tmp_path / "out", "rollout")
    given = inputs(made, policy="policy", pool="pool")
    plan = rollout.work(given, view("rollout"), job)
    result = rollout.finish(given, view("rollout"), job, plan)
    assert (result.counts["samples"], result.counts["rollouts"]) == (8, 16)
    assert len(list(read_rows(sorted(job.output().glob("rollouts-*.parquet")), Rollout))) == 16


def test_reward(made: dict[str, str], tmp_path: Path) -> None:
    job = StageJob.in_folder(tmp_path / "out", "reward")
    result = reward.run(inputs(made, rollouts="rollouts", pool="pool"), view("reward"), job)
    assert (result.counts["rollouts"], result.counts["successes"]) == (16, 8)
    assert result.metrics["success_rate"] == 0.5
    assert job.names() == {"scores-00000.parquet"}


def test_filter(made: dict[str, str], tmp_path: Path) -> None:
    job = StageJob.in_folder(tmp_path / "out", "filter")
    given = inputs(made, scores="scores", pool="pool", policy="policy")
    result = filter.run(given, view("filter"), job)
    assert result.counts["samples"] == 8 and result.counts["buffer"] > 0
    ledger = pl.read_parquet(job.local("ledger.parquet"))
    assert set(ledger["policy"]) == {given.digest("policy")}


def test_distill(made: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distill, "open_engine", lambda *_: Right())
    job = StageJob.in_folder(tmp_path / "out", "distill", phase=Phase.SFT)
    given = inputs(made, weak="filtered", pool="pool", replay="replay", teacher="policy")
    result = distill.run(given, view("distill", phase=Phase.SFT), job)
    assert result.counts["asked_weak"] == result.counts["teacher_failed"] == 2
    mixture = pl.read_parquet(job.local("mixture.parquet"))
    assert len(mixture) == result.counts["rows"] > 0


def test_eval(made: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "open_engine", lambda *_: Right())
    job = StageJob.in_folder(tmp_path / "out", "eval")
    given = inputs(made, policy="policy", evaluation="held", general="general")
    result = evaluation.run(given, view("eval"), job)
    assert result.counts["samples"] == 8
    assert result.metrics["embodied"] == result.metrics["general"] == 50.0
    assert {"results.parquet", "summary.json", "gate.json"} <= job.names()


class Failing(Engine):
    """Fails at the first sample."""

    closed = False

    def generate(
        self, samples: Sequence[Sample], sampling: Sampling, n: int, seed: int
    ) -> Iterator[list[Rollout]]:
        raise RuntimeError("no completion")

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("stage", [rollout, distill, evaluation])
def test_an_engine_is_closed_also_after_it_failed(
    stage: ModuleType, made: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, name = Failing(), stage.__name__.rpartition(".")[2]
    monkeypatch.setattr(stage, "open_engine", lambda *_: engine)
    given = inputs(
        {**made, "evaluation": made["held"], "weak": made["filtered"], "teacher": made["policy"]},
        **{name: name for name in ("policy", "pool", "replay", "evaluation", "general", "weak")},
        teacher="teacher",
    )
    run = stage.work if name == "rollout" else stage.run
    with pytest.raises(RuntimeError, match="no completion"):
        run(given, view(name), StageJob.in_folder(tmp_path / "out", name, phase=Phase.SFT))
    assert engine.closed


@pytest.mark.slow
def test_train_rl(made: dict[str, str], tmp_path: Path, twin: Path) -> None:
    job = StageJob.in_folder(tmp_path / "out", "train-rl")
    given = inputs({**made, "twin": str(twin)}, policy="twin", buffer="filtered", pool="pool")
    result = train_rl.run(given, view("train-rl"), job)
    assert (result.counts["samples"], result.counts["steps"]) == (2, 1)
    assert job.has("checkpoint/model.safetensors") and job.has("curve.parquet")


def test_train_rl_without_anything_to_practise(made: dict[str, str], tmp_path: Path) -> None:
    pl.DataFrame({"sample_id": []}).write_parquet(tmp_path / "filtered" / "buffer.parquet")
    job = StageJob.in_folder(tmp_path / "out", "train-rl")
    given = inputs(made, policy="policy", buffer="filtered", pool="pool")
    result = train_rl.run(given, view("train-rl"), job)
    assert "buffer is empty" in result.notes["skipped"]
    assert job.names() == {"checkpoint/config.json"}


@pytest.mark.slow
def test_train_sft(made: dict[str, str], tmp_path: Path, twin: Path) -> None:
    job = StageJob.in_folder(tmp_path / "out", "train-sft", phase=Phase.SFT)
    policy = {**made, "twin": str(twin)}
    given = inputs(policy, policy="twin", mixture="mixture", pool="pool", replay="replay")
    result = train_sft.run(given, view("train-sft", phase=Phase.SFT), job)
    assert (result.counts["rows"], result.counts["steps"]) == (2, 1)
    assert job.has("checkpoint/model.safetensors")


# The view of the recipe.


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_sees_the_fields_of_its_row(stage: str) -> None:
    recipe, seen = find_recipe("tiny"), view(stage)
    for name in (*STAGES[stage].result, *STAGES[stage].reads):
        value_of(seen, name)
    sections = {name.partition(".")[0] for name in (*STAGES[stage].result, *STAGES[stage].reads)}
    for name in type(recipe).model_fields.keys() - sections:
        with pytest.raises(HiddenFieldError, match=f"the stage {stage} reads {name} of the recipe"):
            getattr(seen, name)


def test_a_field_of_a_section_is_shown_alone() -> None:
    seen = view("train-rl")
    assert seen.data.max_pixels == find_recipe("tiny").data.max_pixels
    with pytest.raises(HiddenFieldError, match=r"reads data\.train of"):
        assert seen.data.train
    with pytest.raises(HiddenFieldError, match="reads digest of"):
        seen.digest()
    assert view("eval").obeys_gate_after(Phase.SFT)


def test_a_stage_scores_as_its_phase_says() -> None:
    flips = "reward.flip=0.25"
    assert view("reward", flips).reward.flip == view("train-rl", flips).reward.flip == 0.25
    assert view("reward", flips, phase=Phase.SFT).reward.flip == 0
    assert view("eval", flips).reward.flip == 0


def test_a_generation_server_is_given_the_whole_recipe() -> None:
    found = whole_recipe(view("train-rl"))
    assert found == find_recipe("tiny", [SMALL])
    spec = ServerSpec(recipe=found, checkpoint="c", folder="f", host="h", port=1)
    assert ServerSpec.model_validate_json(spec.model_dump_json()) == spec

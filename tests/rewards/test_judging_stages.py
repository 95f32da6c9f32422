"""Eval and distill with a judge behind HTTP: several answers at a time, kept, and in order."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pelican.config.recipe import (
    Data,
    DistillConfig,
    EvalConfig,
    Models,
    Recipe,
    RewardConfig,
    Sampling,
)
from pelican.engines.base import Engine
from pelican.evaluation.metrics import read_results
from pelican.records import Family, OpenAnswer, Phase, Rollout, Sample, Split
from pelican.stages import distill
from pelican.stages import eval as evaluation
from pelican.stages.runner import run_stage
from pelican.stages.stage import StageSpec
from tests.data.factory import general, sample, write_pool
from tests.rewards.endpoint import Endpoint, judging


class Says(Engine):
    """Answers sample s00007 with "says s00007"."""

    def generate(
        self, samples: Sequence[Sample], sampling: Sampling, n: int, seed: int
    ) -> Iterator[list[Rollout]]:
        for one in samples:
            text = f"<think>Hm.</think><answer>says {one.id}</answer>"
            yield [
                Rollout(sample_id=one.id, index=i, seed=i, completion=text, tokens=1, finish="stop")
                for i in range(n)
            ]


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with judging() as made:
        made.always, made.right, made.delay_s = "no", "says s00003", 0.02
        yield made


def asking(number: int, **changes: Any) -> Sample:
    answer = OpenAnswer(reference=f"the answer to {number}")
    return sample(number, family=Family.PLANNING, answer=answer, **changes)


def recipe(endpoint: Endpoint) -> Recipe:
    return Recipe(
        name="made",
        models=Models(policy="p", teacher="t"),
        data=Data(train="a", replay="b", evaluation="c", general="d"),
        reward=RewardConfig(judge=endpoint.config.model_copy(update={"votes": 1, "workers": 4})),
        eval=EvalConfig(bootstrap=50),
        distill=DistillConfig(tries=1, neighbours=1),
    )


def spec(tmp_path: Path, stage: str, inputs: dict[str, str], made: Recipe) -> StageSpec:
    return StageSpec.model_validate(
        {
            "stage": stage,
            "store": str(tmp_path / "store"),
            "run": "r",
            "loop": 1,
            "phase": Phase.SFT,
            "output": f"runs/r/loop-1/{stage}-sft",
            "inputs": {name: str(tmp_path / path) for name, path in inputs.items()},
            "recipe": made,
        }
    )


def test_eval_judges_several_answers_at_a_time_and_never_twice(
    tmp_path: Path, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "open_engine", lambda *_: Says())
    write_pool(tmp_path / "held", [asking(i, split=Split.TEST) for i in range(12)])
    write_pool(tmp_path / "general", [general(i, split=Split.TEST) for i in range(2)])
    (tmp_path / "policy").mkdir()
    inputs = {"policy": "policy", "evaluation": "held", "general": "general"}
    job = spec(tmp_path, "eval", inputs, recipe(endpoint))
    manifest = run_stage(job)
    rows = read_results(tmp_path / "store" / job.output).filter(suite="embodied")
    assert [row["sample_id"] for row in rows.to_dicts() if row["success"]] == ["s00003"]
    assert rows["answer"].to_list() == [f"says s{i:05d}" for i in range(12)]
    assert 1 < endpoint.most <= 4
    assert (manifest.counts["judged"], manifest.counts["judged_cached"]) == (12, 0)
    assert manifest.metrics["judge_agreement"] == 1.0

    shutil.rmtree(tmp_path / "store" / "runs")
    endpoint.asked.clear()
    again = run_stage(job)
    assert not endpoint.asked and again.counts["judged_cached"] == 12
    assert again.metrics["embodied"] == manifest.metrics["embodied"]


def test_distill_judges_several_answers_at_a_time(
    tmp_path: Path, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distill, "open_engine", lambda *_: Says())
    write_pool(tmp_path / "pool", [asking(i) for i in range(12)])
    write_pool(tmp_path / "replay", [general(1)])
    for name in ("teacher", "policy"):
        (tmp_path / name).mkdir()
    (tmp_path / "weak").mkdir()
    ids = pa.array([f"s{i:05d}" for i in range(12)], pa.string())
    pq.write_table(pa.table({"sample_id": ids}), tmp_path / "weak" / "weak.parquet")
    names = ("weak", "pool", "replay", "teacher", "policy")
    job = spec(tmp_path, "distill", {name: name for name in names}, recipe(endpoint))
    manifest = run_stage(job)
    found = pq.read_table(Path(job.store) / job.output / "teacher.parquet").to_pylist()
    weak = [row for row in found if row["origin"] == "weak"]
    assert [row["sample_id"] for row in weak if row["accepted"]] == ["s00003"]
    assert {row["reason"] for row in weak if not row["accepted"]} == {"wrong: 0 of 1 votes"}
    assert 1 < endpoint.most <= 4 and manifest.counts["judged"] == 12

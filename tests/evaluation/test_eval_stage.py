"""The eval stage with an engine that knows the answers: files, numbers, resuming, ranks."""

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from PIL import Image

from pelican.config.recipe import (
    Data,
    EvalConfig,
    Models,
    Recipe,
    RewardConfig,
    Sampling,
    SftConfig,
)
from pelican.data.tables import write_samples
from pelican.engines import Engine
from pelican.errors import UserInputError
from pelican.evaluation.gate import Gate
from pelican.evaluation.metrics import RESULTS, Summary, read_results
from pelican.evaluation.sampled import WITH_ATTEMPTS, powers
from pelican.records import ChoiceAnswer, Dimension, Family, Phase, Rollout, Sample, Split, Turn
from pelican.runs.outcome import sampled_rows, scores
from pelican.stages import eval as stage
from pelican.stages.runner import run_stage, stage_arguments
from pelican.stages.stage import StageSpec
from pelican.storage.manifests import Manifest
from pelican.storage.store import FolderStore

FAMILIES = (Family.SUCCESS, Family.TEMPORAL)


class Answers(Engine):
    """Answers each sample right unless its id is in `wrong`; may die after some answers."""

    def __init__(
        self, wrong: Sequence[str] = (), dies_at: int | None = None, thought: str = "look"
    ) -> None:
        self.wrong, self.dies_at, self.thought = set(wrong), dies_at, thought
        self.asked: list[Any] = []
        self.opened = 0

    def generate(
        self, samples: Sequence[Sample], sampling: Sampling, n: int, seed: int
    ) -> Iterator[list[Rollout]]:
        assert (sampling.temperature, n) == (0.0, 1)
        for sample in samples:
            if self.dies_at is not None and len(self.asked) >= self.dies_at:
                raise KeyboardInterrupt
            self.asked.append(sample.id)
            letter = "A" if sample.id in self.wrong else sample.answer.answer
            text = f"<think>{self.thought}</think><answer>{letter}</answer>"
            text = text if self.thought else letter
            yield [
                Rollout(
                    sample_id=sample.id,
                    index=0,
                    seed=seed,
                    completion=text,
                    tokens=7,
                    finish="stop",
                )
            ]


def samples(name: str, count: int, family: Family | None = None) -> list[Sample]:
    import io

    out = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(out, "PNG")
    return [
        Sample(
            id=f"{name}-{index:03d}",
            media_kind="image",
            images=(out.getvalue(),),
            times_s=(0.0,),
            turns=(Turn(role="user", text="Which?\nA. one\nB. two\nC. three\nD. four"),),
            family=family or FAMILIES[index % 2],
            dimension=Dimension.DECISION_PLANNING,
            answer=ChoiceAnswer(options=("one", "two", "three", "four"), answer="BCD"[index % 3]),
            source="made",
            scene=f"{name}-{index // 2}",
            split=Split.TEST,
            chance=0.25,
        )
        for index in range(count)
    ]


@pytest.fixture
def pools(tmp_path: Path) -> dict[str, str]:
    write_samples(tmp_path / "held" / "a.parquet", samples("e", 10))
    write_samples(tmp_path / "general" / "a.parquet", samples("g", 4, Family.GENERAL))
    (tmp_path / "policy").mkdir()
    return {name: str(tmp_path / name) for name in ("held", "general", "policy")}


def spec(
    tmp_path: Path, pools: dict[str, str], name: str = "base", loop: int = 1, **inputs: str
) -> StageSpec:
    recipe = Recipe(
        name="made",
        models=Models(policy=pools["policy"], teacher=pools["policy"]),
        data=Data(train="", replay="", evaluation=pools["held"], general=pools["general"]),
        eval=EvalConfig(bootstrap=100),
        reward=RewardConfig(flip=1.0),  # an ablation of training, which eval must not follow
    )
    return StageSpec(
        stage="eval",
        store=str(tmp_path / "store"),
        run="made",
        loop=0 if name == "base" else loop,
        phase=Phase(name),
        output=f"runs/made/loop-{0 if name == 'base' else loop}/eval-{name}",
        inputs={
            "policy": pools["policy"],
            "evaluation": pools["held"],
            "general": pools["general"],
            **inputs,
        },
        recipe=recipe,
    )


def evaluate(
    monkeypatch: pytest.MonkeyPatch, spec: StageSpec, engine: Answers
) -> tuple[Manifest, Path]:
    def opened(*_: object) -> Answers:
        engine.opened += 1
        return engine

    monkeypatch.setattr(stage, "open_engine", opened)
    return run_stage(spec), Path(spec.store) / spec.output


@pytest.mark.parametrize(
    ("phase", "sft", "obeyed"),
    [("base", True, True), ("sft", True, True), ("rl", True, False), ("rl", False, True)],
)
def test_the_gate_is_told_of_where_it_is_obeyed(tmp_path, pools, monkeypatch, phase, sft, obeyed):
    told = []
    monkeypatch.setattr(stage.record, "evaluated", lambda *given: told.append(given[2]))  # type: ignore[attr-defined]
    asked = spec(tmp_path, pools, phase)
    recipe = asked.recipe.model_copy(update={"sft": SftConfig(enabled=sft)})
    evaluate(monkeypatch, asked.model_copy(update={"recipe": recipe}), Answers())
    assert told == [obeyed]


def test_every_held_out_sample_is_answered_and_scored(tmp_path, pools, monkeypatch):
    engine = Answers(wrong=["e-000", "e-001", "g-000"])
    manifest, folder = evaluate(monkeypatch, spec(tmp_path, pools), engine)
    results = read_results(folder)
    assert results.columns == RESULTS.names
    assert len(results) == 14 and results["sample_id"].n_unique() == 14
    assert manifest.metrics["embodied"] == pytest.approx(80.0)
    assert manifest.metrics["general"] == pytest.approx(75.0)
    assert manifest.metrics["embodied_chance"] == pytest.approx(25.0)
    assert manifest.metrics["family/success"] == pytest.approx(80.0)
    assert manifest.metrics["format_rate"] == 1.0 and manifest.metrics["mean_tokens"] == 7.0
    assert manifest.metrics["go_on"] == 1.0
    assert manifest.counts == {"samples": 14, "quarantined": 0, "tokens": 98}
    assert {o.path for o in manifest.outputs} == {"results.parquet", "summary.json", "gate.json"}
    assert Gate.model_validate_json((folder / "gate.json").read_text()).go_on


def test_a_worse_policy_is_compared_and_stopped(tmp_path, pools, monkeypatch):
    evaluate(monkeypatch, spec(tmp_path, pools), Answers())
    base = "runs/made/loop-0/eval-base"
    engine = Answers(wrong=[f"e-{i:03d}" for i in range(8)])
    after = spec(tmp_path, pools, "sft", base=base, previous=base)
    manifest, folder = evaluate(monkeypatch, after, engine)
    assert manifest.metrics["go_on"] == 0.0
    assert any("embodied" in reason for reason in manifest.notes["gate"])
    summary = Summary.model_validate_json((folder / "summary.json").read_text())
    comparison = summary.comparisons["previous"]
    assert comparison.to == base
    assert comparison.embodied.delta == pytest.approx(-80.0) and comparison.embodied.worse
    assert comparison.embodied_flips.lost == 8
    assert comparison.general.delta == 0.0


def test_every_loop_is_held_to_the_best_that_was_accepted(tmp_path, pools, monkeypatch):
    """Loop 2 thinks half as long as loop 1, and loop 3 half as long again: nobody sees but who remembers."""
    base, previous = "runs/made/loop-0/eval-base", "runs/made/loop-0/eval-base"
    evaluate(monkeypatch, spec(tmp_path, pools), Answers(thought=""))
    said = {}
    for loop, thought in ((1, "look " * 10), (2, "look " * 4), (3, "look " * 2)):
        asked = spec(tmp_path, pools, "sft", loop, base=base, previous=previous)
        manifest, folder = evaluate(monkeypatch, asked, Answers(thought=thought.strip()))
        gate = Gate.model_validate_json((folder / "gate.json").read_text())
        said[loop] = [check.name for check in gate.checks if not check.passed]
        names = {output.path for output in manifest.outputs}
        assert ("accepted.parquet" in names) == (loop > 1)  # that of one loop is as it always was
        previous = asked.output
    assert said == {1: [], 2: [], 3: ["thinking"]}
    thinking = gate.checks[-1].reason
    assert thinking.startswith("thinking: 0.18 times the length of loop 1;")


def test_a_run_whose_earlier_loops_kept_no_record_is_held_to_base_and_previous(
    tmp_path, pools, monkeypatch
):
    base = "runs/made/loop-0/eval-base"
    evaluate(monkeypatch, spec(tmp_path, pools), Answers())
    old = spec(tmp_path, pools, "sft", 1, base=base, previous=base)
    evaluate(monkeypatch, old, Answers())
    asked = spec(tmp_path, pools, "sft", 3, base=base, previous=old.output)
    manifest, _ = evaluate(monkeypatch, asked, Answers(thought=""))
    assert manifest.metrics["go_on"] == 0.0


def test_a_killed_evaluation_goes_on_at_the_next_part(tmp_path, pools, monkeypatch):
    monkeypatch.setattr(stage, "PART", 4)
    killed = Answers(dies_at=9)
    with pytest.raises(KeyboardInterrupt):
        evaluate(monkeypatch, spec(tmp_path, pools), killed)
    assert not (tmp_path / "store/runs/made/loop-0/eval-base/manifest.json").exists()
    again = Answers()
    _, folder = evaluate(monkeypatch, spec(tmp_path, pools), again)
    assert again.asked == [f"e-{i:03d}" for i in (8, 9)] + [f"g-{i:03d}" for i in range(4)]
    assert read_results(folder)["sample_id"].n_unique() == 14


def test_what_is_finished_opens_no_engine(tmp_path, pools, monkeypatch):
    evaluate(monkeypatch, spec(tmp_path, pools), Answers())
    idle = Answers()
    evaluate(monkeypatch, spec(tmp_path, pools), idle)
    assert idle.opened == 0


def test_two_ranks_share_the_parts_and_rank_0_joins_them(tmp_path, pools, monkeypatch):
    monkeypatch.setattr(stage, "PART", 3)
    engine = Answers()
    monkeypatch.setattr(stage, "open_engine", lambda *_: engine)
    made = spec(tmp_path, pools)
    store = FolderStore(made.store)
    with ThreadPoolExecutor() as threads:
        ranks = [
            threads.submit(stage.run, *stage_arguments(store, made, rank, world_size=2))
            for rank in (0, 1)
        ]
        results = [rank.result(timeout=30) for rank in ranks]
    assert sorted(engine.asked) == sorted(set(engine.asked)) and len(engine.asked) == 14
    assert len(read_results(Path(made.store) / made.output)) == 14
    assert not results[1].metrics and results[0].metrics["embodied"] == pytest.approx(100.0)


class Wavers(Answers):
    """Its greedy answers are those of `Answers`; of 4 sampled ones as many are right as `right` says."""

    def __init__(self, right: Mapping[str, int], wrong: Sequence[str] = ()) -> None:
        super().__init__(wrong)
        self.right = right
        self.sampled: list[tuple[float, int]] = []

    def generate(
        self, samples: Sequence[Sample], sampling: Sampling, n: int, seed: int
    ) -> Iterator[list[Rollout]]:
        if sampling.temperature == 0:
            yield from super().generate(samples, sampling, n, seed)
            return
        self.sampled.append((sampling.temperature, n))
        for sample in samples:
            letters = [sample.answer.answer] * self.right.get(sample.id, n)
            letters += ["A"] * (n - len(letters))
            yield [
                Rollout(
                    sample_id=sample.id,
                    index=i,
                    seed=seed,
                    completion=f"<think>look</think><answer>{letter}</answer>",
                    tokens=5,
                    finish="stop",
                )
                for i, letter in enumerate(letters)
            ]


def test_sampled_answers_stand_beside_the_greedy_ones(tmp_path, pools, monkeypatch):
    asked = spec(tmp_path, pools)
    config = EvalConfig(bootstrap=100, samples=4, samples_temperature=0.8)
    recipe = asked.recipe.model_copy(update={"eval": config})
    # Of ten questions, five a family: 2 of 4 right (a tie), 3 of 4, 1 of 4, 0 of 4, the others all.
    engine = Wavers({"e-000": 2, "e-002": 3, "e-004": 1, "e-001": 0}, wrong=["e-000", "e-001"])
    manifest, folder = evaluate(monkeypatch, asked.model_copy(update={"recipe": recipe}), engine)
    assert set(engine.sampled) == {(0.8, 4)}
    results = read_results(folder)
    assert results.columns == WITH_ATTEMPTS.names
    row = results.row(by_predicate=pl.col("sample_id") == "e-000", named=True)
    assert (row["attempts"], row["successes"], row["majority"]) == (4, 2, 0.5)
    assert row["attempts_tokens"] == 20 and not row["success"]

    summary = Summary.model_validate_json((folder / "summary.json").read_text())
    found = summary.sampled["embodied"]
    assert (found.attempts, found.temperature) == (4, 0.8)
    # Means of the families `success` (e-000, e-002, …) and `temporal` (e-001, e-003, …).
    expected = {
        "greedy": (4 / 5, 4 / 5),
        "p@1": ((2 + 3 + 1 + 4 + 4) / 20, 16 / 20),
        "p@2": ((5 / 6 + 1 + 1 / 2 + 1 + 1) / 5, 4 / 5),
        "p@4": (1, 4 / 5),
        "majority": ((0.5 + 1 + 0 + 1 + 1) / 5, 4 / 5),
        "sampled": (14 / 20, 16 / 20),
    }
    assert {name: one.score for name, one in found.named().items()} == {
        name: pytest.approx(50 * sum(families)) for name, families in expected.items()
    }
    assert found.at[4].chance == pytest.approx(100 * (1 - 0.75**4))
    assert found.at[1].low <= found.at[1].score <= found.at[1].high
    assert summary.embodied is not None and summary.embodied.score == found.greedy.score
    assert manifest.metrics["embodied_p@4"] == pytest.approx(90)
    assert manifest.metrics["general_majority"] == 100
    assert manifest.counts["tokens"] == 98 and manifest.counts["sampled_tokens"] == 14 * 20

    entry = scores(FolderStore(tmp_path / "store"), [manifest])[0]
    head, rows = sampled_rows({"scores": [entry]})
    assert head[:4] == ["policy", "suite", "attempts", "temperature"]
    assert rows[0] == [
        "base",
        "embodied",
        "4",
        "0.8",
        "80.0",
        "75.0",
        "83.3",
        "90.0",
        "75.0",
        "75.0",
    ]


def test_results_without_sampled_answers_compare_with_those_that_have_some(
    tmp_path, pools, monkeypatch
):
    evaluate(monkeypatch, spec(tmp_path, pools), Answers())
    base = "runs/made/loop-0/eval-base"
    summary = json.loads((tmp_path / "store" / base / "summary.json").read_text())
    assert "sampled" not in summary
    after = spec(tmp_path, pools, "sft", base=base, previous=base)
    config = EvalConfig(bootstrap=100, samples=2)
    recipe = after.recipe.model_copy(update={"eval": config})
    _, folder = evaluate(monkeypatch, after.model_copy(update={"recipe": recipe}), Wavers({}))
    found = Summary.model_validate_json((folder / "summary.json").read_text())
    assert found.comparisons["base"].embodied.delta == 0
    assert list(found.sampled["general"].at) == [1, 2]


@pytest.mark.parametrize(
    ("attempts", "shown"), [(1, [1]), (2, [1, 2]), (5, [1, 2, 4, 5]), (8, [1, 2, 4, 8])]
)
def test_the_k_that_are_shown_are_powers_of_two_and_all(attempts: int, shown: list[int]) -> None:
    assert powers(attempts) == shown


def test_an_unreadable_picture_is_left_out_and_counted(tmp_path, pools, monkeypatch):
    broken = samples("e", 10)
    broken[3] = broken[3].model_copy(update={"images": (b"no image",)})
    write_samples(Path(pools["held"]) / "a.parquet", broken)
    manifest, folder = evaluate(monkeypatch, spec(tmp_path, pools), Answers())
    assert manifest.counts["quarantined"] == 1
    assert "e-003" not in read_results(folder)["sample_id"].to_list()


def test_an_empty_suite_is_an_error_not_a_missing_score(tmp_path, pools, monkeypatch):
    write_samples(Path(pools["general"]) / "a.parquet", [])
    with pytest.raises(UserInputError, match="no usable sample"):
        evaluate(monkeypatch, spec(tmp_path, pools), Answers())


def test_results_of_an_older_version_are_refused_by_name(tmp_path):
    pl.DataFrame({"sample_id": ["a"]}).write_parquet(tmp_path / "results.parquet")
    with pytest.raises(UserInputError, match="lacks the columns suite"):
        read_results(tmp_path)


def test_the_summary_is_plain_json(tmp_path, pools, monkeypatch):
    _, folder = evaluate(monkeypatch, spec(tmp_path, pools), Answers())
    tree = json.loads((folder / "summary.json").read_text())
    assert tree["horizons"]["image"]["n"] == 10
    assert set(tree["embodied"]) == {"score", "low", "high", "n", "scenes", "chance"}

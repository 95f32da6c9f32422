"""The trainers tell the metrics what their own records say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pelican.config.recipe import RlVariant, StopConfig
from pelican.monitoring import exporter
from pelican.records import Sample, Score
from pelican.stages.train_sft import count_trained
from pelican.training.checkpoints import Losses
from pelican.training.curve import RlCurve
from pelican.training.grpo import Group, StepRecord
from tests.endpoints import free_port
from tests.monitoring.servers import get, values
from tests.training import trainers


def scraped(monkeypatch: pytest.MonkeyPatch, stage: str, train: Any) -> dict[str, float]:
    """What the stage's port says when `train` has ended."""
    port = free_port()
    monkeypatch.delenv(exporter.GATEWAY, raising=False)
    monkeypatch.setenv(exporter.PORT, f"127.0.0.1:{port}")
    with exporter.open_stage(stage, "rl", "key", list) as opened:
        train()
        found = values(get(f"http://127.0.0.1:{port}/metrics"))
        opened.finish()
    return found


def test_grpo_counts_its_groups_tokens_and_steps(
    twin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records: list[StepRecord] = []
    trainer = trainers.grpo(
        twin, tmp_path, trainers.letters, records, max_steps=6, kl=0.01, learning_rate=1e-3
    )
    config = trainer._config.model_copy(update={"stop": StopConfig(window=2, threshold=1.0)})
    curve = RlCurve(config, lambda value: [value], lambda *_: None)
    trainer.add_callback(curve)
    trainer.add_callback(Losses(lambda *_: None))
    told = trainer._on_step
    trainer._on_step = lambda record: (told(record), curve.add(record))  # type: ignore[func-returns-value]
    found = scraped(monkeypatch, "train-rl", trainer.train)
    drawn = [group for record in records for group in record.drawn]
    assert found["pelican_training_steps_total"] == 6
    assert found["pelican_training_step_duration_seconds_count"] == 6
    flat = curve.totals["groups_without_variance"]
    assert found.get('pelican_groups_total{variance="no"}', 0) == flat
    assert found['pelican_groups_total{variance="yes"}'] == len(drawn) - flat > 0
    trained = [group.has_variance for record in records for group in record.trained]
    assert curve.totals["groups_trained"] == len(trained) == 6 * 4
    assert curve.totals["groups_trained_flat"] == trained.count(False)
    for name, value in (("yes", True), ("no", False)):
        key = f'pelican_groups_trained_total{{variance="{name}"}}'
        assert found.get(key, 0) == trained.count(value)
    assert found["pelican_tokens_generated_total"] == curve.totals["tokens_generated"]
    assert found["pelican_tokens_trained_total"] == curve.totals["tokens_trained"]
    once = curve.totals["tokens_trained"] + curve.totals["prompt_tokens_trained"]
    assert curve.totals["reference_tokens"] == once  # one update a batch
    rewards = sum(float(group.rewards.sum()) for group in drawn)
    sums = [
        v for k, v in found.items() if k.startswith('pelican_reward_ratio_sum{component="total')
    ]
    assert sum(sums) == pytest.approx(rewards)
    stagnation = [v for k, v in found.items() if k.startswith("pelican_stagnation_ratio{")]
    assert found["pelican_stagnation_mean_ratio"] == pytest.approx(
        sum(stagnation) / len(stagnation)
    )
    for name in ("loss", "gradient_norm", "learning_rate", "kl_nats", "entropy_nats", "clip_ratio"):
        assert f"pelican_training_{name}" in found
    assert found['pelican_training_not_finite_total{quantity="grad_norm"}'] == 0
    assert found['pelican_stage_time_seconds_total{part="generate"}'] > 0


def test_tokens_count_in_every_update_of_a_batch_and_with_a_hint_too(
    twin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def score(sample: Sample, completion: str, index: int, step: int) -> Score:
        """Only those who read a hint succeed, every other time."""
        return trainers.scored(float("Hint:" in sample.question and index % 2))

    records: list[StepRecord] = []
    variant = RlVariant(updates=2, hints=True, perception=0.01)
    trainer = trainers.grpo(twin, tmp_path, score, records, max_steps=3, refill=0, variant=variant)
    curve = RlCurve(trainer._config, lambda value: [value], lambda *_: None)
    trainer.add_callback(curve)
    told = trainer._on_step
    trainer._on_step = lambda record: (told(record), curve.add(record))  # type: ignore[func-returns-value]
    found = scraped(monkeypatch, "train-rl", trainer.train)

    def tokens(groups: list[Group]) -> int:
        return sum(len(ids) for group in groups for ids in group.completions)

    first, last = records  # the last batch serves the third step alone
    assert first.hinted and last.hinted
    trained = 2 * tokens(first.trained) + tokens(last.trained)
    generated = sum(tokens(record.drawn) + tokens(record.hinted) for record in records)
    assert found["pelican_tokens_trained_total"] == curve.totals["tokens_trained"] == trained
    assert found["pelican_tokens_generated_total"] == curve.totals["tokens_generated"] == generated

    def prompts(groups: list[Group]) -> int:
        return sum(len(group.prompt.ids) for group in groups)

    read = sum(prompts(record.drawn) + prompts(record.hinted) for record in records)
    assert curve.totals["prompt_tokens"] == read
    of_prompts = 2 * prompts(first.trained) + prompts(last.trained)
    assert curve.totals["prompt_tokens_trained"] == of_prompts
    # Without a KL term there is no reference; the perception loss has a pass of its own.
    assert curve.totals["reference_tokens"] == trained + of_prompts


def test_sft_counts_what_it_learns(
    twin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainers.sft(twin, tmp_path, 5)
    losses = Losses(lambda *_: None)
    trainer.add_callback(losses)
    found = scraped(monkeypatch, "train-sft", trainer.train)
    assert found["pelican_training_steps_total"] == 5
    assert found["pelican_training_loss"] == pytest.approx(losses.rows[-1]["loss"])
    rows = [
        len(trainer.data_collator._encoder.completion(r.completion))
        for r in trainers.DEMONSTRATIONS
    ]
    encoder = trainer.data_collator._encoder
    counts = count_trained(trainers.DEMONSTRATIONS, encoder, 2 * len(trainers.DEMONSTRATIONS))
    prompts = [len(encoder.prompt(r.sample).ids) for r in trainers.DEMONSTRATIONS]
    assert counts == {"tokens_trained": 2 * sum(rows), "prompt_tokens_trained": 2 * sum(prompts)}
    assert 5 * 4 * min(rows) <= found["pelican_tokens_trained_total"] <= 7 * 4 * max(rows)
    assert found['pelican_stage_time_seconds_total{part="data"}'] > 0

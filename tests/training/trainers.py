"""Samples, rewards and small trainers that the tests of training share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from pelican.config.recipe import Data, ModelConfig, Models, Recipe, RlConfig, Sampling
from pelican.engines.transformers import TransformersEngine, load_model
from pelican.records import Sample, Score
from pelican.training.arguments import grpo_arguments, sft_arguments
from pelican.training.distributed import load_for_training
from pelican.training.grpo import StepRecord, schedule
from pelican.training.grpo_scale import ScaledGrpoTrainer
from pelican.training.sampling import RemoteSampler
from pelican.training.sft import Demonstration, DemonstrationTrainer
from pelican.training.variants import trainer_of
from tests.data.factory import clip, sample

SAMPLES = [sample(i) for i in range(5)] + [clip(5, (0.0, 8.0))]
DEMONSTRATIONS = [
    *(Demonstration(sample(i), f"<think>{i}</think><answer>{i}</answer>") for i in range(6)),
    Demonstration(clip(6, (0.0, 8.0, 16.0)), "<think>three</think><answer>3</answer>"),
]


def scored(value: float, sample_id: str = "s", index: int = 0) -> Score:
    return Score(
        sample_id=sample_id,
        index=index,
        reward=value,
        format=0,
        task=value,
        success=value >= 0.5,
        think_chars=0,
        answer="",
    )


def letters(sample: Sample, completion: str, index: int, step: int) -> Score:
    """A reward that an untrained model can climb: the share of letters a to z."""
    share = sum("a" <= c <= "z" for c in completion) / max(1, len(completion))
    return scored(share, sample.id, index)


def recipe(**rl: Any) -> Recipe:
    config = RlConfig(
        **{
            "group_size": 4,
            "prompts_per_step": 4,
            "learning_rate": 5e-3,
            "kl": 0.0,
            "max_steps": 12,
            "save_steps": 100,
            "sampling": Sampling(temperature=1.0, max_tokens=8),
            **rl,
        }
    )
    return Recipe(
        name="test",
        models=Models(policy="-", teacher="-"),
        data=Data(train="-", replay="-", evaluation="-", general="-"),
        model=ModelConfig(
            dtype="float32", freeze_vision=True, cache_vision=True, gradient_checkpointing=False
        ),
        rl=config,
    )


def sft_recipe(**sft: Any) -> Recipe:
    base = recipe()
    wanted = {"learning_rate": 5e-3, "batch_size": 4, "save_steps": 4, **sft}
    return base.model_copy(update={"sft": base.sft.model_copy(update=wanted)})


def scheduled(samples: int, draws: int) -> Any:
    """The trainers' data set: numbers of samples."""
    order = schedule(samples, draws, 0)
    return Dataset.from_dict({"prompt": [""] * len(order), "sample": order})


def grpo(twin: Path, work: Path, scorer: Any, steps: list[StepRecord], **rl: Any) -> Any:
    """The trainer of a recipe without sharding, with these fields of `rl`."""
    torch.manual_seed(0)
    config = recipe(**rl)
    policy, encoder = load_model(config.model, twin)
    policy.config.name_or_path = str(twin)
    return trainer_of(config.rl)(
        model=policy,
        args=grpo_arguments(config, work, 1, 0),
        train_dataset=scheduled(len(SAMPLES), 12 * config.rl.max_steps),
        processing_class=encoder.processor,
        engine=TransformersEngine(policy, encoder, 64),
        samples=SAMPLES,
        config=config.rl,
        scorer=scorer,
        on_step=steps.append,
    )


def scaled_grpo(
    made: Recipe,
    twin: Path,
    work: Path,
    samples: Sequence[Sample],
    on_step: Callable[[StepRecord], None],
    *,
    world: int = 1,
    url: str | None = None,
    folder: Path | None = None,
) -> ScaledGrpoTrainer:
    """The trainer at scale; it draws from the server at `url`, if given, by weights in `folder`."""
    torch.manual_seed(0)
    args = grpo_arguments(made, work, world, 0)
    args.logging_steps = 1
    policy, encoder = load_for_training(made, twin, args)
    sampler = None
    if url is not None and folder is not None:
        config = made.rl.generation
        sampler = RemoteSampler(config, torch.float32, [url], folder, encoder, samples)
    return ScaledGrpoTrainer(
        policy,
        args=args,
        processing_class=encoder.processor,
        train_dataset=scheduled(len(samples), made.rl.max_steps * made.rl.prompts_per_step),
        recipe=made,
        checkpoint=twin,
        encoder=encoder,
        sampler=sampler,
        samples=samples,
        scorer=letters,
        on_step=on_step,
    )


def sft(twin: Path, work: Path, steps: int) -> Any:
    """The trainer of a recipe without sharding, on DEMONSTRATIONS."""
    torch.manual_seed(0)
    config = sft_recipe()
    policy, encoder = load_model(config.model, twin)
    return DemonstrationTrainer(
        model=policy,
        args=sft_arguments(config, work, 1, 0, steps),
        processing_class=encoder.processor,
        encoder=encoder,
        rows=DEMONSTRATIONS,
    )


def losses(trainer: Any) -> list[float]:
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]

"""train-rl against plain TRL: useful samples per second.

Both train the shipped base on the same buffer, group size, rate, reward and CPU threads. Useful are
completions in groups whose rewards differ: the others give no gradient. The buffer is what the base
solves sometimes, found by a rollout beforehand, as the filter stage does; plain TRL gets the same.
Steps after the first are timed.
"""

from __future__ import annotations

import io
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from PIL import Image
from transformers import TrainerCallback
from trl import GRPOTrainer

from benchmarks.measure import at_least, figure
from pelican.data.pool import read_index
from pelican.data.quarantine import Quarantine
from pelican.data.select import loop_samples
from pelican.engines.prompts import messages
from pelican.engines.transformers import TransformersEngine, load_model
from pelican.recipe import Recipe
from pelican.recipes import find_recipe
from pelican.records import Phase, Sample
from pelican.rewards import score
from pelican.settings import resolve
from pelican.stages.train_rl import training_scorer
from pelican.training.arguments import grpo_arguments
from pelican.training.groups import StepRecord, schedule
from pelican.training.grpo import DeliberateGrpoTrainer

PROMPTS, POOL = 8, 96


class Clock(TrainerCallback):  # type: ignore[misc]
    """When each step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.append(time.perf_counter())

    @property
    def seconds(self) -> float:
        """Of all steps but the first."""
        return self.ends[-1] - self.ends[0]


def recipe_of(steps: int) -> Recipe:
    sets = f"rl.max_steps={steps} rl.prompts_per_step={PROMPTS} rl.processes=1 rl.save_steps=100000"
    return find_recipe("tiny", [f"data.samples_per_loop={POOL}", sets])


def buffer_of(recipe: Recipe, policy: Path) -> list[Sample]:
    """Stills of the pool that the base solves sometimes, in four tries."""
    index = read_index(Path(resolve(recipe.data.train)))
    entries = [e for e in loop_samples(index, recipe, 1, Phase.RL) if not e.clip]
    samples = list(index.load(entries, max_pixels=recipe.data.max_pixels, quarantine=Quarantine()))
    engine = TransformersEngine(*load_model(recipe.model, policy), batch_size=64)
    kept = []
    for sample, group in zip(
        samples, engine.generate(samples, recipe.rl.sampling, 4, 0), strict=True
    ):
        rewards = {round(score(sample, r.completion, recipe.reward).reward, 4) for r in group}
        if len(rewards) > 1:
            kept.append(sample)
    return kept


def ours(recipe: Recipe, policy: Path, samples: list[Sample], work: Path) -> tuple[int, float]:
    """(useful completions, seconds), the first step left out."""
    records: list[StepRecord] = []
    clock = Clock()
    model, encoder = load_model(recipe.model, policy)
    model.config._name_or_path = str(policy)
    order = schedule(len(samples), recipe.rl.max_steps * PROMPTS, 0)
    DeliberateGrpoTrainer(
        model,
        args=grpo_arguments(recipe, work, 1, 0),
        train_dataset=Dataset.from_dict({"prompt": [""] * len(order), "sample": order}),
        processing_class=encoder.processor,
        callbacks=[clock],
        engine=TransformersEngine(model, encoder, batch_size=1),
        samples=samples,
        config=recipe.rl,
        scorer=training_scorer(recipe, 0, None),
        on_step=records.append,
    ).train()
    useful = sum(group.has_variance for record in records[1:] for group in record.trained)
    return useful * recipe.rl.group_size, clock.seconds


def plain(recipe: Recipe, policy: Path, samples: list[Sample], work: Path) -> tuple[int, float]:
    """GRPOTrainer as it comes, with our reward as its reward function."""
    size = recipe.rl.group_size
    steps: list[int] = []
    clock = Clock()
    by_id = {sample.id: sample for sample in samples}

    def reward(completions: list[Any], sample_id: list[str], **_: Any) -> list[float]:
        texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
        texts = [t if isinstance(t, str) else t[0]["text"] for t in texts]
        found = [
            score(by_id[name], text, recipe.reward).reward
            for name, text in zip(sample_id, texts, strict=True)
        ]
        groups = [found[i : i + size] for i in range(0, len(found), size)]
        steps.append(sum(max(group) - min(group) > 1e-4 for group in groups))
        return found

    order = schedule(len(samples), recipe.rl.max_steps * PROMPTS, 0)
    rows = [
        {
            "prompt": messages(samples[i], None),
            "images": [Image.open(io.BytesIO(b)).convert("RGB") for b in samples[i].images],
            "sample_id": samples[i].id,
        }
        for i in order
    ]
    model, encoder = load_model(recipe.model.model_copy(update={"cache_vision": False}), policy)
    model.config._name_or_path = str(policy)
    GRPOTrainer(
        model,
        reward_funcs=reward,
        args=grpo_arguments(recipe, work, 1, 0),
        train_dataset=Dataset.from_list(rows),
        processing_class=encoder.processor,
        callbacks=[clock],
    ).train()
    return sum(steps[1:]) * size, clock.seconds


def run(steps: int) -> None:
    torch.set_num_threads(1)
    recipe = recipe_of(steps)
    policy = Path(resolve(recipe.models.policy))
    samples = buffer_of(recipe, policy)
    with tempfile.TemporaryDirectory() as name:
        mine, seconds = ours(recipe, policy, samples, Path(name) / "ours")
        theirs, other = plain(recipe, policy, samples, Path(name) / "plain")
    size = f"{steps} steps of {PROMPTS} x {recipe.rl.group_size}, {len(samples)} samples"
    ratio = (mine / seconds) / (theirs / other) if theirs else float("inf")
    at_least("useful samples per second against plain TRL", ratio, "x", 2.0, size)
    drawn = (steps - 1) * PROMPTS * recipe.rl.group_size
    figure("train-rl", mine / seconds, "useful/s", f"{mine} of {drawn} useful, of this machine")
    figure("plain TRL", theirs / other, "useful/s", f"{theirs} of {drawn} useful, of this machine")


if __name__ == "__main__":
    run(int(sys.argv[1]) if len(sys.argv) == 2 else 12)

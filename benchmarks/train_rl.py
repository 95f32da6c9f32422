"""train-rl against plain TRL: useful samples per second, and time to a held-out score.

Both train the shipped base on the same buffer, group size, rate, reward and CPU threads. Useful are
completions in groups whose rewards differ: the others give no gradient. The buffer is what the base
solves sometimes, found by a rollout beforehand, as the filter stage does; plain TRL gets the same.
Steps after the first are timed for the rate, all of them for the score; both are asked the same
held-out questions every few steps, greedily, while the clock stands still.
"""

from __future__ import annotations

import io
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from PIL import Image
from transformers import TrainerCallback
from trl import GRPOTrainer

from benchmarks.measure import at_least, figure
from pelican.config.env import resolve
from pelican.config.presets import find_recipe
from pelican.config.recipe import Recipe
from pelican.data.pool import read_index
from pelican.data.select import loop_samples, stratified
from pelican.data.tables import Quarantine
from pelican.engines.transformers import PromptEncoder, TransformersEngine, load_model, messages
from pelican.records import Phase, Sample
from pelican.rewards import score
from pelican.stages.train_rl import training_scorer
from pelican.training.arguments import grpo_arguments
from pelican.training.grpo import DeliberateGrpoTrainer, StepRecord, schedule

PROMPTS, POOL = 8, 240
HELD_OUT, EVERY = 150, 2  # questions, steps from one time that they are asked to the next
GAIN = 12.0  # points above the base that must be reached


class Clock(TrainerCallback):  # type: ignore[misc]
    """When each step ended, and the held-out score after some; asking does not count as time."""

    def __init__(self, ask: Callable[[], float]) -> None:
        self._ask, self._paused = ask, 0.0
        self.ends: list[float] = []
        self.scores: list[tuple[float, float]] = []  # (seconds since the start, score)

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._began = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        now = time.perf_counter()
        self.ends.append(now - self._began - self._paused)
        if len(self.ends) % EVERY == 0:
            self.scores.append((self.ends[-1], self._ask()))
            self._paused += time.perf_counter() - now

    @property
    def seconds(self) -> float:
        """Of all steps but the first."""
        return self.ends[-1] - self.ends[0]

    def until(self, goal: float) -> float | None:
        """Seconds until a held-out score of `goal` was seen."""
        return next((seconds for seconds, found in self.scores if found >= goal), None)


@dataclass(frozen=True)
class Trained:
    """What came of one training."""

    useful: int
    clock: Clock

    @property
    def rate(self) -> float:
        return self.useful / self.clock.seconds


def recipe_of(steps: int) -> Recipe:
    sets = f"rl.max_steps={steps} rl.prompts_per_step={PROMPTS} rl.processes=1 rl.save_steps=100000"
    return find_recipe("tiny", [f"data.samples_per_loop={POOL}", sets])


def buffer_of(recipe: Recipe, policy: Path) -> list[Sample]:
    """Stills of the pool that the base solves sometimes, in four tries."""
    index = read_index(Path(resolve(recipe.data.train)))
    entries = [e for e in loop_samples(index, recipe, 1, Phase.RL).entries if not e.clip]
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


def held_out(recipe: Recipe) -> list[Sample]:
    """Stills of the pool for developing, spread over the families."""
    index = read_index(Path(resolve("samples/dev")))
    entries = stratified([e for e in index.entries if not e.clip], HELD_OUT)
    return list(index.load(entries, max_pixels=recipe.data.max_pixels, quarantine=Quarantine()))


def score_of(recipe: Recipe, questions: list[Sample], model: Any, encoder: PromptEncoder) -> float:
    """Mean task score in percent of greedy answers."""
    was_training = model.training
    model.eval()
    engine = TransformersEngine(model, encoder, batch_size=64)
    groups = engine.generate(questions, recipe.eval.sampling, 1, 0)
    found = [
        score(sample, group[0].completion, recipe.reward).task
        for sample, group in zip(questions, groups, strict=True)
    ]
    model.train(was_training)
    return 100 * sum(found) / len(found)


def ours(
    recipe: Recipe, policy: Path, samples: list[Sample], questions: list[Sample], work: Path
) -> Trained:
    records: list[StepRecord] = []
    model, encoder = load_model(recipe.model, policy)
    model.config.name_or_path = str(policy)
    clock = Clock(lambda: score_of(recipe, questions, model, encoder))
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
        scorer=training_scorer(recipe.reward, 0, None),
        on_step=records.append,
    ).train()
    useful = sum(group.has_variance for record in records[1:] for group in record.trained)
    return Trained(useful * recipe.rl.group_size, clock)


def plain(
    recipe: Recipe, policy: Path, samples: list[Sample], questions: list[Sample], work: Path
) -> Trained:
    """GRPOTrainer as it comes, with our reward as its reward function."""
    size = recipe.rl.group_size
    steps: list[int] = []
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
    model.config.name_or_path = str(policy)
    clock = Clock(lambda: score_of(recipe, questions, model, encoder))
    # As TRL's documentation asks: it pads its prompts on the left itself, and puts beside them the
    # token types that the processor pads. On the other side these mark other tokens as the image.
    encoder.tokenizer.padding_side = "left"
    args = grpo_arguments(recipe, work, 1, 0)
    # As ours: a sampled image token would be taken for an image that is not there.
    args.generation_kwargs = {"suppress_tokens": encoder.media_token_ids}
    GRPOTrainer(
        model,
        reward_funcs=reward,
        args=args,
        train_dataset=Dataset.from_list(rows),
        processing_class=encoder.processor,
        callbacks=[clock],
    ).train()
    return Trained(sum(steps[1:]) * size, clock)


def run(steps: int) -> None:
    torch.set_num_threads(1)
    recipe = recipe_of(steps)
    policy = Path(resolve(recipe.models.policy))
    samples, questions = buffer_of(recipe, policy), held_out(recipe)
    base = score_of(recipe, questions, *load_model(recipe.model, policy))
    with tempfile.TemporaryDirectory() as name:
        mine = ours(recipe, policy, samples, questions, Path(name) / "ours")
        theirs = plain(recipe, policy, samples, questions, Path(name) / "plain")
    size = f"{steps} steps of {PROMPTS} x {recipe.rl.group_size}, {len(samples)} samples"
    at_least("useful samples per second against plain TRL", mine.rate / theirs.rate, "x", 2.0, size)
    drawn = (steps - 1) * PROMPTS * recipe.rl.group_size
    both = {"train-rl": mine, "plain TRL": theirs}
    for who, trained in both.items():
        note = f"{trained.useful} of {drawn} useful, of this machine"
        figure(who, trained.rate, "useful/s", note)
    goal = base + GAIN
    reached = [trained.clock.until(goal) for trained in both.values()]
    what = f"{HELD_OUT} held-out questions, greedily; from {base:.1f} to {goal:.1f}"
    if reached[0] and reached[1]:
        at_least(
            "time to a held-out score against plain TRL", reached[1] / reached[0], "x", 2.0, what
        )
    for (who, trained), seconds in zip(both.items(), reached, strict=True):
        found = f"score after every {EVERY} steps: " + ", ".join(
            f"{score:.1f}" for _, score in trained.clock.scores
        )
        name = f"{who} to the score" if seconds else f"{who}, all steps, the score not reached"
        figure(name, seconds or trained.clock.ends[-1], "s", found)


if __name__ == "__main__":
    run(int(sys.argv[1]) if len(sys.argv) == 2 else 16)

"""Ablations: one idea switched off or changed. Each takes a recipe and returns another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pelican.recipe import Recipe


def change(recipe: Recipe, suffix: str, **sections: Any) -> Recipe:
    """`recipe` with some fields changed, e.g. rl={"enabled": False}; validated again."""
    tree = recipe.model_dump()
    for name, value in sections.items():
        tree[name] = {**tree[name], **value} if isinstance(value, dict) else value
    return Recipe.model_validate(tree | {"name": f"{recipe.name}_{suffix}"})


def random_sampling(recipe: Recipe) -> Recipe:
    """Practice on random samples instead of those of the right difficulty."""
    return change(recipe, "random_sampling", filter={"strategy": "random"})


def rl_only(recipe: Recipe) -> Recipe:
    """Only the RL phases."""
    return change(recipe, "rl_only", sft={"enabled": False})


def sft_only(recipe: Recipe) -> Recipe:
    """Only the SFT phases."""
    return change(recipe, "sft_only", rl={"enabled": False})


def one_loop(recipe: Recipe) -> Recipe:
    """One loop with the samples, the teacher's rows and the training steps of all of them."""
    n = recipe.loops

    def times(value: int | None) -> int | None:
        return None if value is None else value * n

    data = recipe.data
    return change(
        recipe,
        "one_loop",
        loops=1,
        data={
            "samples_per_loop": times(data.samples_per_loop),
            "horizon_s": data.horizon_s[-1:],
        },
        rl={"max_steps": recipe.rl.max_steps * n},
        distill={"max_rows": times(recipe.distill.max_rows)},
        sft={"max_steps": times(recipe.sft.max_steps)},
    )


def threshold(recipe: Recipe, value: float) -> Recipe:
    """Another stagnation threshold for the end of an RL phase; the paper sweeps 0.5 to 0.9."""
    stop = {**recipe.rl.stop.model_dump(), "threshold": value}
    return change(recipe, f"threshold_{_tag(value)}", rl={"stop": stop})


def weak_teacher(recipe: Recipe) -> Recipe:
    """The base policy as its own teacher: a teacher that knows no more than the pupil did."""
    return change(recipe, "weak_teacher", models={"teacher": recipe.models.policy})


def noisy_reward(recipe: Recipe, value: float) -> Recipe:
    """A share of the rewards of RL flipped; the paper takes 0.1, 0.25 and 0.5."""
    return change(recipe, f"noisy_reward_{_tag(value)}", reward={"flip": value})


def replay_only(recipe: Recipe) -> Recipe:
    """SFT on general replay alone, no RL: the control that tells learning from more training."""
    return change(recipe, "replay_only", rl={"enabled": False}, distill={"only_replay": True})


def asymmetric_clipping(recipe: Recipe) -> Recipe:
    """Every batch of rollouts trains twice: GRPO's clipping acts at the second update alone."""
    return _varied(recipe, "asymmetric_clipping", updates=2)


def symmetric_clipping(recipe: Recipe) -> Recipe:
    """The same with PPO's one bound; to be compared with `asymmetric_clipping`, which is DAPO's."""
    return _varied(recipe, "symmetric_clipping", {"clip_high": recipe.rl.clip_low}, updates=2)


def down_sampling(recipe: Recipe) -> Recipe:
    """As many rollouts; of each group the half with the most reward variance is trained on (PODS)."""
    drawn = recipe.rl.group_size
    return _varied(recipe, "down_sampling", {"group_size": max(2, drawn // 2)}, rollouts=drawn)


def perception_loss(recipe: Recipe) -> Recipe:
    """PAPO's implicit perception loss and double entropy, weighted as its authors' 7B run."""
    return _varied(recipe, "perception_loss", perception=0.02, entropy=0.05)


def hints(recipe: Recipe) -> Recipe:
    """Groups that all fail are drawn once more, with a part of the answer in the prompt."""
    return _varied(recipe, "hints", hints=True)


def _varied(
    recipe: Recipe, suffix: str, rl: Mapping[str, Any] | None = None, **fields: Any
) -> Recipe:
    """Some fields of `rl`, and `fields` of `rl.variant` beside those that are set already."""
    variant = {**recipe.rl.variant.model_dump(), **fields}
    return change(recipe, suffix, rl={**(rl or {}), "variant": variant})


def _tag(value: float) -> str:
    return f"{value:g}".replace(".", "_")

"""What determines a stage's result: a stage that finds its fingerprint is done."""

from __future__ import annotations

from typing import Any

from pelican.data.digests import Reader, known
from pelican.stages.inputs import input_digest
from pelican.stages.spec import StageName, StageSpec
from pelican.storage.manifests import fingerprint
from pelican.storage.objects import ObjectStore

# What of the recipe counts for a stage, sections or fields: all that determines its result, and, where
# a section is listed whole, more. Pools and checkpoints count by their content, as inputs; distill's
# rows name the teacher. Which engine a training draws with is `rollout`, and does not count: either
# draws from the same policy.
SECTIONS: dict[StageName, tuple[str, ...]] = {
    "rollout": ("seed", "model", "rollout", "data"),
    "reward": ("seed", "reward"),
    "filter": ("seed", "filter"),
    "train-rl": ("seed", "model", "rl", "reward", "data.max_pixels", "parallel"),
    "distill": ("seed", "model", "models.teacher", "distill", "reward", "rollout", "data"),
    "train-sft": ("seed", "model", "sft", "data.max_pixels", "parallel"),
    "eval": ("seed", "model", "eval", "rollout", "reward", "data"),
}


def stage_fingerprint(store: ObjectStore, spec: StageSpec, read: Reader = known) -> str:
    """What determines the result of `spec`: its part of the recipe, loop, phase and inputs."""
    recipe = spec.recipe.model_dump(mode="json")
    recipe["reward"] = spec.rewards.model_dump(mode="json")
    settings = {name: _part(recipe, name) for name in SECTIONS[spec.stage]}
    settings |= {"loop": spec.loop, "phase": spec.phase.value}
    if "reward" in settings and spec.recipe.reward.judge is not None:
        from pelican.rewards.judge import PROMPT_VERSION

        settings["judge_prompt"] = PROMPT_VERSION
    inputs = {name: input_digest(store, at, read) for name, at in sorted(spec.inputs.items())}
    return fingerprint(spec.stage, settings, inputs)


def _part(tree: Any, name: str) -> Any:
    """A section or field of a recipe by its dotted name."""
    for key in name.split("."):
        tree = tree[key]
    return tree

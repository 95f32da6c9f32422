"""Named recipes, addressed as `tiny`, `tiny+rl_only`, `tiny+threshold(0.5)`; ablations; pipelines."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from pelican.config.credentials import check_recipe
from pelican.config.overrides import apply_overrides, nearest, parse_overrides, sentence
from pelican.config.recipe import (
    THINK_THEN_ANSWER,
    Data,
    DistillConfig,
    EvalConfig,
    FilterConfig,
    GenerationConfig,
    ModelConfig,
    Models,
    ParallelConfig,
    Recipe,
    RlConfig,
    RolloutConfig,
    Sampling,
    SftConfig,
    StopConfig,
    VllmConfig,
)
from pelican.config.resources import Resources, StageResources
from pelican.config.stages import STAGES, Uses
from pelican.errors import UserInputError

# Ablations: one idea switched off or changed. Each takes a recipe and returns another.


def change(recipe: Recipe, suffix: str, **sections: Any) -> Recipe:
    """`recipe` with some fields changed, e.g. rl={"enabled": False}; validated again."""
    tree = recipe.model_dump()
    for name, value in sections.items():
        tree[name] = {**tree[name], **value} if isinstance(value, dict) else value
    return Recipe.model_validate(tree | {"name": f"{recipe.name}_{suffix}"})


def random_sampling(recipe: Recipe) -> Recipe:
    """RL on random samples: no buffer by difficulty, and no step draws again where rewards are equal."""
    return change(
        recipe,
        "random_sampling",
        filter={"strategy": "random"},
        rl={"refill": 0, "oversample": 1.0},
    )


def rl_only(recipe: Recipe) -> Recipe:
    """Only the RL phases."""
    return change(recipe, "rl_only", sft={"enabled": False})


def sft_only(recipe: Recipe) -> Recipe:
    """Only the SFT phases, on what the policy never solves; also called sft_mined."""
    return change(recipe, "sft_only", rl={"enabled": False})


def sft_uniform(recipe: Recipe) -> Recipe:
    """Only SFT, and the teacher answers random samples instead of weak ones and their like."""
    return change(recipe, "sft_uniform", rl={"enabled": False}, distill={"prompts": "uniform"})


def sft_uniform_bare(recipe: Recipe) -> Recipe:
    """The same without general replay."""
    ratio = (*recipe.distill.ratio[:2], 0.0)
    uniform = {"prompts": "uniform", "ratio": ratio}
    return change(recipe, "sft_uniform_bare", rl={"enabled": False}, distill=uniform)


def dppo_uniform(recipe: Recipe) -> Recipe:
    """RL as it is, then SFT on the teacher's answers to random samples."""
    return change(recipe, "dppo_uniform", distill={"prompts": "uniform"})


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
        distill={
            "max_rows": times(recipe.distill.max_rows),
            "max_calls": times(recipe.distill.max_calls),
        },
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
    return _vary(recipe, "asymmetric_clipping", updates=2)


def symmetric_clipping(recipe: Recipe) -> Recipe:
    """Two updates a batch with PPO's one clipping bound, to compare with `asymmetric_clipping` (DAPO)."""
    return _vary(recipe, "symmetric_clipping", {"clip_high": recipe.rl.clip_low}, updates=2)


def down_sampling(recipe: Recipe) -> Recipe:
    """Groups of the same size, of which the half with the most reward variance is trained on (PODS)."""
    rollouts = recipe.rl.group_size
    return _vary(recipe, "down_sampling", {"group_size": max(2, rollouts // 2)}, rollouts=rollouts)


def perception_loss(recipe: Recipe) -> Recipe:
    """PAPO's implicit perception loss and double entropy, weighted as its authors' 7B run."""
    return _vary(recipe, "perception_loss", perception=0.02, entropy=0.05)


def hints(recipe: Recipe) -> Recipe:
    """Groups that all fail are drawn once more, with a part of the answer in the prompt."""
    return _vary(recipe, "hints", hints=True)


def _vary(
    recipe: Recipe, suffix: str, rl: Mapping[str, Any] | None = None, **fields: Any
) -> Recipe:
    """Some fields of `rl`, and `fields` of `rl.variant` beside those that are set already."""
    variant = {**recipe.rl.variant.model_dump(), **fields}
    return change(recipe, suffix, rl={**(rl or {}), "variant": variant})


def _tag(value: float) -> str:
    return f"{value:g}".replace(".", "_")


# The papers' sizes (arXiv 2511.16602, 2511.00108): Qwen2.5-VL, teacher InternVL3.5-38B.
#
# What the papers publish (base, teacher, K = 3, horizons of 32 and 64 s, T, stagnation at 0.7) is the
# default in `pelican/config/recipe.py` or set here; batch sizes, processes and the system prompt are ours:
# Qwen2.5-VL and InternVL do not write <think> and <answer> unasked, and an answer without them is
# neither rewarded for its format nor accepted from the teacher.

TEACHER = "models/InternVL3_5-38B"
DATA = Data(
    train="data/train", replay="data/replay", evaluation="data/test", general="data/general"
)


def pelican_7b() -> Recipe:
    """Qwen2.5-VL-7B-Instruct on one node of eight GPUs."""
    return Recipe(
        name="pelican_7b",
        models=Models(policy="models/Qwen2.5-VL-7B-Instruct", teacher=TEACHER),
        data=DATA,
        model=ModelConfig(dtype="bfloat16", system_prompt=THINK_THEN_ANSWER),
        rollout=RolloutConfig(workers=4, vllm=VllmConfig(tensor_parallel_size=2)),
        rl=RlConfig(processes=8, threads=8),
        sft=SftConfig(processes=8, threads=8),
        parallel=ParallelConfig(strategy="fsdp2", micro_tokens=16_384),
        resources=_on_gpus(1, memory="500Gi", cache="400Gi"),
    )


def _on_gpus(nodes: int, memory: str, cache: str) -> Resources:
    """Whole nodes of eight GPUs for what trains and generates, a small pod for the rest.

    Memory: the weights in float32 once a node while they are read, checkpoints on their way, prepared
    pictures. Cache: the policy, and two checkpoints of a training with Adam's moments (12 bytes a
    parameter, shared by the nodes).
    """
    node = StageResources(replicas=nodes, gpus=8, cpu="64", memory=memory, shm="64Gi", cache=cache)
    small = StageResources(cpu="8", memory="32Gi", cache="100Gi")
    return Resources(
        **{row.field: small if row.uses is Uses.CPU else node for row in STAGES.values()}
    )


def pelican_72b() -> Recipe:
    """Qwen2.5-VL-72B-Instruct on eight nodes of eight GPUs, and one for what train-rl draws with.

    No GPU holds a copy of this policy, so its completions come from servers, which
    `resources.train_rl.env` names: `docs/scaling.md`.
    """
    return Recipe(
        name="pelican_72b",
        models=Models(policy="models/Qwen2.5-VL-72B-Instruct", teacher=TEACHER),
        data=DATA,
        model=ModelConfig(dtype="bfloat16", freeze_vision=True, system_prompt=THINK_THEN_ANSWER),
        rollout=RolloutConfig(workers=16, vllm=VllmConfig(tensor_parallel_size=4)),
        rl=RlConfig(
            prompts_per_step=64,
            processes=64,
            threads=8,
            generation=GenerationConfig(where="server", max_staleness=1),
        ),
        sft=SftConfig(batch_size=64, processes=64, threads=8),
        parallel=ParallelConfig(strategy="fsdp2", micro_tokens=16_384),
        resources=_on_gpus(8, memory="1500Gi", cache="800Gi"),
    )


# The pipelines by name; some are the metaloop of a recipe that an ablation changed.


def metaloop(recipe: Recipe) -> Recipe:
    """RL, then SFT, in every loop, with an evaluation after each: DPPO."""
    return recipe


def evaluate(recipe: Recipe) -> Recipe:
    """Held-out scores of models.policy; nothing is trained."""
    if recipe.data.dev is None:
        return recipe
    # One evaluation, of what is sealed: no gate and no probe needs another pool.
    data = recipe.data.model_copy(update={"dev": None, "dev_general": None})
    stop = recipe.rl.stop.model_copy(update={"of": "families"})
    rl = recipe.rl.model_copy(update={"stop": stop})
    return recipe.model_copy(update={"data": data, "rl": rl})


def retrain(recipe: Recipe) -> Recipe:
    """New data in, a gated model out: with --data and --from, or `pelican retrain`."""
    return recipe


def without_sft(recipe: Recipe) -> Recipe:
    """The metaloop without its SFT phases."""
    return rl_only(recipe) if recipe.sft.enabled else recipe


def without_rl(recipe: Recipe) -> Recipe:
    """The metaloop without its RL phases."""
    return sft_only(recipe) if recipe.rl.enabled else recipe


PIPELINES: dict[str, Callable[[Recipe], Recipe]] = {
    "metaloop": metaloop,
    "evaluate": evaluate,
    "retrain": retrain,
    "rl_only": without_sft,
    "sft_only": without_rl,
}
# Sets of runs: they are no graph, so that only `pelican submit` takes their names.
SETS = {
    "ablations": "Every variant below, seeds 0, 1, 2, and their table in docs/results.md: days."
}


def for_pipeline(pipeline: str, recipe: Recipe) -> Recipe:
    """The recipe that `pipeline` runs: `rl_only` is the metaloop without SFT, and so on.

    Raises:
        UserInputError: there is no such pipeline, or it takes away what the recipe had left.
    """
    if pipeline in SETS:
        raise UserInputError(
            f"{pipeline!r} is a set of runs, no pipeline of its own; `pelican submit --pipeline"
            f" {pipeline}` runs it"
        )
    if pipeline not in PIPELINES:
        known = [*PIPELINES, *SETS]
        raise UserInputError(f"there is no pipeline {pipeline!r}{nearest(pipeline, known)}")
    try:
        return PIPELINES[pipeline](recipe)
    except ValidationError as error:
        raise UserInputError(f"the pipeline {pipeline!r}: {sentence(error, {})}") from None


# `tiny`: everything real but the size. A few million parameters, minutes on two cores.

PROCESSES = 2


def tiny() -> Recipe:
    """Small Qwen2.5-VL on rendered robot scenes, both shipped with the repository."""
    sampling = Sampling(temperature=0.8, max_tokens=64)
    return Recipe(
        name="tiny",
        loops=3,
        models=Models(policy="models/tiny-base", teacher="models/tiny-teacher"),
        data=Data(
            train="samples/train",
            replay="samples/replay",
            evaluation="samples/test",
            general="samples/general",
            horizon_s=(32.0, 64.0),
            samples_per_loop=480,
        ),
        model=ModelConfig(
            dtype="float32", freeze_vision=True, cache_vision=True, gradient_checkpointing=False
        ),
        rollout=RolloutConfig(
            engine="transformers",
            samples=8,
            weak_samples=4,
            sampling=sampling,
            shard_size=120,
            batch_size=128,
            workers=PROCESSES,
        ),
        filter=FilterConfig(),
        eval=EvalConfig(sampling=Sampling(temperature=0.0, max_tokens=64)),
        rl=RlConfig(
            group_size=8,
            prompts_per_step=16,
            learning_rate=1e-4,
            lr_scheduler="linear",
            kl=0.05,
            refill=1,
            oversample=1.4,
            min_steps=15,
            max_steps=24,
            save_steps=10,
            sampling=sampling,
            stop=StopConfig(window=5, delta=0.1),
            processes=PROCESSES,
        ),
        distill=DistillConfig(
            tries=2, ratio=(1.0, 4.0, 1.0), neighbours=32, max_rows=2700, sampling=sampling
        ),
        sft=SftConfig(
            learning_rate=4e-4, batch_size=48, epochs=2, save_steps=50, processes=PROCESSES
        ),
    )


# Named recipes, addressed as `tiny`, `tiny+rl_only`, `tiny+threshold(0.5)`; and overrides.

BASES: dict[str, Callable[[], Recipe]] = {
    "tiny": tiny,
    "pelican_7b": pelican_7b,
    "pelican_72b": pelican_72b,
}
VARIANTS_OF_RL: dict[str, Callable[[Recipe], Recipe]] = {
    "asymmetric_clipping": asymmetric_clipping,
    "symmetric_clipping": symmetric_clipping,
    "down_sampling": down_sampling,
    "perception_loss": perception_loss,
    "hints": hints,
}
ABLATIONS: dict[str, Callable[[Recipe], Recipe]] = {
    "random_sampling": random_sampling,
    "rl_only": rl_only,
    "sft_only": sft_only,
    "sft_uniform": sft_uniform,
    "sft_uniform_bare": sft_uniform_bare,
    "dppo_uniform": dppo_uniform,
    "one_loop": one_loop,
    "weak_teacher": weak_teacher,
    "replay_only": replay_only,
    **VARIANTS_OF_RL,
}
ABLATIONS_OF_A_NUMBER: dict[str, Callable[[Recipe, float], Recipe]] = {
    "threshold": threshold,
    "noisy_reward": noisy_reward,
}
OTHER_NAMES = {"sft_mined": "sft_only"}  # of ablations
_PART = re.compile(r"([a-z0-9_]+)(?:\(([^()]*)\))?")


def find_recipe(address: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe at an address such as `tiny+threshold(0.5)`, with `loops=2 rl.max_steps=50`.

    Raises:
        UserInputError: no such recipe or field, a value that does not fit, or a credential in one.
    """
    base, *changes = address.replace(" ", "").split("+")
    if base not in BASES:
        raise UserInputError(f"there is no recipe {base!r}{nearest(base, BASES)}")
    recipe = BASES[base]()
    for part in changes:
        try:
            recipe = _ablate(recipe, part)
        except ValidationError as error:
            raise UserInputError(f"{address}: {sentence(error, {})}") from None
    return check_recipe(apply_overrides(recipe, parse_overrides(overrides)))


def _ablate(recipe: Recipe, part: str) -> Recipe:
    match = _PART.fullmatch(part)
    name, argument = match.groups() if match else (part, None)
    name = OTHER_NAMES.get(name, name)
    if name in ABLATIONS:
        if argument is not None:
            raise UserInputError(
                f"the ablation {name!r} takes no number, but {argument!r} was given"
            )
        return ABLATIONS[name](recipe)
    if name in ABLATIONS_OF_A_NUMBER:
        try:
            value = float(argument or "")
        except ValueError:
            message = f"the ablation {name!r} needs a number, for example {name}(0.5), not {part!r}"
            raise UserInputError(message) from None
        if not 0 <= value <= 1:
            raise UserInputError(
                f"{name}({argument}) is outside 0 to 1; give a share such as {name}(0.5)"
            )
        return ABLATIONS_OF_A_NUMBER[name](recipe, value)
    known = [*ABLATIONS, *ABLATIONS_OF_A_NUMBER]
    raise UserInputError(f"there is no ablation {name!r}{nearest(name, known)}")


__all__ = [
    "ABLATIONS",
    "ABLATIONS_OF_A_NUMBER",
    "BASES",
    "PIPELINES",
    "SETS",
    "VARIANTS_OF_RL",
    "find_recipe",
    "for_pipeline",
]

"""The papers' sizes (arXiv 2511.16602, 2511.00108): Qwen2.5-VL, teacher InternVL3.5-38B.

What the papers publish (base, teacher, K = 3, horizons of 32 and 64 s, T, stagnation at 0.7) is the
default of `pelican.recipe` or set here; batch sizes, processes and the system prompt are ours:
Qwen2.5-VL and InternVL do not write <think> and <answer> unasked, and an answer without them is
neither rewarded for its format nor accepted from the teacher.
"""

from pelican.recipe import (
    THINK_THEN_ANSWER,
    Data,
    GenerationConfig,
    ModelConfig,
    Models,
    ParallelConfig,
    Recipe,
    RlConfig,
    RolloutConfig,
    SftConfig,
    VllmConfig,
)

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
    )


def pelican_72b() -> Recipe:
    """Qwen2.5-VL-72B-Instruct on eight nodes of eight GPUs, and one for what train-rl draws with.

    No GPU holds a copy of this policy, so its completions come from servers, which
    `resources.train_rl.env` names: `docs/training-at-scale.md`.
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
    )

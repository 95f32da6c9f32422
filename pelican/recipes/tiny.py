"""`tiny`: everything real but the size. A few million parameters, minutes on two cores."""

from pelican.recipe import (
    Data,
    DistillConfig,
    EvalConfig,
    FilterConfig,
    ModelConfig,
    Models,
    Recipe,
    RlConfig,
    RolloutConfig,
    Sampling,
    SftConfig,
    StopConfig,
)

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

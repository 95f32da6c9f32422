"""Features on disk: a second stage encodes nothing, and another tower finds nothing."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pelican.engines import vision
from pelican.engines.vision import FeatureBank, FeatureFiles
from tests.engines.twin import write_twin


def picture(seed: int, side: int = 112) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def load(folder: Path) -> Any:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    return model.model.visual, AutoProcessor.from_pretrained(folder).image_processor


def bank(twin: Path, folder: Path, *, blind: bool = False) -> FeatureBank:
    """`blind`: its tower can't encode."""
    visual, processor = load(twin)
    files = FeatureFiles(visual, processor, folder)
    if blind:
        visual.forward = lambda *_, **__: pytest.fail("an image was encoded again")
    return FeatureBank(visual, processor, files)


def test_what_one_stage_encoded_the_next_finds(twin: Path, tmp_path: Path) -> None:
    images = [picture(i) for i in range(4)]
    first = bank(twin, tmp_path)
    wanted = first.mean(images)
    first.flush()
    second = bank(twin, tmp_path, blind=True)
    assert torch.equal(second.mean(images), wanted)
    assert [p.grid for p in second.prepare(images)] == [(1, 8, 8)] * 4


def test_what_was_encoded_can_be_let_go_and_what_was_read_stays(twin: Path, tmp_path: Path) -> None:
    first = bank(twin, tmp_path)
    wanted = first.mean([picture(0)])
    first.flush()
    second = bank(twin, tmp_path)
    other = second.mean([picture(1)])
    second.forget()
    assert len(second._features) == len(second._grids) == len(second._keys) == 1
    assert torch.equal(second.mean([picture(0)]), wanted)
    assert torch.equal(second.mean([picture(1)]), other)  # encoded again


def test_many_processes_fill_the_folder_to_its_limit_together(
    tmp_path: Path, twin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = torch.ones(16, 4)
    monkeypatch.setattr(vision, "LIMIT_BYTES", 4 * own.nbytes)
    writers = [FeatureFiles(*load(twin), tmp_path) for _ in range(6)]  # type: ignore[call-arg]
    for number, files in enumerate(writers):
        files.add(bytes([number]) * 16, (1, 8, 8), own)
        files.flush()
    assert 0 < len(list(tmp_path.rglob("*.safetensors"))) < 4


def test_another_tower_has_files_of_its_own(twin: Path, tmp_path: Path) -> None:
    first = bank(twin, tmp_path / "files")
    first.prepare([picture(0)])
    first.flush()
    other = write_twin(tmp_path / "other", seed=1)
    assert not list(FeatureFiles(*load(other), tmp_path / "files").read())  # type: ignore[call-arg]


def test_two_processes_may_write_the_same_image(twin: Path, tmp_path: Path) -> None:
    for _ in range(2):
        visual, processor = load(twin)
        files = FeatureFiles(visual, processor, tmp_path)
        own = FeatureBank(visual, processor)
        rows = own.prepare([picture(0)])
        files.add(b"0" * 16, rows[0].grid, torch.ones(16, 4))
        files.flush()
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2
    bank(twin, tmp_path)


def test_a_file_that_is_damaged_is_as_good_as_none(twin: Path, tmp_path: Path) -> None:
    first = bank(twin, tmp_path)
    first.prepare([picture(0)])
    first.flush()
    (path,) = tmp_path.rglob("*.safetensors")
    path.write_bytes(path.read_bytes()[:40])
    assert bank(twin, tmp_path).mean([picture(0)]).shape == (32,)


def test_the_folder_is_bounded(twin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vision, "LIMIT_BYTES", 100)
    first = bank(twin, tmp_path)
    first.prepare([picture(0)])
    first.flush()
    assert not list(tmp_path.rglob("*.safetensors"))

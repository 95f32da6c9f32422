"""`pelican doctor` on packages that are there and yet of no use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pelican.commands import doctor


@pytest.mark.parametrize(
    ("source", "level", "words"),
    [
        ("raise ImportError('no module named msgspec')", "optional", "not to be imported: Import"),
        ("__version__, LLM = '0.31.0', object", "ok", "0.31.0, can be imported"),
    ],
)
def test_vllm_is_imported_to_know_whether_it_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, level: str, words: str
) -> None:
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    path = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    found = doctor._vllm()
    assert found.level == level and words in found.about
    assert bool(found.mend) == (level != "ok")

"""`pelican doctor` on packages that are there and yet of no use, and on stores that are not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pelican.cli import doctor
from pelican.cli.doctor import places


@pytest.mark.parametrize(
    ("source", "level", "words"),
    [
        (
            "raise ImportError('no module named msgspec')",
            "optional",
            "can't be imported: ImportError",
        ),
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


@pytest.mark.parametrize(
    ("uri", "level", "words"),
    [
        ("{}/made", "ok", "GB free"),
        ("file://{}/made", "ok", "GB free"),
        ("{}/file", "missing", "is a file"),
        ("{}/file/below", "missing", "can't be made"),
        ("ftp://x/y", "missing", "use a folder or s3://bucket/prefix"),
        ("s3://", "missing", "not of the form s3://bucket/prefix"),
    ],
)
def test_a_store_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, level: str, words: str
) -> None:
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "KFP_HOST"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "file").write_text("x")
    (store,) = (f for f in places(uri.format(tmp_path)) if f.name == "store")
    assert store.level == level and words in store.about
    assert bool(store.mend) == (level != "ok")

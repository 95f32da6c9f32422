"""`pelican gc`: what a manifest, a recipe or a promotion refers to stays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pelican.base.files import replacing
from pelican.errors import DamagedError
from pelican.registry.garbage import collect
from pelican.registry.models import DataUse, Lineage, register
from pelican.storage.manifests import Manifest, OutputFile, commit_manifest, now
from pelican.storage.store import FolderStore
from tests.conftest import write_checkpoint

STAGE = "runs/r/loop-1/train-rl-rl"


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    store = FolderStore(tmp_path / "store")
    recipe = {"data": {"train": f"{store.uri}/data/used-1"}}
    store.write("runs/r/recipe.json", json.dumps(recipe).encode())
    for name in ("checkpoint/model", "stray", "work/trainer/checkpoint-5/weights"):
        store.write(f"{STAGE}/{name}", b"x")
    outputs = [OutputFile(path="checkpoint/model", size=1, sha256="0")]
    manifest = Manifest(
        stage="train-rl", run="r", loop=1, phase="rl", fingerprint="f", recipe="d", inputs={},
        outputs=outputs, started=now(), finished=now(),
    )  # fmt: skip
    commit_manifest(store, STAGE, manifest)
    for key in (
        "runs/r/loop-1/train-sft-sft/work/trainer/checkpoint-5/weights",
        "runs/r/logs/loop-1.log",
        "runs/half/loop-1/eval-rl/results.parquet",
        "data/used-1/part.parquet",
        "data/used-1.json",
        "data/unused-2/part.parquet",
        "data/versions/batch-0123456789.json",
        "data/files/abc/part.parquet",
        "judge/abc.json",
        "trigger/seen/abc.json",
        "trigger/audit/20261121/a.json",
        "registry/other/versions/7/claim.json",
        "registry/other/versions/7/checkpoint/half",
        "runs/named/loop-1/train-rl-rl/checkpoint/model",
        "runs/gone/retrain/intake/train/part.parquet",
        "runs/gone/retrain/intake/held/part.parquet",
        "runs/gone/loop-0/filter-base/ledger.parquet",
        "runs/gone/loop-1/filter-rl/ledger.parquet",
        "runs/gone/report.html",
        "cache/preflight/a.json",
    ):
        store.write(key, b'{"source": "x"}' if key.endswith(".json") else b"x")
    store.write("exports/best.json", b'{"checkpoint": "runs/named/loop-1/train-rl-rl/checkpoint"}')
    before = Lineage(
        origin="run",
        source="run gone",
        run="gone",
        data=[
            DataUse(
                version="v",
                digest="d",
                train="runs/gone/retrain/intake/train",
                held="runs/gone/retrain/intake/held",
            )
        ],
        ledgers=["runs/gone/loop-0/filter-base/ledger.parquet"],
        report="runs/gone/report.html",
    )
    register(store, "tiny", write_checkpoint(tmp_path / "made"), before, "a card")
    return store


def test_what_is_referred_to_stays(store: FolderStore) -> None:
    found = {key for key, _, _ in collect(store, -1.0, dry_run=True)}
    assert found == {
        f"{STAGE}/stray",
        f"{STAGE}/work/trainer/checkpoint-5/weights",
        "runs/half/loop-1/eval-rl/results.parquet",
        "cache/preflight/a.json",
    }
    before = set(store.keys())
    assert {key for key, _, _ in collect(store, -1.0)} == found
    assert set(store.keys()) == before - found


def test_half_a_file_of_a_killed_writer_goes(store: FolderStore) -> None:
    folder = store.local_root(STAGE)
    with pytest.raises(KeyboardInterrupt), replacing(folder / "rows.parquet") as file:
        file.write_bytes(b"half")
        raise KeyboardInterrupt
    assert not list(folder.glob(".*.tmp"))  # one that may still clean up does
    (folder / ".rows.parquet.0123.tmp").write_bytes(b"half")
    store.write("locked.json", b"1", if_tag=store.read_tagged("runs/r/recipe.json")[1])
    locks = list(store.root.rglob(".*.lock.tmp"))
    found = {key: size for key, size, why in collect(store, -1.0) if why == "its writer was killed"}
    assert found == {f"{STAGE}/.rows.parquet.0123.tmp": 4}
    assert not (folder / ".rows.parquet.0123.tmp").exists()
    assert locks and all(lock.exists() for lock in locks)  # somebody may hold it


def test_what_is_young_stays(store: FolderStore) -> None:
    assert not list(collect(store, 3600.0))


@pytest.mark.parametrize(
    "key",
    [
        "runs/r/recipe.json",
        f"{STAGE}/manifest.json",
        "registry/tiny/versions/1/version.json",
        "registry/tiny/versions/1/claim.json",
        "exports/best.json",
    ],
)
@pytest.mark.parametrize("data", [b"", b'{"half": ', b"[" * 200_000, b"\xff\xfe\x00"])
def test_nothing_goes_while_a_record_can_not_be_read(
    store: FolderStore, key: str, data: bytes
) -> None:
    prefix = key.rpartition("/")[0]
    names = [k for k in store.keys(prefix) if k.startswith(key.removesuffix(".json"))]
    for name in names:  # a manifest, and what stands for it
        store.write(name, data)
    before = set(store.keys())
    for dry_run in (True, False):
        with pytest.raises(DamagedError, match=f"nothing is deleted .*{key}"):
            list(collect(store, -1.0, dry_run=dry_run))
    assert set(store.keys()) == before


def test_a_checkpoint_may_hold_what_is_no_json(store: FolderStore) -> None:
    before = [key for key, _, _ in collect(store, -1.0, dry_run=True)]
    store.write("registry/tiny/versions/1/checkpoint/notes.json", b"// a comment")
    assert [key for key, _, _ in collect(store, -1.0, dry_run=True)] == before

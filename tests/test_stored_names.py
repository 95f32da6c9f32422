"""A name that a record, a listing or a data set holds never leads out of the folder it belongs to."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelican.base.files import resolve_below
from pelican.base.model import digest_of
from pelican.config.presets import find_recipe
from pelican.data.checks import check
from pelican.data.importing.labels import correct_labels
from pelican.data.versions import VERSION, read_version
from pelican.errors import UserInputError
from pelican.registry.export import export_folder
from pelican.registry.models import Lineage, ModelVersion, register
from pelican.storage.s3 import Mirror
from pelican.storage.store import FolderStore
from pelican.training.checkpoints import check_world_size
from tests.data.formats.world import imported
from tests.data.test_import import source

ZERO3 = "parallel.strategy=zero3 model.cache_vision=false"
OUT = ["../stray", "a/../../stray", "/{folder}/stray", "link/stray", "", ".", "a/..", "x\0y"]


@pytest.mark.parametrize("name", OUT)
def test_a_name_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(tmp_path)
    (root / "loop").symlink_to(root / "loop")
    with pytest.raises(UserInputError, match="leaves its folder"):
        resolve_below(root, name.format(folder=tmp_path))
    with pytest.raises(UserInputError, match="leaves its folder"):
        resolve_below(root, "loop/x")


@given(st.text(st.sampled_from("ab./\\ é"), max_size=12))
def test_what_is_found_lies_below_the_root(name: str) -> None:
    root = Path("/nowhere/root")
    try:
        found = resolve_below(root, name)
    except UserInputError:
        return
    assert found != root and os.path.commonpath([root, found]) == str(root)
    assert str(found) == os.path.normpath(f"{root}/{name}") or name.startswith("/nowhere/root")


@pytest.fixture
def model(tmp_path: Path) -> tuple[FolderStore, ModelVersion]:
    checkpoint = tmp_path / "checkpoint"
    (checkpoint / "tokenizer").mkdir(parents=True)
    (checkpoint / "config.json").write_text("{}")
    (checkpoint / "tokenizer" / "vocab.json").write_text("{}")
    store = FolderStore(tmp_path / "store")
    return store, register(store, "tiny", checkpoint, Lineage(origin="imported", source="test"))


@pytest.mark.parametrize("name", ["{folder}/stray", "../stray", "../../stray"])
def test_an_export_writes_into_its_folder_alone(
    model: tuple[FolderStore, ModelVersion], tmp_path: Path, name: str
) -> None:
    store, version = model
    target = tmp_path / "exported"
    target.mkdir()
    (file, other) = version.files
    wicked = file.model_copy(update={"path": name.format(folder=tmp_path)})
    # The object is there under the very name, so that only the helper stands between.
    for key in (store.root / version.checkpoint / "../stray", tmp_path / "store" / "stray"):
        key.resolve().write_text("{}")
    changed = version.model_copy(update={"files": [other, wicked]})
    with pytest.raises(UserInputError, match="leaves its folder"):
        export_folder(store, changed, target / "out")
    assert not list(target.iterdir()), "nothing is left, not even what was copied before"
    assert not (tmp_path / "stray").exists()


def test_a_whole_export_keeps_inner_folders(
    model: tuple[FolderStore, ModelVersion], tmp_path: Path
) -> None:
    folder = export_folder(*model, tmp_path / "out")
    assert (folder / "tokenizer" / "vocab.json").read_text() == "{}"
    assert [path.name for path in tmp_path.glob(".*")] == []


def correct(pool: Path) -> None:
    labels = pool.with_suffix(".csv")
    labels.write_text("id,family\n0,counting\n")
    correct_labels(pool, labels)


def import_more(pool: Path) -> None:
    imported(source(pool.parent / "more", 3, 3), pool)


USES: dict[str, Callable[[Path], object]] = {
    "data correct": correct,
    "data import": import_more,
    "data check": lambda pool: check(pool, [], 0),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("absolute", [False, True])
def test_a_shard_of_a_version_is_taken_from_the_pool_alone(
    tmp_path: Path, use: str, absolute: bool
) -> None:
    pool = tmp_path / "pool"
    imported(source(tmp_path / "first", 2, 2), pool)
    version = read_version(pool)
    assert version is not None
    (shard,) = version.shards
    stray = tmp_path / "stray.parquet"
    shutil.copy(pool / shard.name, stray)
    name = str(stray) if absolute else os.path.relpath(stray, pool.resolve())
    record = json.loads((pool / VERSION).read_text())
    record["shards"][0]["name"] = name
    (pool / VERSION).chmod(0o644)
    (pool / VERSION).write_text(json.dumps(record))
    before = stray.read_bytes()
    with pytest.raises(UserInputError, match="leaves its folder"):
        USES[use](pool)
    assert stray.read_bytes() == before


def test_a_pool_links_to_the_version_by_its_content_not_by_what_a_record_says(
    tmp_path: Path,
) -> None:
    pool = tmp_path / "pool"
    imported(source(tmp_path / "first", 2, 2), pool)
    version = pool.resolve()
    record = json.loads((version / VERSION).read_text())
    (version / VERSION).chmod(0o644)
    (version / VERSION).write_text(json.dumps(record | {"id": "../.."}))
    pool.unlink()
    imported(tmp_path / "first", pool)
    assert pool.resolve() == version


@pytest.mark.parametrize("name", ["pool/../../stray", "pool/../../../stray", "/{folder}/stray"])
def test_an_objects_name_does_not_lead_out_of_the_cache(tmp_path: Path, name: str) -> None:
    """S3 takes such names, though MinIO does not."""

    def no_client() -> object:
        raise AssertionError("nothing is fetched")

    mirror = Mirror(tmp_path / "cache", "bucket", no_client, no_client)  # type: ignore[arg-type]
    tags = {name.format(folder=tmp_path): digest_of(name)}
    with pytest.raises(UserInputError, match="leaves its folder"):
        mirror.tree("pool", tags)
    with pytest.raises(UserInputError, match="leaves its folder"):
        mirror.copy("pool", tags, tmp_path / "work")
    assert not list(tmp_path.rglob("stray"))


def test_a_checkpoint_of_zero3_names_a_folder_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "latest").write_text("../global_step3")
    with pytest.raises(UserInputError, match="leaves its folder"):
        check_world_size(find_recipe("tiny", [ZERO3]), tmp_path, 2)

"""Imports as a whole: resuming after a kill, mending, versions, corrections, the round trip."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pelican.data.checks import diff
from pelican.data.importing.labels import correct_labels
from pelican.data.pool import check_pool
from pelican.data.versions import LABELS, find_pool, list_versions, read_version
from pelican.errors import UserInputError
from tests.data.formats.world import image, imported, write_json

ROOT = Path(__file__).parent.parent.parent


def rows(count: int, images: int) -> list[dict[str, Any]]:
    return [
        {
            "id": str(i),
            "messages": [
                {"role": "user", "content": f"<image>\nHow many cups are near mark {i}?"},
                {"role": "assistant", "content": str(i % 7)},
            ],
            "images": [f"images/{i % images}.jpg"],
        }
        for i in range(count)
    ]


def source(root: Path, count: int, images: int, missing: int = 0) -> Path:
    for i in range(images - missing):
        image(root / "images" / f"{i}.jpg", seed=i)
    write_json(root / "train.json", rows(count, images))
    return root


def test_mended_rows_are_tried_again_and_make_a_new_version(tmp_path: Path) -> None:
    root = source(tmp_path / "lab", 10, 10, missing=2)
    first = imported(root, tmp_path / "pool", license="apache-2.0")
    assert (len(first.samples), first.bad) == (8, {"8": "media_missing", "9": "media_missing"})
    before = read_version(tmp_path / "pool")
    assert imported(root, tmp_path / "pool", license="apache-2.0").bad == first.bad
    assert read_version(tmp_path / "pool") == before  # nothing new: the same version

    image(root / "images" / "8.jpg", seed=8)
    second = imported(root, tmp_path / "pool", license="apache-2.0")
    assert (len(second.samples), second.bad) == (9, {"9": "media_missing"})
    after = read_version(tmp_path / "pool")
    assert before and after and after.parent == before.id
    assert list_versions(tmp_path / "pool") == [before.id, after.id]
    old = find_pool(f"{tmp_path}/pool@{before.id[:6]}")
    changes = diff(old, tmp_path / "pool")
    assert (changes.same, changes.added, changes.removed, changes.changed) == (8, ["lab/8"], [], {})
    assert check_pool(old, max_pixels=1_003_520).samples == 8


def test_the_same_rows_have_the_same_version_and_another_source_adds(tmp_path: Path) -> None:
    for name in ("a", "b"):
        source(tmp_path / name / "lab", 6, 3, missing=1)
    one = imported(tmp_path / "a" / "lab", tmp_path / "one")
    two = imported(tmp_path / "b" / "lab", tmp_path / "two")
    versions = [read_version(found.pool) for found in (one, two)]
    assert versions[0] and versions[1] and versions[0].id == versions[1].id
    other = tmp_path / "other"
    image(other / "images" / "0.jpg", seed=50)
    write_json(other / "x.json", rows(1, 1))
    both = imported(other, tmp_path / "one")
    assert len(both.samples) == 5
    version = read_version(tmp_path / "one")
    assert version and [s.rows for s in version.sources] == [4, 1]


def command(root: Path, pool: Path) -> list[str]:
    words = [sys.executable, "-m", "pelican", "data", "import", str(root), "--out", str(pool)]
    return [*words, "--workers", "1"]


def test_a_killed_import_goes_on_where_it_was(tmp_path: Path) -> None:
    root, pool = source(tmp_path / "lab", 1300, 40), tmp_path / "pool"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PELICAN_CACHE": str(tmp_path / "cache")}
    process = subprocess.Popen(command(root, pool), env=env, stdout=subprocess.DEVNULL)
    work = tmp_path / "pool.versions" / ".import"
    while process.poll() is None and not (work / "chunk-00000.json").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not pool.exists()
    done = subprocess.run(command(root, pool), env=env, capture_output=True, text=True, check=True)
    assert "1,300 rows" in done.stdout and "were there" in done.stdout
    version = read_version(pool)
    assert version and (version.rows, version.quarantined) == (1300, 0)
    assert not work.exists()
    again = subprocess.run(command(root, pool), env=env, capture_output=True, text=True, check=True)
    assert "nothing new" in again.stdout


def test_labels_are_corrected_by_a_csv(tmp_path: Path) -> None:
    imported(source(tmp_path / "lab", 4, 4), tmp_path / "pool")
    with (tmp_path / "pool" / LABELS).open(newline="") as file:
        labels = list(csv.DictReader(file))
    assert {row["family"] for row in labels} == {"counting"}
    wanted = {**labels[0], "family": "success", "dimension": "physical_causal"}
    with (tmp_path / "mine.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(wanted))
        writer.writeheader()
        writer.writerows([wanted, *labels[1:]])
    before = read_version(tmp_path / "pool")
    version, changed = correct_labels(tmp_path / "pool", tmp_path / "mine.csv")
    assert changed == 1
    assert before and version.parent == before.id and version.counts["family"]["success"] == 1
    changes = diff(find_pool(f"{tmp_path}/pool@{before.id}"), tmp_path / "pool")
    assert changes.changed == {wanted["id"]: ["family", "dimension"]}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("lab/0,affordances,", "'affordances' is no family"),
        ("lab/9,success,", "'lab/9' is not in"),
        ("lab/0,,depth", "'depth' is no dimension"),
    ],
)
def test_a_wrong_correction_changes_nothing(tmp_path: Path, line: str, words: str) -> None:
    imported(source(tmp_path / "lab", 2, 2), tmp_path / "pool")
    (tmp_path / "mine.csv").write_text(f"id,family,dimension\n{line}\n")
    before = read_version(tmp_path / "pool")
    with pytest.raises(UserInputError, match=words):
        correct_labels(tmp_path / "pool", tmp_path / "mine.csv")
    assert read_version(tmp_path / "pool") == before


def test_a_version_opens_in_datasets_with_decoded_images(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    found = imported(source(tmp_path / "lab", 5, 5), tmp_path / "pool", license="cc-by-4.0")
    shards = sorted(str(path) for path in found.pool.glob("*.parquet"))
    table = datasets.load_dataset(
        "parquet", data_files=shards, split="train", cache_dir=str(tmp_path / "hf")
    )
    assert table.num_rows == 5
    assert table[0]["images"][0].size == (64, 48)
    assert table[0]["license"] == "cc-by-4.0" and table[0]["origin"] == "train.json, row 1"


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        ({"reader": "robopint"}, "did you mean 'robopoint'"),
        ({"mapping": ("/data",)}, "write it as OLD=NEW"),
        ({"mapping": ("/data=/nowhere",)}, "/nowhere is no folder"),
        ({"split": "eval"}, "takes train, dev or test"),
        ({"turns": "all"}, "takes last or each"),
    ],
)
def test_a_wrong_option_is_one_sentence(tmp_path: Path, wishes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserInputError, match=words):
        imported(source(tmp_path / "lab", 1, 1), tmp_path / "pool", **wishes)


def test_a_source_without_a_usable_row_names_the_first_reason(tmp_path: Path) -> None:
    root = source(tmp_path / "lab", 3, 3, missing=3)
    with pytest.raises(UserInputError, match=r"no usable row .*3 x media_missing; first: train"):
        imported(root, tmp_path / "pool")
    assert not (tmp_path / "pool").exists()


def test_a_folder_that_no_import_made_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "pool").mkdir()
    with pytest.raises(UserInputError, match="was not made by an import"):
        imported(source(tmp_path / "lab", 1, 1), tmp_path / "pool")

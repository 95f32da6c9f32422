"""Bad rows go to quarantine with their reason; bad files and empty pools are one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pelican.data.images import SAFE_PIXELS
from pelican.data.pool import check_pool, load_pool, read_index
from pelican.data.select import check_splits
from pelican.data.tables import CODES, SAMPLES, shard_paths
from pelican.errors import UserInputError
from pelican.records import BoxAnswer, Family, IntervalAnswer, PointsAnswer, Split
from pelican.rewards.masks import encode_mask
from tests.data.factory import clip, picture, raw_row, sample, write_pool, write_raw

LIMIT = 64 * 64


def image(data: bytes | None, path: str | None = None) -> list[dict[str, Any]]:
    return [{"bytes": data, "path": path}]


def answer(**fields: Any) -> str:
    return json.dumps(fields)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims to be large and ends after its header: it must not be decoded."""
    import struct
    import zlib

    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    size, check = struct.pack(">I", 13), struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + size + body + check + b"\0\0\0\x10IDAT"


TWO = [{"bytes": picture(1), "path": None}, {"bytes": picture(2), "path": None}]
BROKEN: list[tuple[str, dict[str, Any], str, str]] = [
    ("truncated image", {"images": image(picture()[:150])}, "image_unreadable", "can't be decoded"),
    (
        "truncated jpeg",
        {"images": image(picture(format="JPEG")[:-60])},
        "image_unreadable",
        "truncated",
    ),
    ("not an image", {"images": image(b"GIF89a, no")}, "image_unreadable", "cannot identify"),
    (
        "image of another kind",
        {"images": image(picture(format="TIFF"))},
        "image_unreadable",
        "cannot identify",
    ),
    (
        "huge image",
        {"images": image(png_header(50_000, 50_000))},
        "image_huge",
        "2500000000 pixels",
    ),
    ("large image", {"images": image(png_header(4097, 4096))}, "image_huge", str(SAFE_PIXELS)),
    ("no bytes, no path", {"images": image(None)}, "image_missing", "neither bytes nor a path"),
    ("null image", {"images": [None]}, "image_missing", "null"),
    (
        "file that is not there",
        {"images": image(None, "none.png")},
        "image_missing",
        "is not a file",
    ),
    (
        "path with ..",
        {"images": image(None, "../outside.png")},
        "image_path",
        "leaves the data folder",
    ),
    (
        "absolute path",
        {"images": image(None, "/etc/hostname")},
        "image_path",
        "leaves the data folder",
    ),
    (
        "link that leads out",
        {"images": image(None, "link.png")},
        "image_path",
        "leaves the data folder",
    ),
    ("path with NUL", {"images": image(None, "a\0b.png")}, "image_path", "leaves"),
    ("no images", {"images": []}, "schema", "images"),
    ("images null", {"images": None}, "schema", "images is null"),
    (
        "choice outside",
        {"answer": answer(kind="choice", options=["a", "b"], answer="D")},
        "answer",
        "outside its 2 choices",
    ),
    (
        "box outside",
        {"answer": answer(kind="box", box=[0, 0, 120, 5])},
        "answer",
        "leaves the frame",
    ),
    ("unknown answer", {"answer": answer(kind="poem", value=1)}, "answer", "poem"),
    ("answer not JSON", {"answer": "3"}, "answer", ""),
    ("answer null", {"answer": None}, "schema", "answer is null"),
    (
        "answer without a reward",
        {"family": "counting", "answer": answer(kind="steps", steps=["grasp"])},
        "answer",
        "no reward for answers of kind steps",
    ),
    (
        "negative count",
        {"answer": answer(kind="count", value=-1)},
        "answer",
        "greater than or equal to 0",
    ),
    (
        "NaN in answer",
        {"answer": '{"kind": "interval", "start": 0, "end": NaN}'},
        "not_finite",
        "nan",
    ),
    (
        "mask of another size",
        {"answer": answer(kind="points", mask={"size": [9, 9], "counts": "01"})},
        "answer",
        "do not cover",
    ),
    (
        "mask that is no RLE",
        {"answer": answer(kind="points", mask={"size": [9, 9], "counts": "~~"})},
        "answer",
        "not COCO",
    ),
    (
        "endless mask",
        {"answer": answer(kind="points", mask={"size": [9, 9], "counts": "o" * 90})},
        "answer",
        "not COCO",
    ),
    (
        "immense mask",
        {"answer": answer(kind="points", mask={"size": [10**6, 10**6], "counts": "0"})},
        "answer",
        "can't be used",
    ),
    ("NaN time", {"times_s": [float("nan")]}, "not_finite", "times_s holds nan"),
    ("infinite chance", {"chance": float("inf")}, "not_finite", "chance"),
    ("chance of 2", {"chance": 2.0}, "schema", "chance"),
    ("clip of one frame", {"media_kind": "clip"}, "clip_step", "shorter than a frame step"),
    (
        "clip of no length",
        {"media_kind": "clip", "images": TWO, "times_s": [0.0, 1e-4]},
        "clip_step",
        "0.0001 s",
    ),
    (
        "times that fall",
        {"media_kind": "clip", "images": TWO, "times_s": [1.0, 0.5]},
        "schema",
        "do not increase",
    ),
    (
        "frames without times",
        {"media_kind": "clip", "images": TWO},
        "schema",
        "2 images but 1 times",
    ),
    (
        "interval outside",
        {
            "media_kind": "clip",
            "images": TWO,
            "times_s": [0.0, 1.0],
            "answer": answer(kind="interval", start=1, end=9),
        },
        "answer",
        "leaves its clip",
    ),
    ("family unknown", {"family": "dancing"}, "schema", "family"),
    ("split unknown", {"split": "validation"}, "schema", "split"),
    ("id empty", {"id": ""}, "schema", "id"),
    ("id null", {"id": None}, "schema", "id"),
    ("turns empty", {"turns": []}, "schema", "turns"),
    ("turns null", {"turns": None}, "schema", "turns is null"),
    ("assistant last", {"turns": [{"role": "assistant", "text": "3"}]}, "schema", "not the user's"),
    ("duplicate id", {"id": "s00000"}, "duplicate_id", "'s00000' occurred before"),
]


@pytest.mark.parametrize(
    ("changes", "code", "words"), [c[1:] for c in BROKEN], ids=[c[0] for c in BROKEN]
)
def test_a_broken_row_is_quarantined_with_its_reason(
    tmp_path: Path, changes: dict[str, Any], code: str, words: str
) -> None:
    outside = tmp_path / "outside.png"
    outside.write_bytes(picture())
    folder = write_raw(
        tmp_path / "pool" / "a.parquet",
        [raw_row(0), raw_row(1, **{"family": "general", **changes}), raw_row(2)],
    )
    (folder / "link.png").symlink_to(outside)
    pool = load_pool(folder, max_pixels=LIMIT)
    assert [s.id for s in pool.samples] == ["s00000", "s00002"]
    (row,) = pool.quarantine.rows
    assert (row.shard, row.row, row.code) == ("a.parquet", 2, code)
    assert words in row.reason and "\n" not in row.reason and len(row.reason) < 300
    assert pool.quarantine.counts == {code: 1} and code in CODES


def test_text_that_is_not_utf8_is_quarantined(tmp_path: Path) -> None:
    rows = pa.Table.from_pylist([raw_row(i) for i in range(3)], schema=SAMPLES)
    scenes = pa.array([b"one", b"\xff\xfe", b"three"]).cast(pa.binary()).view(pa.string())
    table = rows.set_column(rows.schema.get_field_index("scene"), "scene", scenes)
    pq.write_table(table, tmp_path / "a.parquet")
    pool = load_pool(tmp_path, max_pixels=LIMIT)
    assert [s.scene for s in pool.samples] == ["one", "three"]
    assert pool.quarantine.counts == {"text": 1}


def test_an_image_may_be_a_file_in_the_data_folder(tmp_path: Path) -> None:
    row = raw_row(0, images=[{"bytes": None, "path": "images/x.png"}])
    write_raw(tmp_path / "a.parquet", [row])
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "x.png").write_bytes(picture(5))
    assert load_pool(tmp_path, max_pixels=LIMIT).samples[0].images == (picture(5),)


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_a_large_image_is_scaled_down_and_keeps_its_aspect(tmp_path: Path, format: str) -> None:
    import io

    from PIL import Image

    write_pool(tmp_path, [sample(0, images=(picture(size=(400, 200), format=format),))])
    (data,) = load_pool(tmp_path, max_pixels=5000).samples[0].images
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == format
        assert 4500 < image.width * image.height <= 5000
        assert image.width / image.height == pytest.approx(2, abs=0.1)


def test_an_image_within_the_limit_keeps_its_bytes(tmp_path: Path) -> None:
    write_pool(tmp_path, [sample(0)])
    assert load_pool(tmp_path, max_pixels=LIMIT).samples[0].images == sample(0).images


def test_a_clip_beyond_the_horizon_is_left_out_and_counted_not_cut(tmp_path: Path) -> None:
    write_pool(tmp_path, [clip(0, [0, 4, 8]), clip(1, [0, 30, 60]), sample(2)])
    pool = load_pool(tmp_path, max_pixels=LIMIT, horizon_s=32)
    assert [s.id for s in pool.samples] == ["s00000", "s00002"]
    assert pool.beyond_horizon == 1 and len(pool.quarantine) == 0
    assert len(load_pool(tmp_path, max_pixels=LIMIT, horizon_s=64).samples) == 3


def test_ids_select_rows_of_any_shard_in_the_order_of_the_pool(tmp_path: Path) -> None:
    write_pool(tmp_path, [sample(i) for i in range(200)], per_shard=70)
    pool = load_pool(tmp_path, max_pixels=LIMIT, ids=["s00150", "s00003", "s00069"])
    assert [s.id for s in pool.samples] == ["s00003", "s00069", "s00150"]
    assert pool.samples[0] == sample(3)


def test_points_and_box_answers_survive_the_checks(tmp_path: Path) -> None:
    import numpy as np

    inside = np.zeros((12, 16), np.uint8)
    inside[3:6, 4:9] = 1
    answers = [
        PointsAnswer(mask=encode_mask(inside)),
        PointsAnswer(mask=encode_mask(np.ones((12, 16), np.uint8))),
        BoxAnswer(box=(0, 0, 100, 100)),
    ]
    good = [sample(i, answer=a, family=Family.AFFORDANCE) for i, a in enumerate(answers)]
    good.append(clip(3, [0, 2, 4], family=Family.TEMPORAL, answer=IntervalAnswer(start=0, end=5)))
    assert load_pool(write_pool(tmp_path, good), max_pixels=LIMIT).samples == good
    empty = sample(
        9,
        family=Family.AFFORDANCE,
        answer=PointsAnswer(mask=encode_mask(np.zeros((12, 16), np.uint8))),
    )
    write_pool(tmp_path, [*good, empty])
    assert load_pool(tmp_path, max_pixels=LIMIT).quarantine.rows[0].reason == "a mask is empty"


def test_a_column_that_may_be_missing_and_one_that_is_unknown(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([raw_row(0)], schema=SAMPLES)
    table = table.drop_columns(["benchmark", "chance"]).append_column("mine", pa.array([1]))
    pq.write_table(table, tmp_path / "a.parquet")
    assert load_pool(tmp_path, max_pixels=LIMIT).samples == [sample(0)]


def ruin(folder: Path, how: str) -> None:
    path = folder / "a.parquet"
    table = pa.Table.from_pylist([raw_row(i) for i in range(40)], schema=SAMPLES)
    if how == "no folder":
        return
    folder.mkdir()
    if how == "no shard":
        return
    if how == "no rows":
        table = table.slice(0, 0)
    if how == "only bad rows":
        table = pa.Table.from_pylist([raw_row(0, images=image(b"no"))], schema=SAMPLES)
    if how == "no answers":
        table = table.drop_columns(["answer", "scene"])
    if how == "images as text":
        at = table.schema.get_field_index("images")
        table = table.set_column(at, "images", pa.array(["x"] * len(table)))
    pq.write_table(table, path)
    data = path.read_bytes()
    if how == "truncated":
        path.write_bytes(data[: len(data) // 2])
    if how == "empty file":
        path.write_bytes(b"")
    if how == "text":
        path.write_text("id,images\n")
    if how == "damaged in the middle":
        path.write_bytes(data[:40] + bytes(len(data) // 2) + data[40 + len(data) // 2 :])


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("no folder", "no *.parquet shard"),
        ("no shard", "no *.parquet shard"),
        ("no rows", "holds no usable sample"),
        ("only bad rows", "1 x image_unreadable"),
        ("no answers", "lacks the columns answer, scene"),
        ("images as text", "not a list of bytes and path"),
        ("truncated", "not a readable Parquet file"),
        ("empty file", "not a readable Parquet file"),
        ("text", "not a readable Parquet file"),
        ("damaged in the middle", "can't be read to its end"),
    ],
)
@pytest.mark.parametrize("reader", [load_pool, check_pool])
def test_a_broken_pool_ends_in_one_sentence(
    tmp_path: Path, how: str, words: str, reader: Any
) -> None:
    ruin(tmp_path / "pool", how)
    with pytest.raises(UserInputError) as caught:
        reader(tmp_path / "pool", max_pixels=LIMIT)
    message = str(caught.value)
    assert words in message and str(tmp_path / "pool") in message and "\n" not in message


def test_the_report_counts_what_can_be_used(tmp_path: Path) -> None:
    rows = [raw_row(i) for i in range(12)] + [raw_row(20, images=image(b"no")), raw_row(3)]
    write_raw(tmp_path / "a.parquet", rows)
    summary = check_pool(tmp_path, max_pixels=LIMIT, horizon_s=1).summary()
    assert summary["samples"] == 12
    assert set(summary["families"].values()) == {2}
    assert sum(summary["dimensions"].values()) == 12 and summary["splits"] == {"train": 12}
    assert summary["quarantined"] == {"duplicate_id": 1, "image_unreadable": 1}
    assert [row["id"] for row in summary["quarantine"]] == ["s00003", "s00020"]
    json.dumps(summary)
    assert check_pool(tmp_path, max_pixels=LIMIT, images=False).samples == 13


def test_the_index_reads_no_image_bytes(tmp_path: Path) -> None:
    write_raw(tmp_path / "a.parquet", [raw_row(0, images=image(b"no"))])
    assert [e.id for e in read_index(tmp_path).entries] == ["s00000"]


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (
            sample(50, scene="scene-3", split=Split.TEST),
            ["scene 'scene-3'", "split train", "split test"],
        ),
        (
            sample(50, images=(picture(4),), split=Split.DEV),
            ["one image", "'scene-4'", "'scene-50'", "split dev"],
        ),
        (sample(50, scene="scene-3"), ["scene 'scene-3'", "evaluation pool"]),
    ],
)
def test_a_leak_between_splits_names_the_scene_and_both_splits(
    tmp_path: Path, other: Any, words: list[str]
) -> None:
    train = write_pool(tmp_path / "train", [sample(i) for i in range(6)])
    held_out = write_pool(tmp_path / "dev", [sample(60, split=Split.DEV), other])
    with pytest.raises(UserInputError) as caught:
        check_splits({"train": train, "evaluation": held_out})
    assert all(word in str(caught.value) for word in words), caught.value


def test_scenes_alone_show_a_leak_without_an_image_read(tmp_path: Path) -> None:
    train = write_pool(tmp_path / "train", [sample(i) for i in range(6)])
    held_out = write_pool(tmp_path / "dev", [sample(60, scene="scene-3", split=Split.DEV)])
    with pytest.raises(UserInputError, match="scene 'scene-3'"):
        check_splits({"train": train, "evaluation": held_out}, images=False)
    shared = write_pool(tmp_path / "other", [sample(61, images=(picture(4),), split=Split.DEV)])
    check_splits({"train": train, "evaluation": shared}, images=False)


def test_clean_splits_pass(tmp_path: Path) -> None:
    train = write_pool(tmp_path / "train", [sample(i, scene=f"s{i // 3}") for i in range(9)])
    held_out = write_pool(tmp_path / "dev", [sample(i, split=Split.DEV) for i in range(20, 25)])
    check_splits({"train": train, "evaluation": held_out})


def test_datasets_opens_the_shards_with_decoded_images(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    write_pool(tmp_path / "pool", [sample(0), clip(1, [0, 1, 2])])
    files = [str(path) for path in shard_paths(tmp_path / "pool")]
    rows = datasets.load_dataset(
        "parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache")
    )
    assert [len(row["images"]) for row in rows] == [1, 3]
    assert rows[1]["images"][2].size == (16, 12)
    assert rows[0]["turns"][0]["role"] == "user"

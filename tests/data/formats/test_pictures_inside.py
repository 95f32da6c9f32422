"""Pictures inside rows: data URIs, base64, bytes in columns, parts without a path; and marks for others."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelican.data.formats.base import Media
from pelican.data.formats.chat import without_tags
from pelican.data.formats.medium import inline, medium, placed
from pelican.data.importing.media import Finder
from pelican.data.tables import MAX_REASON, RowError, named
from pelican.records import Turn
from tests.data.formats.world import draw, image, imported, write_json, write_lines
from tests.hostile import ends_at_once


def encoded(seed: int, kind: str = "PNG", size: tuple[int, int] = (64, 48)) -> bytes:
    out = io.BytesIO()
    draw(seed, size).save(out, kind)
    return out.getvalue()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def uri(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{b64(data)}"


A, B = encoded(1), encoded(2, "JPEG")
ASK = {"type": "text", "text": "How many cups?"}


def row(name: str, content: Any, **more: Any) -> dict[str, Any]:
    turns = [{"role": "user", "content": content}, {"role": "assistant", "content": "2"}]
    return {"id": name, "messages": turns, **more}


# name, the row's content, its columns, the pictures that it must have
HELD: list[tuple[str, Any, dict[str, Any], list[bytes]]] = [
    ("openai", [ASK, {"type": "image_url", "image_url": {"url": uri(A)}}], {}, [A]),
    ("openai, bare", [{"type": "image_url", "image_url": uri(B, "jpeg")}, ASK], {}, [B]),
    ("responses", [{"type": "input_image", "image_url": uri(A)},
                   {"type": "input_text", "text": "How many cups?"}], {}, [A]),
    ("anthropic", [{"type": "image", "source": {"type": "base64", "media_type": "image/png",
                                                "data": b64(A)}}, ASK], {}, [A]),
    ("gemini", [{"inline_data": {"mime_type": "image/png", "data": b64(A)}},
                {"text": "How many cups?"}], {}, [A]),
    ("qwen", [{"type": "image", "image": uri(A)}, ASK], {}, [A]),
    ("qwen, base64", [{"type": "image", "image": b64(B)}, ASK], {}, [B]),
    ("a value", [{"type": "image", "value": uri(A)}, {"type": "text", "value": "How many cups?"}],
     {}, [A]),
    ("swift", "<image>How many cups?", {"images": [uri(A)]}, [A]),
    ("swift, several", "<image><image>How many cups?", {"images": [uri(A), uri(B)]}, [A, B]),
    ("swift, base64", "<image>How many cups?", {"images": [b64(A)]}, [A]),
    ("swift, an object", "<image>How many cups?", {"images": [{"bytes": b64(A), "path": None}]}, [A]),
    ("wrapped", "<image>How many cups?", {"images": [uri(A)[:400] + "\n" + uri(A)[400:]]}, [A]),
    ("for addresses", "<image>How many cups?",
     {"images": [uri(A).replace("+", "-").replace("/", "_").replace("data:image_", "data:image/")
                 .rstrip("=")]}, [A]),
    ("quoted", "<image>How many cups?", {"images": [uri(A).replace("+", "%2B")]}, [A]),
    ("trl", [{"type": "image"}, ASK], {"images": [uri(A)]}, [A]),
    ("trl, empty", [{"type": "image", "image": None, "path": ""}, ASK], {"images": [uri(A)]}, [A]),
    ("trl, two", [{"type": "image"}, {"type": "image"}, ASK], {"images": [uri(A), uri(B)]}, [A, B]),
    ("both", [{"type": "image", "image": uri(A)}, ASK], {"images": [uri(A)]}, [A]),
    ("mixed", [{"type": "image", "image": uri(B)}, {"type": "image"}, ASK], {"images": [uri(A)]},
     [B, A]),
]  # fmt: skip


def test_every_way_to_hold_a_picture_is_read(tmp_path: Path) -> None:
    root = tmp_path / "lab"
    write_json(root / "rows.json", [row(name, content, **more) for name, content, more, _ in HELD])
    found = imported(root, tmp_path / "pool")
    assert not found.reasons
    held = {name.partition("/")[2]: list(s.images) for name, s in found.samples.items()}
    assert held == {name: pictures for name, _, _, pictures in HELD}
    assert {s.question for s in found.samples.values()} == {"How many cups?"}


BROKEN: list[tuple[str, Any, dict[str, Any], str, str]] = [
    ("cut", "<image>How many?", {"images": [uri(A)[:-400]]}, "image_unreadable", "decoded"),
    ("no base64", "<image>How many?", {"images": ["data:image/png;base64,%%%%"]},
     "image_unreadable", "not base64"),
    ("no comma", "<image>How many?", {"images": ["data:image/png"]}, "image_unreadable", "comma"),
    ("svg", "<image>How many?", {"images": ["data:image/svg+xml,<svg xmlns='x'></svg>"]},
     "image_unreadable", "SVG"),
    ("gif", "<image>How many?", {"images": [uri(encoded(1, "GIF"), "gif")]}, "image_unreadable", "GIF"),
    ("video", "<video>How many?", {"videos": ["data:video/mp4;base64,AAAA"]}, "video_unreadable",
     "by path"),
    ("no picture left", [{"type": "image"}, {"type": "image"}, ASK], {"images": [uri(A)]},
     "media_tags", "2 places"),
    ("none at all", [{"type": "image"}, ASK], {}, "media_tags", "1 places"),
    ("sound", [{"type": "input_audio", "input_audio": {"data": "UklGRg=="}}, ASK], {"images": [uri(A)]},
     "media_marks", "no policy hears"),
    ("a file", [{"type": "file", "file_id": "x"}, ASK], {"images": [uri(A)]}, "schema", "'file'"),
    ("numbers", "<image>How many?", {"images": [[1, 2, 3]]}, "schema", "not a path"),
    ("long", "<image>How many?", {"images": ["x" * 500_000]}, "media_path", "500,000 characters"),
    ("slashes", "<image>How many?", {"images": ["x/" * 250_000]}, "media_path", "no path"),
    ("deep", "<image>How many?", {"images": ["x/" * 2000 + "y"]}, "media_missing", "media folders"),
    ("an object", "<image>How many?", {"images": [{"x": "y" * 500_000}]}, "schema", "not a path"),
    ("long role", [ASK], {"images": [uri(A)], "messages": [{"role": "x" * 300_000, "content": "?"}]},
     "schema", "role"),
]  # fmt: skip


def test_what_can_t_be_read_is_one_short_reason_at_once(tmp_path: Path) -> None:
    root = tmp_path / "lab"
    rows = [{**row(name, content), **more} for name, content, more, _, _ in BROKEN]
    write_lines(root / "rows.jsonl", [*rows, row("good", "<image>How many?", images=[uri(A)])])
    found = imported(root, tmp_path / "pool")
    assert found.bad == {name: code for name, _, _, code, _ in BROKEN}
    for name, _, _, _, words in BROKEN:
        assert words in found.reasons[name] and len(found.reasons[name]) <= MAX_REASON
    quarantine = (found.pool / "quarantine.jsonl").stat().st_size
    assert quarantine < 1000 * len(BROKEN)


@pytest.mark.parametrize("char", ["/", "x/", "a", "\\", "'", "\n", "<image>", "data:", "é", "."])
def test_a_long_path_is_refused_in_no_time(tmp_path: Path, char: str) -> None:
    finder = Finder((tmp_path,), (("/data", tmp_path),))

    def refuse() -> None:
        for text in (char * 8000, char * 200_000):
            with pytest.raises(RowError) as caught:
                finder.find(text.lstrip("/") or "x" * 5000)
            assert len(caught.value.reason) <= MAX_REASON

    assert ends_at_once(refuse)


@given(
    st.one_of(st.text(), st.binary(), st.lists(st.text()), st.dictionaries(st.text(), st.text()))
)
def test_a_value_is_named_in_few_characters(value: object) -> None:
    assert len(named(value)) <= 1000
    assert len(RowError("schema", named(value) * 10).reason) <= MAX_REASON


@given(st.text(max_size=300))
def test_any_text_is_a_picture_a_path_or_a_reason(text: str) -> None:
    try:
        found = medium(text, "image")
    except RowError:
        return
    assert found.data is not None or found.path == text.removeprefix("file://")


@given(st.binary(min_size=1, max_size=400), st.booleans())
def test_a_data_uri_gives_its_bytes_back(data: bytes, padded: bool) -> None:
    text = uri(data)
    assert inline(text if padded else text.rstrip("=")) == data


def test_places_are_filled_in_their_order() -> None:
    one, two, three = (Media("image", name) for name in ("1", "2", "3"))
    assert placed([None, one, None], [two, three]) == (two, one, three)
    assert placed([None], [two, three]) == (two, three)  # one more than has a place: it stays
    assert placed([], [two]) == (two,)
    assert placed([one], [two]) == (two, one)
    assert placed([one], [one, two]) == (two, one)
    with pytest.raises(RowError, match="2 places"):
        placed([None, None], [one])


def table(path: Path, rows: list[dict[str, Any]], schema: pa.Schema | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema), path)
    return path


PLAIN = pa.schema([("image", pa.binary()), ("question", pa.string()), ("answer", pa.string())])
LISTED = pa.schema(
    [("images", pa.list_(pa.binary())), ("question", pa.string()), ("answer", pa.string())]
)


@pytest.mark.parametrize(
    ("column", "value", "schema", "pictures"),
    [
        ("image", A, PLAIN, [A]),
        ("images", [A, B], LISTED, [A, B]),
        ("image", {"bytes": A, "path": "a.png"}, None, [A]),
        ("image", uri(A), None, [A]),
        ("image", b64(B), None, [B]),
        ("images", [{"bytes": A, "path": None}, {"bytes": B, "path": None}], None, [A, B]),
    ],
)
def test_bytes_in_columns_of_parquet(
    tmp_path: Path, column: str, value: Any, schema: pa.Schema | None, pictures: list[bytes]
) -> None:
    asked = {column: value, "question": "How many cups?", "answer": "2"}
    table(tmp_path / "lab" / "rows.parquet", [asked], schema)
    found = imported(tmp_path / "lab", tmp_path / "pool")
    (sample,) = found.samples.values()
    assert list(sample.images) == pictures


def test_parts_without_a_path_stand_for_the_images_of_the_row(tmp_path: Path) -> None:
    """TRL's own layout, as `datasets` writes it: every part has every field."""

    def content(*parts: str) -> list[dict[str, Any]]:
        return [
            {"type": "image", "text": None} if p == "*" else {"type": "text", "text": p}
            for p in parts
        ]

    def chat(*parts: str, **more: Any) -> dict[str, Any]:
        turns = [
            {"role": "user", "content": content(*parts)},
            {"role": "assistant", "content": content("2")},
        ]
        return {"messages": turns, **more}

    kept = [{"bytes": data, "path": None} for data in (A, B)]
    table(
        tmp_path / "lab" / "train.parquet",
        [
            chat("*", "How many cups?", images=kept[:1]),
            chat("*", "*", "How many cups are on both?", images=kept),
            chat("Compare", "*", "with", "*", "and count the cups.", images=kept),
            chat("How many cups?", "*", images=kept[1:]),
            chat("*", "*", "How many spoons?", images=kept[:1]),
        ],
    )
    found = imported(tmp_path / "lab", tmp_path / "pool")
    asked = {s.question: len(s.images) for s in found.samples.values()}
    assert (
        asked
        == {
            "How many cups?": 1,
            "How many cups are on both?": 2,
            "Compare\nimage 1\nwith\nimage 2\nand count the cups.": 2,
        }
        and len(found.samples) == 4
    )
    assert list(found.bad.values()) == ["media_tags"]


PICTURES = (Media("image", "a"), Media("image", "b"), Media("image", "c"))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("<image>\nHow many?", "How many?"),
        ("<image><image>\nWhich is nearer?", "Which is nearer?"),
        ("Which is nearer?\n<image>\n<image>", "Which is nearer?"),
        ("Which is nearer? <image> <image>", "Which is nearer?"),
        ("Compare <image> with <image>: which?", "Compare image 1 with image 2: which?"),
        ("Is <image> the same as <image>", "Is image 1 the same as image 2"),
        ("<image> is before <image>", "is before image 2"),
        ("<image 1> and <image 2>: is <image 2> brighter?", "and image 2: is image 2 brighter?"),
        ("Is <image_1> like <image_0>?", "Is image 2 like image 1?"),
        ("Is <image-3> like <image 1>?", "Is image 3 like image 1?"),
        ("What is this? <IMAGE>", "What is this?"),
        ("a < b and b > c", "a < b and b > c"),
    ],
)
def test_tags_of_pictures_keep_what_they_mean(text: str, wanted: str) -> None:
    assert without_tags([Turn(role="user", text=text)], PICTURES)[0].text == wanted


@pytest.mark.parametrize("text", ["<image>" * 4, "<image 4>", "<image_0><image_3>"])
def test_more_tags_than_pictures_are_refused(text: str) -> None:
    with pytest.raises(RowError, match="tags but 3 media"):
        without_tags([Turn(role="user", text=text)], PICTURES)


@pytest.mark.parametrize("text", ["<image>", "\n", " ", "<", "<image", "<image 1", "<image> ", "."])
def test_tags_are_found_in_time_that_grows_with_the_text(text: str) -> None:
    many = PICTURES * 4000
    turns = [Turn(role="user", text=f"<image>{text * 8000}<x")]
    assert ends_at_once(lambda: without_tags(turns, many))


def test_rows_with_sound_are_left_out(tmp_path: Path) -> None:
    root = tmp_path / "lab"
    image(root / "a.png")
    chat = "<image>How many times does it ring?"
    write_json(
        root / "rows.json",
        [
            row("swift", f"<audio>{chat}", images=["a.png"], audios=["a.wav"]),
            row("one", chat, images=["a.png"], audio={"path": "a.wav", "bytes": None}),
            row("silent", chat, images=["a.png"], audios=[], audio=None),
        ],
    )
    found = imported(root, tmp_path / "pool")
    assert set(found.samples) == {"lab/silent"}
    assert found.bad == {"swift": "media_marks", "one": "media_marks"}

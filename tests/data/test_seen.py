"""What a viewer shows is what the model sees: one function for imports, engines and endpoints."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from pelican.data.checks import perceptual_hash
from pelican.data.images import as_seen, checked_image, open_seen, seen_bytes, seen_size
from pelican.data.tables import RowError
from pelican.engines.openai import _image_part
from pelican.engines.vision import preprocess
from pelican.errors import UserInputError
from tests.conftest import ROOT
from tests.data.formats.world import Outcome, draw, imported, write_json

ORIENTATION = 0x0112
SIZE = (16, 12)


def encoded(picture: Image.Image, kind: str = "PNG", **settings: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **settings)
    return out.getvalue()


def turned(picture: Image.Image, kind: str, turn: int, **settings: object) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = turn
    return encoded(picture, kind, exif=exif.tobytes(), **settings)


def grey16(low: int, high: int, size: tuple[int, int] = SIZE) -> bytes:
    """A ramp of 16 bits from left to right."""
    row = np.linspace(low, high, size[0]).round().astype(np.uint16)
    return encoded(Image.fromarray(np.tile(row, (size[1], 1))))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    colour: int, depth: int, rows: bytes, *more: bytes, size: tuple[int, int] = (4, 4)
) -> bytes:
    """A PNG by hand, for kinds that Pillow does not write. `more` are chunks before the pixels."""
    head = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", head),
            *more,
            chunk(b"IDAT", zlib.compress(rows)),
            chunk(b"IEND", b""),
        ]
    )


def exif_behind(data: bytes, turn: int) -> bytes:
    """The PNG with its EXIF behind the pixels, where the standard allows it."""
    exif = Image.Exif()
    exif[ORIENTATION] = turn
    end = data.rindex(b"IEND") - 4
    return data[:end] + chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")) + data[end:]


def half_clear() -> Image.Image:
    """Red; the right half is transparent black, as drawing programs write it."""
    picture = Image.new("RGBA", SIZE, (200, 10, 10, 255))
    picture.paste((0, 0, 0, 0), (8, 0, 16, 12))
    return picture


def clear_palette() -> Image.Image:
    picture = Image.new("P", SIZE, 0)
    picture.putpalette([200, 10, 10, 0, 0, 0])
    picture.paste(1, (8, 0, 16, 12))
    return picture


RED, WHITE, BLACK = (200, 10, 10), (255, 255, 255), (0, 0, 0)
CMYK_PROFILE = None  # Pillow makes none; inks without one are as Pillow shows them
LEFT, RIGHT = (1, 6), (14, 6)

# name, bytes, the pixels at LEFT and at RIGHT that a viewer shows, whether the bytes stay
PLAIN = draw(3, SIZE)
CASES: list[tuple[str, bytes, tuple[int, ...] | None, tuple[int, ...] | None, bool]] = [
    ("RGB", encoded(PLAIN), None, None, True),
    ("JPEG", encoded(PLAIN, "JPEG"), None, None, True),
    ("WebP", encoded(PLAIN, "WEBP"), None, None, True),
    ("BMP", encoded(PLAIN, "BMP"), None, None, True),
    ("grey", encoded(PLAIN.convert("L")), None, None, True),
    ("grey JPEG", encoded(PLAIN.convert("L"), "JPEG"), None, None, True),
    ("1 bit", encoded(PLAIN.convert("1")), None, None, True),
    ("palette", encoded(PLAIN.convert("P")), None, None, True),
    ("CMYK JPEG", encoded(PLAIN.convert("CMYK"), "JPEG"), None, None, True),
    ("opaque RGBA", encoded(PLAIN.convert("RGBA")), None, None, True),
    ("opaque LA", encoded(PLAIN.convert("LA")), None, None, True),
    ("opaque RGBA WebP", encoded(PLAIN.convert("RGBA"), "WEBP", lossless=True), None, None, True),
    ("clear RGBA", encoded(half_clear()), RED, WHITE, False),
    ("clear RGBA WebP", encoded(half_clear(), "WEBP", lossless=True), RED, WHITE, False),
    ("clear LA", encoded(half_clear().convert("LA")), (67,) * 3, WHITE, False),
    ("clear palette", encoded(clear_palette(), transparency=1), RED, WHITE, False),
    ("a half-clear palette", encoded(clear_palette(), transparency=b"\xff\x80"), RED, (127,) * 3,
     False),
    ("a colour that is clear", encoded(clear_palette().convert("RGB"), transparency=BLACK), RED,
     WHITE, False),
    ("a grey that is clear", encoded(half_clear().convert("L"), transparency=0), (67,) * 3, WHITE,
     False),
    ("16-bit grey", grey16(0, 65535), (17,) * 3, (238,) * 3, False),
    ("16-bit RGB", png(2, 16, (b"\0" + b"\xc8\x01\x0a\xff\x0a\x80" * 16) * 12, size=SIZE), RED,
     RED, True),
    ("16-bit RGBA, clear",
     png(6, 16, (b"\0" + b"\xc8\x01\x0a\xff\x0a\x80\xff\xff" * 8 + b"\0" * 64) * 12, size=SIZE),
     RED, WHITE, False),
    ("2-bit grey", png(0, 2, (b"\0" + b"\x00\x00\xff\xff") * 12, size=SIZE), BLACK, WHITE, True),
]  # fmt: skip


@pytest.mark.parametrize(
    ("data", "left", "right", "stays"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_a_picture_is_seen_as_a_viewer_shows_it(
    data: bytes,
    left: tuple[int, ...] | None,
    right: tuple[int, ...] | None,
    stays: bool,
) -> None:
    seen = open_seen(data)
    assert (seen.mode, seen.size) == ("RGB", SIZE) and seen_size(data) == SIZE
    with Image.open(io.BytesIO(data)) as picture:
        plain = picture.convert("RGB")
    if left is None:
        assert seen.tobytes() == plain.tobytes()
    else:
        assert near(seen.getpixel(LEFT), left) and near(seen.getpixel(RIGHT), right)
    elsewhere = seen_bytes(data)
    assert (elsewhere is data) == stays
    if not stays:  # whoever decodes these sees the same, and nothing is left to be applied twice
        with Image.open(io.BytesIO(elsewhere)) as picture:
            assert picture.mode == "RGB" and "transparency" not in picture.info
            assert picture.tobytes() == seen.tobytes()
    assert seen_bytes(elsewhere) is elsewhere


def near(found: Any, wanted: Any) -> bool:
    return all(abs(a - b) <= 1 for a, b in zip(found, wanted, strict=True))


TURNS: list[tuple[str, Callable[[Image.Image, int], bytes]]] = [
    ("JPEG", lambda p, turn: turned(p, "JPEG", turn, quality=95)),
    ("WebP", lambda p, turn: turned(p, "WEBP", turn, lossless=True)),
    ("PNG", lambda p, turn: turned(p, "PNG", turn)),
    ("PNG, behind its pixels", lambda p, turn: exif_behind(encoded(p), turn)),
    (
        "grey of 16 bits",
        lambda p, turn: turned(Image.open(io.BytesIO(grey16(0, 65535))), "PNG", turn),
    ),
]


@pytest.mark.parametrize("make", [c[1] for c in TURNS], ids=[c[0] for c in TURNS])
@pytest.mark.parametrize("turn", range(1, 9))
def test_a_turned_picture_is_upright_in_every_format(
    make: Callable[[Image.Image, int], bytes], turn: int
) -> None:
    data = make(draw(3, SIZE), turn)
    seen = open_seen(data)
    with Image.open(io.BytesIO(data)) as picture:
        picture.load()
        raw = np.asarray(picture).astype(int)
    if raw.dtype == int and raw.max() > 255:
        raw = (raw / 257).round().astype(int)
    upright = {
        1: raw, 2: raw[:, ::-1], 3: raw[::-1, ::-1], 4: raw[::-1], 5: raw.swapaxes(0, 1),
        6: np.rot90(raw, -1), 7: raw[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(raw),
    }[turn]  # fmt: skip
    found = np.asarray(seen).astype(int)
    assert np.abs(found - (upright if upright.ndim == 3 else upright[:, :, None])).max() <= 1
    assert seen_size(data) == seen.size == (SIZE if turn < 5 else SIZE[::-1])
    again = seen_bytes(data)
    with Image.open(io.BytesIO(again)) as picture:
        picture.load()
        assert picture.size == seen.size and picture.getexif().get(ORIENTATION, 1) == 1


@settings(max_examples=60, deadline=None)
@given(
    mode=st.sampled_from(["RGB", "RGBA", "L", "LA", "P", "1", "I;16"]),
    kind=st.sampled_from(["PNG", "WEBP"]),
    turn=st.integers(0, 9),
    seed=st.integers(0, 2**32 - 1),
)
def test_bytes_stay_exactly_where_a_plain_decoder_shows_the_same(
    mode: str, kind: str, turn: int, seed: int
) -> None:
    """Of any picture: the bytes that are handed on show the same to `convert` as to a person."""
    draws = np.random.default_rng(seed)
    if mode == "I;16":
        kind, picture = "PNG", Image.fromarray(draws.integers(0, 65536, (6, 5), dtype=np.uint16))
    else:
        picture = Image.fromarray(draws.integers(0, 256, (6, 5, 4), dtype=np.uint8)).convert(mode)
    data = turned(picture, kind, turn, **({"lossless": True} if kind == "WEBP" else {}))
    seen, handed = open_seen(data), seen_bytes(data)
    with Image.open(io.BytesIO(handed)) as again:
        assert again.convert("RGB").tobytes() == seen.tobytes() and again.size == seen.size
    with Image.open(io.BytesIO(data)) as before:
        same = before.convert("RGB").tobytes() == seen.tobytes() and turn not in range(2, 9)
    assert same == (handed is data)


def test_inks_are_shown_by_their_profile() -> None:
    """Pillow has no profile of inks to give, so one of RGB stands for one that can't be used."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = encoded(PLAIN.convert("CMYK"), "JPEG", icc_profile=profile)
    with Image.open(io.BytesIO(data)) as picture:
        assert open_seen(data).tobytes() == picture.convert("RGB").tobytes()


def test_what_is_kept_of_a_pool_is_what_it_was() -> None:
    """A pool's bytes stay, whatever they hold: its digest does not change by reading."""
    for _, data, *_ in CASES:
        assert checked_image(data, 1_000_000) is data


def test_a_large_picture_of_a_pool_is_scaled_as_it_is_seen() -> None:
    data = turned(half_clear().resize((160, 120)), "PNG", 6)
    with Image.open(io.BytesIO(checked_image(data, 1200))) as picture:
        assert picture.size == (30, 40)
        assert near(picture.getpixel((15, 35)), WHITE)


def test_endpoints_and_engines_get_what_a_person_sees() -> None:
    """The served model decodes as it likes, the local engines hand pixels to their processor."""
    seen_by: list[Image.Image] = []

    def processor(images: list[Image.Image], return_tensors: str) -> dict[str, Any]:
        import torch

        seen_by.extend(images)
        grid = torch.tensor([[1, 2, 2]] * len(images))
        return {"pixel_values": torch.zeros(4 * len(images), 3), "image_grid_thw": grid}

    pictures = [data for _, data, *_ in CASES] + [turned(PLAIN, "PNG", 6)]
    preprocess(processor, pictures)
    for data, given_to in zip(pictures, seen_by, strict=True):
        url = _image_part(data)["image_url"]["url"]
        head, _, body = url.partition(",")
        sent = base64.b64decode(body)
        with Image.open(io.BytesIO(sent)) as picture:
            assert head == f"data:image/{(picture.format or '').lower()};base64"
            assert picture.convert("RGB").tobytes() == given_to.tobytes()
        assert given_to.tobytes() == open_seen(data).tobytes()


@pytest.mark.parametrize(
    "folder", ["engines", "evaluation", "training", "dppo", "stages", "report"]
)
def test_pictures_are_opened_in_one_place(folder: str) -> None:
    """`open_seen` and `as_seen` alone make pixels; a mask's values and a frame's file are no pictures."""
    named = {
        path.name
        for path in (ROOT / "pelican" / folder).rglob("*.py")
        if "Image.open(" in path.read_text(encoding="utf-8")
    }
    assert named <= {"load.py"}


def test_pictures_that_decoders_made_white_are_no_duplicates() -> None:
    hashes = set()
    for data in (grey16(0, 65535), grey16(65535, 0)):
        with Image.open(io.BytesIO(data)) as picture:
            hashes.add(perceptual_hash(picture))
    assert len(hashes) == 2 and None not in hashes


# Imports.


def lab(root: Path, files: dict[str, bytes]) -> Path:
    """A source with one row a file; ids are their names."""
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    rows = [
        {
            "id": name,
            "image": name,
            "conversations": [
                {"from": "human", "value": "<image>\nHow many red blocks?"},
                {"from": "gpt", "value": "1"},
            ],
        }
        for name in files
    ]
    write_json(root / "rows.json", rows)
    return root


def images_of(found: Outcome) -> dict[str, bytes]:
    return {name.partition("/")[2]: sample.images[0] for name, sample in found.samples.items()}


def test_an_import_changes_bytes_only_where_a_viewer_shows_another_picture(tmp_path: Path) -> None:
    ending = {"JPEG": "jpg", "WebP": "webp"}
    files = {
        f"{name.replace(' ', '_')}.{ending.get(name, 'png')}": data for name, data, *_ in CASES
    }
    found = imported(lab(tmp_path / "lab", files), tmp_path / "pool")
    assert not found.bad
    for (name, data), (_, _, _, _, stays) in zip(files.items(), CASES, strict=True):
        kept = images_of(found)[name]
        assert (kept == data) == stays, name
        with Image.open(io.BytesIO(kept)) as picture:
            assert picture.convert("RGB").tobytes() == open_seen(data).tobytes()


def test_turned_webp_and_png_are_as_upright_as_jpegs(tmp_path: Path) -> None:
    picture = draw(3, (120, 160))
    files = {
        "a.jpg": turned(picture, "JPEG", 6),
        "b.webp": turned(picture, "WEBP", 6),
        "c.png": turned(picture, "PNG", 6),
        "d.png": exif_behind(encoded(picture), 6),
    }
    found = imported(lab(tmp_path / "lab", files), tmp_path / "pool")
    sizes = {}
    for name, data in images_of(found).items():
        with Image.open(io.BytesIO(data)) as image:
            sizes[name] = image.size
    assert sizes == dict.fromkeys(files, (160, 120))


DEEP = {
    "im/grey.png": grey16(17733, 35980),
    "im/photo_of_depths.png": grey16(0, 60000),
    "im/depth.png": grey16(400, 4000),
    "depth/0001.png": grey16(0, 65535),
    "im/sensor.png": grey16(0, 4095),
}


def test_16_bits_are_a_picture_by_their_whole_range_or_left_out(tmp_path: Path) -> None:
    found = imported(lab(tmp_path / "lab", DEEP), tmp_path / "pool")
    grey = images_of(found)
    assert set(grey) == {"im/grey.png", "im/photo_of_depths.png"}
    for name, ends in (("im/grey.png", (69, 140)), ("im/photo_of_depths.png", (0, 233))):
        pixels = np.asarray(open_seen(grey[name]))
        assert (pixels.min(), pixels.max()) == ends  # not stretched to black and white
    assert found.bad == dict.fromkeys(
        ["im/depth.png", "depth/0001.png", "im/sensor.png"], "image_range"
    )
    assert "0 to 4095" in found.reasons["im/sensor.png"]
    assert all("--grey-range LOW:HIGH" in reason for reason in found.reasons.values())


def test_depth_is_a_picture_once_its_range_is_said(tmp_path: Path) -> None:
    found = imported(
        lab(tmp_path / "lab", {n: DEEP[n] for n in ("im/depth.png", "im/sensor.png")}),
        tmp_path / "pool",
        grey_range="0:5000",
    )
    assert not found.bad
    for name, ends in (("im/depth.png", (20, 204)), ("im/sensor.png", (0, 209))):
        pixels = np.asarray(open_seen(images_of(found)[name]))
        assert (pixels.min(), pixels.max()) == ends  # one scale for all


@pytest.mark.parametrize("said", ["5000", "5:4", "-1:9", "0:65536", "a:b", "1:1", ":"])
def test_a_range_that_is_none_is_one_sentence(tmp_path: Path, said: str) -> None:
    with pytest.raises(UserInputError, match=r"--grey-range is .* LOW:HIGH"):
        imported(
            lab(tmp_path / "lab", {"a.png": DEEP["im/grey.png"]}),
            tmp_path / "pool",
            grey_range=said,
        )


@pytest.mark.parametrize("kind", ["WEBP", "PNG"])
def test_an_animation_is_no_still(tmp_path: Path, kind: str) -> None:
    frames = [draw(seed, (64, 48)) for seed in range(3)]
    moving = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    single = encoded(frames[0], kind, save_all=True)
    found = imported(lab(tmp_path / "lab", {"a": moving, "b": single}), tmp_path / "pool")
    assert found.bad == {"a": "image_moving"} and "3 pictures" in found.reasons["a"]
    assert open_seen(moving).size == (
        64,
        48,
    )  # where one is all the same, its first picture is shown
    with Image.open(io.BytesIO(moving)) as opened:
        assert as_seen(opened).tobytes() == opened.convert("RGB").tobytes()


def test_a_picture_that_can_t_be_decoded_is_refused_before_an_endpoint_gets_it() -> None:
    with pytest.raises(RowError, match="GIF"):
        seen_bytes(encoded(PLAIN, "GIF"))

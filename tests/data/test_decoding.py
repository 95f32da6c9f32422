"""Images of an import: proved without being decoded in full, turned upright, kept as they are."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from pelican.data.formats.base import json_rows
from pelican.data.images import checked_image
from pelican.data.tables import RowError
from tests.data.formats.world import draw, imported, write_json

ORIENTATION = 0x0112


def encoded(picture: Image.Image, kind: str, **settings: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **settings)
    return out.getvalue()


def decodes(data: bytes) -> bool:
    """Whether Pillow decodes every pixel."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
    except Exception:  # a decoder raises whatever it likes
        return False
    return True


def usable(data: bytes) -> bool:
    try:
        assert checked_image(data, 1_003_520) is data
    except RowError as error:
        assert error.code == "image_unreadable"
        return False
    return True


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(encoded(draw(1, (90, 70)), "JPEG", quality=90), id="baseline"),
        pytest.param(encoded(draw(2, (90, 70)), "JPEG", progressive=True), id="progressive"),
        pytest.param(encoded(draw(3, (90, 70)), "JPEG", subsampling=0), id="4:4:4"),
        pytest.param(encoded(draw(4, (90, 70)).convert("L"), "JPEG"), id="grey"),
        pytest.param(encoded(draw(5, (90, 70)).convert("CMYK"), "JPEG"), id="CMYK"),
        pytest.param(encoded(draw(6, (90, 70)), "PNG"), id="PNG"),
        pytest.param(encoded(draw(7, (90, 70)), "WEBP", quality=80), id="WebP"),
    ],
)
def test_a_check_refuses_exactly_what_a_whole_decode_refuses(data: bytes) -> None:
    """Cut at any byte, or with bytes changed."""
    assert usable(data) and decodes(data)
    cuts = [data[:end] for end in range(0, len(data), 7)]
    draws = random.Random(0)
    spoilt = []
    for _ in range(150):
        hurt = bytearray(data)
        for _ in range(draws.randrange(1, 4)):
            hurt[draws.randrange(len(hurt))] = draws.randrange(256)
        spoilt.append(bytes(hurt))
    verdicts = {usable(broken) for broken in cuts}
    assert False in verdicts
    different = [broken for broken in (*cuts, *spoilt) if refused(broken) != (not decodes(broken))]
    assert not different


def refused(data: bytes) -> bool:
    try:
        checked_image(data, 1_003_520)
    except RowError:
        return True
    return False


def jpeg(picture: Image.Image, turn: int) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = turn
    return encoded(picture, "JPEG", exif=exif, quality=95)


def mpo(picture: Image.Image, turn: int) -> bytes:
    """What phones write: a second picture behind the first, so Pillow calls it MPO."""
    exif = Image.Exif()
    exif[ORIENTATION] = turn
    return encoded(
        picture, "MPO", save_all=True, append_images=[draw(9)], exif=exif.tobytes(), quality=95
    )


@pytest.mark.parametrize("photo", [jpeg, mpo])
def test_photos_of_phones_are_turned_upright_and_stay_jpegs(
    tmp_path: Path, photo: Callable[[Image.Image, int], bytes]
) -> None:
    folder = tmp_path / "lab"
    folder.mkdir()
    picture = draw(3, (64, 48))
    for name, turn in (("upright", 1), ("turned", 6)):
        (folder / f"{name}.jpg").write_bytes(photo(picture, turn))
    (folder / "large.jpg").write_bytes(photo(draw(4, (640, 480)), 6))
    rows = [
        {
            "id": name,
            "messages": [
                {"role": "user", "content": "<image>\nHow many cups?"},
                {"role": "assistant", "content": "2"},
            ],
            "images": [f"{name}.jpg"],
        }
        for name in ("upright", "turned", "large")
    ]
    write_json(folder / "rows.json", rows)
    found = imported(folder, tmp_path / "pool", max_pixels=64 * 48)
    images = {name.partition("/")[2]: s.images[0] for name, s in found.samples.items()}
    assert images["upright"] == (folder / "upright.jpg").read_bytes()
    for name, size in (("turned", (48, 64)), ("large", (48, 64))):
        with Image.open(io.BytesIO(images[name])) as image:
            assert (image.size, image.format) == (size, "JPEG")
            assert image.getexif().get(ORIENTATION, 1) == 1


def test_rows_of_an_array_are_the_same_wherever_a_block_ends(tmp_path: Path) -> None:
    """Rows of uneven length, so that block ends fall on names, escapes, numbers and gaps."""
    draws = random.Random(0)
    for spaces in (None, 1, 40):
        rows = [
            {"id": i, "text": 'ä\\"\n' * draws.randrange(200), "value": draws.random()}
            for i in range(300)
        ]
        rows[7]["text"] = "x" * 200_000  # longer than a block
        path = tmp_path / "rows.json"
        path.write_text(json.dumps(rows, indent=spaces, ensure_ascii=False))
        read = list(json_rows(path))
        assert [row.value for row in read] == rows
        assert [row.number for row in read] == list(range(1, 301))
        assert [json.loads(row.raw) for row in read] == rows

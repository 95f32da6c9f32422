"""Media as rows hold them: a path, the bytes, base64, or an object that holds one of these."""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

from pelican.data.formats.base import Media, list_of, number_of, seconds_of
from pelican.data.tables import RowError, named

PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
VIDEO_ENDINGS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv")
# Where an object has its medium, besides `bytes`, `path` and the name of its kind.
_ELSEWHERE = ("url", "source", "inline_data", "data", "base64", "value")
_BASE64 = ("/9j/", "iVBORw0KGgo", "UklGR", "Qk", "R0lGOD")  # JPEG, PNG, WebP, BMP, GIF begin so
_LEAST = 80  # characters: no picture is as small in base64
_URL_SAFE = str.maketrans("-_", "+/")


def media_of(row: Mapping[str, Any]) -> tuple[Media, ...]:
    """The media that a row names beside its text. Raises RowError."""
    found: list[Media] = []
    for name in ("image", "images", "image_path", "image_paths"):
        found += [medium(value, "image") for value in list_of(row.get(name))]
    for name in ("video", "videos", "video_path", "video_paths"):
        found += videos_of(row.get(name))
    return tuple(found)


def videos_of(value: Any) -> list[Media]:
    """The videos of a column: one, a list of them, or a list of the pictures of one. Raises RowError."""
    given = list_of(value)
    if given and all(isinstance(v, str) and v.lower().endswith(PICTURE_ENDINGS) for v in given):
        return [medium(given, "video")]
    return [medium(one, "video") for one in given if one is not None]


def medium(value: Any, kind: str) -> Media:
    """One image or video of a row; a list of pictures is a video of them. Raises RowError."""
    about: Mapping[str, Any] = {}
    for _ in range(3):  # {"image_url": {"url": …}}; deeper is nobody's format
        if isinstance(value, Mapping):
            about, value = {**about, **value}, held_in(value, kind)
    return replace(
        _held(value, kind, about),
        start_s=seconds_of(about.get("video_start", about.get("start"))),
        end_s=seconds_of(about.get("video_end", about.get("end"))),
    )


def _held(value: Any, kind: str, about: Mapping[str, Any]) -> Media:
    """The medium itself; `about`: what the objects around it say."""
    if isinstance(value, list | tuple) and value and kind == "video":
        pictures = tuple(medium(picture, "image") for picture in value)
        rate = number_of(about, "fps", "sample_fps")
        return Media("frames", _stem(pictures[0].path), fps=rate, pictures=pictures)
    path = about.get("path")
    if isinstance(value, str) and (data := inline(value)) is not None:
        kind = "video" if value[:11].lower() == "data:video/" else kind
        value, path = data, path if path != value else ""
    if isinstance(value, bytes | bytearray) and value:
        name = path if isinstance(path, str) else ""
        return Media("video" if kind == "video" else "image", name, bytes(value))
    if not isinstance(value, str) or not value:
        raise RowError("schema", f"{kind} is {named(value)}, not a path")
    moving = kind == "video" or value.lower().endswith(VIDEO_ENDINGS)
    return Media("video" if moving else "image", value.removeprefix("file://"))


def held_in(value: Mapping[str, Any], kind: str) -> Any:
    """What an object holds as its medium, None if nothing."""
    names = ("bytes", "path", kind, f"{kind}_url", *_ELSEWHERE)
    return next((value[name] for name in names if value.get(name)), None)


def _stem(path: str) -> str:
    """What the names of the pictures of one video have in common: without number and ending."""
    return os.path.splitext(path)[0].rstrip("0123456789")


def inline(text: str) -> bytes | None:
    """The bytes of a `data:` URI, or of a picture in base64; None for any other text.

    Raises RowError for a URI that can't be read.
    """
    if text[:5].lower() == "data:":
        head, comma, body = text.partition(",")
        if not comma:
            raise RowError("image_unreadable", f"{named(text)} is no data URI: it has no comma")
        body = unquote(body) if "%" in body else body
        if not head.lower().endswith(";base64"):
            return body.encode(errors="replace")
    elif len(text) >= _LEAST and text.startswith(_BASE64) and "." not in text:
        body = text
    else:
        return None
    body = "".join(body.split()).translate(_URL_SAFE).rstrip("=")
    try:
        return base64.b64decode(body + "=" * (-len(body) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise RowError("image_unreadable", f"{named(text)} is not base64") from None


def placed(inside: Sequence[Media | None], beside: Sequence[Media]) -> tuple[Media, ...]:
    """The media of a conversation, in its order: those inside it, None for the next one beside it.

    Raises RowError if it has more places than there are media.
    """
    rest = [medium for medium in beside if medium not in inside]  # some rows name them twice
    found: list[Media] = []
    for medium in inside:
        if medium is None and not rest:
            raise RowError(
                "media_tags",
                f"{inside.count(None)} places for images or videos but {len(beside)} media",
            )
        found.append(medium or rest.pop(0))
    return (*found, *rest) if None in inside else (*rest, *found)

"""What a decoder offers, and which one is used."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from PIL import Image

from pelican.data.images import SAFE_PIXELS
from pelican.data.quarantine import RowError
from pelican.errors import UserInputError

DECODER = "PELICAN_VIDEO_DECODER"  # pyav (the default) or torchcodec


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """Width and height as shown (after rotation), frames a second, and length in seconds.

    `duration_s` is what the file says; None if it says nothing.
    """

    width: int
    height: int
    fps: float
    duration_s: float | None


class Video(Protocol):
    """One open video; times count from its first frame."""

    info: VideoInfo
    reached_s: float  # end of the last frame that was decoded

    def frames_at(self, times_s: Sequence[float]) -> Iterator[tuple[float, Image.Image]]:
        """The frame shown at each of the rising `times_s`, upright, with its own exact time.

        A frame that is shown at two of them comes once. Ends early where the video does.
        Raises RowError for a stream that can't be decoded. Holds one frame at a time.
        """

    def close(self) -> None: ...


def open_video(path: Path, max_pixels: int = SAFE_PIXELS) -> Video:
    """Raises RowError if there is no video stream or the file can't be opened.

    PyAV refuses playlists, and a frame above `max_pixels` before it has memory; torchcodec does not.
    """
    try:
        name = decoder_name()
        if name == "torchcodec":
            from pelican.data.video.torchcodec import TorchcodecVideo

            return TorchcodecVideo(path)
        from pelican.data.video.pyav import PyavVideo

        return PyavVideo(path, max_pixels)
    except OSError as error:
        reason = error.strerror or str(error)
        raise RowError(
            "video_unreadable", f"video {path.name!r} can't be opened ({reason})"
        ) from None


@cache
def decoder_name() -> str:
    """`pyav`, or `torchcodec` where PELICAN_VIDEO_DECODER says so; one that loads.

    PyAV comes first: it brings its FFmpeg, needs no torch, and can be held back from hostile files.
    """
    wish = os.environ.get(DECODER) or "pyav"
    if wish not in ("torchcodec", "pyav"):
        raise UserInputError(f"{DECODER} is {wish!r}; it takes torchcodec or pyav")
    if wish == "torchcodec":
        fault = torchcodec_fault()
        if fault:
            raise UserInputError(f"{DECODER}=torchcodec, but it does not load: {fault}")
        return wish
    if find_spec("av") is not None:
        return wish
    if not torchcodec_fault():
        return "torchcodec"
    raise UserInputError("videos need PyAV: `uv pip install -e '.[data]'` brings it")


def torchcodec_fault() -> str:
    """Why torchcodec can't be used; "" if it can. It loads FFmpeg at the first video, not before."""
    try:
        from torchcodec.decoders import VideoDecoder  # type: ignore[attr-defined]

        VideoDecoder(b"no video")
    except (ImportError, RuntimeError, ValueError, OSError) as error:
        said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return said if isinstance(error, ImportError) or "libtorchcodec" in said else ""
    return ""

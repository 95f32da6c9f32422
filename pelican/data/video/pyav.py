"""Video through PyAV, which brings its own FFmpeg."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import av
import av.error
import av.logging
from PIL import Image

from pelican.data.tables import RowError
from pelican.data.video import VideoInfo

av.logging.set_level(av.logging.PANIC)  # faults are reported by us, once
SEEK_S = 4.0  # a gap between two frames that is worth a seek
# Files that are one video. FFmpeg looks at the content, and a playlist would open other files.
FORMATS = "mov,matroska,avi,mpegts,mpeg,mpegvideo,asf,flv,ogg,m4v,h264,hevc,ivf,mxf,gif,mp3,wav"


class PyavVideo:
    """See `pelican.data.video.Video`."""

    def __init__(self, path: Path, max_pixels: int) -> None:
        self._name, self.reached_s = path.name, 0.0
        limit = {"max_pixels": str(max_pixels)}  # FFmpeg decodes a frame already to look at a file
        try:
            self._container = av.open(
                str(path),
                metadata_errors="replace",
                options=limit,
                container_options={"format_whitelist": FORMATS, "protocol_whitelist": "file"},
            )
        except (av.error.FFmpegError, ValueError) as error:
            raise RowError(
                "video_unreadable", f"video {path.name!r} can't be opened ({_said(error)})"
            ) from None
        if not self._container.streams.video:
            sound = bool(self._container.streams.audio)
            self.close()
            detail = "sound and no picture" if sound else "no video stream"
            raise RowError("video_no_picture", f"video {path.name!r} holds {detail}")
        stream = self._stream = self._container.streams.video[0]
        if stream.codec_context is None:
            self.close()
            raise RowError("video_unreadable", f"video {path.name!r} has an unknown codec")
        if not stream.codec_context.width * stream.codec_context.height:
            self.close()
            raise RowError(
                "video_unreadable",
                f"video {path.name!r} shows no frame of at most {max_pixels} pixels",
            )
        stream.codec_context.options = limit
        stream.codec_context.thread_count = 1  # rows are decoded side by side already
        self._start = (
            float((stream.start_time or 0) * stream.time_base) if stream.time_base else 0.0
        )
        duration: float | None = None
        if stream.duration and stream.time_base:
            duration = float(stream.duration * stream.time_base)
        elif self._container.duration:
            duration = self._container.duration / av.time_base
        rate = stream.average_rate or stream.guessed_rate
        self.info = VideoInfo(
            stream.codec_context.width,
            stream.codec_context.height,
            float(rate) if rate else 0.0,
            duration,
        )

    def close(self) -> None:
        self._container.close()

    def frames_at(self, times_s: Sequence[float]) -> Iterator[tuple[float, Image.Image]]:
        try:
            yield from self._shown(times_s)
        except (av.error.FFmpegError, ValueError, MemoryError) as error:
            raise RowError(
                "video_truncated", f"video {self._name!r} can't be decoded on ({_said(error)})"
            ) from None

    def _shown(self, times_s: Sequence[float]) -> Iterator[tuple[float, Image.Image]]:
        targets = list(times_s)
        step = min((b - a for a, b in pairwise(targets)), default=0.0)
        at = 0
        shown: av.VideoFrame | None = None
        seek = targets[0] > SEEK_S
        while at < len(targets):
            last = self.reached_s if seek else -1.0
            if seek:
                self._seek(targets[at])
            ended = True
            for frame in self._container.decode(self._stream):
                time = self._time(frame)
                if time is None:
                    continue
                if time < last:  # no key frame between here and there: seeking only goes back
                    step = 0.0
                last = -1.0
                length = (frame.duration or 0) * (frame.time_base or 0)
                self.reached_s = max(self.reached_s, time + float(length))
                if shown is not None and time > targets[at] + 1e-6:
                    yield self._time(shown) or 0.0, _upright(shown)
                    while at < len(targets) and targets[at] < time - 1e-6:
                        at += 1
                    shown = frame
                    ended = at == len(targets)
                    if ended or (step > SEEK_S and targets[at] - time > SEEK_S):
                        break
                    continue
                shown = frame
            else:
                ended = True
            if ended:
                if at < len(targets) and shown is not None:
                    yield self._time(shown) or 0.0, _upright(shown)
                return
            seek = True

    def _seek(self, time_s: float) -> None:
        """To the last key frame before `time_s`."""
        base = self._stream.time_base
        if base is not None:
            self._container.seek(int((time_s + self._start) / base), stream=self._stream)

    def _time(self, frame: av.VideoFrame) -> float | None:
        return None if frame.time is None else max(0.0, float(frame.time) - self._start)


def _upright(frame: av.VideoFrame) -> Image.Image:
    image: Image.Image = frame.to_image()  # type: ignore[no-untyped-call]
    turn = round(frame.rotation / 90) * 90 % 360
    return image.rotate(turn, expand=True) if turn else image


def _said(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())

"""Video through PyAV, which brings its own FFmpeg."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import av
import av.error
import av.logging
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream
from PIL import Image

from pelican.data.tables import RowError
from pelican.data.video import VideoInfo

av.logging.set_level(av.logging.PANIC)  # faults are reported by us, once
CUT_S = 0.5  # a file may end this much before its header says
SEEK_S = 4.0  # a gap between two frames that is worth a seek
# Files that are one video. FFmpeg looks at the content, and a playlist would open other files.
FORMATS = "mov,matroska,avi,mpegts,mpeg,mpegvideo,asf,flv,ogg,m4v,h264,hevc,ivf,mxf,gif,mp3,wav"


LATE_S = 0.1  # pictures that start this much behind the sound start with it: encoders pad sound


@dataclass(frozen=True, slots=True)
class Span:
    """When pictures are shown: from `start_s` to `end_s` after second 0, which is `zero_s` in the file."""

    zero_s: float
    start_s: float
    end_s: float | None


def picture_span(
    path: Path, container: InputContainer, stream: VideoStream, options: dict[str, str]
) -> Span:
    """When a file shows pictures, which its own length does not say where it has sound, too.

    Args:
        path: Of the file. It is opened a second time where its packets must tell the end.
        container: The same file, open.
        stream: Of the pictures.
        options: As it was opened with.
    """
    base = float(stream.time_base or 0)
    first = (stream.start_time or 0) * base
    whole = None if container.duration is None else container.duration / av.time_base
    begins = first if container.start_time is None else container.start_time / av.time_base
    zero = first if first - begins <= LATE_S else begins
    if stream.duration and base:
        return Span(zero, first - zero, first - zero + stream.duration * base)
    if whole is not None and len(container.streams) == 1 and first == 0:
        return Span(zero, 0.0, whole)
    try:
        pictures, anything = _last_packets(path, options, whole)
    except av.error.FFmpegError:
        pictures = anything = 0.0
    cut = whole is not None and anything - min(begins, 0.0) + CUT_S < whole
    end = whole if cut or not pictures else pictures - zero
    return Span(zero, first - zero, end)


def _last_packets(
    path: Path, options: dict[str, str], whole_s: float | None
) -> tuple[float, float]:
    """When the last picture and the last packet of any stream end, in the file's own time."""
    ends = {True: 0.0, False: 0.0}
    with _open(path, options) as container:
        video = _pictures(container)
        if video is None:
            return 0.0, 0.0
        if whole_s is not None and video.time_base:
            with suppress(av.error.FFmpegError):  # without an index all packets are read
                container.seek(int(whole_s / video.time_base), stream=video)
        for packet in container.demux():
            if packet.pts is not None and packet.time_base is not None:
                end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                is_picture = packet.stream.index == video.index
                ends[is_picture] = max(ends[is_picture], end)
    return ends[True], max(ends.values())


def _pictures(container: InputContainer) -> VideoStream | None:
    """The first stream of pictures; the cover of a record is none."""
    covers = Disposition.attached_pic
    return next((s for s in container.streams.video if not s.disposition & covers), None)


def _open(path: Path, options: dict[str, str]) -> InputContainer:
    return av.open(
        str(path),
        metadata_errors="replace",
        options=options,
        container_options={"format_whitelist": FORMATS, "protocol_whitelist": "file"},
    )


class PyavVideo:
    """See `pelican.data.video.Video`."""

    def __init__(self, path: Path, max_pixels: int) -> None:
        self._name, self.reached_s = path.name, 0.0
        limit = {"max_pixels": str(max_pixels)}  # FFmpeg decodes a frame already to look at a file
        try:
            self._container = _open(path, limit)
        except (av.error.FFmpegError, ValueError) as error:
            raise RowError(
                "video_unreadable", f"video {path.name!r} can't be opened ({_said(error)})"
            ) from None
        stream = _pictures(self._container)
        if stream is None:
            sound = bool(self._container.streams.audio)
            self.close()
            detail = "sound and no picture" if sound else "no video stream"
            raise RowError("video_no_picture", f"video {path.name!r} holds {detail}")
        self._stream = stream
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
        span = picture_span(path, self._container, stream, limit)
        self._start = span.zero_s
        rate = stream.average_rate or stream.guessed_rate
        self.info = VideoInfo(
            stream.codec_context.width,
            stream.codec_context.height,
            float(rate) if rate else 0.0,
            span.start_s,
            span.end_s,
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
        seek, back = targets[0] > SEEK_S, 0.0
        while at < len(targets):
            last = self.reached_s if seek else -1.0
            if seek:
                self._seek(targets[at] - back)
            ended, sought = True, seek
            for frame in self._container.decode(self._stream):
                time = self._time(frame)
                if time is None:
                    continue
                if sought and time > targets[at] + 1e-6 and back < targets[at]:
                    ended, back = False, max(SEEK_S, 2 * back)  # MPEG-TS has no index to seek by
                    break
                sought = False
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
            time_s = max(0.0, time_s) + self._start
            self._container.seek(int(time_s / base), stream=self._stream)

    def _time(self, frame: av.VideoFrame) -> float | None:
        return None if frame.time is None else max(0.0, float(frame.time) - self._start)


def _upright(frame: av.VideoFrame) -> Image.Image:
    image: Image.Image = frame.to_image()  # type: ignore[no-untyped-call]
    turn = round(frame.rotation / 90) * 90 % 360
    return image.rotate(turn, expand=True) if turn else image


def _said(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())

"""Video through torchcodec, which uses the FFmpeg of the machine and scans a file for exact times."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

from PIL import Image
from torchcodec.decoders import VideoDecoder

from pelican.data.images import SAFE_PIXELS
from pelican.data.tables import RowError
from pelican.data.video import VideoInfo


class TorchcodecVideo:
    """See `pelican.data.video.Video`. torchcodec turns the frames upright itself."""

    def __init__(self, path: Path) -> None:
        self._name = path.name
        try:
            self._decoder = VideoDecoder(
                str(path), dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact"
            )
        except (RuntimeError, ValueError) as error:
            said = " ".join(str(error).split())[:160]
            code = "video_no_picture" if "video stream" in said else "video_unreadable"
            raise RowError(code, f"video {path.name!r} can't be opened ({said})") from None
        about = self._decoder.metadata
        first = float(about.begin_stream_seconds or 0.0)
        self._end = float(about.end_stream_seconds or 0.0)
        self._start, end = self._zero(path, first, about.duration_seconds_from_header)
        self.reached_s = self._end - self._start
        self.info = VideoInfo(
            int(about.width or 0),
            int(about.height or 0),
            float(about.average_fps or 0.0),
            first - self._start,
            end,
        )

    def _zero(
        self, path: Path, first_s: float, header_s: float | None
    ) -> tuple[float, float | None]:
        """Second 0 in the file, and the end of the pictures from there; PyAV knows of the sound."""
        if find_spec("av") is None:
            return first_s, header_s
        from pelican.data.video.pyav import PyavVideo

        with closing(PyavVideo(path, SAFE_PIXELS)) as same:
            return first_s - same.info.start_s, same.info.end_s

    def close(self) -> None:
        del self._decoder

    def frames_at(self, times_s: Sequence[float]) -> Iterator[tuple[float, Image.Image]]:
        before = -1.0
        for time in times_s:
            if time + self._start >= self._end:
                time = max(0.0, self._end - self._start - 1e-4)  # the last frame stays shown
            try:
                # The call for several goes by the times that were scanned. That for one goes by the
                # durations that packets claim, which are another's where the rate varies.
                found = self._decoder.get_frames_played_at([time + self._start])
            except (RuntimeError, IndexError) as error:
                said = " ".join(str(error).split())[:160]
                raise RowError(
                    "video_truncated", f"video {self._name!r} can't be decoded on ({said})"
                ) from None
            at = float(found.pts_seconds[0]) - self._start
            if at > before + 1e-6:
                before = at
                yield max(0.0, at), Image.fromarray(found.data[0].numpy())

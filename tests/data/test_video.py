"""Clips by time: exact times, rotation, variable rate, truncated files, sound alone, the cache."""

from __future__ import annotations

import io
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import sleep
from typing import Any, cast

import av
import numpy as np
import pytest
from PIL import Image

from pelican.data.images import SAFE_PIXELS
from pelican.data.tables import RowError
from pelican.data.video import Clip, ClipCache, ClipRule, Video, cut_clip, targets, torchcodec_fault
from pelican.data.video.pyav import PyavVideo
from tests.data.formats.world import video


def grey(data: bytes) -> int:
    """The grey of the middle of a frame; the test's videos grow by 5 a frame."""
    with Image.open(io.BytesIO(data)) as image:
        return int(np.asarray(image.convert("L"))[image.height // 2, image.width // 2])


@pytest.mark.parametrize(
    ("length", "rule", "window", "times"),
    [
        (4.0, ClipRule(step_s=1.0), (None, None), (0.0, 1.0, 2.0, 3.0)),
        (4.0, ClipRule(step_s=0.5, max_frames=4), (None, None), (0.0, 1.0, 2.0, 3.0)),
        (4.0, ClipRule(step_s=1.0), (1.0, 3.0), (0.0, 1.0)),
        (4.0, ClipRule(step_s=1.0), (2.4, 4.0), (0.0, 0.8)),
        (30.0, ClipRule(step_s=10.0), (None, None), (0.0, 10.0, 20.0)),
        (1.0, ClipRule(step_s=8.0), (None, None), (0.0, 0.4)),
    ],
)
def test_frames_are_those_shown_at_their_times(
    tmp_path: Path,
    length: float,
    rule: ClipRule,
    window: tuple[float | None, float | None],
    times: tuple[float, ...],
) -> None:
    clip = cut_clip(video(tmp_path / "a.mp4", length), rule, *window)
    assert clip.times_s == pytest.approx(times)
    for time, frame in zip(clip.times_s, clip.frames, strict=True):
        number = round((time + (window[0] or 0.0)) * 5)
        assert abs(grey(frame) - number * 5 % 250) <= 4


def test_variable_frame_rate_keeps_each_frames_own_time(tmp_path: Path) -> None:
    path = video(tmp_path / "v.mp4", times_s=[0.0, 0.2, 0.9, 2.5, 2.6, 4.0])
    clip = cut_clip(path, ClipRule(step_s=1.0))
    assert clip.times_s == pytest.approx((0.0, 0.9, 2.6), abs=0.002)
    assert [round(grey(f) / 5) for f in clip.frames] == [0, 2, 4]


DECODERS = [
    "pyav",
    pytest.param("torchcodec", marks=pytest.mark.slow),
]


@pytest.fixture
def opener(request: pytest.FixtureRequest) -> Callable[[Path], Video]:
    """One decoder; torchcodec only where it finds an FFmpeg of the machine."""
    if request.param == "pyav":
        return lambda path: PyavVideo(path, SAFE_PIXELS)
    fault = torchcodec_fault()
    if fault:
        pytest.skip(f"torchcodec does not load: {fault[:80]}")
    from pelican.data.video.torchcodec import TorchcodecVideo

    return TorchcodecVideo


@pytest.mark.parametrize("opener", DECODERS, indirect=True)
@pytest.mark.parametrize("ending", ["mp4", "mkv"])
@pytest.mark.parametrize("b_frames", [0, 3])
def test_the_frame_at_a_time_is_the_one_that_is_displayed_then(
    tmp_path: Path, opener: Callable[[Path], Video], ending: str, b_frames: int
) -> None:
    """Frames of known content at uneven times, asked for at random ones and just beside each."""
    for seed in range(3):
        draws = random.Random(seed)
        starts = [0.0]
        while len(starts) < 24:
            starts.append(round(starts[-1] + draws.choice([0.04, 0.1, 0.5, 2.3, 7.0]), 3))
        path = video(tmp_path / f"{seed}.{ending}", times_s=starts, b_frames=b_frames)
        beside = [start + shift for start in starts for shift in (-0.002, 0.002)]
        random_ones = [draws.uniform(0, starts[-1]) for _ in range(20)]
        asked = sorted(time for time in beside + random_ones if 0 <= time <= starts[-1])
        opened = opener(path)
        found = {round(time, 3): image for time, image in opened.frames_at(asked)}
        opened.close()
        wanted = {max(s for s in starts if s <= time) for time in asked}
        assert set(found) == wanted
        for time, image in found.items():
            number = starts.index(time)
            assert abs(int(np.asarray(image.convert("L"))[24, 32]) - number * 5) <= 2


@pytest.mark.parametrize(("rotation", "size"), [(90, (48, 64)), (180, (64, 48)), (-90, (48, 64))])
def test_a_turned_video_is_turned_upright(
    tmp_path: Path, rotation: int, size: tuple[int, int]
) -> None:
    clip = cut_clip(video(tmp_path / "r.mp4", 2.0, rotation=rotation), ClipRule())
    with Image.open(io.BytesIO(clip.frames[0])) as image:
        assert image.size == size
        corner = {90: (4, size[1] - 4), 180: (size[0] - 4, size[1] - 4), -90: (size[0] - 4, 4)}
        red, green, _ = cast(
            "tuple[int, int, int]", image.convert("RGB").getpixel(corner[rotation])
        )
    assert red > 180 and green < 80


def sound(path: Path) -> Path:
    with av.open(str(path), "w") as file:
        stream = file.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), dtype=np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def cut(path: Path, share: float, **how: str) -> Path:
    whole = video(path.with_name("whole.mp4"), 8.0, size=(160, 120), options=dict(how)).read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    return path


FASTSTART = {"movflags": "faststart"}


@pytest.mark.parametrize(
    ("make", "rule", "code"),
    [
        (lambda p: sound(p / "s.mp4"), ClipRule(), "video_no_picture"),
        (lambda p: cut(p / "c.mp4", 0.5), ClipRule(), "video_unreadable"),
        (lambda p: cut(p / "f.mp4", 0.6, **FASTSTART), ClipRule(), "video_truncated"),
        (lambda p: video(p / "l.mp4", 70.0, fps=1), ClipRule(), "clip_long"),
        (lambda p: video(p / "h.mp4", 1.0, size=(640, 480)), ClipRule(max_pixels=2), None),
        (lambda p: video(p / "1.mp4", 0.2), ClipRule(), "clip_step"),
    ],
)
def test_a_bad_video_is_one_reason(
    tmp_path: Path, make: object, rule: ClipRule, code: str | None
) -> None:
    path = make(tmp_path)  # type: ignore[operator]
    if code is None:
        assert cut_clip(path, rule).frames
        return
    with pytest.raises(RowError) as caught:
        cut_clip(path, rule)
    assert caught.value.code == code


def test_any_length_is_read_without_a_horizon(tmp_path: Path) -> None:
    path = video(tmp_path / "l.mp4", 180.0, fps=1)
    clip = cut_clip(path, ClipRule(max_frames=16, horizon_s=None))
    assert len(clip.frames) == 16 and clip.times_s[-1] == pytest.approx(168.75, abs=1.0)


def test_a_clip_is_cut_once_and_a_damaged_copy_is_cut_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, folder = video(tmp_path / "a.mp4"), tmp_path / "cache"
    first = ClipCache(folder)(path, ClipRule())
    calls: list[Path] = []

    def counted(path: Path, *rest: object) -> object:
        calls.append(path)
        return cut_clip(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr("pelican.data.video.cut_clip", counted)
    assert ClipCache(folder)(path, ClipRule()) == first and not calls
    for file in folder.glob("*.zip"):
        file.write_bytes(b"PK")
    assert ClipCache(folder)(path, ClipRule()) == first and len(calls) == 1


def test_targets_leave_out_the_end() -> None:
    assert targets(0.0, 64.0, ClipRule(step_s=1.0, max_frames=64))[-1] == 63.0
    assert len(targets(0.0, 64.0, ClipRule(step_s=1.0, max_frames=32))) == 32


def test_a_clip_that_two_rows_want_at_once_is_cut_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = video(tmp_path / "a.mp4")
    cuts, cutting = [], threading.Event()

    def slowly(*what: Any) -> Clip:
        cuts.append(what)
        cutting.set()
        sleep(0.2)  # the other one asks meanwhile
        return cut_clip(*what)

    monkeypatch.setattr("pelican.data.video.cut_clip", slowly)
    cache = ClipCache(tmp_path / "cache")
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(cache, path, ClipRule())
        cutting.wait()
        second = threads.submit(cache, path, ClipRule())
        assert first.result() == second.result()
    assert len(cuts) == 1

"""When a clip's pictures are shown: sound that is longer or earlier, headers that say nothing, clocks."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import pytest
from av.stream import Disposition
from PIL import Image

from pelican.data.formats.base import seconds_of
from pelican.data.images import SAFE_PIXELS
from pelican.data.tables import RowError
from pelican.data.video import ClipRule, cut_clip
from pelican.data.video.pyav import PyavVideo
from pelican.evaluation.published.base import Clip as Asked
from pelican.evaluation.published.load import read_frames
from tests.data.formats.world import image, imported, video, write_json

# ending, codec of the pictures, codec of the sound, rate of the sound
CONTAINERS = [
    ("mp4", "libx264", "aac", 48000),
    ("mov", "libx264", "aac", 48000),
    ("mkv", "libx264", "libopus", 48000),
    ("webm", "libvpx", "libopus", 48000),
    ("flv", "flv1", "aac", 44100),
    ("ts", "libx264", "aac", 48000),
    ("avi", "mpeg4", "mp2", 48000),
]
FPS = 10


def film(
    path: Path,
    codec: str,
    voice: str = "",
    rate: int = 48000,
    *,
    pictures: tuple[float, float],
    sound: tuple[float, float] = (0.0, 0.0),
    options: dict[str, str] | None = None,
) -> Path:
    """Pictures as grey as the tenth of a second at which they are shown, and sound."""
    with av.open(str(path), "w", options=options or {}) as file:
        shown = cast("av.VideoStream", file.add_stream(codec, rate=FPS))
        shown.width, shown.height, shown.pix_fmt = 64, 48, "yuv420p"
        shown.codec_context.time_base = Fraction(1, FPS)
        shown.options = {"g": "10", "bf": "0"}
        heard = cast("av.AudioStream", file.add_stream(voice, rate=rate)) if voice else None
        packets: list[av.Packet] = []
        for tick in range(round(pictures[0] * FPS), round(pictures[1] * FPS)):
            pixels = np.full((48, 64, 3), min(250, tick * 2), dtype=np.uint8)
            picture = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            picture.pts, picture.time_base = tick, Fraction(1, FPS)
            packets += shown.encode(picture)
        packets += shown.encode(None)
        if heard is not None:
            heard.layout = "stereo"
            size = heard.codec_context.frame_size or 1024
            layout = "flt" if voice == "libopus" else "fltp" if voice == "aac" else "s16p"
            kind = np.int16 if layout == "s16p" else np.float32
            for first in range(round(sound[0] * rate), round(sound[1] * rate), size):
                shape = (1, size * 2) if layout == "flt" else (2, size)
                quiet = av.AudioFrame.from_ndarray(np.zeros(shape, kind), layout, "stereo")
                quiet.sample_rate, quiet.pts, quiet.time_base = rate, first, Fraction(1, rate)
                packets += heard.encode(quiet)
            packets += heard.encode(None)
        packets = [p for p in packets if p.dts is not None and p.time_base is not None]
        for packet in sorted(packets, key=lambda p: float((p.dts or 0) * (p.time_base or 0))):
            file.mux(packet)
    return path


def seconds(data: bytes) -> float:
    """The second at which the frame is shown in its film."""
    with Image.open(io.BytesIO(data)) as picture:
        return float(np.asarray(picture.convert("L")).mean()) / 2 / FPS


@pytest.mark.parametrize(("ending", "codec", "voice", "rate"), CONTAINERS)
def test_sound_that_is_longer_makes_no_clip_longer(
    tmp_path: Path, ending: str, codec: str, voice: str, rate: int
) -> None:
    path = film(tmp_path / f"a.{ending}", codec, voice, rate, pictures=(0.0, 6.0), sound=(0.0, 9.0))
    clip = cut_clip(path, ClipRule())
    assert clip.times_s == pytest.approx((0.0, 1.0, 2.0, 3.0, 4.0, 5.0), abs=0.03)
    assert clip.start_s == 0.0
    assert [seconds(f) for f in clip.frames] == pytest.approx(clip.times_s, abs=0.25)
    times, _ = read_frames(Asked(path.name), tmp_path, 8, 1_000_000)
    assert len(times) == 8 and times[-1] < 6.0  # a benchmark's frames, spread over the pictures
    with pytest.raises(RowError, match="ends at 9 s") as caught:
        cut_clip(path, ClipRule(), 1.0, 9.0)
    assert caught.value.code == "video_window"


@pytest.mark.parametrize(
    ("ending", "codec", "voice", "rate"), [c for c in CONTAINERS if c[0] != "avi"]
)
def test_second_0_is_where_a_player_begins_also_before_the_first_picture(
    tmp_path: Path, ending: str, codec: str, voice: str, rate: int
) -> None:
    """Pictures from 3.0 to 8.9 s of the sound; a source's spans are of a player's clock."""
    path = film(tmp_path / f"a.{ending}", codec, voice, rate, pictures=(3.0, 9.0), sound=(0.0, 9.0))
    video = PyavVideo(path, SAFE_PIXELS)
    assert video.info.start_s == pytest.approx(3.0, abs=0.06)
    assert video.info.end_s == pytest.approx(9.0, abs=0.12)
    video.close()
    whole = cut_clip(path, ClipRule())
    assert len(whole.frames) == 6 and whole.start_s == pytest.approx(3.0, abs=0.06)
    assert whole.times_s == pytest.approx((0.0, 1.0, 2.0, 3.0, 4.0, 5.0), abs=0.03)
    part = cut_clip(path, ClipRule(), 5.0, 8.0)
    assert [seconds(f) for f in part.frames] == pytest.approx((5.0, 6.0, 7.0), abs=0.25)
    assert part.times_s == pytest.approx((0.0, 1.0, 2.0), abs=0.1)
    early = cut_clip(path, ClipRule(), 1.0, 5.0)
    assert early.start_s == pytest.approx(3.0, abs=0.06)
    assert [seconds(f) for f in early.frames] == pytest.approx((3.0, 4.0), abs=0.25)
    with pytest.raises(RowError, match="the first picture"):
        cut_clip(path, ClipRule(), 0.5, 2.0)


@pytest.mark.parametrize("ending", ["mkv", "mp4"])
def test_pictures_alone_that_come_late_are_second_0(tmp_path: Path, ending: str) -> None:
    path = film(tmp_path / f"d.{ending}", "libx264", pictures=(3.0, 9.0))
    clip = cut_clip(path, ClipRule())
    assert (len(clip.frames), clip.start_s) == (6, 0.0)
    assert [seconds(f) for f in clip.frames] == pytest.approx(range(3, 9), abs=0.25)


def test_the_cover_of_a_record_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "song.m4a"
    cover = image(tmp_path / "cover.png").read_bytes()
    with av.open(str(path), "w", format="mp4") as file:
        heard = file.add_stream("aac", rate=48000)
        shown = file.add_stream("png", rate=1)
        shown.width, shown.height, shown.pix_fmt = 64, 48, "rgb24"  # type: ignore[union-attr]
        shown.disposition = Disposition.attached_pic
        quiet = av.AudioFrame.from_ndarray(np.zeros((1, 48000), np.float32), "fltp", "mono")
        quiet.sample_rate, quiet.pts = 48000, 0
        packet = av.Packet(cover)
        packet.stream, packet.pts, packet.dts, packet.is_keyframe = shown, 0, 0, True
        packet.time_base = Fraction(1, 1)
        file.mux([packet, *heard.encode(quiet), *heard.encode(None)])
    with pytest.raises(RowError) as caught:
        cut_clip(path, ClipRule())
    assert caught.value.code == "video_no_picture"


def test_a_recording_that_names_no_length_is_measured(tmp_path: Path) -> None:
    """As a browser records: WebM to a stream, whose header was never completed."""
    path = film(
        tmp_path / "live.webm", "libvpx", "libopus", pictures=(0.0, 6.0), sound=(0.0, 6.0),
        options={"live": "1"},
    )  # fmt: skip
    with av.open(str(path)) as file:
        assert file.duration is None
    assert len(cut_clip(path, ClipRule()).frames) == 6
    with pytest.raises(RowError) as caught:
        cut_clip(path, ClipRule(horizon_s=4.0))
    assert caught.value.code == "clip_long"  # not the first four seconds of it


@pytest.mark.parametrize("ending", ["mkv", "webm", "flv"])
def test_a_file_that_is_cut_is_still_told_from_one_with_longer_sound(
    tmp_path: Path, ending: str
) -> None:
    _, codec, voice, rate = next(c for c in CONTAINERS if c[0] == ending)
    path = film(tmp_path / f"a.{ending}", codec, voice, rate, pictures=(0.0, 9.0), sound=(0.0, 9.0))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.6)])
    with pytest.raises(RowError) as caught:
        cut_clip(path, ClipRule())
    assert caught.value.code in ("video_truncated", "video_unreadable")


def chat(name: str, question: str, answer: str, **more: Any) -> dict[str, Any]:
    turns = [
        {"from": "human", "value": f"<video>\n{question}"},
        {"from": "gpt", "value": answer},
    ]
    return {"id": name, "conversations": turns, **more}


def test_spans_of_the_source_stay_true_to_the_pictures(tmp_path: Path) -> None:
    root = tmp_path / "lab"
    root.mkdir()
    film(
        root / "late.mkv", "libx264", "libopus", pictures=(3.0, 9.0), sound=(0.0, 9.0)
    )  # fmt: skip
    ask = "When does it get brighter? Give start and end in seconds."
    write_json(
        root / "rows.json",
        [
            chat("late", ask, "[4.0, 6.0]", video=["late.mkv"]),
            chat("window", ask, "[5.0, 6.0]", video=[{"video": "late.mkv", "start": "00:04", "end": 8}]),
        ],
    )  # fmt: skip
    found = imported(root, tmp_path / "pool")
    for name, span in (("late", (1.0, 3.0)), ("window", (1.0, 2.0))):
        sample = found.samples[f"lab/{name}"]
        assert (sample.answer.start, sample.answer.end) == pytest.approx(span, abs=0.06)  # type: ignore[union-attr]
    shown = [seconds(f) for f in found.samples["lab/late"].images]
    assert shown == pytest.approx(range(3, 9), abs=0.25)
    assert not found.bad


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        (None, None),
        ("", None),
        (4, 4.0),
        (2.5, 2.5),
        ("2.5", 2.5),
        ("12 s", 12.0),
        ("12s", 12.0),
        ("00:01", 1.0),
        ("1:02:03", 3723.0),
        ("01:02:03.5", 3723.5),
        ("00:00:01,250", 1.25),
        ("90:00", 5400.0),
        ("00:75", RowError),
        ("1:75:00", RowError),
        ("soon", RowError),
        (True, RowError),
        ([1], RowError),
        ("1:" * 4000, RowError),
        ("1" * 100_000, RowError),
    ],
)
def test_times_are_seconds_or_a_clocks(said: object, wanted: object) -> None:
    if wanted is RowError:
        with pytest.raises(RowError, match="a time of a video") as caught:
            seconds_of(said)
        assert len(caught.value.reason) < 400
    else:
        assert seconds_of(said) == wanted


def test_videos_as_lists_of_their_pictures(tmp_path: Path) -> None:
    root = tmp_path / "lab"
    names = [f"frames/cup/{i:03d}.jpg" for i in range(6)]
    for number, name in enumerate(names):
        image(root / name, seed=number)
    video(root / "whole.mp4", 4.0)
    ask, when = "Does the cup move?", "When does the cup move? Give start and end in seconds."
    qwen = [
        {"type": "video", "video": [f"file://{root}/{n}" for n in names], "fps": 2.0},
        {"type": "text", "text": ask},
    ]
    rows = [
        chat("flat", ask, "yes", video=names),
        chat("nested", ask, "yes", videos=[names]),
        chat("mixed", ask, "yes", videos=[names, "whole.mp4"]),
        chat("rate", when, "[1, 2]", videos=[{"video": names, "fps": 2}]),
        chat("no rate", when, "[1, 2]", videos=[names]),
        chat("rate 0", when, "[1, 2]", videos=[{"video": names, "fps": 0}]),
        chat("one", ask, "yes", videos=[names[:1]]),
        chat("gone", ask, "yes", videos=[[names[0], "frames/cup/9.jpg", names[1]]]),
        {
            "id": "qwen",
            "conversations": [
                {"from": "human", "value": qwen},
                {"from": "gpt", "value": "yes"},
            ],
        },
    ]
    rows[2]["conversations"][0]["value"] = f"<video><video>\n{ask}"
    write_json(root / "rows.json", rows)
    found = imported(root, tmp_path / "pool")
    times = {name.partition("/")[2]: s.times_s for name, s in found.samples.items()}
    assert times == {
        "flat": (0.0, 1.0, 2.0, 3.0, 4.0, 5.0),
        "nested": (0.0, 1.0, 2.0, 3.0, 4.0, 5.0),
        "mixed": tuple(float(i) for i in range(10)),
        "rate": (0.0, 1.0, 2.0),
        "qwen": (0.0, 1.0, 2.0),
    }
    flat = found.samples["lab/flat"]
    assert flat.media_kind == "clip" and flat.scene == "lab/frames/cup/"
    assert flat.images[2] == (root / names[2]).read_bytes()
    assert found.bad == {
        "no rate": "answer", "rate 0": "schema", "one": "clip_step", "gone": "media_missing",
    }  # fmt: skip
    assert "fps" in found.reasons["no rate"]


def test_rows_of_a_table_have_windows_by_the_clock(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    root = tmp_path / "lab"
    video(root / "a.mp4", 4.0)
    rows = [
        {"question": "Does it move?", "answer": "yes", "video": "a.mp4", "start": "00:01", "end": "00:03"},
        {"question": "Does it stop?", "answer": "yes", "video": "a.mp4", "start": "one", "end": "00:03"},
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), root / "rows.parquet")
    found = imported(root, tmp_path / "pool")
    (sample,) = found.samples.values()
    assert sample.times_s == (0.0, 1.0)
    assert list(found.bad.values()) == ["schema"]

"""The shipped samples as a lab would have them: RoboPoint's style, relative paths, stills and clips."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from pelican.data.tables import read_samples
from pelican.records import Sample
from pelican.rewards.masks import decode_mask

STEP_S = 8  # of the shipped clips: 4 frames are 32 s, 8 are 64 s


def export(samples: Path, root: Path, wanted: dict[tuple[str, float], int]) -> dict[str, Sample]:
    """Write the first `wanted[kind of answer, span in seconds]` samples; returns them by id.

    Each has its file below `images/` or `clips/`; rows of one scene share it.
    """
    left, rows, chosen = dict(wanted), [], {}
    for sample in read_samples(samples):
        kind = (sample.answer.kind, sample.span_s)
        if not left.get(kind) or sample.answer.kind not in SAID:
            continue
        left[kind] -= 1
        chosen[sample.id] = sample
        clip = sample.media_kind == "clip"
        path = f"clips/{sample.scene}.mp4" if clip else f"images/{sample.scene}.jpg"
        _write_media(root / path, sample)
        rows.append(_row(sample, path))
    rows.append({**rows[0], "id": "gone", "images": ["images/gone.jpg"]})
    rows.append({**rows[1], "id": "elsewhere", "images": ["../elsewhere.jpg"]})
    (root / "train.json").write_text(json.dumps(rows))
    return chosen


def _row(sample: Sample, path: str) -> dict[str, Any]:
    grid = " use 0 to 100." if sample.answer.kind in ("points", "box") else ""
    question = f"<image>\n{sample.turns[-1].text}{grid}"
    return {
        "id": sample.id,
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": SAID[sample.answer.kind](sample.answer)},
        ],
        "images": [path],
    }


def _centre(answer: Any) -> str:
    """The pixel of the mask that is nearest to its middle, on a grid of 100."""
    inside = np.argwhere(decode_mask(answer.mask))
    row, column = inside[np.abs(inside - inside.mean(axis=0)).sum(axis=1).argmin()]
    height, width = answer.mask.size
    return f"[({100 * column / width:.1f}, {100 * row / height:.1f})]"


SAID: dict[str, Callable[[Any], str]] = {
    "choice": lambda answer: answer.answer,
    "count": lambda answer: str(answer.value),
    "distance": lambda answer: f"{answer.value:g} {answer.unit}",
    "interval": lambda answer: f"{answer.start:g} to {answer.end:g} s",
    "points": _centre,
    "steps": lambda answer: "\n".join(f"{i}. {s}" for i, s in enumerate(answer.steps, 1)),
    "text": lambda answer: answer.value,
}


def _write_media(path: Path, sample: Sample) -> None:
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if sample.media_kind == "image":
        path.write_bytes(sample.images[0])
        return
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=Fraction(1, STEP_S))
        frames = [Image.open(io.BytesIO(data)).convert("RGB") for data in sample.images]
        stream.width, stream.height = frames[0].size
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "12"}
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(frame), format="rgb24")))
        file.mux(stream.encode(None))

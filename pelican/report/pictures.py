"""Samples as people see them: small JPEGs with what was asked for drawn in, the answer in words."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from pelican.records import (
    Answer,
    BoxAnswer,
    ChoiceAnswer,
    CountAnswer,
    DistanceAnswer,
    IntervalAnswer,
    OpenAnswer,
    OrderAnswer,
    PointsAnswer,
    Sample,
    StepsAnswer,
    YesNoAnswer,
)
from pelican.rewards.base import Unscorable
from pelican.rewards.extract import extract_answer
from pelican.rewards.parse.coordinates import parse_box, parse_points

STILL_PX, FRAME_PX = 288, 168  # longest side
FRAMES = 6  # of a clip
QUALITY = 74
_RIGHT, _POLICY, _TEACHER = (63, 179, 117), (224, 82, 72), (72, 128, 224)


def pictures(sample: Sample, policy: str = "", teacher: str = "") -> list[str]:
    """Data URIs of a still or of up to six frames of a clip.

    Where points or a box are asked, the right region is drawn in green, the policy's answer in
    red and the teacher's in blue, on the last frame.
    """
    count = len(sample.images)
    if count == 1:
        chosen, side = [0], STILL_PX
    else:
        chosen, side = _spread(count, FRAMES), FRAME_PX
    frames = [_small(sample.images[index], side) for index in chosen]
    if isinstance(sample.answer, PointsAnswer | BoxAnswer):
        frames[-1] = _marked(frames[-1], sample.answer, policy, teacher)
    return [_data_uri(frame) for frame in frames]


def _spread(count: int, wanted: int) -> list[int]:
    """Up to `wanted` indices from first to last."""
    if count <= wanted:
        return list(range(count))
    return [round(index * (count - 1) / (wanted - 1)) for index in range(wanted)]


def _small(data: bytes, side: int) -> Image.Image:
    with Image.open(io.BytesIO(data)) as image:
        small = image.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    return small


def _data_uri(image: Image.Image) -> str:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()


def _marked(
    image: Image.Image, answer: PointsAnswer | BoxAnswer, policy: str, teacher: str
) -> Image.Image:
    factor = max(1, round(192 / max(image.size)))  # marks need pixels that small pictures lack
    image = image.resize((image.width * factor, image.height * factor), Image.Resampling.BICUBIC)
    if isinstance(answer, PointsAnswer):
        image = _tinted(image, answer)
    draw = ImageDraw.Draw(image)
    if isinstance(answer, BoxAnswer):
        _draw_box(draw, image, answer.box, answer.scale, _RIGHT)
    for words, colour in ((teacher, _TEACHER), (policy, _POLICY)):
        try:
            text = extract_answer(words).text
            if isinstance(answer, BoxAnswer):
                _draw_box(draw, image, parse_box(text), answer.scale, colour)
            else:
                _draw_points(draw, image, parse_points(text), answer.scale, colour)
        except Unscorable:
            continue  # what can't be read can't be drawn; the text stands beside the picture
    return image


def _tinted(image: Image.Image, answer: PointsAnswer) -> Image.Image:
    from pelican.rewards.masks import decode_mask

    mask = Image.fromarray(np.asarray(decode_mask(answer.mask)) * np.uint8(110))
    mask = mask.resize(image.size, Image.Resampling.NEAREST)
    return Image.composite(Image.new("RGB", image.size, _RIGHT), image, mask)


def _draw_box(
    draw: ImageDraw.ImageDraw,
    image: Image.Image,
    box: Sequence[float],
    scale: int,
    colour: tuple[int, int, int],
) -> None:
    width, height = image.size
    x0, y0, x1, y1 = box
    left, right = sorted((x0 * width / scale, x1 * width / scale))
    top, bottom = sorted((y0 * height / scale, y1 * height / scale))
    draw.rectangle((left, top, right, bottom), outline=colour, width=2)


def _draw_points(
    draw: ImageDraw.ImageDraw,
    image: Image.Image,
    points: Sequence[Sequence[float]],
    scale: int,
    colour: tuple[int, int, int],
) -> None:
    for point in points:
        x, y = point[0] * image.width / scale, point[1] * image.height / scale
        draw.ellipse((x - 5, y - 5, x + 5, y + 5), outline=(255, 255, 255), width=4)
        draw.ellipse((x - 4, y - 4, x + 4, y + 4), outline=colour, width=2)


def answer_words(answer: Answer) -> str:
    """The right answer as a short text."""
    match answer:
        case PointsAnswer():
            return "points inside the green region"
        case BoxAnswer(box=box):
            return f"box {tuple(round(v, 1) for v in box)}"
        case CountAnswer(value=value):
            return str(value)
        case DistanceAnswer(value=value, unit=unit):
            return f"{value:g} {unit}"
        case ChoiceAnswer(options=options, answer=letter):
            return f"{letter}. {options[ord(letter) - ord('A')]}"
        case YesNoAnswer(value=value):
            return "yes" if value else "no"
        case OrderAnswer(items=items):
            return " → ".join(items)
        case IntervalAnswer(start=start, end=end):
            return f"{start:g} to {end:g} s"
        case StepsAnswer(steps=steps):
            return "; ".join(steps)
        case OpenAnswer(reference=reference):
            return reference
        case _:
            return answer.value

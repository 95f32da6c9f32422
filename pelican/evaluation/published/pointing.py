"""Where2Place and RefSpatial-Bench: the share of the named points that lie inside a mask."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from pelican.data.formats.published import pointing_item
from pelican.data.tables import RowError
from pelican.errors import UserInputError
from pelican.evaluation.published.base import (
    DIGITS,
    Benchmark,
    Context,
    Grade,
    Picture,
    Pixels,
    Question,
    Reply,
    Row,
    UnreadablePoints,
    over_groups,
    over_questions,
    pixels_of,
    share_inside,
    whole,
)
from pelican.evaluation.published.load import files_below, grey_values, read_file, read_files, text
from pelican.records import Dimension, Family
from pelican.rewards.base import Unscorable
from pelican.rewards.coordinates import (
    PER_CENT,
    PER_MILLE,
    Region,
    keyed_regions,
    tagged_points,
)

_SHOWN = 20  # points of the answer as the results keep it
Read = Callable[[str, int, int], Pixels]  # the points of a reply, in pixels of a width and height


def _robopoint(text: str, width: int, height: int) -> Pixels:
    return pixels_of(text, width, height, robopoint=True)


# RoboRefer's code reads Molmo's replies and Gemini's by patterns of their own, which it picks by the
# model's name. Here the tag and the key tell them.
_MOLMO = re.compile(rf'x\d+="(-?{DIGITS})"\s+y\d+="(-?{DIGITS})"')
_KEY = re.compile(r"[\"']point(?:_2d)?[\"']\s{0,9}:\s{0,9}\[", re.IGNORECASE)


def _roborefer(text: str, width: int, height: int) -> Pixels:
    regions = [Region((float(x), float(y)), PER_CENT) for x, y in _MOLMO.findall(text)]
    try:
        regions = regions or tagged_points(text)
        if not regions and _KEY.search(text):
            regions = [region for region in keyed_regions(text) if len(region.numbers) == 2]
    except Unscorable as failure:
        raise UnreadablePoints(failure.reason) from None
    if not regions:
        return pixels_of(text, width, height, robopoint=False)
    found = []
    for (x, y), grid in regions:
        own = grid or (1 if max(x, y) <= 1 else PER_MILLE)  # `point_2d` names none
        found.append((whole(x / own * width), whole(y / own * height)))
    return np.array(found, np.int64)


def _grade(read: Read, *, grey: bool) -> Callable[[Question, Reply, Context], Grade]:
    def grade(question: Question, reply: Reply, context: Context) -> Grade:
        assert question.mask is not None
        mask = grey_values(question.mask, context.folder)
        if not grey:
            mask = (mask > 0).astype(np.float64)
        height, width = mask.shape
        try:
            points = read(reply.text, width, height)
        except UnreadablePoints as error:
            return Grade(0.0, reply.text[:200], f"refused: {error}")
        shown = "; ".join(f"({x}, {y})" for x, y in points[:_SHOWN].tolist())
        if not len(points):
            return Grade(0.0, "", "no answer: no point is named")
        value = share_inside(points, mask)
        return Grade(value, shown, "" if value else "wrong: no point is inside the mask")

    return grade


def _where2place_rows(folder: Path) -> Iterator[tuple[str, Row]]:
    path = folder / "point_questions.jsonl"
    if not path.is_file():
        raise UserInputError(
            f"{folder} holds no point_questions.jsonl; docs/published-benchmarks.md gives the layouts"
        )
    for number, row in enumerate(read_file(path)):
        yield path.name, {**row, "_number": number}


def _where2place(row: Row, folder: Path) -> Question:
    item = pointing_item(row)
    return Question(
        id=f"where2place-{row['_number']:02d}",
        prompt=item.question,
        media=(Picture(path=f"images/{item.media}"),),
        truth="mask",
        group="where2place",
        scene=item.scene,
        # Masks are numbered by the line, not by question_id.
        mask=Picture(path=f"masks/{row['_number']:02d}.jpg"),
    )


WHERE2PLACE = Benchmark(
    name="where2place",
    title="Where2Place",
    suite="embodied",
    family=Family.AFFORDANCE,
    dimension=Dimension.AFFORDANCE_FUNCTION,
    source="arXiv 2406.10721; wentaoyuan/RoboPoint 9d54aac, robopoint/eval/summarize_vqa.py",
    layout="point_questions.jsonl; images/; masks/NN.jpg by line",
    metric="share of the points inside the mask",
    rows=_where2place_rows,
    question=_where2place,
    grade=_grade(_robopoint, grey=True),  # its masks are JPEG
    scores=over_questions,
)


def _refspatial_rows(folder: Path) -> Iterator[tuple[str, Row]]:
    files = files_below(folder, ("*/question.json",), "Location/question.json and its like")
    for name, row in read_files(files, folder):
        yield name, {**row, "_task": name.split("/")[0]}


def _refspatial(row: Row, folder: Path) -> Question:
    task, item = row["_task"], pointing_item(row)
    for name, value in (("suffix", item.suffix), ("mask_path", item.mask)):
        if not value:
            raise RowError("schema", f"{name} is missing")
    return Question(
        id=f"refspatial-{task.lower()}-{text(row, 'id')}",
        prompt=f"{item.question} {item.suffix}",
        media=(Picture(path=f"{task}/{item.media}"),),
        truth="mask",
        group=task,
        scene=item.scene,
        mask=Picture(path=f"{task}/{item.mask}"),
    )


REFSPATIAL = Benchmark(
    name="refspatial",
    title="RefSpatial-Bench",
    suite="embodied",
    family=Family.AFFORDANCE,
    dimension=Dimension.PERCEPTION_GROUNDING,
    source="arXiv 2506.04308; Zhoues/RoboRefer d97a995, Evaluation/summarize_acc.py",
    layout="<task>/question.json with rgb_path, mask_path; tasks Location, Placement, Unseen",
    metric="share of the points inside the mask, by task; overall: mean of the tasks",
    rows=_refspatial_rows,
    question=_refspatial,
    grade=_grade(_roborefer, grey=False),
    scores=over_groups,
)

"""RoboSpatial-Home: yes or no, or one point in a polygon (arXiv 2411.16537).

Follows evaluation.py of chanhee-luke/RoboSpatial-Eval at 3af8ceb.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pelican.data.tables import RowError
from pelican.evaluation.published.base import (
    Benchmark,
    Context,
    Grade,
    Question,
    Reply,
    Row,
    first_pair,
    graded_as,
    in_polygon,
    over_groups,
    polygon_of,
)
from pelican.evaluation.published.load import files_below, picture, read_files, text
from pelican.records import Dimension, Family


def _rows(folder: Path) -> Iterator[tuple[str, Row]]:
    patterns = ("annotations.json", "*.parquet", "data/*.parquet")
    files = files_below(folder, patterns, "annotations.json or *.parquet")
    for number, (name, row) in enumerate(read_files(files, folder)):
        yield name, {**row, "_number": number}


def _question(row: Row, folder: Path) -> Question:
    truth = text(row, "answer").strip()
    binary = truth.lower() in ("yes", "no")
    if not binary and polygon_of(truth) is None:
        raise RowError("answer", "the answer is neither yes nor no nor a polygon")
    image = picture(row.get("img"))
    return Question(
        id=f"robospatial-{row['_number']:04d}",
        prompt=text(row, "question"),
        media=(image,),
        truth=truth,
        group=text(row, "category"),
        scene=image.path or f"robospatial-{row['_number']:04d}",
        chance=0.5 if binary else 0.0,
    )


def _grade(question: Question, reply: Reply, context: Context) -> Grade:
    wanted = question.truth.lower()
    if wanted in ("yes", "no"):
        said = reply.text.strip().lower()
        return graded_as(said.startswith(wanted), said[:200])
    point = first_pair(reply.text)
    if point is None:
        return Grade(0.0, "", "unreadable: no point" if reply.text else "no answer")
    corners = polygon_of(question.truth) or []
    return graded_as(in_polygon(point, corners), f"({point[0]:g}, {point[1]:g})")


BENCHMARK = Benchmark(
    name="robospatial",
    title="RoboSpatial-Home",
    suite="embodied",
    family=Family.AFFORDANCE,
    dimension=Dimension.SPATIAL_GEOMETRIC,
    source="arXiv 2411.16537; chanhee-luke/RoboSpatial-Eval 3af8ceb",
    layout="annotations.json (its download_benchmark.py) with images/, or the Parquet splits",
    metric="yes or no by prefix; first point in the polygon; mean of the three categories",
    rows=_rows,
    question=_question,
    grade=_grade,
    scores=over_groups,
)

"""MVBench: twenty tasks over short videos (arXiv 2311.17005).

Layout and prompt of the published data; the reply is read as EvolvingLMMs-Lab/lmms-eval 75571cf
does (tasks/mvbench). The authors' notebook takes an empty reply for right, so it is not followed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from pelican.data.formats.published import FRAMES_FPS, mvbench_item
from pelican.data.tables import RowError
from pelican.evaluation.published.base import (
    Benchmark,
    Clip,
    Question,
    Row,
    by_letter,
    over_questions,
)
from pelican.evaluation.published.load import files_below, lettered, read_file
from pelican.records import Dimension, Family

# Where the videos of a task lie below video/, as its own release and as lmms-eval names them.
_CHARADES = ("star/Charades_v1_480", "star/Charades_segment")
_CLEVRER = ("clevrer/video_validation",)
_PERCEPTION = ("perception/videos",)
FOLDERS: dict[str, tuple[str, ...]] = {
    "action_sequence": _CHARADES,
    "action_prediction": _CHARADES,
    "action_antonym": ("ssv2_video", "ssv2_video_mp4"),
    "fine_grained_action": ("Moments_in_Time_Raw/videos",),
    "unexpected_action": ("FunQA_test/test",),
    "object_existence": _CLEVRER,
    "object_interaction": _CHARADES,
    "object_shuffle": _PERCEPTION,
    "moving_direction": _CLEVRER,
    "action_localization": ("sta/sta_video", "sta/sta_video_segment"),
    "scene_transition": ("scene_qa/video",),
    "action_count": _PERCEPTION,
    "moving_count": _CLEVRER,
    "moving_attribute": _CLEVRER,
    "state_change": _PERCEPTION,
    "fine_grained_pose": ("nturgbd", "nturgbd_convert"),
    "character_order": _PERCEPTION,
    "egocentric_navigation": ("vlnqa",),
    "episodic_reasoning": ("tvqa/frames_fps3_hq", "tvqa/video_fps3_hq_segment"),
    "counterfactual_inference": _CLEVRER,
}
BOUNDED = frozenset(
    {
        "action_sequence",
        "action_prediction",
        "object_interaction",
        "action_localization",
        "episodic_reasoning",
    }
)
_CUT = frozenset({"star/Charades_segment", "sta/sta_video_segment", "tvqa/video_fps3_hq_segment"})

_LETTERED = re.compile(r"([A-E])\.\s*.+$", re.IGNORECASE)
_ALONE = re.compile(r"\b([A-E])\b", re.IGNORECASE)
_GROUPED_DIGITS = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_MARKS = ';/[]"{}()=+\\_-><@`,?!'


def _rows(folder: Path) -> Iterator[tuple[str, Row]]:
    files = files_below(folder, ("json/*.json", "*.json"), "json/<task>.json")
    for path in files:
        for number, row in enumerate(read_file(path)):
            name = path.relative_to(folder).as_posix()
            yield name, {**row, "_task": path.stem, "_row": number}


def _question(row: Row, folder: Path) -> Question:
    task = str(row["_task"])
    if task not in FOLDERS:
        raise RowError("schema", f"task {task!r} is none of MVBench's twenty")
    item = mvbench_item(row, task, f"mvbench-{task}-{row['_row']:03d}")
    if item.answer not in item.options:
        raise RowError("answer", f"answer {item.answer!r} is none of the candidates")
    below, root = _place(folder, task, item.media)
    bounded = task in BOUNDED and root not in _CUT
    return Question(
        id=item.id,
        prompt=(
            f"Question:{item.question}\nOption:\n"
            + lettered(item.options, "({letter}) {option}")
            + "\nOnly give the best option."
        ),
        media=Clip(
            below,
            start_s=(item.start_s or 0.0) if bounded else 0.0,
            end_s=item.end_s if bounded else None,
            fps=FRAMES_FPS if root == "tvqa/frames_fps3_hq" else None,
        ),
        truth=chr(ord("A") + item.options.index(item.answer)),
        group=task,
        scene=f"{root}/{item.media}",
        options=item.options,
        chance=1 / len(item.options),
    )


def _place(folder: Path, task: str, video: str) -> tuple[str, str]:
    """The video's path below `folder`, and which of the task's folders it lies in."""
    for root in FOLDERS[task]:
        for above in ("video/", ""):
            if (folder / above / root / video).exists():
                return f"{above}{root}/{video}", root
    return f"video/{FOLDERS[task][0]}/{video}", FOLDERS[task][0]


def letter(reply: str) -> str:
    """The letter that a reply in the form of "B. text" begins with, else the first lone A to E.

    The article "a" is one too. A mark that touches a space anywhere is dropped everywhere; other
    marks become spaces.
    """
    found = _LETTERED.match(reply.strip())
    if found and "\n" not in reply.strip():
        return found[1].upper()
    flat = reply.replace("\n", " ").replace("\t", " ").strip()
    everything = _GROUPED_DIGITS.search(flat) is not None
    drop = {m for m in _MARKS if everything or f"{m} " in flat or f" {m}" in flat}
    plain = flat.translate({ord(m): "" if m in drop else " " for m in _MARKS})
    alone = _ALONE.search(_PERIOD.sub("", plain, count=32).lower())
    return alone[1].upper() if alone else ""


BENCHMARK = Benchmark(
    name="mvbench",
    title="MVBench",
    suite="general",
    family=Family.GENERAL,
    dimension=Dimension.TEMPORAL_SEQUENTIAL,
    source="arXiv 2311.17005; OpenGVLab/Ask-Anything 4dd8210; EvolvingLMMs-Lab/lmms-eval 75571cf",
    layout="json/<task>.json; video/<folder of the task>/",
    metric="exact choice, mean over the questions",
    rows=_rows,
    question=_question,
    grade=by_letter(letter),
    scores=over_questions,
    frames=16,
)

"""BLINK, EmbSpatial-Bench and Cosmos-Reason1: choices, read by one letter of the reply."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pelican.data.tables import RowError
from pelican.evaluation.published.base import (
    LETTER_DIRECTLY,
    Benchmark,
    Clip,
    Question,
    Row,
    by_letter,
    first_capital,
    leading_letter,
    over_groups,
    over_questions,
)
from pelican.evaluation.published.load import (
    files_below,
    letter_of,
    lettered,
    picture,
    pictures,
    read_files,
    text,
    texts,
    without_placeholders,
)
from pelican.records import Dimension, Family

_ONLY = "Note: You only need to respond with {} without providing any additional information.\n"


def _blink_rows(folder: Path) -> Iterator[tuple[str, Row]]:
    patterns = ("*/val*.parquet", "val*.parquet")
    return read_files(files_below(folder, patterns, "<subtask>/val*.parquet"), folder)


def _blink(row: Row, folder: Path) -> Question | None:
    name, options, answer = text(row, "idx"), texts(row, "choices"), text(row, "answer")
    if answer.strip() == "hidden":
        return None  # the answers of the test split are not public
    letters = ", ".join(chr(ord("A") + i) for i in range(len(options)))
    return Question(
        id=f"blink-{name}",
        prompt=_ONLY.format(letters) + without_placeholders(text(row, "prompt")),
        media=pictures(row.get(f"image_{i}") for i in range(1, 5)),
        truth=letter_of(answer, len(options)),
        group=text(row, "sub_task"),
        scene=name,
        options=options,
        chance=1 / len(options),
    )


BLINK = Benchmark(
    name="blink",
    title="BLINK (validation)",
    suite="embodied",
    family=Family.PREDICTION,
    dimension=Dimension.PERCEPTION_GROUNDING,
    source="arXiv 2404.12390; zeyofu/BLINK_Benchmark 2d6a779; EvolvingLMMs-Lab/lmms-eval 75571cf",
    layout="<subtask>/val*.parquet with prompt, choices, answer, image_1 … image_4",
    metric="exact choice; mean of the subtasks",
    rows=_blink_rows,
    question=_blink,
    grade=by_letter(leading_letter),
    scores=over_groups,
)


def _embspatial_rows(folder: Path) -> Iterator[tuple[str, Row]]:
    patterns = ("*bench*.json", "*bench*.jsonl", "*.parquet", "data/*.parquet")
    wanted = "embspatial_bench.json or *.parquet"
    return read_files(files_below(folder, patterns, wanted), folder)


def _embspatial(row: Row, folder: Path) -> Question:
    name, options = text(row, "question_id"), texts(row, "answer_options")
    listed = lettered(options, "{letter}) {option}")
    return Question(
        id=f"embspatial-{name}",
        prompt=f"{_ONLY.format('A, B, C, D')}{text(row, 'question')}\n{listed}",
        media=(picture(row.get("image")),),
        truth=letter_of(row.get("answer"), len(options)),
        group=text(row, "relation"),
        scene=f"{row.get('data_source', '')}/{row.get('scene_id') or name}",
        options=options,
        chance=1 / len(options),
    )


EMBSPATIAL = Benchmark(
    name="embspatial",
    title="EmbSpatial-Bench",
    suite="embodied",
    family=Family.SUCCESS,
    dimension=Dimension.SPATIAL_GEOMETRIC,
    source="arXiv 2406.05756; mengfeidu/EmbSpatial-Bench 75792fc; EvolvingLMMs-Lab/lmms-eval 75571cf",
    layout="embspatial_bench.json (image in base64), or *.parquet",
    metric="exact choice, mean over the questions",
    rows=_embspatial_rows,
    question=_embspatial,
    grade=by_letter(leading_letter),
    scores=over_questions,
)

_COSMOS_FORMAT = (
    "Please answer the question in the following format:"
    " <think> your reasoning </think> <answer> your single letter answer </answer>."
)


def _cosmos_rows(folder: Path) -> Iterator[tuple[str, Row]]:
    patterns = ("*/*_benchmark_qa_pairs.json", "benchmark/*/*_benchmark_qa_pairs.json")
    wanted = "<source>/<source>_benchmark_qa_pairs.json"
    for name, row in read_files(files_below(folder, patterns, wanted), folder):
        pairs = row.get("qa_pairs")
        for number, pair in enumerate(pairs if isinstance(pairs, list) else [pairs]):
            yield name, {"pair": pair, "video": row.get("video"), "file": name, "number": number}


def _cosmos(row: Row, folder: Path) -> Question:
    pair, file = row["pair"], Path(row["file"])
    if not isinstance(pair, dict) or not isinstance(pair.get("index2ans"), dict):
        raise RowError("schema", "qa_pairs has no index2ans")
    choices: dict[str, str] = pair["index2ans"]
    truth = text(pair, "answer", "correct_answer").strip().upper()
    if truth not in {str(key).upper() for key in choices}:
        raise RowError("answer", f"answer {truth!r} is none of the choices {', '.join(choices)}")
    video = text(row, "video")
    listed = [f"({key}) {choice}" for key, choice in choices.items()]
    return Question(
        id=f"cosmos-{file.parent.name}-{Path(video).stem}-{row['number']}",
        prompt="\n".join([text(pair, "question"), *listed, LETTER_DIRECTLY, _COSMOS_FORMAT]),
        media=Clip((file.parent / video).as_posix()),
        truth=truth,
        group=file.parent.name,
        scene=f"{file.parent.name}/{video}",
        options=tuple(str(choice) for choice in choices.values()),
        chance=1 / len(choices),
    )


COSMOS = Benchmark(
    name="cosmos",
    title="Cosmos-Reason1 benchmark",
    suite="embodied",
    family=Family.SUCCESS,
    dimension=Dimension.SCENE_ACTION_UNDERSTANDING,
    source="arXiv 2503.15558; nvidia-cosmos/cosmos-reason1 3e7f1cb, examples/benchmark",
    layout="<source>/<source>_benchmark_qa_pairs.json; <source>/clips/",
    metric="first capital letter of the answer, mean over the questions",
    rows=_cosmos_rows,
    question=_cosmos,
    grade=by_letter(first_capital),
    scores=over_questions,
)

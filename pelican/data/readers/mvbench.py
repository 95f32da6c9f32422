"""MVBench: one JSON file per task in `json/`: video, question, candidates, answer, start, end."""

from __future__ import annotations

from collections.abc import Iterator

from pelican.data.quarantine import RowError
from pelican.data.readers.base import (
    Found,
    Media,
    Options,
    Reader,
    Record,
    Reference,
    Unread,
    list_of,
    number_of,
    record_key,
    text_of,
)
from pelican.data.readers.chat import VIDEO_ENDINGS
from pelican.data.readers.source import Source, json_rows
from pelican.records import Turn

FRAMES_FPS = 3.0  # MVBench's folders of frames (TVQA) hold three a second


class MvBench(Reader):
    name = "mvbench"
    about = "a JSON file per task: video, question, candidates, answer, start and end"

    def sniff(self, source: Source, options: Options) -> float:
        rows = [row for _, row in source.first_rows]
        wanted = {"video", "question", "candidates", "answer"}
        return 0.95 if any(wanted <= row.keys() for row in rows) else 0.0

    def read(self, source: Source, options: Options) -> Iterator[Found]:
        for path in source.of(".json", ".jsonl"):
            task = path.stem
            for row in json_rows(path):
                place = f"{source.name(path)}, row {row.number}"
                key = record_key([task, row.value if row.error is None else row.raw])
                if row.error is not None:
                    yield Unread(place, key, "", row.error)
                    continue
                value = row.value
                name = f"{task}/{text_of(value, 'question_id') or row.number - 1}"
                video, question = text_of(value, "video"), text_of(value, "question")
                choices = tuple(str(option) for option in list_of(value.get("candidates")))
                if not video or not question or value.get("answer") is None:
                    error = RowError("schema", "video, question or answer is missing")
                    yield Unread(place, key, name, error)
                    continue
                folder = not video.lower().endswith((*VIDEO_ENDINGS, ".gif"))
                yield Record(
                    place=place,
                    key=key,
                    turns=(Turn(role="user", text=question),),
                    media=(
                        Media(
                            "frames" if folder else "video",
                            video,
                            start_s=number_of(value, "start"),
                            end_s=number_of(value, "end"),
                            fps=(number_of(value, "fps") or FRAMES_FPS) if folder else None,
                        ),
                    ),
                    reference=Reference(value["answer"], "choice", choices),
                    id=name,
                    question_type=task,
                    source="mvbench",
                    scene=video,
                    benchmark="mvbench",
                )


READER = MvBench()

"""Open-EQA: one JSON list of question, answer, category and episode; frames in folders by episode."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

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
    record_key,
    text_of,
)
from pelican.data.readers.source import Source, json_rows
from pelican.records import Turn


class OpenEqa(Reader):
    name = "openeqa"
    about = "question, answer, category, episode_history; a folder of frames or a video by episode"

    def sniff(self, source: Source, options: Options) -> float:
        rows = [row for _, row in source.first_rows]
        return 0.95 if any({"episode_history", "question"} <= row.keys() for row in rows) else 0.0

    def read(self, source: Source, options: Options) -> Iterator[Found]:
        for path in source.of(".json", ".jsonl"):
            folder = Path(source.name(path)).parent.as_posix()
            for row in json_rows(path):
                place = f"{source.name(path)}, row {row.number}"
                key = record_key(row.value if row.error is None else row.raw)
                if row.error is not None:
                    yield Unread(place, key, "", row.error)
                    continue
                value = row.value
                name = text_of(value, "question_id")
                question, answer = text_of(value, "question"), text_of(value, "answer")
                episode = text_of(value, "episode_history")
                lacking = [
                    n
                    for n, text in [
                        ("question", question),
                        ("answer", answer),
                        ("episode_history", episode),
                    ]
                    if not text
                ]
                if lacking:
                    error = RowError("schema", f"{', '.join(lacking)} is missing")
                    yield Unread(place, key, name, error)
                    continue
                frames = f"{folder}/frames/{episode}"
                there = os.path.isdir(source.root / frames)
                yield Record(
                    place=place,
                    key=key,
                    turns=(Turn(role="user", text=question),),
                    # `fps` None: the frames' own rate is not published, one a second is assumed
                    media=(Media("frames", frames if there else episode),),
                    reference=Reference(
                        answer,
                        aliases=tuple(str(a) for a in list_of(value.get("extra_answers"))),
                    ),
                    id=name,
                    question_type=text_of(value, "category"),
                    source="openeqa",
                    scene=episode,
                    benchmark="openeqa",
                )


READER = OpenEqa()

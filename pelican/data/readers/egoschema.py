"""EgoSchema: `questions.json` with "option 0" to "option 4", answers in a file of their own."""

from __future__ import annotations

import json
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
    record_key,
    text_of,
)
from pelican.data.readers.source import Source, json_rows
from pelican.errors import UserInputError
from pelican.records import Turn


class EgoSchema(Reader):
    name = "egoschema"
    about = "q_uid, question, option 0 to option 4; answers in subset_answers.json"

    def sniff(self, source: Source, options: Options) -> float:
        rows = [row for _, row in source.first_rows]
        return 0.95 if any({"q_uid", "option 0"} <= row.keys() for row in rows) else 0.0

    def read(self, source: Source, options: Options) -> Iterator[Found]:
        answers = _answers(source)
        for path in source.of(".json", ".jsonl"):
            if path.name.endswith("answers.json"):
                continue
            for row in json_rows(path):
                place = f"{source.name(path)}, row {row.number}"
                if row.error is not None:
                    yield Unread(place, record_key(row.raw), "", row.error)
                    continue
                value = row.value
                name, question = text_of(value, "q_uid"), text_of(value, "question")
                choices = [str(value[f"option {i}"]) for i in range(26) if f"option {i}" in value]
                answer = value.get("answer", value.get("truth", answers.get(name)))
                key = record_key([value, answer])
                if answer is None:
                    error = RowError("answer_missing", "no answer is published for this question")
                    yield Unread(place, key, name, error)
                elif not name or not question or len(choices) < 2:
                    error = RowError("schema", "q_uid, question or the options are missing")
                    yield Unread(place, key, name, error)
                else:
                    yield Record(
                        place=place,
                        key=key,
                        turns=(Turn(role="user", text=question),),
                        media=(Media("video", f"{name}.mp4"),),
                        reference=Reference(answer, "choice", tuple(choices), index=True),
                        id=name,
                        source="egoschema",
                        scene=name,
                        benchmark="egoschema",
                    )


def _answers(source: Source) -> dict[str, object]:
    """q_uid -> index of the option, of every `*answers.json`."""
    found: dict[str, object] = {}
    folder = source.path if source.path.is_dir() else source.path.parent
    for path in sorted(Path(folder).rglob("*answers.json")):
        try:
            value = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise UserInputError(f"{path} can't be read as JSON ({error})") from None
        if isinstance(value, dict):
            found.update(value)
    return found


READER = EgoSchema()

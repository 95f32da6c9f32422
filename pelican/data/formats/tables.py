"""Tables by named columns: JSON, CSV, Parquet, folders of pictures, verl's, Hugging Face data sets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from pelican.base.parse import parse_json
from pelican.data.formats.base import (
    ANNOTATORS,
    Found,
    Media,
    Options,
    Reader,
    Record,
    Reference,
    Source,
    Unread,
    is_text_alone,
    list_of,
    number_of,
    options_of,
    record_key,
    text_of,
    time_of,
)
from pelican.data.formats.chat import (
    chat_records,
    chat_turns,
    described,
    is_chat,
    without_tags,
)
from pelican.data.formats.medium import medium, placed, videos_of
from pelican.data.formats.rows import (
    TABLES,
    TEXTS,
    batch_rows,
    first_values,
    not_parquet,
    read_rows,
    split_of,
    written_list,
)
from pelican.data.tables import SAMPLES, RowError
from pelican.errors import UserInputError
from pelican.records import Turn

# Rows of a table whose columns nobody fixed: which column is the question, which the answer.

GROUND_TRUTH = "reward_model.ground_truth"  # verl's, a field of an object
# Our name -> what the field calls it, the likelier first.
NAMES: dict[str, tuple[str, ...]] = {
    "question": ("question", "query", "prompt", "problem", "instruction", "text"),
    "answer": (
        *(GROUND_TRUTH, "answer", "ground_truth", "solution", "label", "target", "response"),
        *("output", "completion"),
    ),
    "answers": ("answers",),  # one of each annotator
    "options": ("options", "choices", "candidates", "multi_choice_options"),
    "image": ("image", "images", "image_path", "rgb", "image_1", "decoded_image"),
    "video": ("video", "videos", "video_path", "video_name", "frames"),
    "mask": ("mask", "mask_path"),
    "conversation": ("conversations", "messages"),
    "id": ("id", "question_id", "uid", "idx", "index", "q_uid", "sample_id"),
}


def column(row: Mapping[str, Any], name: str, options: Options) -> str | None:
    """The column that holds `name`: the person's choice, else the first known one that is there."""
    if name in options.columns:
        return options.columns[name]
    found = next((known for known in NAMES[name] if row.get(known) is not None), None)
    if found is None and (others := _capitals(tuple(row))):
        called = (others[known] for known in NAMES[name] if known in others)
        found = next((column for column in called if row.get(column) is not None), None)
    return found


@lru_cache(maxsize=64)
def _capitals(names: tuple[str, ...]) -> dict[str, str]:
    """Columns that are written in another way, by the plain one: "Question ", as people head tables."""
    return {p: n for n in names if isinstance(n, str) and (p := n.strip().lower()) not in names}


def looks_like_questions(names: set[str], options: Options) -> bool:
    """Whether a table with these columns can be read."""

    def has(name: str) -> bool:
        return name in options.columns or bool(plain & set(NAMES[name]))

    plain = names | _capitals(tuple(sorted(names))).keys()

    asked = has("question") and (has("answer") or has("answers") or has("mask"))
    return (has("image") or has("video")) and (has("conversation") or asked)


def looks_like_text_questions(row: Mapping[str, Any], options: Options) -> bool:
    """Whether a row asks in text alone: of generic names of columns only those count that are meant so."""
    asked = {"question", "query", "prompt", "problem", "instruction"} & row.keys()
    answered = {"answer", "ground_truth", "solution", "response", "completion"} & row.keys()
    return bool(
        ("question" in options.columns or asked)
        and ("answer" in options.columns or answered)
        and is_text_alone(row)
    )


def _spread(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row with what verl keeps inside objects: its right answer, its number and its split."""
    graded, more = row.get("reward_model"), row.get("extra_info")
    found: dict[str, Any] = {}
    if isinstance(graded, Mapping):
        found[GROUND_TRUTH] = graded.get("ground_truth")
    if isinstance(more, Mapping):
        found |= {n: more.get(n) for n in ("id", "index", "split") if row.get(n) is None}
    return {**row, **found} if found else row


def table_records(row: Mapping[str, Any], place: str, options: Options) -> Iterator[Found]:
    """The records of one row of a table."""
    key = record_key(row)
    row = _spread(row)
    id_column = column(row, "id", options)
    name = text_of(row, id_column) if id_column else ""
    try:
        media = _media(row, options)
        base = described(row, place, key, name, media)
        chat = column(row, "conversation", options)
        asked = column(row, "question", options)
        if chat is None and asked is not None and isinstance(row.get(asked), list):
            chat = asked  # messages, as verl and TRL call them: `prompt`
        answer = _reference(row, options)
        if chat is not None:
            said, inside = chat_turns(list_of(row[chat]))
            media = placed(inside, media)
            whole = replace(base, media=media)
            yield from chat_records(
                without_tags(said, media),
                whole,
                options,
                answer=answer if said[-1:] and said[-1].role == "user" else None,
            )
            return
        if asked is None or not isinstance(row.get(asked), str) or not row[asked].strip():
            raise RowError("schema", f"the question ({asked or 'question'}) is missing or no text")
        turns = without_tags((Turn(role="user", text=row[asked]),), media)
        yield replace(base, turns=turns, reference=answer)
    except RowError as error:
        yield Unread(place, key, name, error)


def _media(row: Mapping[str, Any], options: Options) -> tuple[Media, ...]:
    found: list[Media] = []
    image, video = column(row, "image", options), column(row, "video", options)
    if image is not None:
        found += [medium(v, "image") for v in list_of(row.get(image)) if v is not None]
    shown = row.get(video) if video is not None else None
    if not isinstance(shown, int | float):  # a number of frames is no medium
        found += videos_of(shown)
    if len(found) == 1 and found[0].kind != "image":
        start = time_of(row, "start", "start_s", "video_start")
        end = time_of(row, "end", "end_s", "video_end")
        if start is not None or end is not None:
            found[0] = replace(found[0], start_s=start, end_s=end)
        if found[0].kind == "frames" and found[0].fps is None:
            found[0] = replace(found[0], fps=number_of(row, "fps", "sample_fps"))
    # Published tables of several images number their columns: image_1, image_2, …
    for number in range(2, 10):
        if "image" not in options.columns and row.get(f"image_{number}") is not None:
            found.append(medium(row[f"image_{number}"], "image"))
    return tuple(found)


def answers_of(value: Any) -> list[Any]:
    """One answer of each annotator: texts, VQA's objects with `answer`, or SQuAD's `{"text": […]}`."""
    if isinstance(value, Mapping):
        value = value.get("text")
    said = [v.get("answer") if isinstance(v, Mapping) else v for v in list_of(value)]
    return [v for v in said if v is not None]


def _reference(row: Mapping[str, Any], options: Options) -> Reference:
    answer, choices = column(row, "answer", options), column(row, "options", options)
    mask = column(row, "mask", options)
    value = row.get(answer) if answer else None
    if answer and is_chat(row, answer, "role", "content"):  # TRL's `completion`
        value = chat_turns(row[answer])[0][-1].text
    everyone = column(row, "answers", options)
    said = answers_of(row.get(everyone)) if everyone else []
    together = bool(said) and (value is None or "answers" in options.columns)
    given = row.get(choices) if choices else None
    if isinstance(given, str):
        given = written_list(given) or [line for line in given.splitlines() if line.strip()]
    texts = options_of(given)
    labels = list_of(given.get("label")) if isinstance(given, Mapping) else []
    if value in labels:  # some count from 1
        value = labels.index(value)
    if not texts:  # MMBench's kind: columns A, B, C, D
        letters = [c for c in "ABCDEFGH" if isinstance(row.get(c), str) and row[c]]
        texts = tuple(str(row[c]) for c in letters) if len(letters) > 1 else ()
    return Reference(
        said if together else value,
        kind=ANNOTATORS if together else "",
        aliases=() if together else tuple(map(str, said)),
        options=texts,
        index=True,
        unit=text_of(row, "unit"),
        mask=medium(row[mask], "image") if mask and row.get(mask) is not None else None,
    )


# Hugging Face `datasets`, by name, by a folder that `save_to_disk` wrote, or by a data set's folder.


class HuggingFace(Reader):
    name = "hf"
    about = "a Hugging Face data set by name (--reader hf), or a folder that save_to_disk wrote"

    def sniff(self, source: Source, options: Options) -> float:
        here = source.path
        if here.is_dir() and (
            (here / "dataset_dict.json").exists() or (here / "state.json").exists()
        ):
            return 0.95
        return 0.0

    def read(self, source: Source, options: Options) -> Iterator[Found]:
        for split, rows in load(source.where, options).items():
            number = 0
            try:
                for row in rows:
                    number += 1
                    place = f"{split}, row {number}"
                    row.setdefault("split", split)
                    yield from table_records(row, place, options)
            except Exception as error:  # whatever a decoder of `datasets` raises ends this split
                why = f"not readable after row {number} ({' '.join(str(error).split())[:200]})"
                yield Unread(split, record_key([split, number]), "", RowError("file", why))


def load(where: str, options: Options) -> dict[str, Any]:
    """Split -> rows, streamed; images and videos stay encoded. No code of the data set is run."""
    try:
        import datasets
    except ImportError:
        raise UserInputError(
            "the reader hf needs the package datasets: `uv pip install -e '.[train]'`"
        ) from None
    datasets.disable_progress_bars()
    path = Path(where)
    try:
        if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
            found = datasets.load_from_disk(where)
        else:
            found = datasets.load_dataset(
                where, options.config or None, split=options.split or None, streaming=True
            )
    except Exception as error:  # its errors are of many kinds: network, hub, parsers
        reason = " ".join(str(error).split())[:300]
        raise UserInputError(f"`datasets` can't open {where!r} ({reason})") from None
    if not isinstance(found, dict):
        found = {str(getattr(found, "split", None) or "train"): found}
    if options.split and options.split in found:
        found = {options.split: found[options.split]}
    return {str(name): _encoded(rows, datasets) for name, rows in found.items()}


def _encoded(rows: Any, datasets: Any) -> Any:
    """Leave images encoded: a broken one is then one row's fault, and none is encoded twice."""
    for name, feature in (rows.features or {}).items():
        kinds = (datasets.Image, datasets.Video)
        inner = getattr(feature, "feature", None)
        if isinstance(feature, kinds):
            rows = rows.cast_column(name, type(feature)(decode=False))
        elif isinstance(inner, kinds):
            rows = rows.cast_column(name, type(feature)(type(inner)(decode=False)))
    return rows


def card_license(folder: Path) -> str:
    """The licence that a data set's README.md names in its head, "" if none."""
    try:
        text = (folder / "README.md").read_text(errors="replace")[:20_000]
    except OSError:
        text = ""
    if text.startswith("---"):
        for line in text.split("---", 2)[1].splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("license", "licence"):
                return value.strip().strip("\"'")
    try:
        info = parse_json((folder / "dataset_info.json").read_text())
        return str(info.get("license") or "")
    except (OSError, ValueError, AttributeError):
        return ""


# Parquet files of questions; also Pelican's own pools.

_POOL = set(SAMPLES.names) - {"benchmark", "chance"}


class Parquet(Reader):
    name = "parquet"
    about = "*.parquet with a column for question, answer and image or video; Pelican's pools"

    def sniff(self, source: Source, options: Options) -> float:
        for path in source.of(".parquet")[:3]:
            try:
                names = set(pq.read_schema(path).names)
            except (pa.ArrowException, OSError):
                continue
            if names >= _POOL:
                return 0.95
            if looks_like_questions(names, options):
                return 0.7
            if looks_like_text_questions(dict.fromkeys(names), options):
                return 0.5
        return 0.0

    def read(self, source: Source, options: Options) -> Iterator[Found]:
        for path in source.of(".parquet"):
            name, number = source.name(path), 0
            try:
                file = pq.ParquetFile(path)
                pool = set(file.schema_arrow.names) >= _POOL
                for batch in file.iter_batches(batch_size=16):
                    for row in batch_rows(batch):
                        number += 1
                        place = f"{name}, row {number}"
                        if isinstance(row, RowError):
                            yield Unread(place, record_key(place), "", row)
                        elif pool:
                            yield _sample(row, place)
                        else:
                            yield from table_records(row, place, options)
            except (pa.ArrowException, OSError) as error:
                why = not_parquet(path, number, error)
                yield Unread(name, record_key([name, number]), "", why)


def _sample(row: dict[str, Any], place: str) -> Found:
    """A row of one of Pelican's own pools, which needs no guessing."""
    key = record_key(row)
    name = str(row.get("id") or "")
    try:
        answer = parse_json(row["answer"])
        turns = tuple(Turn.model_validate(turn) for turn in row["turns"])
        images, times = row["images"], row["times_s"]
    except (ValidationError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        return Unread(place, key, name, RowError("schema", reason))
    clip = row["media_kind"] == "clip"
    return Record(
        place=place,
        key=key,
        turns=turns,
        media=tuple(
            Media("image", str(i.get("path") or ""), i.get("bytes"), start_s=t if clip else None)
            for i, t in zip(images, times, strict=False)
        ),
        reference=Reference(answer, "pelican"),
        id=name,
        source=str(row["source"]),
        scene=str(row["scene"]),
        split=str(row["split"]),
        license=str(row.get("license") or ""),
        benchmark=str(row.get("benchmark") or ""),
        family=str(row["family"]),
        dimension=str(row["dimension"]),
    )


# Files of rows: JSON and CSV of any columns, verl's and EasyR1's, and `datasets`' folders of pictures.


class _Files(Reader):
    """Every row of the source's files by `table_records`, after `row_of`."""

    endings: tuple[str, ...] = TABLES

    def row_of(self, row: dict[str, Any], name: str) -> dict[str, Any]:
        """The row of the file `name`, as `table_records` is to read it. Raises RowError."""
        return row

    def read(self, source: Source, options: Options) -> Iterator[Found]:
        for path in source.of(*self.endings):
            name = source.name(path)
            for row in read_rows(path):
                place = f"{name}, row {row.number}"
                try:
                    if row.error is not None:
                        raise row.error
                    yield from table_records(self.row_of(row.value, name), place, options)
                except RowError as error:
                    yield Unread(place, row.key, "", error)


class Json(_Files):
    name = "json"
    about = "JSON, JSON lines or CSV with a column for question, answer and image or video"
    endings = TEXTS

    def sniff(self, source: Source, options: Options) -> float:
        rows = [
            r for r in first_values(source, self.endings) if not column(r, "conversation", options)
        ]
        if any(looks_like_questions({n for n in r if r[n] is not None}, options) for r in rows):
            return 0.6
        return 0.5 if any(looks_like_text_questions(row, options) for row in rows) else 0.0


class Verl(_Files):
    name = "verl"
    about = (
        "verl and EasyR1: prompt or problem, images or videos, reward_model.ground_truth or answer"
    )

    def sniff(self, source: Source, options: Options) -> float:
        best = 0.0
        for row in first_values(source, self.endings):
            graded = row.get("reward_model")
            shown = {"images", "videos"} & row.keys() and {"prompt", "problem"} & row.keys()
            if "prompt" in row and isinstance(graded, Mapping) and "ground_truth" in graded:
                return 0.93
            # verl writes the prompt as messages, EasyR1 as a text.
            if row.get("answer") is not None:
                chat = is_chat(row, "prompt", "role", "content")
                best = max(best, 0.85 if chat else 0.8 if shown else 0.0)
        return best

    def row_of(self, row: dict[str, Any], name: str) -> dict[str, Any]:
        more = row.get("extra_info")
        said = row.get("split") or (more.get("split") if isinstance(more, Mapping) else None)
        return row if said else {**row, "split": split_of(name)}


class ImageFolder(_Files):
    name = "imagefolder"
    about = "a folder of pictures or videos with metadata.csv, .jsonl or .parquet (file_name, …)"

    endings = tuple(f"metadata{ending}" for ending in TABLES)

    def sniff(self, source: Source, options: Options) -> float:
        for row in first_values(source, self.endings):
            if any(n.endswith(("file_name", "file_names")) for n in row):
                return 0.94 if looks_like_questions({*row, "image"}, options) else 0.0
        return 0.0

    def row_of(self, row: dict[str, Any], name: str) -> dict[str, Any]:
        """Names of files beside the metadata become paths: `x_file_name` is the column `x`.

        The split is what the first file's folders say, as for `datasets`.
        """
        folder = PurePosixPath(name).parent
        found: dict[str, Any] = {"split": ""}
        for column, value in row.items():
            kind, ending, _ = column.partition("file_name")
            if not ending:
                found[column] = value
                continue
            if any(not isinstance(one, str) for one in list_of(value)):
                raise RowError("schema", f"{column} is no name of a file")
            paths = [(folder / one).as_posix() for one in list_of(value)]
            shown = paths[0] if paths and isinstance(value, str) else paths or None
            found[kind.rstrip("_") or "image"] = shown
            if paths and not found["split"]:
                found["split"] = split_of(PurePosixPath(paths[0]).parent.as_posix())
        return found


READERS = (HuggingFace(), Parquet(), Json(), Verl(), ImageFolder())

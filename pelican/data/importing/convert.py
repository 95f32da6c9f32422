"""One record of a source becomes one sample: its answer, options, family and dimension."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from pydantic import ValidationError

from pelican.data.entries import RESERVED, answer_fits, first_message, refuse
from pelican.data.formats.base import Found, Record, Unread
from pelican.data.formats.rows import split_of
from pelican.data.importing.answers import check_own_words, read_answer, with_options
from pelican.data.importing.classify import Label, classify
from pelican.data.importing.marks import fill_marks
from pelican.data.importing.media import TEXT_ALONE, Loader
from pelican.data.importing.regions import with_grid
from pelican.data.tables import RowError
from pelican.errors import UserInputError
from pelican.records import (
    BoxAnswer,
    ChoiceAnswer,
    Family,
    IntervalAnswer,
    PointsAnswer,
    Sample,
    Split,
    Turn,
)

MAX_TEXT = 20_000  # characters of a turn
# What a chat template or a processor would take for its own: it would break the prompt.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


@dataclass(frozen=True)
class Defaults:
    """What a row gets where its source says nothing. With `force_split` every row gets `split`.

    `notation` is what coordinates mean that neither answer nor question tells. With `text_rows` a row
    whose field of media is empty is a question in text alone, else it is left out: the picture may be
    lost.
    """

    source: str
    license: str = ""
    split: Literal["train", "dev", "test"] = "train"
    force_split: bool = False
    notation: str = ""
    text_rows: bool = False


@dataclass(frozen=True, slots=True)
class Good:
    """A row that became a sample, with its label, its licence and its place in the source."""

    sample: Sample
    label: Label
    license: str
    place: str
    key: str


@dataclass(frozen=True, slots=True)
class Bad:
    """A row that was left out."""

    place: str
    key: str
    id: str
    code: str
    reason: str


def convert(found: Found, loader: Loader, defaults: Defaults) -> Good | Bad:
    """One record to a sample; reads and decodes its media. A faulty row becomes a `Bad`.

    Raises:
        UserInputError: No video decoder is installed, which is no row's fault.
    """
    if isinstance(found, Unread):
        return Bad(found.place, found.key, found.id, found.error.code, found.error.reason)
    try:
        return _convert(found, loader, defaults)
    except RowError as error:
        return Bad(found.place, found.key, found.id, error.code, error.reason)
    except ValidationError as error:
        return Bad(found.place, found.key, found.id, "schema", first_message(error))
    except UserInputError:
        raise  # no decoder installed: no row's fault
    except Exception as error:  # hostile rows must not end an import of 100,000
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        return Bad(found.place, found.key, found.id, "schema", reason)


def _convert(record: Record, loader: Loader, defaults: Defaults) -> Good:
    turns = tuple(_clean(turn) for turn in record.turns)
    if not turns or turns[-1].role != "user" or not turns[-1].text:
        raise RowError("schema", "the row has no question")
    text_alone = not record.media and (record.text_alone or defaults.text_rows)
    loaded = TEXT_ALONE if text_alone else loader.load(record.media)
    if record.reference.kind != "pelican":
        record = fill_marks(replace(record, turns=turns), loaded.sizes)
        turns = record.turns
    question = turns[-1].text
    reference, mask = record.reference, record.reference.mask
    if defaults.notation:
        reference = replace(reference, notation=defaults.notation)
    opener: Callable[[], bytes] | None = partial(loader.image_bytes, mask) if mask else None
    answer = read_answer(
        reference,
        question,
        loaded.size,
        record.question_type,
        mask_bytes=opener,
        shift_s=loaded.start_s,
    )
    if isinstance(answer, IntervalAnswer) and any(
        m.kind == "frames" and m.fps is None for m in record.media
    ):
        raise RowError(
            "answer",
            "the answer is a span of seconds, and the row does not say how many pictures a second"
            " its video has; add `fps`",
        )
    if isinstance(answer, ChoiceAnswer):
        turns = (*turns[:-1], Turn(role="user", text=with_options(question, answer)))
    elif isinstance(answer, PointsAnswer | BoxAnswer):
        turns = (*turns[:-1], Turn(role="user", text=with_grid(question, answer, reference)))
    label = classify(question, answer, record.question_type, record.family, record.dimension)
    if text_alone and not record.family:  # the others are about what is seen
        label = Label(Family.GENERAL, label.dimension, label.confidence, "no picture")
    source = record.source or defaults.source
    sample = Sample(
        id=f"{source}/{record.id or record.key}",
        media_kind="text" if text_alone else "clip" if loaded.clip else "image",
        images=loaded.images,
        times_s=loaded.times_s,
        turns=turns,
        family=label.family,
        dimension=label.dimension,
        answer=answer,
        source=source,
        scene=record.scene or f"{source}/{loaded.scene or record.key}",
        split=_split(record.split, defaults),
        benchmark=record.benchmark or "default",
        # A blind guess among equals; for other kinds nobody has measured one.
        chance=1 / len(answer.options) if isinstance(answer, ChoiceAnswer) else 0.0,
    )
    answer_fits(sample)
    try:  # JSON may name half a character, as "\ud800" does
        "".join((sample.id, source, sample.scene, sample.benchmark, record.license)).encode()
        answer.model_dump_json()
    except ValueError:
        raise RowError("text", "text is not UTF-8") from None
    check_own_words(sample, reference)
    return Good(sample, label, record.license or defaults.license, record.place, record.key)


def _clean(turn: Turn) -> Turn:
    if len(turn.text) > MAX_TEXT:
        raise RowError("text_long", f"a turn has {len(turn.text)} characters, above {MAX_TEXT}")
    for markup in (RESERVED, _CONTROL):
        refuse(markup, turn.text)
    try:
        turn.text.encode()
    except UnicodeEncodeError:
        raise RowError("text", "text is not UTF-8") from None
    text = turn.text.strip()
    return turn if text == turn.text else Turn(role=turn.role, text=text)


def _split(said: str, defaults: Defaults) -> Split:
    return Split((not defaults.force_split and split_of(said)) or defaults.split)

"""`ledger.html`: every practised sample with its history, to be filtered, exported and corrected.

One file for any number of samples up to some hundred thousand: the columns that filters need are
one compressed block, the texts are blocks of 256 samples, unpacked when they are shown, and
pictures are there for the first samples alone. The browser unpacks (DecompressionStream).
"""

from __future__ import annotations

import base64
import gzip
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from pelican.data.columns import pool_columns
from pelican.data.corrections import Corrections
from pelican.errors import UserInputError
from pelican.records import Answer, Dimension
from pelican.report import words
from pelican.report.evidence import add_attempts, corrections_of, pool_places, samples_of
from pelican.report.history import MEANINGS, NEVER_WEAK, OUTCOMES, Case, Moment, histories
from pelican.report.interest import by_interest, habits
from pelican.report.pages import render_page
from pelican.report.pictures import answer_words, pictures
from pelican.report.run import Run
from pelican.stages.inputs import resolve_input

LEDGER = "ledger.html"
BLOCK = 256  # samples of one block of texts
PICTURED = 400  # of the first samples, as long as the budget lasts
PICTURE_BUDGET = 4_000_000  # bytes
ATTEMPTED = 3000  # of the first samples have completions, as long as the budget lasts
ATTEMPT_BUDGET = 24_000_000  # characters, before compression
_TEXT, _COMPLETION, _ANSWER = 600, 1500, 2000  # characters kept of each
_ANSWERS: TypeAdapter[Answer] = TypeAdapter(Answer)
_OUTCOMES = {**OUTCOMES, NEVER_WEAK: "never weak"}


@dataclass(frozen=True)
class Text:
    """What a pool says of a sample: its question, its answer in words and as JSON."""

    question: str
    answer: str
    json: str


def build_ledger(run: Run) -> bool:
    """Write `runs/<run>/ledger.html`; False, and nothing written, if nothing was practised yet."""
    html = render_ledger(run)
    if html:
        run.store.write(f"{run.prefix}/{LEDGER}", html.encode())
    return bool(html)


def render_ledger(run: Run) -> str:
    """The page as text; empty without a ledger."""
    cases = histories(run)
    if not cases:
        return ""
    weak = [case for case in cases if case.outcome != NEVER_WEAK]
    rated = by_interest(cases, habits(run, {case.id for case in weak}))
    ordered = [case for case, _, _ in rated]
    add_attempts(run, [case for case in ordered[:ATTEMPTED] if case.outcome != NEVER_WEAK])
    corrections = corrections_of(run)
    texts = _texts(run, {case.id for case in cases}, corrections)
    columns = _columns(rated, corrections)
    images = _pictures(run, ordered[:PICTURED], corrections)
    return render_page(
        "ledger.html.j2",
        run=run,
        total=len(cases),
        weak=len(weak),
        pictured=len(images),
        attempted=min(ATTEMPTED, len(weak)),
        outcomes=[(name, _OUTCOMES[name], count) for name, count in _counts(cases).items()],
        meanings=MEANINGS,
        families=[(n, words.family(n)) for n in columns["families"]],
        dimensions=[(n, words.dimension(n)) for n in columns["dimensions"]],
        all_dimensions=[(d.value, words.dimension(d.value)) for d in Dimension],
        sources=columns["sources"],
        index=packed(columns),
        blocks=[packed(block) for block in _blocks(ordered, texts)],
        images=images,
        block=BLOCK,
    )


def packed(value: Any) -> str:
    """JSON, gzip, base64: safe in a script element whatever a model wrote."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    data = gzip.compress(text.encode("utf-8", "replace"), 6, mtime=0)
    return base64.b64encode(data).decode()


def _counts(cases: Sequence[Case]) -> dict[str, int]:
    found = Counter(case.outcome for case in cases)
    return {name: found[name] for name in _OUTCOMES if found[name]}


def _columns(rated: Sequence[tuple[Case, float, str]], corrections: Corrections) -> dict[str, Any]:
    """What filters, the list and the CSV need, column by column, in the order of the page.

    `history`: per sample [moment, successes, rollouts, moment, …].
    """
    cases = [case for case, _, _ in rated]
    orders = sorted({moment.order for case in cases for moment in case.timeline})
    place = {order: number for number, order in enumerate(orders)}
    families = sorted({case.family for case in cases}, key=words.place)
    dimensions = sorted({case.dimension for case in cases}, key=words.place)
    sources = sorted({case.source for case in cases})
    outcomes = list(_OUTCOMES)
    return {
        "families": families,
        "dimensions": dimensions,
        "sources": sources,
        "outcomes": outcomes,
        "words": {
            **{n: words.family(n) for n in families},
            **{n: words.dimension(n) for n in dimensions},
            **_OUTCOMES,
        },
        "moments": [Moment(k, "sft" if after else "rl", 0, 0).words for k, after in orders],
        "id": [case.id for case in cases],
        "family": [families.index(case.family) for case in cases],
        "dimension": [dimensions.index(case.dimension) for case in cases],
        "source": [sources.index(case.source) for case in cases],
        "outcome": [outcomes.index(case.outcome) for case in cases],
        "interest": [interest for _, interest, _ in rated],
        "why": [why for _, _, why in rated],
        "history": [
            [
                number
                for m in case.timeline
                for number in (place[m.order], round(m.success_rate * m.rollouts), m.rollouts)
            ]
            for case in cases
        ],
        "corrected": [int(case.id in corrections.replaced) for case in cases],
    }


def _texts(run: Run, ids: set[str], corrections: Corrections) -> dict[str, Text]:
    """The questions and answers of the pools that can be read from here."""
    found: dict[str, Text] = {}
    for where in pool_places(run):
        try:
            folder = resolve_input(run.store, where)
            pool = pool_columns(folder, ("id", "turns", "answer"), corrections)
        except UserInputError:
            continue  # the page is made where the data is not
        for name, turns, answer in pool.iter_rows():
            if name in ids and name not in found and turns:
                try:
                    right = answer_words(_ANSWERS.validate_json(answer or ""))
                except ValidationError:
                    right = ""
                question = str(turns[-1]["text"])[:_TEXT]
                found[name] = Text(
                    question, right[:_TEXT], answer if len(answer) <= _ANSWER else ""
                )
    return found


def _blocks(cases: Sequence[Case], texts: dict[str, Text]) -> Iterator[list[dict[str, Any]]]:
    """The texts of the samples, a block at a time; completions until the budget is spent."""
    spent = 0
    for start in range(0, len(cases), BLOCK):
        block = []
        for case in cases[start : start + BLOCK]:
            text = texts.get(case.id, Text("", "", ""))
            shown = [
                [a.when, a.success, a.reason, a.completion[:_COMPLETION]]
                for a in (case.attempts if spent < ATTEMPT_BUDGET else ())
            ]
            spent += sum(len(str(one[3])) for one in shown)
            block.append({"q": text.question, "a": text.answer, "j": text.json, "x": shown})
        yield block


def _pictures(
    run: Run, cases: Sequence[Case], corrections: Corrections
) -> list[tuple[int, list[str]]]:
    """(place of the sample, its pictures) of the first samples, until the budget is spent."""
    place = {case.id: number for number, case in enumerate(cases)}
    found = {}
    for sample in samples_of(run, pool_places(run), place, corrections):
        case = cases[place[sample.id]]
        last = {a.order[1] == 2: a.completion for a in case.attempts}
        found[place[sample.id]] = pictures(sample, last.get(False, ""), last.get(True, ""))
    kept, spent = [], 0
    for number in sorted(found):
        spent += sum(len(image) for image in found[number])
        if spent > PICTURE_BUDGET:
            break
        kept.append((number, found[number]))
    return kept

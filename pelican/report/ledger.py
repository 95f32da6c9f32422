"""The ledger page: the weak samples of a run, with pictures, to look at and to correct."""

from __future__ import annotations

import base64
import gzip
import io
import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from PIL import Image, ImageDraw

from pelican.data.corrections import Corrections
from pelican.data.images import open_seen
from pelican.evaluation.metrics import with_flips
from pelican.records import (
    BoxAnswer,
    Dimension,
    PointsAnswer,
    Sample,
    Scale,
    sides_of,
)
from pelican.report import words
from pelican.report.history import (
    MEANINGS,
    NEVER_WEAK,
    OUTCOMES,
    Case,
    Moment,
    add_attempts,
    by_interest,
    corrections_of,
    habits,
    histories,
    pool_places,
    samples_of,
)
from pelican.report.pages import keep_page, render_page
from pelican.report.run import Run
from pelican.report.texts import Text, answer_words, texts_of
from pelican.rewards.base import Unscorable
from pelican.rewards.coordinates import parse_box, parse_points
from pelican.rewards.parse import extract_answer

# `ledger.html`: every practised sample with its history, to be filtered, exported and corrected.
#
# One file for any number of samples up to some hundred thousand: the columns that filters need are
# one compressed block, the texts are blocks of 256 samples, unpacked when they are shown, and
# pictures are there for the first samples alone. The browser unpacks (DecompressionStream).

LEDGER = "ledger.html"
BLOCK = 256  # samples of one block of texts
PICTURED = 400  # of the first samples, as long as the budget lasts
PICTURE_BUDGET = 4_000_000  # bytes
ATTEMPTED = 3000  # of the first samples have completions, as long as the budget lasts
ATTEMPT_BUDGET = 24_000_000  # characters, before compression
_COMPLETION = 1500  # characters kept of each
_OUTCOMES = {**OUTCOMES, NEVER_WEAK: "never weak"}


def build_ledger(run: Run) -> bool:
    """Write `runs/<run>/ledger.html`; False, and nothing written, if nothing was practised yet."""
    html = render_ledger(run)
    if html:
        keep_page(run.store, f"{run.prefix}/{LEDGER}", html)
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
    texts = texts_of(run, {case.id for case in cases}, corrections)
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
        index=pack(columns),
        blocks=[pack(block) for block in _blocks(ordered, texts)],
        images=images,
        block=BLOCK,
    )


def pack(value: Any) -> str:
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


def _blocks(cases: Sequence[Case], texts: dict[str, Text]) -> Iterator[list[dict[str, Any]]]:
    """Blocks of BLOCK samples for the page; each sample is `q` question, `a` answer in words, `j`
    answer as JSON, and `x` attempts as [moment, success, reason, completion]. Attempts are left out
    once ATTEMPT_BUDGET characters are spent.
    """
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


# The weak samples that a report shows: chosen over all kinds, with pictures; and what was lost.

VIEW_PICTURE_BUDGET = 5_500_000  # bytes of a page


@dataclass(frozen=True)
class LedgerView:
    """Cases to browse, and the counts of all weak samples by outcome and family."""

    cases: list[Case]
    total: int
    outcomes: dict[str, int]
    by_family: dict[str, dict[str, int]]


def view_ledger(run: Run, limit: int = 150) -> LedgerView:
    """All weak samples of a run, and up to `limit` of them, spread over outcome and family."""
    cases = [case for case in histories(run) if case.outcome != NEVER_WEAK]
    by_family: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(OUTCOMES, 0))
    for case in cases:
        by_family[case.family][case.outcome] += 1
    chosen = _stratify(cases, limit, run.seed)
    add_attempts(run, chosen)
    add_samples(run, chosen, VIEW_PICTURE_BUDGET)
    counts = Counter(case.outcome for case in cases)
    return LedgerView(
        cases=chosen,
        total=len(cases),
        outcomes={name: counts[name] for name in OUTCOMES if counts[name]},
        by_family=dict(sorted(by_family.items())),
    )


def _stratify(cases: Iterable[Case], limit: int, seed: int) -> list[Case]:
    """Round robin over (outcome, family, dimension), so that rare kinds are not lost."""
    strata: dict[tuple[str, str, str], list[Case]] = defaultdict(list)
    for case in cases:
        strata[(case.outcome, case.family, case.dimension)].append(case)
    order = random.Random(seed)
    for stratum in strata.values():
        order.shuffle(stratum)
    chosen: list[Case] = []
    depth = 0
    while len(chosen) < limit and any(len(stratum) > depth for stratum in strata.values()):
        for key in sorted(strata):
            if depth < len(strata[key]) and len(chosen) < limit:
                chosen.append(strata[key][depth])
        depth += 1
    names = list(OUTCOMES)
    return sorted(chosen, key=lambda case: (case.family, names.index(case.outcome), case.id))


def add_samples(run: Run, cases: Sequence[Case], budget: int) -> None:
    """Question, answer and pictures; no more pictures once `budget` bytes of them are there."""
    ids = {case.id for case in cases}
    found = samples_of(run, pool_places(run), ids, corrections_of(run))
    samples = {sample.id: sample for sample in found}
    spent = 0
    for case in _interleave(cases):
        sample = samples.get(case.id)
        if sample is None:
            continue
        case.question, case.answer = sample.question, answer_words(sample.answer)
        if spent < budget:
            policy, teacher = _last(case, 0, 1), _last(case, 2)
            case.images = pictures(sample, policy, teacher)
            spent += sum(len(image) for image in case.images)


def _last(case: Case, *places: int) -> str:
    """The last completion of the policy (places 0 and 1 of a loop) or of the teacher (2)."""
    return next((a.completion for a in reversed(case.attempts) if a.order[1] in places), "")


def _interleave(cases: Sequence[Case]) -> list[Case]:
    """By turns of the families, so that a spent budget takes from all alike."""
    turn: Counter[str] = Counter()
    numbered = []
    for case in cases:
        numbered.append((turn[case.family], case.family, case))
        turn[case.family] += 1
    return [case for _, _, case in sorted(numbered, key=lambda item: item[:2])]


@dataclass(frozen=True)
class Forgotten:
    """A held-out question that the base answered and the final policy does not."""

    id: str
    suite: str
    family: str
    question: str
    right: str
    before: str
    after: str
    images: list[str]


def view_forgotten(run: Run, limit: int = 24) -> list[Forgotten]:
    """Held-out questions lost since the base, spread over families."""
    base, final = run.base, run.final
    if base is None or final is None:
        return []
    lost = with_flips(base.results, final.results).filter("lost").sort("sample_id")
    place = pl.int_range(pl.len()).over("family")
    rows: list[dict[str, Any]] = (
        lost.with_columns(place=place).sort("place", "family").head(limit).to_dicts()
    )
    stage = next(s for s in run.stages if s.prefix == final.prefix)
    inputs = stage.manifest.inputs if stage.manifest else {}
    places = [inputs[name] for name in ("evaluation", "general") if name in inputs]
    samples = {s.id: s for s in samples_of(run, places, {row["sample_id"] for row in rows})}
    shown = []
    for row in sorted(rows, key=lambda row: (row["suite"], row["family"], row["sample_id"])):
        sample = samples.get(row["sample_id"])
        shown.append(
            Forgotten(
                id=row["sample_id"],
                suite=row["suite"],
                family=row["family"],
                question=sample.question if sample else "",
                right=answer_words(sample.answer) if sample else "",
                before=row["answer_before"],
                after=row["answer"] or row["reason"],
                images=pictures(sample, row["completion"])[-1:] if sample else [],
            )
        )
    return shown


# Samples as people see them: small JPEGs with what was asked for drawn in, the answer in words.

STILL_PX, FRAME_PX = 288, 168  # longest side
FRAMES = 6  # of a clip
QUALITY = 74
_RIGHT, _POLICY, _TEACHER = (63, 179, 117), (224, 82, 72), (72, 128, 224)


def pictures(sample: Sample, policy: str = "", teacher: str = "") -> list[str]:
    """Data URIs of a still or of up to six frames of a clip.

    Where points or a box are asked, the right region is drawn in green, the policy's answer in
    red and the teacher's in blue, on the last frame.
    """
    count = len(sample.images)
    if count == 1:
        chosen, side = [0], STILL_PX
    else:
        chosen, side = _spread(count, FRAMES), FRAME_PX
    frames = [_small(sample.images[index], side) for index in chosen]
    if isinstance(sample.answer, PointsAnswer | BoxAnswer):
        frames[-1] = _mark_answers(frames[-1], sample.answer, policy, teacher)
    return [_data_uri(frame) for frame in frames]


def _spread(count: int, wanted: int) -> list[int]:
    """Up to `wanted` indices from first to last."""
    if count <= wanted:
        return list(range(count))
    return [round(index * (count - 1) / (wanted - 1)) for index in range(wanted)]


def _small(data: bytes, side: int) -> Image.Image:
    small = open_seen(data)
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    return small


def _data_uri(image: Image.Image) -> str:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()


def _mark_answers(
    image: Image.Image, answer: PointsAnswer | BoxAnswer, policy: str, teacher: str
) -> Image.Image:
    factor = max(1, round(192 / max(image.size)))  # marks need pixels that small pictures lack
    image = image.resize((image.width * factor, image.height * factor), Image.Resampling.BICUBIC)
    if isinstance(answer, PointsAnswer):
        image = _tint(image, answer)
    draw = ImageDraw.Draw(image)
    if isinstance(answer, BoxAnswer):
        _draw_box(draw, image, answer.box, answer.scale, _RIGHT)
    for reply, colour in ((teacher, _TEACHER), (policy, _POLICY)):
        try:
            text = extract_answer(reply).text
            if isinstance(answer, BoxAnswer):
                _draw_box(draw, image, parse_box(text, answer.scale), answer.scale, colour)
            else:
                _draw_points(draw, image, parse_points(text, answer.scale), answer.scale, colour)
        except Unscorable:
            continue  # what can't be read can't be drawn; the text stands beside the picture
    return image


def _tint(image: Image.Image, answer: PointsAnswer) -> Image.Image:
    from pelican.rewards.masks import decode_mask

    mask = Image.fromarray(np.asarray(decode_mask(answer.mask)) * np.uint8(110))
    mask = mask.resize(image.size, Image.Resampling.NEAREST)
    return Image.composite(Image.new("RGB", image.size, _RIGHT), image, mask)


def _draw_box(
    draw: ImageDraw.ImageDraw,
    image: Image.Image,
    box: Sequence[float],
    scale: Scale,
    colour: tuple[int, int, int],
) -> None:
    across, down = (side / own for side, own in zip(image.size, sides_of(scale), strict=True))
    x0, y0, x1, y1 = box
    left, right = sorted((x0 * across, x1 * across))
    top, bottom = sorted((y0 * down, y1 * down))
    draw.rectangle((left, top, right, bottom), outline=colour, width=2)


def _draw_points(
    draw: ImageDraw.ImageDraw,
    image: Image.Image,
    points: Sequence[Sequence[float]],
    scale: Scale,
    colour: tuple[int, int, int],
) -> None:
    width, height = sides_of(scale)
    for point in points:
        x, y = point[0] * image.width / width, point[1] * image.height / height
        draw.ellipse((x - 5, y - 5, x + 5, y + 5), outline=(255, 255, 255), width=4)
        draw.ellipse((x - 4, y - 4, x + 4, y + 4), outline=colour, width=2)

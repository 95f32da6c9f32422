"""The rules: one function per kind of answer in `pelican.records.Answer`.

A rule reads the answer's text, compares it with the reference, and gives a `Verdict`: the reward in
[0, 1] and the answer as it was read. What it can't read it refuses by raising `Unscorable` (the
parsers of `parse.py` and `quantities.py` do), which is a reward of 0 with that reason. A rule for counts that also takes
near misses would be

    def near_count(asked: Asked[CountAnswer]) -> Verdict:
        predicted = parse_count(asked.text)
        return Verdict(max(0.0, 1 - abs(predicted - asked.answer.value) / 3), f"{predicted:g}")

and takes effect once `families.py` names it, for one family or in `CLOSED` for all of them. Where each
rule comes from: docs/rewards.md.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from itertools import combinations

from pelican.records import (
    BoxAnswer,
    ChoiceAnswer,
    CountAnswer,
    DistanceAnswer,
    IntervalAnswer,
    OrderAnswer,
    PointsAnswer,
    StepsAnswer,
    TextAnswer,
    YesNoAnswer,
    sides_of,
)
from pelican.rewards.base import Asked, Scorers, Verdict
from pelican.rewards.coordinates import Box, parse_box, parse_points
from pelican.rewards.masks import decode_mask
from pelican.rewards.parse import (
    item_key,
    normalise,
    parse_choice,
    parse_list,
    parse_yes_no,
    part_at_and,
    reference_key,
)
from pelican.rewards.quantities import asks_area, parse_count, parse_interval, parse_length

# 1 - theta for theta = .50, .55, …, .95 (VSI-Bench)
_MRA_LIMITS = tuple(i / 20 for i in range(1, 11))


def points(asked: Asked[PointsAnswer]) -> Verdict:
    """Share of the predicted points inside the mask; a point outside the frame counts 0.

    Points on the same pixel count once, so repeating a sure point gains nothing.
    """
    answer = asked.answer
    predicted = parse_points(asked.text, answer.scale)
    pixels = decode_mask(answer.mask)
    height, width = answer.mask.size
    right, bottom = sides_of(answer.scale)
    hits: dict[tuple[bool, float, float], bool] = {}
    for x, y in predicted:
        if not (0 <= x <= right and 0 <= y <= bottom):
            hits[False, x, y] = False
            continue
        column = min(int(x * width / right), width - 1)
        row = min(int(y * height / bottom), height - 1)
        hits[True, column, row] = bool(pixels[row, column])
    value = sum(hits.values()) / len(hits)
    shown = "; ".join(f"({x:g}, {y:g})" for x, y in predicted)
    return Verdict(value, shown, "" if value else "wrong: no point is inside the mask")


def box(asked: Asked[BoxAnswer]) -> Verdict:
    """Intersection over union."""
    predicted = parse_box(asked.text, asked.answer.scale)
    shown = "[" + ", ".join(f"{value:g}" for value in predicted) + "]"
    return Verdict(box_iou(predicted, asked.answer.box), shown)


def box_iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes (x0, y0, x1, y1) that are not empty."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    common = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common
    return min(1.0, common / union)


def count(asked: Asked[CountAnswer]) -> Verdict:
    """The exact whole number."""
    predicted = parse_count(asked.text)
    return Verdict(float(predicted == asked.answer.value), f"{predicted:g}")


def distance(asked: Asked[DistanceAnswer]) -> Verdict:
    """Mean relative accuracy, in the unit that was asked, or in its square."""
    answer = asked.answer
    predicted = parse_length(asked.text, answer.unit, area=asks_area(asked.question))
    value = mean_relative_accuracy(predicted, answer.value)
    return Verdict(value, f"{predicted:g} {answer.unit}")


def mean_relative_accuracy(predicted: float, truth: float) -> float:
    """Mean over theta = .50, .55, …, .95 of 1[|p - g| / g <= 1 - theta]. `truth` is above 0."""
    error = abs(predicted - truth) / truth
    # A hair of tolerance: 15 against 10 is an error of 0.5 in decimals, not always in floats.
    return sum(error <= limit + 1e-9 for limit in _MRA_LIMITS) / len(_MRA_LIMITS)


def choice(asked: Asked[ChoiceAnswer]) -> Verdict:
    """The exact option, by letter or by its text."""
    letter = parse_choice(asked.text, asked.answer.options)
    return Verdict(float(letter == asked.answer.answer), letter)


def yes_no(asked: Asked[YesNoAnswer]) -> Verdict:
    """Yes or no."""
    predicted = parse_yes_no(asked.text)
    return Verdict(float(predicted == asked.answer.value), "yes" if predicted else "no")


def order(asked: Asked[OrderAnswer]) -> Verdict:
    """(Kendall's tau + 1) / 2: exact is 1, reversed is 0; other items than those asked score 0."""
    truth = [item_key(item) for item in asked.answer.items]
    predicted = part_at_and(parse_list(asked.text), truth)
    shown = "; ".join(predicted)
    if sorted(truth) != sorted(predicted):
        missing, extra = Counter(truth) - Counter(predicted), Counter(predicted) - Counter(truth)
        what, items = ("missing", missing) if missing else ("extra", extra)
        return Verdict(0.0, shown, f"wrong: {what} item {next(iter(items))!r}")
    ranks: dict[str, deque[int]] = defaultdict(deque)
    for rank, item in enumerate(truth):
        ranks[item].append(rank)
    placed = [ranks[item].popleft() for item in predicted]
    return Verdict(kendall(placed), shown)


def kendall(ranks: Sequence[int]) -> float:
    """Share of the pairs that stand in rising order; 1 for sorted, 0 for reversed."""
    pairs = [a < b for a, b in combinations(ranks, 2)]
    return sum(pairs) / len(pairs)


def interval(asked: Asked[IntervalAnswer]) -> Verdict:
    """Temporal intersection over union."""
    start, end = parse_interval(asked.text)
    answer = asked.answer
    common = max(0.0, min(end, answer.end) - max(start, answer.start))
    union = max(end, answer.end) - min(start, answer.start)
    value = common / union  # the hull is the union wherever the two meet, and else common is 0
    return Verdict(value, f"{start:g} to {end:g} s")


def steps(asked: Asked[StepsAnswer]) -> Verdict:
    """Longest common subsequence over the longer of the two lists, so padding does not pay."""
    truth = [item_key(step) for step in asked.answer.steps]
    predicted = part_at_and(parse_list(asked.text), truth)
    value = common_subsequence(predicted, truth) / max(len(predicted), len(truth))
    return Verdict(value, "; ".join(predicted))


def common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for x in a:
        diagonal = 0
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], diagonal + 1 if x == y else max(row[j], row[j - 1])
    return row[-1]


def text(asked: Asked[TextAnswer]) -> Verdict:
    """The exact text or one of its aliases; case, articles, spaces and punctuation aside."""
    predicted = normalise(asked.text)
    accepted = (asked.answer.value, *asked.answer.aliases)
    return Verdict(float(any(reference_key(one) == predicted for one in accepted)), predicted)


# Kinds with one right answer; every family takes them.
CLOSED: Scorers = {"choice": choice, "yes_no": yes_no, "count": count, "text": text}

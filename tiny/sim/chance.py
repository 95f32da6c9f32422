"""Chance levels: the score of the best answer that is given without looking at the picture.

A guess is one text for all questions of a template, scored by the real reward. It may repeat words
of the question: in `pick {0}` the first object that the question names is filled in, `{c}` and
`{k}` are a lone colour and kind. `python -m tiny.sim.chance` looks for the best guesses on
all questions of the training sets' scenes and writes `guesses.json`; a set's chance is what these
guesses earn on its own rows.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from pelican.config.recipe import RewardConfig
from pelican.records import (
    BoxAnswer,
    ChoiceAnswer,
    CountAnswer,
    DistanceAnswer,
    IntervalAnswer,
    OrderAnswer,
    PointsAnswer,
    Sample,
    Split,
    StepsAnswer,
    TextAnswer,
    sides_of,
)
from pelican.rewards import score
from pelican.rewards.masks import decode_mask
from tiny.sim.convert import to_sample
from tiny.sim.guesses import PATH
from tiny.sim.scenes import SETS, Scene, scenes_of
from tiny.sim.world import COLOURS, KINDS

_NAME = re.compile(rf"\b(?:{'|'.join(COLOURS)}) (?:{'|'.join(KINDS)})\b")
_COLOUR = re.compile(rf"\b(?:{'|'.join(COLOURS)})\b")
_KIND = re.compile(rf"\b({'|'.join(KINDS)})s?\b")
_CONFIG = RewardConfig()
_GUESSES = 60  # that are tried, the most frequent answers
_FIRST_ROWS, _FINALISTS = 100, 8  # all are tried on some rows, the best on all


def measure(scenes: Iterable[Scene]) -> dict[str, dict[str, Any]]:
    """Template: its best guess, what that earns, and on how many questions."""
    templates: dict[str, list[Sample]] = {}
    for scene in scenes:
        for qa in scene.questions:
            rows = templates.setdefault(qa.template, [])
            media = scene.frames[:1], [0.0]  # not looked at
            rows.append(to_sample(qa, *media, id=scene.name, scene=scene.name, split=Split.TRAIN))
    out = {}
    for template, rows in sorted(templates.items()):
        guess, chance = best_guess(rows)
        out[template] = {"guess": guess, "chance": round(chance, 4), "questions": len(rows)}
    return out


def best_guess(samples: Sequence[Sample]) -> tuple[str, float]:
    """The guess that earns most on these questions of one template, and its mean task score."""
    if isinstance(samples[0].answer, PointsAnswer):
        guess = _best_point(samples)
        return guess, guess_score(guess, samples)
    found = Counter(g for s in samples for g in _guesses(s))
    first = samples[:: max(1, len(samples) // _FIRST_ROWS)]
    means = {guess: guess_score(guess, first) for guess, _ in found.most_common(_GUESSES)}
    finalists = sorted(means, key=lambda guess: -means[guess])[:_FINALISTS]
    means = {guess: guess_score(guess, samples) for guess in finalists}
    best = max(means, key=lambda guess: means[guess])
    return best, means[best]


def guess_score(guess: str, samples: Sequence[Sample]) -> float:
    """The mean task score of one guess."""
    return float(np.mean([task_score(s, _fill(guess, s.question)) for s in samples]))


def task_score(sample: Sample, answer: str) -> float:
    """The task's part of the reward for an answer."""
    return score(sample, f"<answer>{answer}</answer>", _CONFIG).task


def gold_text(sample: Sample) -> str:
    """An answer that earns 1."""
    match sample.answer:
        case PointsAnswer() as answer:
            ys, xs = np.nonzero(decode_mask(answer.mask))
            height, width = answer.mask.size
            i = len(xs) // 2
            right, bottom = sides_of(answer.scale)
            x, y = (xs[i] + 0.5) * right / width, (ys[i] + 0.5) * bottom / height
            return f"({x:.2f}, {y:.2f})"
        case BoxAnswer(box=box):
            return "[" + ", ".join(f"{v:g}" for v in box) + "]"
        case CountAnswer(value=value):
            return str(value)
        case DistanceAnswer(value=length, unit=unit):
            return f"{length:g} {unit}"
        case IntervalAnswer(start=start, end=end):
            return f"{start:g} to {end:g} s"
        case OrderAnswer(items=items):
            return "; ".join(items)
        case StepsAnswer(steps=steps):
            return "; ".join(steps)
        case ChoiceAnswer(answer=letter):
            return letter
        case TextAnswer(value=text):
            return text
        case other:
            raise TypeError(f"the simulator asks nothing of kind {other.kind}")


def _guesses(sample: Sample) -> Iterable[str]:
    """Guesses that one question suggests."""
    match sample.answer:
        case PointsAnswer():
            return ()
        case DistanceAnswer():
            return (f"{cm} cm" for cm in range(4, 60, 2))
        case IntervalAnswer():
            return (f"{a} to {b} s" for a in range(0, 56, 8) for b in range(a + 8, 64, 8))
        case ChoiceAnswer() as answer:
            return (answer.answer, answer.options[ord(answer.answer) - ord("A")])
        case _:
            gold = gold_text(sample)
            return (gold, _pattern(gold, sample.question))


def _best_point(samples: Sequence[Sample]) -> str:
    """The point that lies in most masks; all are of one size."""
    masks = [decode_mask(s.answer.mask) for s in samples if isinstance(s.answer, PointsAnswer)]
    hits = np.sum(np.stack(masks), 0)
    y, x = np.unravel_index(int(np.argmax(hits)), hits.shape)
    return f"({(x + 0.5) * 100 / hits.shape[1]:.1f}, {(y + 0.5) * 100 / hits.shape[0]:.1f})"


def _words(question: str) -> tuple[list[str], dict[str, str]]:
    """Objects that a question names, and a lone colour (c) or kind (k)."""
    names = _NAME.findall(question)
    rest = _NAME.sub("", question)
    lone = {"c": _COLOUR.findall(rest), "k": _KIND.findall(rest)}
    return names, {key: found[0] for key, found in lone.items() if found}


def _pattern(gold: str, question: str) -> str:
    names, lone = _words(question)
    for i, name in enumerate(names):
        gold = gold.replace(name, f"{{{i}}}")
    for key, word in lone.items():
        gold = re.sub(rf"\b{word}\b", f"{{{key}}}", gold)
    return gold


def _fill(guess: str, question: str) -> str:
    if "{" not in guess:
        return guess
    names, lone = _words(question)
    try:
        return guess.format(*names, **lone)
    except (IndexError, KeyError):
        return "none"


def main() -> None:
    """Measures on the scenes of the shipped training sets."""
    table = measure(s for name in ("train", "replay") for s in scenes_of(SETS[name], 0, 2))
    PATH.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""What the question modules share: the scene at hand, and one small maker per answer kind."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiny.sim import rle
from tiny.sim.guesses import chance_of
from tiny.sim.records import QA, SIZE, Episode, Mask, Thing

PLURAL = {"cube": "cubes", "ball": "balls", "can": "cans", "bottle": "bottles", "bowl": "bowls"}
PLURAL["mug"] = "mugs"
MARGIN = 8  # of the grid: closer in x, two objects are neither left nor right of one another


def at(point: tuple[int, int]) -> str:
    """A point as text."""
    return f"({point[0]}, {point[1]})"


def spot(thing: Thing) -> str:
    """`red cube at (34, 56).`"""
    return f"{thing.name} at {at(thing.centre)}."


def tally(things: list[Thing]) -> str:
    """`red cube 1. blue ball 2.`: things counted one by one."""
    return " ".join(f"{t.name} {i + 1}." for i, t in enumerate(things)) or "there is none."


def ground(a: Thing, b: Thing) -> float:
    """Distance of two objects along the table, cm."""
    return math.dist(a.xyz[:2], b.xyz[:2])


def inner_point(mask: NDArray[np.bool_]) -> tuple[int, int]:
    """The point of the grid in the mask that is nearest to its centroid."""
    pixel = np.arange(100) * SIZE // 100
    ys, xs = np.nonzero(mask[np.ix_(pixel, pixel)])
    i = int(np.argmin((xs - xs.mean()) ** 2 + (ys - ys.mean()) ** 2))
    return int(xs[i]), int(ys[i])


@dataclass
class Asker:
    """One episode, and the questions found so far."""

    episode: Episode
    rng: np.random.Generator
    easy: frozenset[str]  # templates of the narrow distribution
    found: list[QA] = field(default_factory=list)

    @property
    def things(self) -> list[Thing]:
        """Objects of the first frame that show."""
        return [t for t in self.episode.first if t.pixels >= 40]

    @property
    def small(self) -> bool:
        """Whether the episode is within the narrow distribution."""
        e = self.episode
        return len(e.first) <= 4 and len(e.frames) <= 4 and len(e.events) <= 2

    def pick(self, things: list[Thing]) -> Thing:
        """One of them."""
        return things[int(self.rng.integers(len(things)))]

    def shuffled(self, things: list[Thing]) -> list[Thing]:
        """All of them, in a drawn order."""
        return [things[int(i)] for i in self.rng.permutation(len(things))]

    def say(self, *texts: str) -> str:
        """One of the phrasings."""
        return texts[int(self.rng.integers(len(texts)))]

    def put(
        self,
        family: str,
        dimension: str,
        template: str,
        question: str,
        answer: dict[str, Any],
        gold: str,
        think: str,
    ) -> None:
        """Keeps a question."""
        narrow = self.small and template in self.easy
        chance = chance_of(template)
        qa = QA(family, dimension, template, question, answer, gold, think, chance, narrow)
        self.found.append(qa)

    def point(
        self, dimension: str, template: str, question: str, mask: NDArray[np.bool_], think: str
    ) -> None:
        """A pointing question; `{}` in `think` becomes the point."""
        if mask.sum() < 20:
            return
        gold = at(inner_point(mask))
        answer: dict[str, Any] = {"kind": "points", "mask": rle.encode(mask), "scale": 100}
        self.put("affordance", dimension, template, question, answer, gold, think.format(gold))

    def text(
        self,
        family: str,
        dimension: str,
        template: str,
        question: str,
        value: str,
        think: str,
    ) -> None:
        """A question whose answer is a short text."""
        answer: dict[str, Any] = {"kind": "text", "value": value}
        self.put(family, dimension, template, question, answer, value, think)

    def count(
        self,
        family: str,
        dimension: str,
        template: str,
        question: str,
        value: int,
        think: str,
    ) -> None:
        """A question whose answer is a whole number."""
        answer: dict[str, Any] = {"kind": "count", "value": value}
        self.put(family, dimension, template, question, answer, str(value), think)

    def choice(
        self,
        family: str,
        dimension: str,
        template: str,
        question: str,
        options: list[str],
        right: str,
        think: str,
        keep: dict[str, float],
    ) -> None:
        """A question with lettered options in any order.

        Right answers are kept with the probabilities of `keep` (1 where absent), so that none is
        the one to guess.
        """
        if self.rng.random() > keep.get(right, 1.0):
            return
        order = [options[int(i)] for i in self.rng.permutation(len(options))]
        letter = chr(ord("A") + order.index(right))
        listed = " ".join(f"{chr(ord('A') + i)}: {o}." for i, o in enumerate(order))
        answer: dict[str, Any] = {"kind": "choice", "options": order, "answer": letter}
        self.put(family, dimension, template, f"{question} {listed}", answer, letter, think)


def decoded(mask: Mask | None) -> NDArray[np.bool_]:
    """A mask [112, 112], empty for None."""
    return np.zeros((SIZE, SIZE), bool) if mask is None else rle.decode(mask)

"""What several answers to one question say: p@k and the majority's answer."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from pelican.rewards.parse import normalise

# Kinds of answers that two attempts can give alike; a vote over points or lengths says nothing.
VOTED = frozenset({"choice", "yes_no", "count", "text", "order", "steps"})
PAIRS = 6  # all of fewer may differ alike and a sign test would not notice
_Z = 1.959963984540054  # of a two-sided 95 % interval


def pass_at(k: int, successes: int, attempts: int) -> float:
    """The chance that one of `k` attempts succeeds, of a question with `successes` of `attempts`.

    The unbiased estimate of Chen et al., "Evaluating Large Language Models Trained on Code"
    (arXiv 2107.03374), section 2.1. Raises ValueError unless 1 <= k <= attempts.
    """
    if not 1 <= k <= attempts or not 0 <= successes <= attempts:
        raise ValueError(f"p@{k} of {successes} successes in {attempts} attempts is not defined")
    return 1.0 - math.comb(attempts - successes, k) / math.comb(attempts, k)


def majority(answers: Sequence[str], values: Sequence[float]) -> float:
    """What the commonest answer earns, 0 … 1: of answers that tie for it, on the average.

    Args:
        answers: One an attempt, as text; case, spaces and punctuation aside they count as equal. An
            attempt without an answer does not vote.
        values: What each earned; 0 if nobody voted.
    """
    keys = [normalise(answer) for answer in answers]
    votes = Counter(key for key in keys if key)
    if not votes:
        return 0.0
    most = max(votes.values())
    won = [value for key, value in zip(keys, values, strict=True) if votes[key] == most]
    return sum(won) / len(won)


# Intervals of 95 %. Questions about one scene succeed and fail together, so that scenes are counted.


def share_interval(share: float, scenes: int) -> tuple[float, float]:
    """Of the mean of values in 0 … 1 over independent scenes: Wilson's, also at 0 and 1.

    Of values between 0 and 1 it is wider than needed. Without a scene all is possible.
    """
    if not scenes:
        return 0.0, 1.0
    spread = _Z**2 / scenes
    middle = (share + spread / 2) / (1 + spread)
    half = _Z / (1 + spread) * math.sqrt(share * (1 - share) / scenes + spread / (4 * scenes))
    return max(0.0, middle - half), min(1.0, middle + half)


def paired_interval(
    differences: Sequence[float], scenes: Sequence[str]
) -> tuple[float, float, float]:
    """The mean of differences in -1 … 1, and its interval; scenes are drawn, not questions.

    Agresti and Min's interval ("Simple improved confidence intervals for comparing matched
    proportions", Statistics in Medicine 24, 2005), with scenes as the pairs: one imagined scene that
    gains and one that loses keep it honest where nothing differs. Of fewer than PAIRS scenes all is
    possible.
    """
    mean_of_all = sum(differences) / max(1, len(differences))
    if len(set(scenes)) < PAIRS:
        return mean_of_all, -1.0, 1.0
    totals: dict[str, float] = {}
    for scene, difference in zip(scenes, differences, strict=True):
        totals[scene] = totals.get(scene, 0.0) + difference
    per_scene = len(differences) / len(totals)
    values = [total / per_scene for total in totals.values()]
    n = len(values) + 2
    mean = sum(values) / n
    spread = (sum(value**2 for value in values) + 1.0) / n - mean**2
    half = _Z * math.sqrt(max(0.0, spread) / n)
    return mean_of_all, max(-1.0, mean - half), min(1.0, mean + half)

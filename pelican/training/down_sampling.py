"""Down-sampling of rollouts by variance: many are drawn, those that tell most are trained on.

PODS, "Not All Rollouts are Useful: Down-Sampling Rollouts in LLM Reinforcement Learning" (arXiv
2504.13818): advantages are normalised over what is kept, as their published trainer does.
"""

from __future__ import annotations

from collections.abc import Sequence


def largest_variance(rewards: Sequence[float], kept: int) -> list[int]:
    """`kept` places, ascending, of the rewards with the largest variance among all such choices.

    Some subset of the smallest and the largest values has it (section 3 of the paper), so only
    `kept` + 1 splits are compared. Of equal ones that with more of the small rewards is taken.
    """
    order = sorted(range(len(rewards)), key=lambda i: (rewards[i], i))
    ranked = [rewards[i] for i in order]

    def spread(low: int) -> float:
        values = [*ranked[:low], *ranked[len(ranked) - (kept - low) :]]
        mean = sum(values) / kept
        return sum((value - mean) ** 2 for value in values)

    # Rounded, so that the order of a sum does not decide between equals.
    low = max(range(kept + 1), key=lambda n: (round(spread(n), 12), n))
    return sorted([*order[:low], *order[len(order) - (kept - low) :]])

"""Top-p: which tokens are drawn from."""

from __future__ import annotations

from torch import Tensor


def outside(probabilities: Tensor, top_p: float) -> Tensor:
    """Mask of `probabilities` [..., tokens]: all but the likeliest, which together reach `top_p`."""
    ranked, order = probabilities.sort(-1, descending=True)
    return (ranked.cumsum(-1) - ranked >= top_p).gather(-1, order.argsort(-1))

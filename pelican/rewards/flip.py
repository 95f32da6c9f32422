"""The ablation that flips a share of the rewards."""

from __future__ import annotations

import hashlib


def is_flipped(share: float, seed: int, sample_id: str, index: int) -> bool:
    """Whether this rollout's task reward becomes 1 - task. What 0.1 flips, 0.25 flips too."""
    if share <= 0:
        return False
    key = f"{seed}/{index}/{sample_id}".encode("utf-8", "replace")
    draw = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big")
    return draw < share * 2.0**64

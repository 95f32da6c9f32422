"""One way to name a value by its content."""

from __future__ import annotations

import hashlib
import json


def digest_of(value: object) -> str:
    """SHA-256 of the canonical JSON of `value`, shortened to 16 hex digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]

"""Text as answers are compared by it."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

_DROPPED = re.compile(r"_|(?<![0-9])\.|\.(?![0-9])|-(?![0-9])|(?<=\w)-|[^\w\s.%°+-]")
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


@lru_cache(maxsize=1 << 16)
def normalise(text: str) -> str:
    """Case, spaces, punctuation and articles aside; what is nothing else is kept as it is."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    plain = _DROPPED.sub(" ", folded)
    bare = " ".join(_ARTICLES.sub(" ", plain).split())
    return bare or " ".join(plain.split()) or " ".join(folded.split())

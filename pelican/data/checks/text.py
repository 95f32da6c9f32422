"""Text that would not be read as a question: markup, addresses, words to the model."""

from __future__ import annotations

import re
from typing import Any

CONTROL = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]"
)
_SPOKEN: tuple[tuple[str, re.Pattern[str]], ...] = (
    (
        "speaks to the model",
        re.compile(
            r"\b(?:ignore|disregard|forget)\b.{0,40}\b(?:instructions?|prompts?|above|previous|rules)\b"
            r"|\b(?:system prompt|jailbreak|you are now|act as (?:an? )?(?:ai|assistant|model))\b"
            r"|\b(?:always|only) (?:answer|respond|reply)(?: with)? (?:[A-H]\b|yes\b|no\b)",
            re.IGNORECASE | re.DOTALL,
        ),
    ),
    ("holds tags of an answer", re.compile(r"</?(?:think|answer)>|\\boxed\{", re.IGNORECASE)),
    (
        "holds markup",
        re.compile(r"</?(?:script|iframe|html|body|div|span|img|p|br|a|table|td|tr|style)\b[^>]{0,200}>"
                   r"|<!--|&(?:nbsp|lt|gt|amp|quot|#\d+);", re.IGNORECASE),
    ),
    ("holds an address", re.compile(r"\bhttps?://\S+|\bwww\.\S+\.\S+", re.IGNORECASE)),
    ("holds a file's path", re.compile(r"(?:^|\s)/(?:home|mnt|data|root|Users|tmp)/\S+")),
)  # fmt: skip


def markup(text: str) -> str:
    """What breaks a prompt in the `text` of a usable row, "" if nothing."""
    found = CONTROL.search(text)
    return f"holds {found[0]!r}, which a prompt can't" if found else ""


def instructions(text: str) -> str:
    """What a person should look at in `text`, "" if nothing. A question may well be innocent."""
    for reason, pattern in _SPOKEN:
        found = pattern.search(text)
        if found:
            return f"{reason}: {' '.join(found[0].split())[:60]!r}"
    return ""


class Languages:
    """Language of questions by py3langid, loaded at the first; short questions are not judged."""

    MIN_CHARS = 24
    SURE = 0.95
    # A question about robots in another alphabet needs no model to be told apart.
    _SCRIPTS = (
        ("zh", re.compile("[\u4e00-\u9fff]")),
        ("ja", re.compile("[\u3040-\u30ff]")),
        ("ko", re.compile("[\uac00-\ud7af]")),
        ("ru", re.compile("[\u0400-\u04ff]")),
        ("ar", re.compile("[\u0600-\u06ff]")),
        ("hi", re.compile("[\u0900-\u097f]")),
    )
    # What questions to robots are written in; a hundred languages to choose from means mistakes.
    LATIN = ("en", "de", "fr", "es", "it", "pt", "nl", "pl", "sv", "tr", "vi", "id")

    def __init__(self) -> None:
        self._model: Any = None
        self.known = True

    def __call__(self, text: str) -> str:
        """A code such as en; "" if it can't be told."""
        letters = sum(char.isalpha() for char in text) or 1
        for code, script in self._SCRIPTS:
            if len(script.findall(text)) > 0.3 * letters:
                return code
        if len(text) < self.MIN_CHARS or not self.known:
            return ""
        if self._model is None:
            try:
                from py3langid.langid import MODEL_FILE, LanguageIdentifier
            except ImportError:
                self.known = False
                return ""
            self._model = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
            self._model.set_languages(list(self.LATIN))
        found, sure = self._model.classify(text)
        return str(found) if sure >= self.SURE else ""

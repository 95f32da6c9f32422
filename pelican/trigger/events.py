"""S3 bucket notifications (event message structure 2.x, as S3, MinIO and SeaweedFS send it)."""

from __future__ import annotations

import hashlib
import json
from typing import Any
from urllib.parse import unquote_plus

from pelican.frozen import Frozen
from pelican.trigger.config import TriggerConfig


class MalformedError(ValueError):
    """A body that is no bucket notification."""


class ObjectEvent(Frozen):
    """A version of an object was created. `sequencer` orders the versions of one key, if given."""

    bucket: str
    key: str
    tag: str
    size: int | None = None
    sequencer: str = ""

    @property
    def id(self) -> str:
        """The same for every event about the same object version."""
        return _digest(self.bucket, self.key, self.tag)

    @property
    def key_id(self) -> str:
        return _digest(self.bucket, self.key)

    def older_than(self, sequencer: str) -> bool:
        """By S3's rule: hexadecimal, the shorter padded on its right; unknown is not older."""
        if not (self.sequencer and sequencer):
            return False
        width = max(len(self.sequencer), len(sequencer))
        return self.sequencer.upper().ljust(width, "0") < sequencer.upper().ljust(width, "0")


def _digest(*parts: str) -> str:
    text = json.dumps(parts).encode()
    return hashlib.sha256(text).hexdigest()[:32]


def parse_notification(body: bytes, limit: int) -> list[ObjectEvent]:
    """The created objects of a notification; other events are left out. Raises MalformedError."""
    try:
        tree = json.loads(body)
    except (ValueError, RecursionError):
        raise MalformedError("the body is not JSON") from None
    if not isinstance(tree, dict):
        raise MalformedError("the body is not a JSON object")
    if tree.get("Event") == "s3:TestEvent":
        return []
    records = tree.get("Records")
    if not isinstance(records, list):
        raise MalformedError("there is no list Records")
    if len(records) > limit:
        raise MalformedError(f"{len(records)} records in one request; at most {limit}")
    return [event for record in records if (event := _event(record)) is not None]


def _event(record: Any) -> ObjectEvent | None:
    name = _text(record, "eventName").removeprefix("s3:")
    if not name.startswith("ObjectCreated"):
        return None
    s3 = record.get("s3")
    bucket = s3.get("bucket") if isinstance(s3, dict) else None
    found = s3.get("object") if isinstance(s3, dict) else None
    if not isinstance(bucket, dict) or not isinstance(found, dict):
        raise MalformedError("a record has no s3.bucket and s3.object")
    key = unquote_plus(_text(found, "key"))
    tag = _text(found, "eTag", "").strip('"') or _text(found, "versionId", "")
    if not key or not tag:
        raise MalformedError("an object has no key, or neither eTag nor versionId")
    size = found.get("size")
    whole = isinstance(size, int) and not isinstance(size, bool) and 0 <= size < 1 << 63
    return ObjectEvent(
        bucket=_text(bucket, "name"),
        key=key,
        tag=tag,
        size=size if whole else None,
        sequencer=_text(found, "sequencer", ""),
    )


def _text(tree: Any, name: str, default: str | None = None) -> str:
    """A text field without control or surrogate characters. Raises MalformedError."""
    value = tree.get(name, default) if isinstance(tree, dict) else None
    if value is None and default is not None:
        value = default
    if not isinstance(value, str) or len(value) > 2048:
        raise MalformedError(f"{name} is missing or not a short text")
    if any(ord(c) < 32 or 0xD800 <= ord(c) < 0xE000 for c in value):
        raise MalformedError(f"{name} holds characters that no name has")
    return value


def is_wanted(event: ObjectEvent, config: TriggerConfig) -> bool:
    """Whether the object is where new data is delivered, under a key that stays in its store."""
    parts = event.key.split("/")
    safe = not event.key.startswith("/") and ".." not in parts
    there = event.key.startswith(config.prefix) and event.key.endswith(config.suffix)
    return safe and there and config.bucket in (None, event.bucket)

"""Bucket notifications: what is read of them, and what is refused."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelican.retrain.trigger.config import TriggerConfig
from pelican.retrain.trigger.inbox import MalformedError, is_wanted, parse_notification
from tests.retrain.trigger.services import event, notification


def read(tree: Any) -> list[Any]:
    return parse_notification(json.dumps(tree).encode(), 10)


def test_a_notification_gives_its_created_objects() -> None:
    told = [event(1), event(2, key="incoming/a b/ü+1.parquet", sequencer="0A")]
    assert read(notification(*told)) == told
    assert read(notification(event(1), name="s3:ObjectRemoved:Delete")) == []


def test_a_tag_is_read_without_its_quotes_and_else_the_version() -> None:
    tree = notification(event(1))
    found = tree["Records"][0]["s3"]["object"]
    found["eTag"] = '"abc"'
    assert read(tree)[0].tag == "abc"
    found |= {"eTag": "", "versionId": "v7"}
    assert read(tree)[0].tag == "v7"


def changed(name: str, value: Any) -> dict[str, Any]:
    tree = notification(event(1))
    tree["Records"][0]["s3"]["object"][name] = value
    return tree


MALFORMED: dict[str, Any] = {
    "a list": [],
    "no records": {},
    "records that are none": {"Records": {}},
    "a record that is none": {"Records": [1]},
    "no bucket": {"Records": [{"eventName": "s3:ObjectCreated:Put", "s3": {"object": {}}}]},
    "no key": changed("key", ""),
    "a key of another type": changed("key", 5),
    "a key with a control character": changed("key", "a\u0000b"),
    "a long key": changed("key", "k" * 3000),
    "no tag": changed("eTag", ""),
    "too many": {"Records": notification(event(1))["Records"] * 11},
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_no_notification(name: str) -> None:
    with pytest.raises(MalformedError):
        read(MALFORMED[name])


@pytest.mark.parametrize("body", [b"[" * 200_000, b'{"Records": ' + b"[" * 200_000, b"[]", b"5"])
def test_a_body_nested_without_end_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_notification(body, 10)


@given(st.binary(max_size=300))
def test_other_bytes_are_malformed_and_nothing_else(body: bytes) -> None:
    with suppress(MalformedError):
        parse_notification(body, 10)


@pytest.mark.parametrize(
    ("key", "wanted"),
    [
        ("incoming/a.parquet", True),
        ("incoming/deep/a.parquet", True),
        ("incoming/a.txt", False),
        ("other/a.parquet", False),
        ("incoming/../a.parquet", False),
        ("/incoming/a.parquet", False),
    ],
)
def test_which_objects_count(key: str, wanted: bool) -> None:
    config = TriggerConfig(prefix="incoming/", bucket="robots")
    assert is_wanted(event(1, key=key), config) is wanted
    assert not is_wanted(event(1, key=key).model_copy(update={"bucket": "x"}), config)

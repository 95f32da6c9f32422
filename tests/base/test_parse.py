"""JSON from outside: a value or one kind of error, whatever the text."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelican.base.parse import JSONError, parse_json

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(values)
def test_what_was_written_is_read(value: object) -> None:
    assert parse_json(json.dumps(value)) == value
    assert parse_json(json.dumps(value).encode()) == value


@given(st.binary() | st.text())
def test_any_text_is_a_value_or_one_error(text: str | bytes) -> None:
    try:
        parse_json(text)
    except JSONError as error:
        assert str(error)


@pytest.mark.parametrize(
    "text",
    ["", "{", "nul", "[" * 200_000, '{"a":' * 200_000, b"\xff\xfe\xff", b"\x80", "1" * 5000],
    ids=["empty", "cut", "half", "brackets", "braces", "utf-16", "bytes", "digits"],
)
def test_a_text_that_is_none_is_one_error(text: str | bytes) -> None:
    with pytest.raises(JSONError):
        parse_json(text)

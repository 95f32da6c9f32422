"""Cells of a table that a spreadsheet opens."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pelican.base.cells import as_written, no_formula


@given(st.text())
@example("=1+1")
@example("'=1+1")
@example("\t=1")
@example("'")
def test_a_cell_is_no_formula_and_reads_as_it_was_written(text: str) -> None:
    cell = no_formula(text)
    assert cell[:1] not in ("=", "+", "-", "@", "\t", "\r") or not cell
    assert as_written(cell) == text


@pytest.mark.parametrize("cell", ["it's", "'quoted'", "plain", ""])
def test_other_cells_stay_as_they_are(cell: str) -> None:
    assert no_formula(cell) == cell == as_written(cell)

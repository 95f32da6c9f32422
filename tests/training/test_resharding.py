"""Parts of flat tensors, cut anew for another number of processes."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from pelican.training.checkpoints import piece

processes = st.integers(1, 9)


@given(st.integers(1, 50), processes, processes)
def test_parts_of_another_number_are_those_of_the_whole(numel: int, old: int, new: int) -> None:
    whole = torch.arange(1.0, numel + 1)
    parts = [piece([whole], numel, rank, old) for rank in range(old)]
    again = [piece(parts, numel, rank, new) for rank in range(new)]
    assert {len(part) for part in again} == {-(-numel // new)}
    padded = torch.cat(again)
    assert torch.equal(padded[:numel], whole)
    assert not padded[numel:].any()

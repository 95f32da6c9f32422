"""Every layout is recognised by one reader, imported, checked, and opened in Hugging Face's library."""

from __future__ import annotations

from pathlib import Path

import pytest

from pelican.data.checks import check
from pelican.data.formats import sniff
from pelican.data.formats.base import Options
from tests.data.formats.layouts import LAYOUTS
from tests.data.formats.world import imported

NEEDS_DATASETS = ("lmms_eval", "hf")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_is_recognised_imported_and_checked(layout: str, tmp_path: Path) -> None:
    write, reader, good, bad = LAYOUTS[layout]
    if reader in NEEDS_DATASETS:
        pytest.importorskip("datasets")
    root = tmp_path / "lab"
    root.mkdir()
    write(root)
    _, fits = sniff(str(root), Options())
    best = max(fits.values())
    assert [name for name, score in fits.items() if score == best] == [reader]
    found = imported(root, tmp_path / "pool")  # opens it in `datasets`, too
    assert (found.reader, len(found.samples), len(found.bad)) == (reader, good, bad), found.reasons
    checked = check(found.pool, [], near=0)
    assert not checked.findings.faulty and not checked.findings.pool_errors

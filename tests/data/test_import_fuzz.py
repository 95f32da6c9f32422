"""Three hundred broken inputs out of good ones: each is counted, none ends an import or its process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from pelican.data.tables import CODES
from pelican.data.versions import read_version
from tests.conftest import ROOT
from tests.data.formats.world import image
from tests.data.fuzzing import conversations, good, pointing, spoilt_files

MEMORY_MB = 1000


@dataclass(frozen=True)
class Ended:
    """What a command left: its status, output, and largest resident size."""

    status: int
    output: str
    mb: float


# A child begins with the largest size that its parent ever had, and pytest's may be a gigabyte; so
# a small process stands between.
_MEASURED = """
import os, sys
_, status, usage = os.wait4(os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ), 0)
open(sys.argv[1], "w").write(str(usage.ru_maxrss))
sys.exit(os.waitstatus_to_exitcode(status))
"""


def pelican(folder: Path, *words: str) -> Ended:
    """`pelican` as a user calls it, in a process of its own whose memory is measured."""
    kib = folder / "kib.txt"
    command = [sys.executable, "-m", "pelican", *words]
    ended = subprocess.run(
        [sys.executable, "-c", _MEASURED, str(kib), *command],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PELICAN_CACHE": str(folder / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    return Ended(ended.returncode, ended.stdout, int(kib.read_text()) / 1024)


@pytest.mark.parametrize(
    ("make", "reader", "fine", "broken"),
    [(conversations, "llava", 20, 200), (pointing, "refspatial", 4, 40)],
)
def test_broken_rows_are_counted_with_their_reasons(
    tmp_path: Path, make: Callable[[Path, int, int], None], reader: str, fine: int, broken: int
) -> None:
    root, pool = tmp_path / "fuzz", tmp_path / "pool"
    root.mkdir()
    make(root, fine, broken)
    ended = pelican(tmp_path, "data", "import", str(root), "--out", str(pool), "--reader", reader)
    assert ended.status == 0, ended.output
    assert "Traceback" not in ended.output
    assert ended.mb < MEMORY_MB
    version = read_version(pool)
    assert version is not None and version.rows + version.quarantined == fine + broken
    rows = [json.loads(text) for text in (pool / "quarantine.jsonl").open()]
    assert len(rows) == version.quarantined > broken // 2
    assert {row["code"] for row in rows} <= set(CODES)
    # What is left out unexplained would say the name of an exception.
    assert not [row["reason"] for row in rows if not row["reason"] or "Error:" in row["reason"]]
    assert not [row for row in rows if row["id"] in {f"r{i}" for i in range(20)}]


def test_files_that_are_spoilt_as_a_whole_are_counted_or_end_in_a_sentence(tmp_path: Path) -> None:
    """All of them in one source, beside a good file; then alone, where nothing is left to take."""
    root, pool = tmp_path / "fuzz", tmp_path / "pool"
    for i in range(5):
        image(root / "images" / f"{i}.jpg", seed=i)
    (root / "good.json").write_text(json.dumps([good(i) for i in range(100, 104)]))
    spoilt = spoilt_files(root)
    assert len(spoilt) >= 35
    for number, (name, content) in enumerate(spoilt):
        (root / f"{number:02d}-{name}").write_bytes(content)
    for reader in ("llava", "parquet"):
        ended = pelican(
            tmp_path, "data", "import", str(root), "--out", str(pool), "--reader", reader
        )
        assert (ended.status, "Traceback" in ended.output) == (0, False), ended.output
        assert ended.mb < MEMORY_MB
    rows = [json.loads(text) for text in (pool / "quarantine.jsonl").open()]
    assert {row["code"] for row in rows} <= set(CODES)
    assert not [row["reason"] for row in rows if not row["reason"] or "Error:" in row["reason"]]
    version = read_version(pool)
    assert version is not None and version.rows >= 4
    # Every file is named by a row that was left out, but the one that only has a byte order mark.
    named = {row["place"].partition("-")[0] for row in rows}
    silent = [content[:3] for n, (_, content) in enumerate(spoilt) if f"{n:02d}" not in named]
    assert silent == [b"\xef\xbb\xbf"]

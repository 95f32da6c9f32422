"""Some faults of `make test-faults`, by their seeds, and what its verdicts rest on."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.faults.__main__ import plan
from tests.faults.site import Ended
from tests.faults.strikes import KINDS, classes
from tests.faults.verdict import compare, judge_words

# cut, stop, deleted, deleted in a bucket, kill, unseen flip, full disk, flip in a bucket, read-only.
SEEDS = (1, 2, 3, 4, 10, 12, 13, 16, 19)


def test_runs_that_are_struck_end_as_one_that_is_not(tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    command = [sys.executable, "-m", "tests.faults", "--folder", str(tmp_path / "work")]
    command += [word for seed in SEEDS for word in ("--seed", str(seed))]
    ended = subprocess.run(
        [*command, "--lines", str(lines)], cwd=ROOT, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = [json.loads(line) for line in lines.read_text().splitlines()]
    assert found and all(line["statuses"][-1] == 0 for line in found)


def test_a_seed_says_all_and_every_kind_comes() -> None:
    plans = [plan(seed, 12)[0] for seed in range(400)]
    assert plans == [plan(seed, 12)[0] for seed in range(400)]
    assert Counter(p.kind for p in plans).keys() == KINDS.keys()
    for place in ("folder", "bucket", "disk"):
        assert any(p.place == place for p in plans)


STAGE: dict[str, Any] = {"files": {"rows.txt": "a"}, "counts": {"rows": 1}, "metrics": {"x": 1.0}}
WHOLE: dict[str, Any] = {
    "stages": {"runs/r/loop-1/eval-rl": STAGE},
    "damaged": [],
    "told": [],
    "state": "complete",
    "scores": [{"embodied": 47.2}],
    "keys": ["runs/r/loop-1/eval-rl/rows.txt", "runs/r/summary.json"],
}


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("state", "failed", "state"),
        ("scores", [{"embodied": 0.0}], "scores"),
        ("stages", {}, "differ"),
        ("stages", {"runs/r/loop-1/eval-rl": STAGE | {"files": {"rows.txt": "b"}}}, "files differ"),
        ("damaged", ["runs/r/loop-1/eval-rl/rows.txt"], "nobody told"),
        ("keys", [*WHOLE["keys"], "runs/r/.x.tmp"], "left: runs/r/.x.tmp"),
        ("keys", WHOLE["keys"][:1], "missing: runs/r/summary.json"),
    ],
)
def test_what_deviates_is_found(name: str, value: Any, words: str) -> None:
    after = deepcopy(WHOLE) | {name: value}
    assert any(words in deviation for deviation in compare(WHOLE, after))
    assert not compare(WHOLE, deepcopy(WHOLE))
    told = deepcopy(WHOLE) | {"damaged": ["x"], "told": ["x"]}
    assert not compare(WHOLE, told)


@pytest.mark.parametrize(
    ("status", "err", "good"),
    [
        (0, "", True),
        (75, "error: the disk is full; the same command continues\n", True),
        (75, "", False),
        (1, "error: a bug\n", False),
        (2, "error: one\nerror: two\n", False),
        (0, "Traceback (most recent call last):\n", False),
        (-9, "", True),
    ],
)
def test_a_command_says_one_sentence(status: int, err: str, good: bool) -> None:
    found = judge_words(Ended(status, "", err), frozenset({0, 2, 75, -9}), "it")
    assert bool(found) != good


def test_a_step_that_a_signal_ended_says_so_by_an_event() -> None:
    said = '::event {"event": "failed", "message": "was ended by SIGTERM"}'
    assert not judge_words(Ended(143, said, ""), frozenset({143}), "it")
    assert judge_words(Ended(143, "", ""), frozenset({143}), "it")


def test_every_file_of_a_store_has_a_kind() -> None:
    keys = {
        "runs/r/run.json": "run.json",
        "runs/r/logs/loop-1-eval-rl.log": "logs",
        "runs/r/loop-1/eval-rl/manifest.json": "stage's manifest.json",
        "runs/r/loop-1/eval-rl/rows.txt": "stage's rows.txt",
        "runs/r/loop-1/eval-rl/work/making.json": "work",
        "runs/r/loop-1/train-rl-rl/checkpoint/model.safetensors": "checkpoint",
        "cache/preflight/a.json": "cache",
        "models/tiny/1/version.json": "models version.json",
    }
    assert classes(list(keys)) == {kind: [key] for key, kind in keys.items()}

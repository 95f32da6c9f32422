"""`runs`, `show`, `report` and `compare` over damaged files: told, counted, gone on, nothing moved."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pelican.config.presets import find_recipe
from pelican.storage.manifests import commit_manifest, read_manifest
from pelican.storage.store import FolderStore
from tests.cli.test_mistakes import Ended, run
from tests.report.made_run import NAME, MadeRun

COMMANDS = ("runs", "show made", "show made --json", "report made", "compare made other")
# What happens to a file. A flipped bit is in its middle, where no reader need stumble over it.
DAMAGE = {
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "flipped": lambda data: (
        data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 4]) + data[len(data) // 2 + 1 :]
    ),
    "object": lambda data: b"{}",
    "null": lambda data: b"null",
    "deep": lambda data: b"[" * 200_000,
    "binary": lambda data: b"\xff\x00\xfe" * 40,
}
RECORDS = ("run.json", "recipe.json", "preflight.json", "failure.json", "verdict.json")
STAGE_FILES = (
    "loop-0/eval-base/manifest.json",
    "loop-0/eval-base/summary.json",
    "loop-0/eval-base/results.parquet",
    "loop-1/eval-sft/gate.json",
    "loop-1/eval-sft/results.parquet",
    "loop-1/filter-rl/manifest.json",
    "loop-1/filter-rl/ledger.parquet",
    "loop-1/rollout-rl/rollouts-00000.parquet",
    "loop-1/reward-rl/scores-00000.parquet",
    "loop-1/distill-sft/teacher.parquet",
    "loop-1/distill-sft/mixture.parquet",
    "loop-1/train-rl-rl/curve.parquet",
    "loop-1/train-rl-rl/stagnation.parquet",
    "loop-1/train-sft-sft/curve.parquet",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A store with a run of one loop, and a second one."""
    root = tmp_path_factory.mktemp("damaged")
    one = MadeRun(root, loops=1, train=16, held_out=12)
    store = one.write()
    recipe = find_recipe("tiny", [f"loops=1 data.train={one.pool}"])
    store.write(f"runs/{NAME}/recipe.json", recipe.model_dump_json().encode())
    failure = {"stage": "eval", "loop": 1, "phase": "sft", "message": "it broke"}
    store.write(f"runs/{NAME}/failure.json", json.dumps(failure).encode())
    ended = {"outcome": "refused", "run": NAME, "data": "d", "parent": "p:1", "reasons": []}
    ended["at"] = "2026-01-05T09:00:00Z"
    store.write(f"runs/{NAME}/verdict.json", json.dumps(ended).encode())
    store.write(f"runs/{NAME}/summary.json", b'{"state": "complete"}')
    other = store.root / "runs/other"
    shutil.copytree(store.root / "runs" / NAME, other)
    submission = (other / "run.json").read_text().replace(f'"{NAME}"', '"other"')
    (other / "run.json").write_text(submission)
    for path in other.rglob("manifest.json"):
        prefix = path.parent.relative_to(store.root).as_posix()
        manifest = read_manifest(store, prefix)
        commit_manifest(store, prefix, manifest.model_copy(update={"run": "other"}))
    shutil.rmtree(one.pool)  # what is read of it is the same for every case, and takes long
    yield root


def damage(store: Path, name: str, how: str) -> None:
    path = store / "runs" / NAME / name
    broken = DAMAGE[how](path.read_bytes())
    places = [path]
    if path.name == "manifest.json":  # and what stands for it
        places = list(path.parent.glob("manifest*.json"))
    for place in places:
        about = place.stat()
        place.write_bytes(broken)
        os.utime(place, ns=(about.st_atime_ns, about.st_mtime_ns))


def content(store: Path) -> dict[str, bytes]:
    """Every file of the store but the pages, which these commands write."""
    return {
        path.relative_to(store).as_posix(): path.read_bytes()
        for path in store.rglob("*")
        if path.is_file() and path.suffix != ".html"
    }


def check(
    store: Path,
    command: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Ended:
    """That a command ends well and leaves the store as it is."""
    before = content(store)
    ended = run(command, store.parent, monkeypatch, capfd)
    assert ended.status in (0, None), ended
    assert "Traceback" not in ended.err and "panicked" not in ended.err, ended
    assert content(store) == before
    return ended


# One flipped bit in a JSON file may leave it JSON of the same form: what no manifest names can't tell.
_MAY_PASS = {("flipped", name) for name in (*RECORDS, "summary.json")}
_MAY_PASS |= {("object", "preflight.json")}  # of no pools


def cases(names: Sequence[str]) -> list[tuple[str, str]]:
    """Every kind of damage of every file; a table is not made an object."""
    hows = {name: [h for h in DAMAGE if name.endswith(".json") or h != "object"] for name in names}
    return [(name, how) for name in names for how in hows[name]]


@pytest.mark.parametrize(("name", "how"), cases((*RECORDS, "summary.json")))
def test_a_damaged_record_is_told_and_the_rest_is_shown(
    made: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    name: str,
    how: str,
) -> None:
    store = tmp_path / "store"
    shutil.copytree(made / "store", store)
    damage(store, name, how)
    told = "".join(check(store, c, monkeypatch, capfd).err for c in ("runs", "show made --json"))
    of_report = name in ("preflight.json", "verdict.json")
    if not of_report and (how, name) not in _MAY_PASS:
        assert f"runs/{NAME}/{name}" in told and "1 record was left out" in told


def test_every_flipped_file_is_told_by_the_report(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    shutil.copytree(made / "store", store)
    names = [name for name in STAGE_FILES if not name.endswith("manifest.json")]
    for name in names:
        damage(store, name, "flipped")
    ended = check(store, "report made", monkeypatch, capfd)
    # The gate's word stands in the page beside the evaluation, which is damaged.
    untold = [name for name in names if name not in ended.err]
    assert untold == ["loop-1/eval-sft/gate.json"]
    page = (store / "runs" / NAME / "report.html").read_text()
    assert f"{len(names) - len(untold)} damaged and left out" in page


@pytest.mark.long
@pytest.mark.parametrize(("name", "how"), cases((*RECORDS, "summary.json", *STAGE_FILES)))
def test_a_damaged_file_is_told_by_some_command(
    made: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    name: str,
    how: str,
) -> None:
    store = tmp_path / "store"
    shutil.copytree(made / "store", store)
    damage(store, name, how)
    told = ""
    for command in COMMANDS:
        ended = check(store, command, monkeypatch, capfd)
        assert "other" in ended.out or "made" in ended.out
        told += ended.err
        if command == "show made --json":
            assert json.loads(ended.out)["run"] == NAME
    if (how, name) not in _MAY_PASS:
        assert f"runs/{NAME}/{name}" in told and "left out" in told


def test_every_record_may_be_damaged_at_once(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    shutil.copytree(made / "store", store)
    for path in sorted((store / "runs" / NAME).rglob("*")):
        if path.is_file() and path.suffix in (".json", ".parquet"):
            damage(store, path.relative_to(store / "runs" / NAME).as_posix(), "cut")
    for command in COMMANDS:
        ended = check(store, command, monkeypatch, capfd)
        assert "left out" in ended.err


def test_a_folder_in_the_place_of_a_record_is_told(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    shutil.copytree(made / "store", store)
    path = store / "runs" / NAME / "failure.json"
    path.unlink()
    (path / "inside").mkdir(parents=True)
    assert "failure.json is a folder" in check(store, "show made", monkeypatch, capfd).err


def test_nothing_is_told_of_a_whole_store(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    shutil.copytree(made / "store", store)
    for command in COMMANDS:
        assert check(store, command, monkeypatch, capfd).err == ""
    assert FolderStore(store).exists(f"runs/{NAME}/report.html")

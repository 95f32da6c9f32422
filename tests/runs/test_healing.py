"""What a disk alters in a finished run is noticed by whoever reads it, and healed; nothing else moves.

The stages are made, everything around them is real. Each case starts from a copy of one finished run.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest

from pelican.registry.models import Lineage, register
from pelican.stages.replace import REPLACED
from pelican.storage.digests import file_digests
from pelican.storage.manifests import COPY
from pelican.storage.store import MANIFEST, FolderStore
from tests.conftest import World, make_world
from tests.faults.drive import drive as drive_metaloop

RUN = "damaged"
POLICY = "loop-2/train-sft-sft/checkpoint/model.safetensors"
LAST = "loop-2/eval-sft"
LOOPS = 2


def drive(world: World, store: FolderStore, *overrides: str, redo: bool = False) -> None:
    recipe = world.recipe(f"loops={LOOPS} sft.processes=1", *overrides)
    drive_metaloop(store, RUN, recipe, redo)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world with a finished run of two loops."""
    world = make_world(tmp_path_factory.mktemp("finished"))
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    with pytest.MonkeyPatch.context() as patch:
        for name in ("PYTHONPATH", "PELICAN_WARM", "PELICAN_FAKE"):
            patch.setenv(name, world.environment()[name])
        patch.setenv("PELICAN_CACHE", str(world.root / "cache"))
        drive(world, world.store)
        yield world
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def run(finished: World, tmp_path: Path) -> Path:
    """The folder of a copy of that run, in a store of its own."""
    shutil.copytree(finished.root / "store", tmp_path / "store")
    return tmp_path / "store" / "runs" / RUN


def again_from(world: World, run: Path, *overrides: str, redo: bool = False) -> None:
    drive(world, FolderStore(run.parents[1]), *overrides, redo=redo)


def refusal(
    world: World,
    run: Path,
    capsys: pytest.CaptureFixture[str],
    *overrides: str,
    redo: bool = False,
) -> str:
    """What the run says that ends with status 2."""
    with pytest.raises(SystemExit) as caught:
        again_from(world, run, *overrides, redo=redo)
    assert caught.value.code == 2
    return capsys.readouterr().err


def flip(file: Path) -> None:
    """Another bit in the middle, the times put back: as a disk that rots."""
    data, state = bytearray(file.read_bytes()), file.stat()
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def delete(file: Path) -> None:
    file.unlink()


HARMS = [flip, cut, empty, delete]


def committed(run: Path) -> dict[str, bytes]:
    """The manifests of the run's stages, by prefix."""
    found = sorted(run.glob(f"loop-*/*/{MANIFEST}"))
    return {path.parent.relative_to(run).as_posix(): path.read_bytes() for path in found}


def again(before: dict[str, bytes], after: dict[str, bytes]) -> set[str]:
    """The stages that were done again."""
    assert before.keys() == after.keys()
    return {prefix for prefix in before if before[prefix] != after[prefix]}


@pytest.mark.parametrize("harm", HARMS)
def test_what_nobody_reads_any_more_is_no_reason_to_work(
    finished: World, run: Path, harm: Callable[[Path], None]
) -> None:
    before, file = committed(run), run / "loop-1/train-rl-rl/checkpoint/model.safetensors"
    file_digests([file])  # the copy is noted on this machine, as what a stage commits is
    harm(file)
    left = file.read_bytes() if file.exists() else None
    again_from(finished, run)
    assert not again(before, committed(run))
    assert (file.read_bytes() if file.exists() else None) == left
    said = json.loads((run / "summary.json").read_text())["damaged"]
    assert said == [f"runs/{RUN}/{file.relative_to(run).as_posix()}"]


@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_input_is_made_again_and_what_came_of_it_before_stays(
    finished: World,
    run: Path,
    harm: Callable[[Path], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    before, whole = committed(run), (run / POLICY).read_bytes()
    shutil.rmtree(run / LAST)
    harm(run / POLICY)
    again_from(finished, run)
    assert again(before, committed(run)) == {LAST, "loop-2/train-sft-sft"}
    assert (run / POLICY).read_bytes() == whole
    assert "is damaged and has no whole copy" in capsys.readouterr().out
    assert not (run / REPLACED).exists() or not any((run / REPLACED).rglob("*.json"))


def test_damage_far_above_does_not_train_again_what_was_made_of_it(
    finished: World, run: Path
) -> None:
    before = committed(run)
    shutil.rmtree(run / LAST)
    flip(run / "loop-0/eval-base/rows.txt")  # every evaluation is compared with the base's
    again_from(finished, run)
    assert again(before, committed(run)) == {LAST, "loop-0/eval-base"}


def test_a_whole_copy_comes_before_work(
    finished: World, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = FolderStore(run.parents[1])
    lineage = Lineage(origin="run", source=f"run {RUN}")
    register(store, "tiny", (run / POLICY).parent, lineage)
    before = committed(run)
    shutil.rmtree(run / LAST)
    flip(run / POLICY)
    again_from(finished, run)
    assert again(before, committed(run)) == {LAST}
    assert "restored from a whole copy" in capsys.readouterr().out


@pytest.mark.parametrize("harm", [flip, cut, empty])
def test_a_damaged_manifest_costs_nothing(
    finished: World, run: Path, harm: Callable[[Path], None]
) -> None:
    before = committed(run)
    harm(run / "loop-1/train-rl-rl" / MANIFEST)
    shutil.rmtree(run / LAST)
    again_from(finished, run)
    assert again(before, committed(run)) <= {LAST, "loop-1/train-rl-rl"}
    log = (run / "logs/loop-1-train-rl-rl.log").read_text()
    assert log.count("# ") == 1  # not trained again


def test_a_stage_whose_manifests_are_both_damaged_is_done_again(finished: World, run: Path) -> None:
    before = committed(run)
    for name in (MANIFEST, COPY):
        cut(run / "loop-1/reward-rl" / name)
    again_from(finished, run)
    assert again(before, committed(run)) == {"loop-1/reward-rl"}


def test_show_verify_reads_every_byte(finished: World, run: Path) -> None:
    def verify() -> subprocess.CompletedProcess[str]:
        command = finished.command("show", RUN, "--verify", "--store", str(run.parents[1]))
        return subprocess.run(command, capture_output=True, text=True, env=finished.environment())

    ended = verify()
    assert ended.returncode == 0 and "all of them are what was written" in ended.stdout
    flip(run / POLICY)
    ended = verify()
    assert ended.returncode == 2 and f"damaged runs/{RUN}/{POLICY}" in ended.stdout
    assert len(ended.stderr.strip().splitlines()) == 1


# What a person changes of a finished training.


def change_pool(world: World) -> Callable[[], None]:
    """Another reference answer in the training pool; gives the way back."""
    (shard,) = sorted((world.root / "train").glob("*.parquet"))[:1]
    before = shard.read_bytes()
    frame = pl.read_parquet(shard)
    frame.head(len(frame) - 1).write_parquet(shard)

    def undo() -> None:
        shard.write_bytes(before)

    return undo


def test_a_changed_input_of_a_finished_training_is_asked_about(
    finished: World,
    run: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = committed(run)
    undo = change_pool(finished)
    try:
        said = refusal(finished, run, capsys)
        assert "--redo" in said and "its input pool has changed" in said
        assert committed(run) == before and not (run / REPLACED).exists()

        monkeypatch.setenv("PELICAN_FAKE", json.dumps({"train-rl": {"do": "user"}}))
        assert "the made input is wrong" in refusal(finished, run, capsys, redo=True)
        aside = run / REPLACED / "loop-1/train-rl-rl"
        assert (aside / MANIFEST).read_bytes() == before["loop-1/train-rl-rl"]
    finally:
        undo()
    monkeypatch.setenv("PELICAN_FAKE", "{}")
    again_from(finished, run)  # the change is undone: what stood aside is wanted again
    assert committed(run)["loop-1/train-rl-rl"] == before["loop-1/train-rl-rl"]
    assert not any((run / REPLACED).rglob(MANIFEST))


def test_a_changed_setting_is_asked_about_and_redone(
    finished: World, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = committed(run)
    said = refusal(finished, run, capsys, "sft.max_steps=7")
    assert "sft.max_steps" in said and "--redo" in said
    assert committed(run) == before
    again_from(finished, run, "sft.max_steps=7", redo=True)
    changed = again(before, committed(run))
    # Made trainings give the same bytes whatever their settings: what reads them stays.
    assert changed == {f"loop-{k}/train-sft-sft" for k in (1, 2)}
    assert not any((run / REPLACED).rglob(MANIFEST))

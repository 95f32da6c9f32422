"""A stage is taken over from another run only if it is the same in every respect."""

from __future__ import annotations

from collections import Counter

import pytest

from pelican.config import env
from pelican.records import Phase
from pelican.stages.fingerprint import CODE, begin
from pelican.stages.job import StageJob
from pelican.stages.runner import commit
from pelican.stages.stage import StageResult, StageSpec
from pelican.storage.manifests import Manifest, commit_manifest, now
from pelican.storage.store import MANIFEST
from tests.conftest import World

PLACE = "loop-1/reward-rl"


def spec(world: World, run: str, override: str = "seed=0") -> StageSpec:
    return StageSpec(
        stage="reward",
        store=world.store.uri,
        run=run,
        loop=1,
        phase=Phase.RL,
        output=f"runs/{run}/{PLACE}",
        inputs={"pool": str(world.root / "train")},
        recipe=world.recipe(override),
    )


@pytest.fixture
def donor(world: World, monkeypatch: pytest.MonkeyPatch) -> Manifest:
    """A finished stage of run `donor`."""
    monkeypatch.setenv(env.REUSE, "on")
    asked = spec(world, "donor")
    identity = begin(world.store, asked)
    assert isinstance(identity, str)
    job = StageJob(world.store, asked.output, asked.stage, asked.loop, asked.phase)
    job.output("scores-00000.parquet").write_bytes(b"scores")
    job.output("more/notes.json").write_bytes(b"{}")
    result = StageResult(counts=Counter(rows=7))
    return commit(world.store, asked, result, identity, now())


def test_the_same_stage_is_copied_with_its_counts(world: World, donor: Manifest) -> None:
    taken = begin(world.store, spec(world, "other"))
    assert isinstance(taken, Manifest)
    assert (taken.run, taken.counts, taken.outputs) == ("other", {"rows": 7}, donor.outputs)
    assert taken.notes["taken_from"] == f"runs/donor/{PLACE}"
    assert taken.digest() == donor.digest()
    assert world.store.read(f"runs/other/{PLACE}/more/notes.json") == b"{}"
    # A third run names the one that did the work, and is done when it is asked again.
    world.store.delete("runs/donor")
    third = begin(world.store, spec(world, "third"))
    assert isinstance(third, Manifest)
    assert third.notes["taken_from"] == f"runs/donor/{PLACE}"
    assert begin(world.store, spec(world, "third")) == third


@pytest.mark.parametrize("what", ["recipe", "input", "code", "file", "lost", "unfinished", "off"])
def test_anything_else_is_done_again(
    world: World, donor: Manifest, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix, override = f"runs/donor/{PLACE}", "seed=0"
    if what == "recipe":
        override = "reward.flip=0.1"
    elif what == "input":
        next((world.root / "train").glob("*.parquet")).write_bytes(b"other")
    elif what == "code":
        changed = donor.model_copy(update={"versions": {**donor.versions, CODE: "0" * 16}})
        commit_manifest(world.store, prefix, changed)
    elif what == "file":
        world.store.write(f"{prefix}/scores-00000.parquet", b"spoilt")
    elif what == "lost":
        world.store.delete(f"{prefix}/scores-00000.parquet")
    elif what == "unfinished":
        world.store.delete(f"{prefix}/{MANIFEST}")
    else:
        monkeypatch.delenv(env.REUSE)
    asked = spec(world, "other", override)
    assert isinstance(begin(world.store, asked), str)
    found = {key.removeprefix(f"{asked.output}/") for key in world.store.keys(asked.output)}
    assert found == {"work/fingerprint", "work/inputs", "work/making.json"}

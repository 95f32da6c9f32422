"""Stages whose store is S3: real processes, what they compute is made (tests/fakes)."""

from __future__ import annotations

from pathlib import Path

import pytest

from pelican.errors import UserInputError
from pelican.launch.job import Job
from pelican.launch.local import ProcessLauncher
from pelican.records import Phase
from pelican.stages.fingerprint import finished_manifest
from pelican.stages.runner import stage_arguments
from pelican.stages.stage import StageName, StageSpec
from pelican.storage.manifests import read_manifest
from pelican.storage.publish import places, publish
from tests.buckets import Bucket
from tests.conftest import World


def job(world: World, bucket: Bucket, stage: StageName, processes: int = 1) -> Job:
    environment = world.environment()
    store = bucket.store()
    recipe = publish(store, world.recipe())
    spec = StageSpec(
        stage=stage,
        store=store.uri,
        run="test",
        loop=1,
        phase=Phase.RL,
        output=f"runs/test/loop-1/{stage}-rl",
        inputs={"pool": recipe.data.train},
        recipe=recipe,
    )
    return Job(spec, processes, env={n: environment[n] for n in ("PYTHONPATH", "PELICAN_FAKE")})


def test_what_a_stage_wrote_is_in_the_bucket(world: World, bucket: Bucket) -> None:
    wanted = job(world, bucket, "reward")
    result = ProcessLauncher().run(wanted)
    elsewhere = bucket.store()
    assert finished_manifest(elsewhere, wanted.spec) == result.manifest
    for output in result.manifest.outputs:
        assert elsewhere.describe(f"{wanted.spec.output}/{output.path}") == (
            output.size,
            output.sha256,
        )
    folder = elsewhere.local(wanted.spec.output)
    assert (folder / "rows.txt").is_file()
    assert elsewhere.exists(wanted.logs)


def test_ranks_share_a_bucket(world: World, bucket: Bucket) -> None:
    result = ProcessLauncher().run(job(world, bucket, "rollout", processes=2))
    assert result.manifest.counts["ranks"] == 2


def test_pools_and_checkpoints_are_brought_once(
    world: World, bucket: Bucket, capsys: pytest.CaptureFixture[str]
) -> None:
    store, recipe = bucket.store(), world.recipe()
    first = publish(store, recipe)
    assert first.data.train.startswith(f"{store.uri}/data/train-")
    assert capsys.readouterr().err.count("uploading") == 6
    assert publish(bucket.store(), recipe) == first
    assert publish(store, first) == first
    assert not capsys.readouterr().err
    named = places(first).split()
    assert len(named) == 6 and f"data.train={first.data.train}" in named
    assert not places(recipe)
    assert store.exists(f"{first.data.train.removeprefix(f'{store.uri}/')}.json")
    (world.root / "train" / "more.parquet").write_bytes(b"x")
    assert publish(store, recipe).data.train != first.data.train


def test_a_path_that_is_none_is_named(world: World, bucket: Bucket) -> None:
    with pytest.raises(UserInputError, match=r"data\.replay"):
        publish(bucket.store(), world.recipe("data.replay=/nowhere/at/all"))


def test_a_checkpoint_is_kept_for_an_attempt_elsewhere(world: World, bucket: Bucket) -> None:
    spec = job(world, bucket, "train-rl").spec
    _, _, here = stage_arguments(bucket.store(), spec)
    for step in (5, 10):
        folder = here.output(f"work/trainer/checkpoint-{step}/state.json")
        folder.write_text(str(step))
        (folder.parent / "weights").write_text("w")
        here.keep(f"work/trainer/checkpoint-{step}", last=("state.json",))
    (here.output("work/trainer/checkpoint-15") / "weights").parent.mkdir()
    _, _, there = stage_arguments(bucket.store(), spec)
    found = {
        path.relative_to(there.output("work/trainer")).as_posix()
        for path in Path(there.restored("work/trainer")).rglob("*")
        if path.is_file()
    }
    assert found == {"checkpoint-10/state.json", "checkpoint-10/weights"}
    assert read_manifest(there.store, spec.output) is None

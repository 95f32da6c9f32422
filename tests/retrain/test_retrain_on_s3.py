"""Intake, diagnosis and the registry in a bucket, with pools in a bucket; the server is real."""

from __future__ import annotations

import threading

import polars as pl
import pytest

from pelican.data.pool import read_index
from pelican.data.versions import versions_folder
from pelican.errors import UserInputError
from pelican.registry.models import (
    DataUse,
    Lineage,
    MovedError,
    list_versions,
    override,
    promote,
    read_aliases,
    register,
    resolve_model,
    set_candidate,
)
from pelican.retrain.records import find_version
from pelican.retrain.steps import intake_step, practice_step, read_intake
from pelican.runs.layout import intake_prefix, practice_prefix, stage_prefix
from pelican.storage.manifests import Manifest, commit_manifest, describe_outputs, now
from pelican.storage.publish import publish
from pelican.storage.s3 import S3Store
from tests.buckets import Bucket
from tests.conftest import World, write_checkpoint
from tests.data.factory import sample, write_pool

RUN = "retrain-tiny-1"


def registered(store: S3Store, world: World) -> None:
    imported = Lineage(origin="imported", source="made")
    version = register(store, "tiny", world.root / "policy", imported)
    promote(store, "tiny", version.version, "test", None)


def test_intake_and_diagnosis_read_and_write_buckets(world: World, bucket: Bucket) -> None:
    store = bucket.store()
    registered(store, world)
    write_pool(world.root / "new", [sample(n) for n in range(1000, 1030)])
    data = find_version(store, str(world.root / "new"))
    assert data.source == store.uri
    sets = [f"retrain.data={data.name}", "retrain.parent=tiny:1", "retrain.min_weak=1"]
    recipe = publish(store, world.recipe(*sets))
    assert recipe.data.train.startswith("s3://")
    store.write(f"runs/{RUN}/recipe.json", recipe.model_dump_json().encode())
    assert intake_step(store.uri, RUN) == "registry/tiny/versions/1/checkpoint"

    elsewhere = bucket.store()
    facts = read_intake(elsewhere, RUN)
    assert facts.samples + facts.held_samples == 30
    new = read_index(elsewhere.local(f"{intake_prefix(RUN)}/train")).entries
    rows = [
        {"sample_id": e.id, "success_rate": n / len(new), "outcome": "weak", "family": "counting"}
        for n, e in enumerate(new)
    ]
    ledger = elsewhere.local_root("made") / "ledger.parquet"
    pl.DataFrame(rows).write_parquet(ledger)
    where = stage_prefix(RUN, 0, "filter", "base")
    elsewhere.put(f"{where}/ledger.parquet", ledger)
    done = Manifest(
        stage="filter", run=RUN, loop=0, phase="base", fingerprint="f", recipe=recipe.digest(),
        inputs={}, outputs=describe_outputs(elsewhere, where), started=now(), finished=now(),
    )  # fmt: skip
    commit_manifest(elsewhere, where, done)
    assert practice_step(store.uri, RUN)

    third = bucket.store()
    practised = read_index(third.local(f"{practice_prefix(RUN)}/train")).entries
    held = read_index(third.local(f"{practice_prefix(RUN)}/evaluation")).entries
    assert {e.id for e in new} < {e.id for e in practised}
    assert len(held) == facts.held_samples + 6, "the new held-out set and the recipe's"
    tags = third.tags(practice_prefix(RUN))
    assert practice_step(store.uri, RUN)
    assert third.tags(practice_prefix(RUN)) == tags, "what is done is not done again"


def test_data_are_found_by_prefix_uri_folder_and_version(world: World, bucket: Bucket) -> None:
    store = bucket.store()
    pool = write_pool(world.root / "delivered", [sample(n) for n in range(3)])
    for path in pool.rglob("*.parquet"):
        store.put(f"incoming/day-1/{path.name}", path)
    by_prefix = find_version(store, "incoming/day-1")
    by_uri = find_version(bucket.store("another"), f"{store.uri}/incoming/day-1")
    assert by_uri.source == bucket.uri
    assert [o.tag for o in by_uri.objects] == [o.tag for o in by_prefix.objects]
    assert find_version(store, by_prefix.name) == by_prefix
    with pytest.raises(UserInputError, match=r"no \*\.parquet"):
        find_version(store, f"{store.uri}/incoming/day-2")
    # An imported pool, as `pelican data import` lays it out.
    linked = world.root / "fleet"
    version = versions_folder(linked) / "0123456789abcdef"
    versions_folder(linked).mkdir()
    pool.rename(version)
    (version / "version.json").write_text("{}")
    linked.symlink_to(version)
    found = find_version(store, f"{linked}@0123")
    assert found.name.startswith("fleet-")
    assert find_version(store, str(linked)).name == found.name
    with pytest.raises(UserInputError, match="has 0 versions"):
        find_version(store, f"{linked}@ffff")


def test_of_two_writers_one_moves_the_alias(world: World, bucket: Bucket) -> None:
    registered(bucket.store(), world)
    for number in (2, 3):
        lineage = Lineage(origin="imported", source=f"made {number}")
        folder = write_checkpoint(world.root / f"checkpoint-{number}")
        register(bucket.store(), "tiny", folder, lineage)
        override(bucket.store(), "tiny", number, "tiny:1", "test", "a reason")
    ready = threading.Barrier(2)
    ended: list[str] = []

    def move(number: int) -> None:
        mine = bucket.store()
        set_candidate(mine, "tiny", number, "test")
        ready.wait()
        try:
            promote(mine, "tiny", number, "test", 1)
            ended.append("promoted")
        except MovedError:
            ended.append("overtaken")

    threads = [threading.Thread(target=move, args=(number,)) for number in (2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ended) == ["overtaken", "promoted"]
    aliases = read_aliases(bucket.store(), "tiny")
    assert aliases.current in (2, 3)
    assert aliases.previous == 1
    assert sorted(m.version for m in aliases.history if m.action == "candidate") == [2, 3]
    assert [m.version for m in aliases.history if m.action == "promote"] == [1, aliases.current]


def test_a_version_is_registered_once_by_two(world: World, bucket: Bucket) -> None:
    use = DataUse(version="v", digest="d")
    lineage = Lineage(origin="run", source="run r", run="r", data=[use])
    made: list[str] = []

    def add() -> None:
        made.append(register(bucket.store(), "tiny", world.root / "policy", lineage).name)

    threads = [threading.Thread(target=add) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == ["tiny:1", "tiny:1"]
    assert [v.name for v in list_versions(bucket.store(), "tiny")] == ["tiny:1"]
    assert resolve_model(bucket.store(), "tiny:1").lineage.data == [use]

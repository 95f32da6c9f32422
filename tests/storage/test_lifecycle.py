"""The bucket's own rules, on a real server: which objects it says it will delete, and when."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest
from minio.commonconfig import ENABLED, Filter
from minio.lifecycleconfig import Expiration, LifecycleConfig, Rule
from typer.testing import CliRunner

from pelican.cli.main import app
from pelican.errors import UserInputError
from pelican.storage.claims import CLAIMS, Claims
from pelican.storage.lifecycle import set_rules
from pelican.storage.s3 import S3Store
from pelican.storage.store import FolderStore
from tests.buckets import Bucket

STAGE = "runs/r/loop-1/train-rl-rl"


def expiry(store: S3Store, key: str) -> datetime | None:
    """When the server says that it will delete an object."""
    found = store.client.stat_object(store.bucket, store._name(key)).metadata or {}
    told = found.get("x-amz-expiration")
    return parsedate_to_datetime(told.split('"')[1]) if told else None


def tagged(bucket: Bucket, below: str = "store") -> S3Store:
    bucket.settings = dataclasses.replace(bucket.settings, tag_work=True)
    return bucket.store(below)


def test_only_what_no_manifest_names_expires(bucket: Bucket, tmp_path: Path) -> None:
    store = tagged(bucket)
    rules = set_rules(store, 30)
    assert len(rules) == 3
    file = tmp_path / "weights"
    file.write_bytes(b"x")
    store.put(f"{STAGE}/work/trainer/checkpoint-5/weights", file)
    store.put(f"{STAGE}/checkpoint/weights", file)
    assert Claims(store, f"{STAGE}/{CLAIMS}", "me").take("shard-0")
    for key in ("cache/preflight/a.json", f"{STAGE}/manifest.json", "data/pool/work.parquet"):
        store.write(key, b"{}")
    soon = datetime.now(UTC) + timedelta(days=29)
    gone = {key for key in list(store.keys()) if expiry(store, key) is not None}
    assert gone == {
        f"{STAGE}/work/trainer/checkpoint-5/weights",
        f"{STAGE}/{CLAIMS}/shard-0.json",
        "cache/preflight/a.json",
    }
    assert all((expiry(store, key) or soon) > soon for key in gone)


def test_a_claim_that_is_renewed_keeps_its_tag(bucket: Bucket) -> None:
    store = tagged(bucket)
    set_rules(store, 1)
    claims = Claims(store, f"{STAGE}/{CLAIMS}", "me")
    assert claims.take("shard-0") and claims.renew("shard-0")
    assert expiry(store, f"{STAGE}/{CLAIMS}/shard-0.json") is not None


def test_again_replaces_and_leaves_the_rules_of_others(bucket: Bucket) -> None:
    store, other = tagged(bucket), tagged(bucket, "other")
    foreign = Rule(
        ENABLED, rule_id="mine", rule_filter=Filter(prefix="logs/"), expiration=Expiration(days=5)
    )
    store.client.set_bucket_lifecycle(store.bucket, LifecycleConfig([foreign]))
    set_rules(other, 7)
    set_rules(store, 30)
    assert {rule.expiration.days for rule in set_rules(store, 10)} == {None, 10}
    found = store.client.get_bucket_lifecycle(store.bucket)
    assert found is not None
    assert len(found.rules) == 7
    assert "mine" in {rule.rule_id for rule in found.rules}


def test_without_tags_work_is_left_to_gc(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PELICAN_STORE", bucket.store().uri)
    done = CliRunner().invoke(app, ["store", "lifecycle", "--days", "9"])
    assert done.exit_code == 0, done.output
    assert "cache/: deleted after 9 days" in done.output
    assert "S3_TAG_WORK=on" in done.output
    monkeypatch.setenv("S3_TAG_WORK", "on")
    done = CliRunner().invoke(app, ["store", "lifecycle"])
    assert "work/ of stages, with claims: deleted after 30 days" in done.output


def test_what_has_no_rules_is_a_sentence(bucket: Bucket, tmp_path: Path) -> None:
    with pytest.raises(UserInputError, match="is a folder; `pelican gc`"):
        set_rules(FolderStore(tmp_path), 30)
    with pytest.raises(UserInputError, match="less than a day"):
        set_rules(bucket.store(), 0)
    missing = S3Store("s3://no-such-bucket-here/x", bucket.settings, tmp_path)
    with pytest.raises(UserInputError, match="there is no bucket"):
        set_rules(missing, 30)

"""`runs`, `show`, `report` and `compare` on a store that one may only read."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from minio.credentials.providers import AssumeRoleProvider

from tests.buckets import Bucket
from tests.cli.test_damaged import COMMANDS, content, made  # noqa: F401 - a fixture
from tests.cli.test_mistakes import run

READ_ONLY = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Action": ["s3:GetObject", "s3:ListBucket", "s3:GetBucketLocation"],
            "Resource": ["arn:aws:s3:::*"],
        }
    ],
}


@pytest.fixture
def read_only(made: Path, tmp_path: Path) -> Iterator[Path]:  # noqa: F811
    """The made store on a disk that may only be read."""
    root = tmp_path / "disk"
    shutil.copytree(made / "store", root / "store")
    shutil.rmtree(root / "store/runs/made/logs", ignore_errors=True)
    if os.getuid() or subprocess.run(["mount", "--bind", root, root]).returncode:
        pytest.skip("nothing may be mounted here")
    subprocess.run(["mount", "-o", "remount,ro,bind", root], check=True)
    yield root
    subprocess.run(["umount", root], check=True)


def test_a_folder_that_one_may_only_read_is_shown(
    read_only: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PELICAN_CACHE", str(tmp_path / "cache"))
    before = content(read_only / "store")
    for command in COMMANDS:
        ended = run(command, read_only, monkeypatch, capfd)
        assert ended.status in (0, None) and "Traceback" not in ended.err, ended
    pages = {path.name for path in (tmp_path / "cache/pages").rglob("*.html")}
    assert {"report.html", "ledger.html", "weaknesses.html"} < pages and len(pages) == 4
    assert content(read_only / "store") == before


@pytest.mark.parametrize("line", ["submit --recipe tiny", "gc --days 0"])
def test_who_would_write_there_is_told_so(
    read_only: Path, line: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    ended = run(line, read_only, monkeypatch, capfd)
    assert ended.status == 2 and len(ended.err.splitlines()) == 1, ended
    assert "may only be read" in ended.err


def test_a_bucket_that_one_may_only_read_is_shown(
    bucket: Bucket,
    made: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    store = bucket.store()
    for path in (made / "store").rglob("*"):
        if path.is_file() and not path.name.endswith(".tmp"):
            store.put(path.relative_to(made / "store").as_posix(), path)
    store.write("cache/old.json", b"{}")  # what `gc` would delete
    keys = set(store.keys())
    role = AssumeRoleProvider(
        sts_endpoint=os.environ["S3_ENDPOINT_URL"],
        access_key=os.environ["AWS_ACCESS_KEY_ID"],
        secret_key=os.environ["AWS_SECRET_ACCESS_KEY"],
        policy=json.dumps(READ_ONLY),
    ).retrieve()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", role.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", role.secret_key)
    monkeypatch.setenv("AWS_SESSION_TOKEN", str(role.session_token))
    for command in COMMANDS:
        ended = run(f"{command} --store {store.uri}", tmp_path, monkeypatch, capfd)
        assert ended.status in (0, None) and "Traceback" not in ended.err, ended
    assert len(list((tmp_path / "cache/pages").rglob("*.html"))) == 4
    assert set(store.keys()) == keys
    ended = run(f"gc --days 0 --store {store.uri}", tmp_path, monkeypatch, capfd)
    assert ended.status == 2 and "AccessDenied" in ended.err and len(ended.err.splitlines()) == 1

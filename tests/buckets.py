"""A real MinIO, if its binary is on the PATH, with a bucket of its own for every test."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pelican.storage.s3 import S3Store
from pelican.storage.s3_client import S3Settings, make_client
from tests.endpoints import free_port
from tests.minio_server import ABSENT, PROGRAM, Server


@pytest.fixture(scope="session")
def minio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if shutil.which(PROGRAM) is None:
        pytest.skip(ABSENT)
    server = Server(tmp_path_factory.mktemp("minio"), free_port())
    server.start()
    yield server
    server.stop()


@dataclass
class Bucket:
    """A bucket, and stores in it: each with a cache of its own, as on machines of their own."""

    uri: str
    settings: S3Settings
    folder: Path
    made: int = 0

    def store(self, below: str = "store") -> S3Store:
        self.made += 1
        return S3Store(f"{self.uri}/{below}", self.settings, self.folder / f"cache-{self.made}")


@pytest.fixture
def bucket(
    minio: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Bucket:
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in minio.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PELICAN_CACHE", str(tmp_path / "cache"))
    settings = S3Settings.from_environment()
    name = f"t{abs(hash(request.node.nodeid)):x}"
    make_client(settings).make_bucket(name)
    return Bucket(f"s3://{name}", settings, tmp_path)

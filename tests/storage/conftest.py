"""A real MinIO, if its binary is on the PATH, with a bucket of its own for every test."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pelican.storage.s3 import S3Store
from pelican.storage.s3_client import S3Settings, make_client
from tests.endpoints import free_port

USER, PASSWORD = "tests", "only-for-tests"


@dataclass
class Server:
    """MinIO on a port of this machine; it may be stopped and started again."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = field(default=None)
    variables: dict[str, str] = field(default_factory=dict)
    certificates: Path | None = None  # a folder with public.crt and private.key: then over TLS

    @property
    def endpoint(self) -> str:
        return f"{'https' if self.certificates else 'http'}://127.0.0.1:{self.port}"

    def start(self) -> None:
        address = f"127.0.0.1:{self.port}"
        command = ["minio", "server", str(self.folder), "--address", address, "--quiet"]
        if self.certificates:
            command += ["--certs-dir", str(self.certificates)]
        self.process = subprocess.Popen(
            command,
            env={
                "PATH": str(Path(shutil.which("minio") or "").parent),
                "HOME": str(self.folder),
                "MINIO_ROOT_USER": USER,
                "MINIO_ROOT_PASSWORD": PASSWORD,
                "MINIO_BROWSER": "off",
                **self.variables,
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 60
        unverified = ssl._create_unverified_context()
        while True:
            try:
                ready = f"{self.endpoint}/minio/health/ready"
                urllib.request.urlopen(ready, timeout=2, context=unverified)
                return
            except (urllib.error.URLError, OSError):
                assert time.monotonic() < deadline, "MinIO did not start"
                time.sleep(0.1)

    def environment(self) -> dict[str, str]:
        """What a client of this server needs."""
        return {
            "AWS_ACCESS_KEY_ID": USER,
            "AWS_SECRET_ACCESS_KEY": PASSWORD,
            "S3_ENDPOINT_URL": self.endpoint,
        }

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@pytest.fixture(scope="session")
def minio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if shutil.which("minio") is None:
        pytest.skip("there is no `minio` on the PATH: these tests need a real S3 server")
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

"""The store over TLS with a CA of one's own: a real server, and every wrong CA in one sentence."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from pelican.errors import UserInputError
from pelican.storage.s3 import S3Store
from pelican.storage.s3_client import S3Settings, make_client
from tests.endpoints import free_port
from tests.minio_server import Server


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def server(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if shutil.which("minio") is None:
        pytest.skip("there is no `minio` on the PATH: these tests need a real S3 server")
    folder = tmp_path_factory.mktemp("certificates")
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(folder / "private.key")
    for blob in issued.cert_chain_pems:
        blob.write_to_path(folder / "public.crt", append=True)
    server = Server(tmp_path_factory.mktemp("minio-tls"), free_port(), certificates=folder)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def bundle(
    server: Server, authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The CA's file; the environment of a client, which names it."""
    path = tmp_path / "ca.crt"
    authority.cert_pem.write_to_path(path)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("S3_CA_BUNDLE", str(path))
    return path


def store_in(tmp_path: Path) -> S3Store:
    return S3Store("s3://tls/store", S3Settings.from_environment(), tmp_path / "cache")


def test_a_store_with_the_ca_that_is_named(bundle: Path, tmp_path: Path) -> None:
    client = make_client(S3Settings.from_environment())
    if not client.bucket_exists("tls"):
        client.make_bucket("tls")
    store = store_in(tmp_path)
    store.probe()
    file = tmp_path / "large"
    file.write_bytes(bytes(range(256)) * 80_000)  # more than one part
    store.put("large", file)
    assert store.local("large").read_bytes() == file.read_bytes()
    assert store.write("claim", b"1", if_absent=True)
    assert not store.write("claim", b"2", if_absent=True)


def test_another_ca_is_refused_at_once(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.crt"
    trustme.CA().cert_pem.write_to_path(other)
    tried: list[object] = []
    monkeypatch.setattr("urllib3.Retry.sleep", lambda *_: tried.append(1))
    for given, words in (
        (str(other), f"S3_CA_BUNDLE={other} does not vouch for it"),
        ("", "S3_CA_BUNDLE names no CA"),
    ):
        monkeypatch.setenv("S3_CA_BUNDLE", given)
        with pytest.raises(UserInputError) as caught:
            store_in(tmp_path).read("large")
        assert words in str(caught.value)
        assert "the certificate of https://127.0.0.1" in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not tried, "a certificate that is refused is not asked for again"


@pytest.mark.parametrize(
    ("content", "words"), [(None, "No such file"), ("no PEM", "it holds no certificate")]
)
def test_a_ca_file_that_is_none(
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: str | None,
    words: str,
) -> None:
    path = tmp_path / "bad.crt"
    if content is not None:
        path.write_text(content)
    monkeypatch.setenv("S3_CA_BUNDLE", str(path))
    with pytest.raises(UserInputError, match=words) as caught:
        store_in(tmp_path).probe()
    assert str(path) in str(caught.value)


def test_a_scheme_that_is_the_other_ones(
    bundle: Path,
    server: Server,
    minio: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for endpoint, words in (
        (minio.endpoint.replace("http:", "https:"), "does not speak TLS"),
        (server.endpoint.replace("https:", "http:"), "speaks TLS; set S3_ENDPOINT_URL=https"),
    ):
        monkeypatch.setenv("S3_ENDPOINT_URL", endpoint)
        with pytest.raises(UserInputError, match=words):
            store_in(tmp_path).read("large")

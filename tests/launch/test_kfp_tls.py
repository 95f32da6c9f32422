"""Kubeflow's API over TLS with a CA of one's own; what the steps' pods get of the store's."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
import yaml

from pelican.config.presets import find_recipe
from pelican.errors import UserInputError
from pelican.launch.kfp import Kfp
from pipelines import compile_pipeline
from pipelines.compile import StepPods
from tests.launch.test_kfp import Backend, serving_backend


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The CA's file, which KFP_CA_BUNDLE names; KFP_HOST is a server that it vouches for."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    path = tmp_path / "ca.crt"
    authority.cert_pem.write_to_path(path)
    for name in ("KFP_UI", "KFP_NAMESPACE", "KFP_TOKEN", "KFP_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KFP_CA_BUNDLE", str(path))
    with serving_backend(Backend(), context) as address:
        monkeypatch.setenv("KFP_HOST", address)
        yield path


def test_the_api_with_the_ca_that_is_named(bundle: Path) -> None:
    kfp = Kfp()
    made = kfp.experiment("tiny")
    assert kfp.experiment("tiny") == made
    assert kfp.experiments() == 1


def test_a_ca_that_is_not_the_servers_is_a_sentence(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.crt"
    trustme.CA().cert_pem.write_to_path(other)
    for given, words in (
        (str(other), f"KFP_CA_BUNDLE={other} does not vouch for it"),
        ("", "KFP_CA_BUNDLE names no CA"),
    ):
        monkeypatch.setenv("KFP_CA_BUNDLE", given)
        with pytest.raises(UserInputError, match="is refused") as caught:
            Kfp().experiments()
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
    monkeypatch.setenv("KFP_CA_BUNDLE", str(tmp_path / "none.crt"))
    with pytest.raises(UserInputError, match="No such file"):
        Kfp()


def test_steps_get_the_stores_ca_from_its_secret(tmp_path: Path) -> None:
    path = tmp_path / "ir.yaml"
    compile_pipeline("evaluate", find_recipe("tiny"), path, StepPods({}, "pelican-s3", "minio-ca"))
    tree, platforms = yaml.safe_load_all(path.read_text())
    kubernetes = platforms["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for name, executor in tree["deploymentSpec"]["executors"].items():
        variables = {e["name"]: e["value"] for e in executor["container"]["env"]}
        (volume,) = kubernetes[name]["secretAsVolume"]
        assert "minio-ca" in json.dumps(volume)
        assert variables["S3_CA_BUNDLE"] == f"{volume['mountPath']}/ca.crt"

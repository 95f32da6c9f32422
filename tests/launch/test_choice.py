"""Which launcher follows from what is configured."""

from __future__ import annotations

from pathlib import Path

import pytest

from pelican.errors import UserInputError
from pelican.launch.job import choose

S3, FOLDER = "s3://pelican/store", "/somewhere/store"
KFP = {"KFP_HOST": "http://kfp"}


@pytest.fixture
def cluster(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "config").write_text("")
    return {"KUBECONFIG": str(tmp_path / "config")}


@pytest.mark.parametrize(
    ("store", "kfp", "kube", "name", "why"),
    [
        (FOLDER, False, False, "local", "folder"),
        (FOLDER, True, False, "local", "PELICAN_STORE"),
        (FOLDER, False, True, "local", "PELICAN_STORE"),
        (S3, False, False, "local", "neither"),
        (S3, False, True, "pytorchjob", "KUBECONFIG"),
        (S3, True, True, "kubeflow", "KFP_HOST"),
        (S3, True, False, "kubeflow", "KFP_HOST"),
    ],
)
def test_the_default(
    cluster: dict[str, str], store: str, kfp: bool, kube: bool, name: str, why: str
) -> None:
    env = (KFP if kfp else {}) | (cluster if kube else {})
    found, reason = choose("auto", store, env)
    assert found == name
    assert why in reason


@pytest.mark.parametrize(
    ("given", "store", "words"),
    [
        ("pytorchjob", FOLDER, "PELICAN_STORE"),
        ("kubeflow", S3, "KFP_HOST"),
        ("pytorchjob", S3, "KUBECONFIG"),
        ("pytorchjobs", S3, "did you mean 'pytorchjob'"),
    ],
)
def test_one_that_cannot_be_is_a_sentence(given: str, store: str, words: str) -> None:
    with pytest.raises(UserInputError, match=words):
        choose(given, store, {})


def test_a_configuration_that_is_not_there_is_none() -> None:
    assert choose("auto", S3, {"KUBECONFIG": "/nowhere/config"})[0] == "local"

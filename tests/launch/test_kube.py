"""The calls of the Kubernetes API, against a server that pages as the real one does."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from pelican.cli.doctor import credentials
from pelican.errors import InfrastructureError, UserInputError
from pelican.launch.kube import Absent, Conflict, Kube
from tests.endpoints import Answer, Request, serving


def config_of(folder: Path, address: str) -> Path:
    config = folder / "config"
    tree = {
        "clusters": [{"name": "c", "cluster": {"server": address}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": {}}],
        "current-context": "c",
    }
    config.write_text(yaml.safe_dump(tree))
    return config


@pytest.fixture
def events() -> list[dict[str, object]]:
    """1,200 of other jobs, by name before and after the one that matters."""
    names = [*(f"a-{n}" for n in range(700)), "stuck", *(f"z-{n}" for n in range(499))]
    return [
        {"type": "Warning", "involvedObject": {"name": name}, "lastTimestamp": f"{n:04d}"}
        for n, name in enumerate(names)
    ]


def test_a_warning_is_found_among_more_than_a_page(
    events: list[dict[str, object]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, list[str]]] = []

    def answer(request: Request) -> Answer:
        query = parse_qs(urlsplit(request.path).query)
        asked.append(query)
        begin = int(query.get("continue", ["0"])[0])
        end = begin + int(query["limit"][0])
        following = {"continue": str(end)} if end < len(events) else {}
        return 200, {"items": events[begin:end], "metadata": following}

    with serving(answer) as address:
        monkeypatch.setenv("KUBECONFIG", str(config_of(tmp_path, address)))
        found = Kube("pelican").warnings({"stuck", "a-3"})
    assert [e["involvedObject"]["name"] for e in found] == ["a-3", "stuck"]  # the newest last
    assert [query.get("continue") for query in asked] == [None, ["500"], ["1000"]]
    assert all(query["fieldSelector"] == ["type=Warning"] for query in asked)


def test_doctor_looks_for_the_secrets_of_jobs_and_of_kubeflows_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Request] = []

    def answer(request: Request) -> Answer:
        asked.append(request)
        namespace = request.path.split("/")[4]
        status = {"pelican": 200, "kubeflow": 404, "profile": 404, "theirs": 403}[namespace]
        return status, {"message": namespace}

    def levels(**environment: str) -> list[str]:
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            return [finding.level for finding in credentials(steps=True)]

    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "KFP_NAMESPACE", "PELICAN_S3_CA_SECRET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PELICAN_NAMESPACE", "pelican")
    assert levels() == []  # no cluster is named
    with serving(answer) as address:
        monkeypatch.setenv("KUBECONFIG", str(config_of(tmp_path, address)))
        assert [f.level for f in credentials(steps=False)] == ["ok"]
        assert levels() == ["ok", "optional"]  # it may be another namespace
        assert levels(KFP_NAMESPACE="profile") == ["ok", "missing"]
        assert levels(KFP_NAMESPACE="theirs") == ["ok", "optional"]  # we may not look
        assert levels(PELICAN_S3_CA_SECRET="ca") == ["ok", "ok", "optional", "optional"]
        monkeypatch.setenv("KFP_NAMESPACE", "profile")
        *_, missing = credentials(steps=True)
    assert "namespace profile" in missing.about and "-n profile" in missing.mend
    # What is in a Secret is never asked for.
    assert all("PartialObjectMetadata" in request.headers["accept"] for request in asked)


JOBS = "/apis/kubeflow.org/v1/namespaces/pelican/pytorchjobs"
PODS = "/api/v1/namespaces/pelican/pods"


def test_jobs_are_made_annotated_and_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Request] = []

    def answer(request: Request) -> Answer:
        asked.append(request)
        if request.path.endswith("/gone"):
            return 404, {"message": "no such job"}
        if request.method == "POST":
            return 409, {"message": "it is there"}
        return 200, {"metadata": {"name": "j"}}

    with serving(answer) as address:
        monkeypatch.setenv("KUBECONFIG", str(config_of(tmp_path, address)))
        kube = Kube("pelican")
        with pytest.raises(Conflict, match="it is there"):
            kube.create_job({"metadata": {"name": "j"}})
        assert kube.job("j") == {"metadata": {"name": "j"}}
        kube.annotate_job("j", {"pelican.dev/followed": "now"})
        kube.delete_job("j", "7")
        kube.delete_job("gone")
        with pytest.raises(Absent):
            kube.annotate_job("gone", {"a": "b"})
    made, _, patched, deleted, *_ = asked
    assert (made.path, json.loads(made.body)) == (JOBS, {"metadata": {"name": "j"}})
    assert (patched.method, patched.path) == ("PATCH", f"{JOBS}/j")
    # The kind of patch that custom resources take and that keeps the other annotations.
    assert patched.headers["content-type"] == "application/merge-patch+json"
    assert json.loads(patched.body) == {
        "metadata": {"annotations": {"pelican.dev/followed": "now"}}
    }
    assert json.loads(deleted.body) == {
        "propagationPolicy": "Foreground",
        "preconditions": {"uid": "7"},
    }


def test_a_log_is_read_as_it_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, list[str]]] = []

    def answer(request: Request) -> Answer:
        parts = urlsplit(request.path)
        asked.append(parse_qs(parts.query))
        if parts.path == f"{PODS}/none/log":
            return 400, {"message": "waiting to start"}
        return 200, b'{"a": null}' if "tailLines" in asked[-1] else b"1 one\n2 \n3 cut \xff off"

    with serving(answer) as address:
        monkeypatch.setenv("KUBECONFIG", str(config_of(tmp_path, address)))
        kube = Kube("pelican")
        assert kube.log("p", 60) == '{"a": null}'
        assert kube.log("none", 60) == ""
        assert [*kube.stream_log("p", "then")] == ["1 one", "2 ", "3 cut \ufffd off"]
        with pytest.raises(UserInputError, match="waiting to start"):
            next(kube.stream_log("none", None))
    assert asked[0] == {"container": ["pytorch"], "tailLines": ["60"]}
    assert asked[2] == {
        "container": ["pytorch"],
        "follow": ["true"],
        "timestamps": ["true"],
        "sinceTime": ["then"],
    }


def test_an_api_that_is_away_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    review = {"spec": {"resourceAttributes": {}}, "status": {"allowed": True}}
    answers: list[Answer] = [(503, b"busy"), (200, review)]
    with serving(lambda _: answers.pop(0)) as address:
        monkeypatch.setenv("KUBECONFIG", str(config_of(tmp_path, address)))
        assert Kube("pelican", patience_s=20.0).may("get", "pods/log")
        answers.append((503, b"busy"))
        with pytest.raises(InfrastructureError, match="fails"):
            Kube("pelican", patience_s=0.0).jobs("a=b")
        answers.append((403, {"message": "you may not"}))
        with pytest.raises(UserInputError, match=r"namespace 'pelican'.*you may not"):
            Kube("pelican").pods("j")
    with pytest.raises(InfrastructureError, match="does not answer"):
        Kube("pelican", patience_s=0.0).job("j")

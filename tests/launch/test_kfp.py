"""Submitting to Kubeflow, against a server that holds every request to the API's own schema.

The server is made: a Kubeflow backend does not run in these tests. Bodies are read and written by
the classes that are generated from the API's definition, so an unknown field or a wrong type fails.
"""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kfp_server_api as api
import pytest
import yaml

from pelican.config.presets import find_recipe
from pelican.errors import InfrastructureError, PelicanError, UserInputError
from pelican.launch import kfp as kfp_client
from pelican.launch.job import CancelledError
from pelican.launch.kfp import Kfp, wait_for
from pipelines import compile_pipeline
from pipelines.compile import StepPods, graph_of
from tests.endpoints import Request, serving

V2 = "/apis/v2beta1"


@dataclass
class Backend:
    """What the API keeps. `states` are told one after the other for every run."""

    pipelines: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)
    experiments: dict[str, Any] = field(default_factory=dict)
    runs: dict[str, Any] = field(default_factory=dict)
    states: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    uploads: list[bytes] = field(default_factory=list)

    def answer(self, method: str, url: str, body: bytes) -> tuple[int, dict[str, Any]]:
        parts = urlsplit(url)
        path, query = parts.path.removeprefix(V2), parse_qs(parts.query)
        wanted = json.loads(query["filter"][0])["predicates"][0] if "filter" in query else {}
        wanted = wanted.get("stringValue") or wanted.get("string_value")

        def listed(kept: dict[str, Any], key: str) -> tuple[int, dict[str, Any]]:
            found = [o for o in kept.values() if wanted in (None, o["display_name"])]
            return 200, {key: found, "total_size": len(found)}

        if path == "/pipelines/upload_version":
            name, pipeline = query["name"][0], query["pipelineid"][0]
            self.uploads.append(body)
            made = {"pipeline_id": pipeline, "pipeline_version_id": f"v{len(self.versions)}"}
            return 200, self._keep(self.versions, "pipeline_version_id", made, name)
        if path == "/pipelines":
            if method == "GET":
                return listed(self.pipelines, "pipelines")
            given = self._checked("V2beta1Pipeline", body)
            made = {"pipeline_id": f"p{len(self.pipelines)}"}
            return 200, self._keep(self.pipelines, "pipeline_id", made, given["display_name"])
        if re.fullmatch(r"/pipelines/p\d+/versions", path):
            return listed(self.versions, "pipeline_versions")
        if path == "/experiments":
            if method == "GET":
                return listed(self.experiments, "experiments")
            given = self._checked("V2beta1Experiment", body)
            made = {"experiment_id": f"e{len(self.experiments)}"}
            return 200, self._keep(self.experiments, "experiment_id", made, given["display_name"])
        if path == "/runs":
            if method == "GET":
                return listed(self.runs, "runs")
            given = self._checked("V2beta1Run", body)
            made = {**given, "run_id": f"r{len(self.runs)}", "state": "RUNNING"}
            return 200, self._keep(self.runs, "run_id", made, given["display_name"])
        run = self.runs.get(path.split("/")[2].partition(":")[0])
        if run is None:
            return 404, {"message": "no such run"}
        if path.endswith(":terminate"):
            run["state"] = "CANCELED"
            return 200, {}
        if self.states:
            run["state"] = self.states.pop(0)
        return 200, run

    @staticmethod
    def _keep(kept: dict[str, Any], key: str, made: dict[str, Any], name: str) -> dict[str, Any]:
        made["display_name"] = name
        kept[made[key]] = made
        return made

    @staticmethod
    def _checked(kind: str, body: bytes) -> dict[str, Any]:
        given: dict[str, Any] = json.loads(body)
        known = set(getattr(api, kind).attribute_map.values())
        assert set(given) <= known, f"{kind} has no {set(given) - known}"
        return given


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    kept = Backend()
    with serving_backend(kept) as address:
        monkeypatch.setenv("KFP_HOST", address)
        for name in ("KFP_UI", "KFP_NAMESPACE", "KFP_TOKEN", "KFP_TOKEN_FILE", "KFP_CA_BUNDLE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(kfp_client, "POLL_S", 0.01)
        yield kept


@contextmanager
def serving_backend(
    kept: Backend, tls: ssl.SSLContext | None = None, port: int = 0
) -> Iterator[str]:
    """A server of the API as long as the context lasts; gives its address."""

    def answer(request: Request) -> tuple[int, dict[str, Any]]:
        kept.tokens.append(request.headers.get("authorization", ""))
        return kept.answer(request.method, request.path, request.body)

    with serving(answer, tls, port) as address:
        yield address


def package(folder: Path, *overrides: str) -> tuple[Path, dict[str, Any]]:
    path = folder / "ir.yaml"
    setup = StepPods({"PELICAN_LAUNCHER": "pytorchjob"}, "pelican-s3")
    compile_pipeline("evaluate", find_recipe("tiny", overrides), path, setup)
    first, *rest = yaml.safe_load_all(path.read_text())
    return path, {"ir": first, "platforms": rest[0]["platforms"]["kubernetes"]}


def test_a_version_is_uploaded_once(backend: Backend, tmp_path: Path) -> None:
    kfp, (path, _) = Kfp(), package(tmp_path)
    first = kfp.upload("pelican-evaluate", path, "aaa")
    assert kfp.upload("pelican-evaluate", path, "aaa") == first
    changed = kfp.upload("pelican-evaluate", path, "bbb")
    assert changed[0] == first[0]
    assert changed[1] != first[1]
    assert len(backend.uploads) == 2
    assert b"pelican-s3" in backend.uploads[0]


def test_a_run_name_has_one_active_run(backend: Backend, tmp_path: Path) -> None:
    kfp, (path, _) = Kfp(), package(tmp_path)
    pipeline, version = kfp.upload("pelican-evaluate", path, "aaa")
    experiment = kfp.experiment("tiny")
    assert kfp.experiment("tiny") == experiment
    assert kfp.active_run(experiment, "r-1") is None
    run = kfp.start(experiment, "r-1", pipeline, version, {"run": "r-1", "store": "s3://b"})
    assert kfp.active_run(experiment, "r-1") == run
    assert kfp.link(run).endswith(f"/#/runs/details/{run}")
    kfp.terminate(run)
    assert kfp.active_run(experiment, "r-1") is None
    kfp.terminate("no-such-run")


@pytest.mark.parametrize(
    ("states", "error"),
    [
        (["RUNNING", "SUCCEEDED"], None),
        (["PENDING", "FAILED"], PelicanError),
        (["RUNNING", "CANCELED"], CancelledError),
    ],
)
def test_waiting_ends_on_every_end(
    backend: Backend, states: list[str], error: type[PelicanError] | None
) -> None:
    kfp = Kfp()
    run = kfp.start(kfp.experiment("tiny"), "r", "p", "v", {})
    backend.states = states
    if error is None:
        wait_for(kfp, run)
        return
    with pytest.raises(error):
        wait_for(kfp, run)


def test_the_token_is_read_again_when_it_changes(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "token"
    monkeypatch.setenv("KFP_TOKEN_FILE", str(token))
    token.write_text("first\n")
    kfp = Kfp()
    kfp.experiments()
    token.write_text("second\n")
    kfp.experiments()
    assert backend.tokens == ["Bearer first", "Bearer second"]
    token.unlink()
    with pytest.raises(UserInputError, match=r"KFP_TOKEN_FILE=\S+ can't be read: No such file"):
        Kfp().experiments()


def test_what_the_api_says_is_a_sentence(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    for status, kind, key in (
        (401, UserInputError, "message"),
        (400, UserInputError, "message"),
        (503, InfrastructureError, "message"),
        (500, InfrastructureError, "error_message"),  # of an upload, in 2.17
    ):
        answer = (status, {key: "the reason"})
        monkeypatch.setattr(backend, "answer", lambda *_, answer=answer: answer)
        with pytest.raises(kind) as caught:
            Kfp().experiments()
        assert "\n" not in str(caught.value)
        assert status == 401 or str(caught.value).endswith("the reason")
    monkeypatch.setenv("KFP_HOST", "http://127.0.0.1:9")
    with pytest.raises(InfrastructureError, match="does not answer"):
        Kfp().experiments()


def test_an_address_that_is_not_kubeflows_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(lambda request: (404, {})) as address:
        monkeypatch.setenv("KFP_HOST", address)
        kfp = Kfp()
        for ask in (
            lambda: kfp.experiment("x"),
            lambda: kfp.active_run("e0", "x"),
            lambda: kfp.upload("x", Path("x.yaml"), "0"),
            lambda: kfp.start("e0", "x", "p0", "v0", {}),
        ):
            with pytest.raises(UserInputError, match=r"not as Kubeflow Pipelines.*check KFP_HOST"):
                ask()
        assert kfp.state("r0") is None


def test_pods_of_steps_get_secrets_by_reference_and_all_of_them_do(tmp_path: Path) -> None:
    _, found = package(tmp_path)
    executors = found["ir"]["deploymentSpec"]["executors"]
    platforms = found["platforms"]["deploymentSpec"]["executors"]
    assert set(platforms) == set(executors)
    for name, executor in executors.items():
        variables = {e["name"]: e["value"] for e in executor["container"]["env"]}
        assert variables == {"PELICAN_LAUNCHER": "pytorchjob", "PELICAN_CACHE": "/tmp/cache"}
        (secret,) = platforms[name]["secretAsEnv"]
        assert "pelican-s3" in json.dumps(secret)


def test_the_same_graph_is_the_same_version(tmp_path: Path) -> None:
    one, two = (package(tmp_path)[1]["ir"] for _ in range(2))
    assert graph_of(one) == graph_of(two)
    other = package(tmp_path, "rl.max_steps=3")[1]["ir"]
    assert graph_of(other) == graph_of(one), "only the parameter's default differs"

"""The Kubeflow Pipelines API: where it is, what is uploaded, started, followed and ended."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pelican.base.net import explain_refusal, find_refusal, make_tls_context
from pelican.errors import InfrastructureError, PelicanError, UserInputError
from pelican.launch.job import CancelledError
from pelican.runs.layout import read_json, run_prefix
from pelican.storage.store import ObjectStore

# Kubeflow Pipelines' API (v2beta1): the few calls that a submission needs.

_TOKEN = Path("/var/run/secrets/kubeflow/pipelines/token")
ENDED = ("SUCCEEDED", "FAILED", "SKIPPED", "CANCELED")
CA = "KFP_CA_BUNDLE"
_PAGE = 100


@dataclass(frozen=True)
class KfpSettings:
    """Where the API is and who asks; the token is read from a file or the environment."""

    host: str
    ui: str
    namespace: str | None
    service_account: str | None
    ca: str | None
    token_file: str | None

    @classmethod
    def from_environment(cls) -> KfpSettings:
        """Raises UserInputError without KFP_HOST."""
        env = os.environ
        host = (env.get("KFP_HOST") or "").rstrip("/")
        if not host.startswith(("http://", "https://")):
            raise UserInputError(f"KFP_HOST={host!r} is not of the form http(s)://host:port")
        token = env.get("KFP_TOKEN_FILE") or (str(_TOKEN) if _TOKEN.exists() else None)
        return cls(
            host=host,
            ui=(env.get("KFP_UI") or host).rstrip("/"),
            namespace=env.get("KFP_NAMESPACE") or None,
            service_account=env.get("KFP_SERVICE_ACCOUNT") or None,
            ca=env.get(CA) or None,
            token_file=token,
        )


class Kfp:
    """The few calls of the API (v2beta1) that a submission needs."""

    def __init__(self, settings: KfpSettings | None = None) -> None:
        import kfp_server_api as api

        self.settings = settings or KfpSettings.from_environment()
        configuration = api.Configuration(host=self.settings.host)
        if self.settings.ca:
            make_tls_context(self.settings.ca, CA)  # else a bad file is found at the first request
        configuration.ssl_ca_cert = self.settings.ca
        configuration.api_key_prefix["authorization"] = "Bearer"
        configuration.refresh_api_key_hook = self._renew
        self._renew(configuration)
        client = api.ApiClient(configuration)
        self._api = api
        self._pipelines = api.PipelineServiceApi(client)
        self._uploads = api.PipelineUploadServiceApi(client)
        self._experiments = api.ExperimentServiceApi(client)
        self._runs = api.RunServiceApi(client)

    def upload(self, name: str, package: Path, digest: str) -> tuple[str, str]:
        """(pipeline, version): a new version only if none of this digest is there."""
        with self._told():
            filter_ = json.dumps(_equals("name", name))
            found = self._pipelines.pipeline_service_list_pipelines(
                filter=filter_, **self._in_namespace()
            )
            if found.pipelines:
                pipeline = found.pipelines[0].pipeline_id
            else:
                body = self._api.V2beta1Pipeline(
                    name=name, display_name=name, **self._in_namespace()
                )
                pipeline = self._pipelines.pipeline_service_create_pipeline(body).pipeline_id
            for version in self._pages(
                lambda token: self._pipelines.pipeline_service_list_pipeline_versions(
                    pipeline, page_size=_PAGE, page_token=token
                ),
                "pipeline_versions",
            ):
                if version.display_name == digest:
                    return pipeline, version.pipeline_version_id
            made = self._uploads.upload_pipeline_version(
                str(package), name=digest, pipelineid=pipeline
            )
            return pipeline, made.pipeline_version_id

    def experiment(self, name: str) -> str:
        """The experiment of this name, made if there is none."""
        with self._told():
            found = self._experiments.experiment_service_list_experiments(
                filter=json.dumps(_equals("name", name)), **self._in_namespace()
            )
            if found.experiments:
                return str(found.experiments[0].experiment_id)
            body = self._api.V2beta1Experiment(display_name=name, **self._in_namespace())
            made = self._experiments.experiment_service_create_experiment(body)
            return str(made.experiment_id)

    def experiments(self) -> int:
        """How many there are: a question that shows whether the API answers."""
        with self._told():
            found = self._experiments.experiment_service_list_experiments(**self._in_namespace())
            return int(found.total_size or 0)

    def active_run(self, experiment: str, name: str) -> str | None:
        """A run of this name that has not ended: submitting again must not start a second one."""
        with self._told():
            for run in self._pages(
                lambda token: self._runs.run_service_list_runs(
                    experiment_id=experiment,
                    page_size=_PAGE,
                    page_token=token,
                    filter=json.dumps(_equals("name", name)),
                ),
                "runs",
            ):
                if run.display_name == name and run.state not in ENDED:
                    return str(run.run_id)
        return None

    def start(
        self, experiment: str, name: str, pipeline: str, version: str, parameters: dict[str, Any]
    ) -> str:
        api = self._api
        body = api.V2beta1Run(
            experiment_id=experiment,
            display_name=name,
            pipeline_version_reference=api.V2beta1PipelineVersionReference(
                pipeline_id=pipeline, pipeline_version_id=version
            ),
            runtime_config=api.V2beta1RuntimeConfig(parameters=parameters),
            service_account=self.settings.service_account,
        )
        with self._told():
            return str(self._runs.run_service_create_run(body).run_id)

    def state(self, run_id: str) -> str | None:
        """PENDING, RUNNING, … or None if there is no such run."""
        try:
            with self._told():
                return str(self._runs.run_service_get_run(run_id).state)
        except KeyError:
            return None

    def terminate(self, run_id: str) -> None:
        """Nothing happens to a run that has ended or is gone."""
        if self.state(run_id) in (None, *ENDED):
            return
        with self._told():
            self._runs.run_service_terminate_run(run_id)

    def link(self, run_id: str) -> str:
        return f"{self.settings.ui}/#/runs/details/{run_id}"

    def _in_namespace(self) -> dict[str, Any]:
        return {"namespace": self.settings.namespace} if self.settings.namespace else {}

    def _renew(self, configuration: Any) -> None:
        """A mounted token is renewed on disk."""
        token = os.environ.get("KFP_TOKEN")
        if self.settings.token_file:
            try:
                token = Path(self.settings.token_file).read_text().strip()
            except OSError as error:
                raise UserInputError(
                    f"KFP_TOKEN_FILE={self.settings.token_file} can't be read: {error.strerror}"
                ) from None
        if token:
            configuration.api_key["authorization"] = token

    def _pages(self, call: Callable[[str], Any], field: str) -> Iterator[Any]:
        token = ""
        while True:
            page = call(token)
            yield from getattr(page, field) or ()
            token = page.next_page_token or ""
            if not token:
                return

    @contextmanager
    def _told(self) -> Iterator[None]:
        """The API's errors in a sentence; KeyError for what is not there."""
        import urllib3

        try:
            yield
        except self._api.ApiException as error:
            at = self.settings.host
            if error.status == 404:
                raise KeyError(at) from None
            if error.status in (401, 403):
                raise UserInputError(
                    f"Kubeflow at {at} refuses ({error.status}); check KFP_TOKEN_FILE and"
                    " KFP_NAMESPACE"
                ) from None
            kind = InfrastructureError if (error.status or 500) >= 500 else UserInputError
            raise kind(f"Kubeflow at {at}: {error.reason} {_message(error.body)}") from None
        except urllib3.exceptions.HTTPError as error:
            tls = find_refusal(error)
            if tls is not None:
                raise explain_refusal(tls, self.settings.host, self.settings.ca, CA) from None
            raise InfrastructureError(
                f"Kubeflow at {self.settings.host} does not answer: {error}"
            ) from None


def _equals(key: str, value: str) -> dict[str, Any]:
    return {"predicates": [{"operation": "EQUALS", "key": key, "stringValue": value}]}


def _message(body: Any) -> str:
    """What the API says in an error's body: uploads have a key of their own for it."""
    try:
        told = json.loads(body)
        return str(told.get("message") or told["error_message"])[:300]
    except (TypeError, ValueError, KeyError, AttributeError):
        return ""


# A run of Kubeflow Pipelines that was submitted: which one it is, and its end.

KFP = "kfp.json"  # below the run's prefix: which run of Kubeflow it is
POLL_S = 5.0
PATIENCE_S = 300.0


class RunEndedError(PelicanError):
    """Kubeflow's run has ended, and not well."""


def wait_for(kfp: Kfp, run_id: str, meanwhile: Callable[[], None] = lambda: None) -> None:
    """Until the run has ended; `meanwhile` is called after each look that finds it going on.

    Raises RunEndedError unless it succeeded, CancelledError if it was cancelled. An API that is
    away is asked again for PATIENCE_S; then InfrastructureError, and the run goes on.
    """
    answered = time.monotonic()
    while True:
        try:
            state = kfp.state(run_id)
        except InfrastructureError:
            if time.monotonic() - answered > PATIENCE_S:
                raise
            time.sleep(POLL_S)
            continue
        if state == "SUCCEEDED":
            return
        if state in ("CANCELED", "CANCELING"):
            raise CancelledError(f"the run was cancelled: {kfp.link(run_id)}")
        if state is None or state in ENDED:
            raise RunEndedError(f"the run ended as {state or 'deleted'}: {kfp.link(run_id)}")
        meanwhile()
        answered = time.monotonic()
        time.sleep(POLL_S)


def kfp_run_of(store: ObjectStore, run: str) -> str | None:
    """Kubeflow's id of a run that was submitted to it."""
    record = read_json(store, f"{run_prefix(run)}/{KFP}")
    return None if record is None else str(record["run_id"])

"""Kubeflow Pipelines through its API: a pipeline uploaded, a run started, followed and ended."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from pelican.base.endpoint import is_http
from pelican.base.net import explain_refusal, find_refusal, make_tls_context
from pelican.base.parse import parse_json
from pelican.config import env as settings
from pelican.errors import InfrastructureError, PelicanError, UserInputError
from pelican.launch.job import CancelledError
from pelican.runs.layout import run_prefix
from pelican.storage.reading import read_record
from pelican.storage.store import ObjectStore

# Where the API is, and its calls.

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
        env = settings.read_all()
        host = settings.read_address("KFP_HOST").rstrip("/")
        if not is_http(host):
            raise UserInputError(f"KFP_HOST={host!r} is not of the form http(s)://host:port")
        token = env.get("KFP_TOKEN_FILE") or (str(_TOKEN) if _TOKEN.exists() else None)
        return cls(
            host=host,
            ui=(settings.read_address("KFP_UI") or host).rstrip("/"),
            namespace=env.get("KFP_NAMESPACE") or None,
            service_account=env.get("KFP_SERVICE_ACCOUNT") or None,
            ca=env.get(CA) or None,
            token_file=token,
        )


class _AbsentError(UserInputError):
    """The API answered with status 404."""


class Kfp:
    """Calls the Kubeflow Pipelines API (v2beta1) through its generated client, `kfp_server_api`.
    docs/decisions/2026-11-30-kfp-client.md says why not through `kfp.Client`. Methods raise
    UserInputError for a request that Kubeflow refuses and InfrastructureError if it fails or does
    not answer.
    """

    def __init__(self, settings: KfpSettings | None = None) -> None:
        """Asks nothing yet. Raises UserInputError for a CA or a token that can't be read."""
        import kfp_server_api as api

        self.settings = settings or KfpSettings.from_environment()
        configuration = api.Configuration(host=self.settings.host)
        if self.settings.ca:
            make_tls_context(self.settings.ca, CA)  # else a bad file is found at the first request
        configuration.ssl_ca_cert = self.settings.ca
        configuration.api_key_prefix["authorization"] = "Bearer"
        configuration.refresh_api_key_hook = self._renew_token
        self._renew_token(configuration)
        client = api.ApiClient(configuration)
        self._api = api
        self._pipelines = api.PipelineServiceApi(client)
        self._uploads = api.PipelineUploadServiceApi(client)
        self._experiments = api.ExperimentServiceApi(client)
        self._runs = api.RunServiceApi(client)
        self._in_namespace = (
            {"namespace": self.settings.namespace} if self.settings.namespace else {}
        )

    def upload(self, name: str, package: Path, digest: str) -> tuple[str, str]:
        """(pipeline, version): a new version only if none of this digest is there."""
        with self._errors():
            pipelines = self._pipelines.pipeline_service_list_pipelines(
                filter=_equals("name", name), **self._in_namespace
            ).pipelines or [
                self._pipelines.pipeline_service_create_pipeline(
                    self._api.V2beta1Pipeline(name=name, display_name=name, **self._in_namespace)
                )
            ]
            pipeline = str(pipelines[0].pipeline_id)
            versions = self._pipelines.pipeline_service_list_pipeline_versions(
                pipeline, filter=_equals("display_name", digest)
            ).pipeline_versions or [
                self._uploads.upload_pipeline_version(
                    str(package), name=digest, pipelineid=pipeline
                )
            ]
            return pipeline, str(versions[0].pipeline_version_id)

    def experiment(self, name: str) -> str:
        """The experiment of this name, made if there is none."""
        with self._errors():
            experiments = self._experiments.experiment_service_list_experiments(
                filter=_equals("name", name), **self._in_namespace
            ).experiments or [
                self._experiments.experiment_service_create_experiment(
                    self._api.V2beta1Experiment(display_name=name, **self._in_namespace)
                )
            ]
            return str(experiments[0].experiment_id)

    def experiments(self) -> int:
        """How many there are: a question that shows whether the API answers."""
        with self._errors():
            found = self._experiments.experiment_service_list_experiments(**self._in_namespace)
            return int(found.total_size or 0)

    def active_run(self, experiment: str, name: str) -> str | None:
        """A run of this name that has not ended: submitting again must not start a second one."""
        token = ""
        while True:
            with self._errors():
                page = self._runs.run_service_list_runs(
                    experiment_id=experiment,
                    page_size=_PAGE,
                    page_token=token,
                    filter=_equals("name", name),
                )
            for run in page.runs or ():
                if run.display_name == name and run.state not in ENDED:
                    return str(run.run_id)
            token = page.next_page_token or ""
            if not token:
                return None

    def start(
        self, experiment: str, name: str, pipeline: str, version: str, parameters: dict[str, Any]
    ) -> str:
        """Start a run and return its id.

        Args:
            experiment: Its id.
            name: Of the run, as people see it.
            pipeline: Its id.
            version: Its id.
            parameters: By the names of the pipeline's inputs.
        """
        api = self._api
        run = api.V2beta1Run(
            experiment_id=experiment,
            display_name=name,
            pipeline_version_reference=api.V2beta1PipelineVersionReference(
                pipeline_id=pipeline, pipeline_version_id=version
            ),
            runtime_config=api.V2beta1RuntimeConfig(parameters=parameters),
            service_account=self.settings.service_account,
        )
        with self._errors():
            return str(self._runs.run_service_create_run(run).run_id)

    def state(self, run_id: str) -> str | None:
        """PENDING, RUNNING, … or None if there is no such run."""
        try:
            with self._errors():
                return str(self._runs.run_service_get_run(run_id).state)
        except _AbsentError:
            return None

    def terminate(self, run_id: str) -> None:
        """Nothing happens to a run that has ended or is gone."""
        if self.state(run_id) in (None, *ENDED):
            return
        with self._errors():
            self._runs.run_service_terminate_run(run_id)

    def link(self, run_id: str) -> str:
        """The run's page in Kubeflow's UI."""
        return f"{self.settings.ui}/#/runs/details/{run_id}"

    def _renew_token(self, configuration: Any) -> None:
        """Called before each request, because a mounted token is renewed on disk."""
        token = settings.read("KFP_TOKEN").strip()
        if self.settings.token_file:
            try:
                token = Path(self.settings.token_file).read_text().strip()
            except (OSError, ValueError) as error:
                why = getattr(error, "strerror", None) or "it is no text"
                raise UserInputError(
                    f"KFP_TOKEN_FILE={self.settings.token_file} can't be read: {why}"
                ) from None
        if token:
            configuration.api_key["authorization"] = token

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Raise the API's errors as sentences."""
        from urllib3.exceptions import HTTPError

        at = self.settings.host
        try:
            yield
        except self._api.ApiException as error:
            if error.status == 404:
                raise _AbsentError(
                    f"{at} answers, but not as Kubeflow Pipelines, or what was asked for is gone:"
                    f" {_message(error.body) or error.reason}; check KFP_HOST"
                ) from None
            if error.status in (401, 403):
                raise UserInputError(
                    f"Kubeflow at {at} refuses ({error.status}); check KFP_TOKEN_FILE and"
                    " KFP_NAMESPACE"
                ) from None
            kind = InfrastructureError if (error.status or 500) >= 500 else UserInputError
            raise kind(f"Kubeflow at {at}: {error.reason} {_message(error.body)}") from None
        except HTTPError as error:
            tls = find_refusal(error)
            if tls is not None:
                raise explain_refusal(tls, at, self.settings.ca, CA) from None
            raise InfrastructureError(
                f"Kubeflow at {at} does not answer ({error}); check KFP_HOST, or try again later"
            ) from None


def _equals(key: str, value: str) -> str:
    predicate = {"operation": "EQUALS", "key": key, "stringValue": value}
    return json.dumps({"predicates": [predicate]})


def _message(body: Any) -> str:
    """What the API says in an error's body: uploads have a key of their own for it."""
    try:
        answer = parse_json(body)
        return str(answer.get("message") or answer["error_message"])[:300]
    except (TypeError, ValueError, KeyError, AttributeError):
        return ""


# A run of Kubeflow Pipelines that was submitted: which one it is, and its end.

KFP = "kfp.json"  # below the run's prefix: which run of Kubeflow it is
POLL_S = 5.0
PATIENCE_S = 300.0


class RunEndedError(PelicanError):
    """Kubeflow's run has ended, and not well."""


def wait_for(kfp: Kfp, run_id: str, meanwhile: Callable[[], None] = lambda: None) -> None:
    """Wait until the run has ended; `meanwhile` is called after each look that finds it running.

    Raises:
        RunEndedError: The run ended, but not well.
        CancelledError: It was cancelled.
        InfrastructureError: The API was away for PATIENCE_S; the run goes on.
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
    record = read_record(store, f"{run_prefix(run)}/{KFP}", _Submitted)
    return None if record is None else record.run_id


class _Submitted(BaseModel):
    """What of `kfp.json` is read again."""

    run_id: str

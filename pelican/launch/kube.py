"""The few calls of the Kubernetes API that a launcher needs; answers are plain trees."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from urllib.parse import urlencode

import urllib3
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from pelican.config import env
from pelican.errors import InfrastructureError, PelicanError, UserInputError
from pelican.launch.podspec import GROUP, PLURAL, VERSION, Tree

PATIENCE_S = 120.0  # an API server may be restarted under us
REQUEST_S = 20.0
_METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
_TRANSIENT = (408, 429, 500, 502, 503, 504)


class Conflict(PelicanError):
    """The object is there already, or is not the one that was meant."""


class Absent(PelicanError):
    """There is no such object."""


class Kube:
    """A namespace of a cluster, by KUBECONFIG or as the pod's service account."""

    def __init__(self, namespace: str, *, patience_s: float = PATIENCE_S) -> None:
        """Raises UserInputError if no cluster is configured."""
        from kubernetes import client, config

        self.namespace = namespace
        self._patience_s = patience_s
        configuration = client.Configuration()
        try:
            if env.read("KUBERNETES_SERVICE_HOST") and not env.read("KUBECONFIG"):
                config.load_incluster_config(client_configuration=configuration)
            else:
                # The library's own default is what the variable said when it was imported.
                config.load_kube_config(
                    env.read("KUBECONFIG") or "~/.kube/config",
                    client_configuration=configuration,
                )
        except (config.ConfigException, OSError) as error:
            raise UserInputError(f"no cluster is configured ({error}); set KUBECONFIG") from None
        configuration.retries = False
        self._api = client.ApiClient(configuration)
        self._jobs = f"/apis/{GROUP}/{VERSION}/namespaces/{namespace}/{PLURAL}"
        self._core = f"/api/v1/namespaces/{namespace}"

    def create_job(self, job: Tree) -> Tree:
        """Raises Conflict if one of this name is there."""
        return self._call("POST", self._jobs, body=job)

    def job(self, name: str) -> Tree:
        """Raises Absent."""
        return self._call("GET", f"{self._jobs}/{name}")

    def jobs(self, selector: str) -> list[Tree]:
        found = self._call("GET", self._jobs, {"labelSelector": selector})
        return list(found["items"])

    def annotate_job(self, name: str, annotations: Mapping[str, str]) -> None:
        """Raises Absent."""
        body = {"metadata": {"annotations": dict(annotations)}}
        self._call(
            "PATCH", f"{self._jobs}/{name}", body=body, content="application/merge-patch+json"
        )

    def delete_job(self, name: str, uid: str | None = None) -> None:
        """With its pods. Nothing happens if it is gone, or is another one than `uid`."""
        body: Tree = {"propagationPolicy": "Foreground"}
        if uid:
            body["preconditions"] = {"uid": uid}
        try:
            self._call("DELETE", f"{self._jobs}/{name}", body=body)
        except (Absent, Conflict):
            return

    def pods(self, job: str) -> list[Tree]:
        """The pods of a job, rank 0's first."""
        selector = f"training.kubeflow.org/job-name={job}"
        found = self._call("GET", f"{self._core}/pods", {"labelSelector": selector})

        def order(pod: Tree) -> tuple[bool, int]:
            labels = pod["metadata"]["labels"]
            worker = labels.get("training.kubeflow.org/replica-type") != "master"
            return worker, int(labels.get("training.kubeflow.org/replica-index", 0))

        return sorted(found["items"], key=order)

    def warnings(self, names: set[str]) -> list[Tree]:
        """Warning events about objects of these names, the newest last.

        Page by page: a busy namespace has thousands of events, in the order of their names.
        """
        query = {"limit": "500", "fieldSelector": "type=Warning"}
        about: list[Tree] = []
        while True:
            found = self._call("GET", f"{self._core}/events", query)
            about += [e for e in found["items"] if e["involvedObject"].get("name") in names]
            if not (following := found["metadata"].get("continue")):
                break
            query["continue"] = following
        return sorted(about, key=lambda e: e.get("lastTimestamp") or e.get("eventTime") or "")

    def log(self, pod: str, **wishes: str) -> str:
        """What the stage's container printed; empty if it has not."""
        query = {"container": "pytorch", **wishes}
        try:
            return self._raw("GET", f"{self._core}/pods/{pod}/log", query).decode(
                "utf-8", "replace"
            )
        except (Absent, UserInputError):
            return ""

    def stream_log(self, pod: str, since: str | None) -> Iterator[str]:
        """Lines with their time before them, until the container ends or the connection breaks."""
        query = {"container": "pytorch", "follow": "true", "timestamps": "true"}
        if since:
            query["sinceTime"] = since
        with _meaning(self.namespace):
            response = self._request("GET", f"{self._core}/pods/{pod}/log", query, stream=True)
            pending = b""
            try:
                for chunk in response.stream(65536):
                    *lines, pending = (pending + chunk).split(b"\n")
                    for line in lines:
                        yield line.decode("utf-8", "replace")
                if pending:
                    yield pending.decode("utf-8", "replace")
            finally:
                response.release_conn()

    def has_secret(self, name: str) -> bool:
        """Asks for its metadata alone. Raises UserInputError if this identity may not ask."""
        try:
            self._raw("GET", f"{self._core}/secrets/{name}", accept=_METADATA)
        except Absent:
            return False
        return True

    def may(self, verb: str, resource: str, group: str = "") -> bool:
        """Whether this identity may do that in the namespace."""
        attributes = {"namespace": self.namespace, "verb": verb, "group": group}
        attributes["resource"], _, subresource = resource.partition("/")
        if subresource:
            attributes["subresource"] = subresource
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        return bool(self._call("POST", path, body=body)["status"]["allowed"])

    def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: object = None,
        content: str = "application/json",
    ) -> Tree:
        found: Tree = json.loads(self._raw(method, path, query, body, content))
        return found

    def _raw(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: object = None,
        content: str = "application/json",
        accept: str = "application/json",
    ) -> bytes:
        retrying = Retrying(
            retry=retry_if_exception(_is_transient),
            stop=stop_after_delay(self._patience_s),
            wait=wait_random_exponential(0.3, max=5.0),
            reraise=True,
        )
        with _meaning(self.namespace):
            request = partial(self._request, method, path, query, body, content, accept=accept)
            return bytes(retrying(request).data)

    def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: object = None,
        content: str = "application/json",
        *,
        accept: str = "application/json",
        stream: bool = False,
    ) -> urllib3.BaseHTTPResponse:
        headers = {"Accept": accept, "Content-Type": content}
        self._api.update_params_for_auth(headers, [], ["BearerToken"])  # a token may be renewed
        url = self._api.configuration.host + path
        response: urllib3.BaseHTTPResponse = self._api.rest_client.pool_manager.request(
            method,
            f"{url}?{urlencode(query)}" if query else url,
            body=None if body is None else json.dumps(body),
            headers=headers,
            preload_content=not stream,
            retries=False,
            timeout=urllib3.Timeout(connect=5.0, read=None if stream else REQUEST_S),
        )
        if response.status >= 400:
            raise _Refused(response.status, bytes(response.data))
        return response


class _Refused(Exception):
    """What the API answered if not with success."""

    def __init__(self, status: int, body: bytes) -> None:
        self.status = status
        try:
            self.message = str(json.loads(body)["message"])
        except (TypeError, ValueError, KeyError):
            self.message = f"HTTP status {status}"


@contextmanager
def _meaning(namespace: str) -> Iterator[None]:
    """The API's errors as ours."""
    try:
        yield
    except _Refused as error:
        raise _error_of(error, namespace) from None
    except Exception as error:
        if isinstance(error, PelicanError) or not _is_transient(error):
            raise
        raise InfrastructureError(f"the Kubernetes API does not answer: {error}") from error


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, _Refused):
        return error.status in _TRANSIENT
    return isinstance(error, (urllib3.exceptions.HTTPError, ConnectionError, TimeoutError))


def _error_of(error: _Refused, namespace: str) -> PelicanError:
    if error.status == 404:
        return Absent(error.message)
    if error.status == 409:
        return Conflict(error.message)
    if error.status in (401, 403):
        return UserInputError(f"the cluster refuses (namespace {namespace!r}): {error.message}")
    if error.status in _TRANSIENT:
        return InfrastructureError(f"the Kubernetes API fails: {error.message}")
    return UserInputError(f"the Kubernetes API refuses: {error.message}")

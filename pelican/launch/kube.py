"""What a launcher needs of the Kubernetes API, by the client `kubernetes`; answers are trees."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import urllib3
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from pelican.base.parse import parse_json
from pelican.config import env
from pelican.errors import InfrastructureError, PelicanError, UserInputError
from pelican.launch.podspec import CONTAINER, GROUP, PLURAL, VERSION, Tree

if TYPE_CHECKING:
    from kubernetes.client import ApiException

PATIENCE_S = 120.0  # an API server may be restarted under us
_TIMEOUT = (5.0, 20.0)  # seconds to connect, and to read
_NO_LIMIT = (5.0, None)  # of a log that is followed
_METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
_TRANSIENT = (0, 408, 429, 500, 502, 503, 504)
_LATER = "check KUBECONFIG and the network, or try again later"
_CONNECTION = (urllib3.exceptions.HTTPError, ConnectionError, TimeoutError)


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
        except Exception as error:  # the client reads the file as it comes: no YAML, other fields
            why = str(error).partition(chr(10))[0] or type(error).__name__
            raise UserInputError(f"no cluster is configured ({why}); set KUBECONFIG") from None
        configuration.retries = False  # of urllib3, below ours
        self._api = client.ApiClient(configuration)
        self._core = client.CoreV1Api(self._api)
        self._custom = client.CustomObjectsApi(self._api)
        self._of_jobs = (GROUP, VERSION, namespace, PLURAL)

    def create_job(self, job: Tree) -> Tree:
        """Raises Conflict if one of this name is there."""
        made: Tree = self._call(self._custom.create_namespaced_custom_object, *self._of_jobs, job)
        return made

    def job(self, name: str) -> Tree:
        """Raises Absent."""
        found: Tree = self._call(self._custom.get_namespaced_custom_object, *self._of_jobs, name)
        return found

    def jobs(self, selector: str) -> list[Tree]:
        """The PyTorchJobs that have these labels."""
        call = self._custom.list_namespaced_custom_object
        return list(self._call(call, *self._of_jobs, label_selector=selector)["items"])

    def annotate_job(self, name: str, annotations: Mapping[str, str]) -> None:
        """Raises Absent."""
        body = {"metadata": {"annotations": dict(annotations)}}  # sent as a merge patch
        self._call(self._custom.patch_namespaced_custom_object, *self._of_jobs, name, body)

    def delete_job(self, name: str, uid: str | None = None) -> None:
        """With its pods. Nothing happens if it is gone, or is another one than `uid`."""
        body: Tree = {"propagationPolicy": "Foreground"}
        if uid:
            body["preconditions"] = {"uid": uid}
        with suppress(Absent, Conflict):
            call = self._custom.delete_namespaced_custom_object
            self._call(call, *self._of_jobs, name, body=body)

    def pods(self, job: str) -> list[Tree]:
        """The pods of a job, rank 0's first."""
        selector = f"training.kubeflow.org/job-name={job}"
        found = self._tree(self._core.list_namespaced_pod, label_selector=selector)

        def order(pod: Tree) -> tuple[bool, int]:
            labels = pod["metadata"]["labels"]
            worker = labels.get("training.kubeflow.org/replica-type") != "master"
            return worker, int(labels.get("training.kubeflow.org/replica-index", 0))

        return sorted(found["items"], key=order)

    def warnings(self, names: set[str]) -> list[Tree]:
        """Warning events about objects of these names, the newest last.

        Page by page: a busy namespace has thousands of events, in the order of their names.
        """
        query: Tree = {"limit": 500, "field_selector": "type=Warning"}
        about: list[Tree] = []
        while True:
            found = self._tree(self._core.list_namespaced_event, **query)
            about += [e for e in found["items"] if e["involvedObject"].get("name") in names]
            if not (following := found["metadata"].get("continue")):
                break
            query["_continue"] = following
        return sorted(about, key=lambda e: e.get("lastTimestamp") or e.get("eventTime") or "")

    def log(self, pod: str, lines: int) -> str:
        """The last lines that the stage's container printed; empty if it has not begun."""
        try:
            answer = self._call(
                self._core.read_namespaced_pod_log,
                pod,
                self.namespace,
                container=CONTAINER,
                tail_lines=lines,
                _preload_content=False,  # else a log that is JSON comes as Python's repr of it
            )
        except (Absent, UserInputError):
            return ""
        return bytes(answer.data).decode("utf-8", "replace")

    def stream_log(self, pod: str, since: str | None) -> Iterator[str]:
        """Lines with their time before them, until the container ends or the connection breaks.

        Not by `watch.Watch` (kubernetes 30.1): it drops a last line without a newline, which is what
        a killed process leaves, and `read_namespaced_pod_log` has no `sinceTime`.
        """
        query = {"container": CONTAINER, "follow": "true", "timestamps": "true"}
        if since:
            query["sinceTime"] = since
        with _errors(self.namespace):
            response = self._get("pods/{name}/log", pod, query=query, _request_timeout=_NO_LIMIT)
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
            # Not read_namespaced_secret: what is in the Secret would come along.
            self._call(self._get, "secrets/{name}", name, accept=_METADATA)
        except Absent:
            return False
        return True

    def may(self, verb: str, resource: str, group: str = "") -> bool:
        """Whether this identity may do that in the namespace."""
        from kubernetes.client import AuthorizationV1Api

        attributes = {"namespace": self.namespace, "verb": verb, "group": group}
        attributes["resource"], _, subresource = resource.partition("/")
        if subresource:
            attributes["subresource"] = subresource
        call = AuthorizationV1Api(self._api).create_self_subject_access_review
        body = {"spec": {"resourceAttributes": attributes}}
        return bool(self._call(call, body).status.allowed)

    def _tree(self, call: Callable[..., Any], **query: Any) -> Tree:
        """The answer as it was sent: models of the library would rename its fields."""
        answer = self._call(call, self.namespace, _preload_content=False, **query)
        tree: Tree = parse_json(answer.data)
        return tree

    def _get(
        self,
        path: str,
        name: str,
        *,
        query: Mapping[str, str] | None = None,
        accept: str = "application/json",
        _request_timeout: tuple[float, float | None],
    ) -> urllib3.BaseHTTPResponse:
        """A request that the generated methods can't say, by what they are made of."""
        response: urllib3.BaseHTTPResponse = self._api.call_api(
            f"/api/v1/namespaces/{{namespace}}/{path}",
            "GET",
            {"namespace": self.namespace, "name": name},
            dict(query or {}),
            {"Accept": accept},
            auth_settings=["BearerToken"],
            _return_http_data_only=True,
            _preload_content=False,
            _request_timeout=_request_timeout,
        )
        return response

    def _call(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """`call`, again while the API is away, for at most the patience that was given."""
        retrying = Retrying(
            retry=retry_if_exception(_is_transient),
            stop=stop_after_delay(self._patience_s),
            wait=wait_random_exponential(0.3, max=5.0),
            reraise=True,
        )
        with _errors(self.namespace):
            return retrying(call, *arguments, **options, _request_timeout=_TIMEOUT)


@contextmanager
def _errors(namespace: str) -> Iterator[None]:
    """The library's errors as ours."""
    from kubernetes.client import ApiException

    try:
        yield
    except ApiException as error:
        raise _error_of(error, namespace) from None
    except _CONNECTION as error:
        raise InfrastructureError(
            f"the Kubernetes API does not answer ({error}); {_LATER}"
        ) from error


def _is_transient(error: BaseException) -> bool:
    """`status` is what an ApiException has: 0 for one of TLS."""
    return isinstance(error, _CONNECTION) or getattr(error, "status", None) in _TRANSIENT


def _error_of(error: ApiException, namespace: str) -> PelicanError:
    try:
        message = str(parse_json(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        message = " ".join(str(error.reason).split()) or f"HTTP status {error.status}"
    if error.status == 404:
        return Absent(message)
    if error.status == 409:
        return Conflict(message)
    if error.status in (401, 403):
        return UserInputError(f"the cluster refuses (namespace {namespace!r}): {message}")
    if error.status == 0:
        return InfrastructureError(f"the Kubernetes API does not answer ({message}); {_LATER}")
    if error.status in _TRANSIENT:
        return InfrastructureError(f"the Kubernetes API fails ({message}); {_LATER}")
    return UserInputError(f"the Kubernetes API refuses: {message}")

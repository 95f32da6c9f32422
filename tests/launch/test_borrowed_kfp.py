"""What Pelican uses of kfp and kubernetes beyond their documented interface is there, as it was.

A new version that changes one of them fails here, with the place that uses it.
"""

from __future__ import annotations

import dataclasses
import inspect

from kfp.dsl.python_component import PythonComponent
from kfp_server_api import Configuration
from kubernetes.client import ApiClient, CoreV1Api

from components.rollout import rollout


def parameters(function: object) -> list[str]:
    assert callable(function)
    return list(inspect.signature(function).parameters)


def test_a_component_of_kfp_can_be_made_again_under_another_name() -> None:
    """`pipelines/parts.py` names the tasks of each loop apart."""
    assert isinstance(rollout, PythonComponent)
    assert parameters(PythonComponent) == ["component_spec", "python_func"]
    assert {"component_spec", "python_func"} <= {*vars(rollout)}
    assert dataclasses.is_dataclass(rollout.component_spec)
    assert "name" in {field.name for field in dataclasses.fields(rollout.component_spec)}


def test_the_api_of_kubeflow_reads_the_token_before_each_request() -> None:
    """`pelican/launch/kfp.py` renews a mounted token there."""
    configuration = Configuration(host="http://127.0.0.1:9")
    assert configuration.refresh_api_key_hook is None
    tokens = iter(("first", "second"))
    configuration.api_key_prefix["authorization"] = "Bearer"
    configuration.refresh_api_key_hook = lambda c: c.api_key.update(authorization=next(tokens))
    asked = [configuration.get_api_key_with_prefix("authorization") for _ in range(2)]
    assert asked == ["Bearer first", "Bearer second"]


def test_the_client_of_kubernetes_takes_a_request_of_ones_own() -> None:
    """`pelican/launch/kube.py` follows logs and asks for a Secret's metadata by it."""
    assert parameters(ApiClient.call_api)[:6] == [
        *("self", "resource_path", "method", "path_params", "query_params", "header_params"),
    ]
    options = {"auth_settings", "_return_http_data_only", "_preload_content", "_request_timeout"}
    assert options <= {*parameters(ApiClient.call_api)}
    documented = CoreV1Api.read_namespaced_pod_log.__doc__ or ""
    assert "since_time" not in documented, "the library can say it now: see Kube.stream_log"

"""The trigger as its manifests install it, and a bucket of the cluster's MinIO that tells it of data."""

from __future__ import annotations

import json
import os
import secrets
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from minio import MinioAdmin
from minio.credentials.providers import EnvAWSProvider
from minio.error import MinioAdminException, MinioException
from minio.notificationconfig import NotificationConfig, QueueConfig, SuffixFilterRule

from pelican.retrain.trigger.inbox import read_audit
from pelican.storage.s3_client import S3Settings, make_client
from tests.cluster.conftest import LONG_S, NAMESPACE, ROOT, Cluster, kubectl

APP = "app=pelican-trigger"


@dataclass
class Deployed:
    """The running service, and the bucket that new data is delivered to."""

    cluster: Cluster
    bucket: str

    def deliver(self, *paths: Path) -> None:
        """Upload files to where data is delivered; all that a robot's side does."""
        client = make_client(S3Settings.from_environment())
        for path in paths:
            client.fput_object(self.bucket, f"incoming/{path.name}", str(path))

    def audit(self) -> list[dict[str, Any]]:
        return read_audit(self.cluster.store)

    def told(self) -> Counter[str]:
        """How many decisions of each kind there are."""
        return Counter(entry["what"] for entry in self.audit())

    def ended(self, batches: int) -> dict[str, Any]:
        """What the audit says of the end of the newest of so many batches, once it is there."""

        def ends() -> list[dict[str, Any]]:
            found = [e for e in self.audit() if e["what"] in ("done", "failed")]
            return found if len(found) >= batches else []

        return self.cluster.wait_for(f"the end of batch {batches}", ends, LONG_S)[-1]

    def pods(self) -> list[dict[str, Any]]:
        """Those that are not being deleted."""
        out = kubectl("-n", NAMESPACE, "get", "pods", "-l", APP, "-o", "json")
        return [p for p in json.loads(out)["items"] if "deletionTimestamp" not in p["metadata"]]


@contextmanager
def deployed(
    cluster: Cluster, folder: Path, settings: dict[str, str], endpoint: str | None = None
) -> Iterator[Deployed]:
    """The manifests with this cluster's images and `settings`, until the end of the block.

    `endpoint`: where the service and its jobs find the store, if not where this process does.
    """
    admin = _administrator()
    bucket = f"pelican-fleet-{uuid.uuid4().hex[:8]}"
    client = make_client(S3Settings.from_environment())
    client.make_bucket(bucket)
    token = secrets.token_urlsafe(24)
    settings = {**settings, "PELICAN_TRIGGER_SOURCE": f"s3://{bucket}"}
    try:
        _install(cluster, folder, token, settings, endpoint or os.environ["S3_ENDPOINT_URL"])
        with _events_of(bucket, token, admin):
            yield Deployed(cluster, bucket)
    finally:
        kubectl("delete", "--ignore-not-found", "--wait=false", "-k", str(folder), check=False)
        for found in client.list_objects(bucket, recursive=True):
            client.remove_object(bucket, str(found.object_name))
        client.remove_bucket(bucket)


def _install(
    cluster: Cluster, folder: Path, token: str, settings: dict[str, str], endpoint: str
) -> None:
    image, _, tag = cluster.target.control_image.rpartition(":")
    shared = {
        "S3_ENDPOINT_URL": endpoint,
        "PELICAN_IMAGE": cluster.target.control_image,
        "PELICAN_TRAIN_IMAGE": cluster.target.train_image,
    }
    # A kustomization of JSON, which is YAML.
    tree = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": NAMESPACE,
        "resources": [os.path.relpath(ROOT / "manifests" / "trigger", folder), "made.json"],
        "images": [{"name": "pelican-control", "newName": image, "newTag": tag}],
        "patches": [{"path": "settings.json"}],
    }
    secret = {"tokens": token, "secrets": secrets.token_urlsafe(24)}
    made = [
        _object("Secret", "pelican-trigger", stringData=secret),
        _object("ConfigMap", "pelican-settings", data=shared),
    ]
    patch = _object("ConfigMap", "pelican-trigger", data=settings)
    (folder / "kustomization.yaml").write_text(json.dumps(tree))
    (folder / "made.json").write_text("\n---\n".join(map(json.dumps, made)))
    (folder / "settings.json").write_text(json.dumps(patch))
    kubectl("apply", "-k", str(folder))
    cluster.wait_for("both replicas", lambda: ready() == 2)


def ready() -> int:
    """Replicas that take events."""
    service = ["-n", NAMESPACE, "get", "deployment", "pelican-trigger"]
    return int(kubectl(*service, "-o", "jsonpath={.status.readyReplicas}") or 0)


def _object(kind: str, name: str, **fields: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": kind, "metadata": metadata, **fields}


@contextmanager
def _events_of(bucket: str, token: str, admin: MinioAdmin) -> Iterator[None]:
    """MinIO posts the bucket's events to the Service, as docs/retrain.md sets it up with `mc`."""
    name = bucket.removeprefix("pelican-")
    service = ["-n", NAMESPACE, "get", "service", "pelican-trigger"]
    address = kubectl(*service, "-o", "jsonpath={.spec.clusterIP}")
    target = {
        "endpoint": f"http://{address}/v1/events/s3",
        "auth_token": f'"Bearer {token}"',
        "queue_dir": f"/tmp/{name}",
    }
    admin.config_set(f"notify_webhook:{name}", target)
    _restart(admin)
    client = make_client(S3Settings.from_environment())
    suffix = SuffixFilterRule(".parquet")
    arn = f"arn:minio:sqs::{name}:webhook"
    queue = QueueConfig(events=["s3:ObjectCreated:*"], suffix_filter_rule=suffix, queue=arn)
    client.set_bucket_notification(bucket, NotificationConfig(queue_config_list=[queue]))
    try:
        yield
    finally:
        client.delete_bucket_notification(bucket)
        admin.config_reset("notify_webhook", name)
        _restart(admin)


def _administrator() -> MinioAdmin:
    """Who may set a webhook of MinIO; without, there is nothing to test here."""
    endpoint = urlsplit(S3Settings.from_environment().endpoint)
    secure = endpoint.scheme == "https"
    admin = MinioAdmin(endpoint=endpoint.netloc, credentials=EnvAWSProvider(), secure=secure)
    try:
        admin.info()
    except (MinioAdminException, MinioException) as error:
        pytest.skip(f"the store is no MinIO whose settings may be changed: {error}")
    return admin


def _restart(admin: MinioAdmin) -> None:
    """MinIO reads a new target when it starts."""
    admin.service_restart()
    time.sleep(2)
    admin.info()

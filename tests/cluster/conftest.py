"""A real cluster with the training operator and an S3 store: KUBECONFIG and S3_ENDPOINT_URL name them.

The manifests are installed into a namespace, and the tests then act as the launcher's service account
of the manifests, not as the administrator. The images must be there: PELICAN_IMAGE and
PELICAN_TRAIN_IMAGE, else pelican-control and pelican-train of this version.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from pelican.launch.kube import Kube
from pelican.launch.podspec import Target
from pelican.storage.s3 import S3Store
from pelican.storage.s3_client import S3Settings, make_client

ROOT = Path(__file__).parent.parent.parent
NAMESPACE = "pelican"
BUCKET = "pelican-tests"
ADMIN = os.environ.get("KUBECONFIG", "")
UNTIL = "PELICAN_TESTS_UNTIL"  # Unix time; no test of a cluster begins later
# How long a condition may take on a busy machine of two cores; on a quiet one it takes seconds.
LONG_S, SHORT_S = 1200.0, 300.0
T = TypeVar("T")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The whole metaloop first, then retraining: where time is short, they say most."""
    first = ("test_metaloop.py", "test_retrain.py")
    items.sort(key=lambda item: (*first, item.path.name).index(item.path.name))


@pytest.fixture(autouse=True)
def in_time() -> None:
    until = os.environ.get(UNTIL)
    if until and time.time() > float(until):
        pytest.skip(f"the time that {UNTIL} allows is over")


def kubectl(*arguments: str, text: str | None = None, check: bool = True) -> str:
    """As the administrator of the KUBECONFIG that the tests were started with."""
    done = subprocess.run(
        ["kubectl", *arguments],
        input=text,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "KUBECONFIG": ADMIN},
    )
    if check:
        assert done.returncode == 0, done.stderr
    return done.stdout


@dataclass
class Cluster:
    """The installed manifests, and the environment of a launcher there."""

    env: dict[str, str]
    store: S3Store
    kube: Kube
    target: Target

    def jobs(self, run: str) -> list[dict[str, Any]]:
        return self.kube.jobs(f"pelican.dev/run={run}")

    def pods(self, run: str) -> list[dict[str, Any]]:
        out = kubectl("-n", NAMESPACE, "get", "pods", "-l", f"pelican.dev/run={run}", "-o", "json")
        return list(json.loads(out)["items"])

    def wait_for(
        self,
        what: str,
        condition: Callable[[], T],
        seconds: float = SHORT_S,
        *,
        meanwhile: Future[Any] | None = None,
    ) -> T:
        """What `condition` returns once that is true. What `meanwhile` does must not end before."""
        deadline = time.monotonic() + seconds
        while True:
            ended = meanwhile is not None and meanwhile.done()
            found = condition()
            if found:
                return found
            if ended:
                assert meanwhile is not None
                raise AssertionError(f"the stage ended before {what}: {meanwhile.result()}")
            assert time.monotonic() < deadline, f"{what} did not happen in {seconds} s"
            time.sleep(0.5)


@pytest.fixture(scope="session")
def admin() -> None:
    missing = [n for n in ("KUBECONFIG", "S3_ENDPOINT_URL") if not os.environ.get(n)]
    if missing or shutil.which("kubectl") is None:
        pytest.skip(f"no cluster: {', '.join(missing) or 'kubectl'} is missing")


@pytest.fixture(scope="session")
def cluster(admin: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    kubectl("apply", "--server-side", "--force-conflicts", "-k", str(ROOT / "manifests" / "base"))
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "pelican-s3", "namespace": NAMESPACE},
        "stringData": {
            name: os.environ[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        },
    }
    kubectl("apply", "-f", "-", text=json.dumps(secret))
    config = folder / "kubeconfig"
    config.write_text(json.dumps(_config_of("pelican-launcher")))
    env = {
        "KUBECONFIG": str(config),
        "PELICAN_STORE": f"s3://{BUCKET}/{uuid.uuid4().hex[:8]}",
        "PELICAN_NAMESPACE": NAMESPACE,
        "PELICAN_CACHE": str(folder / "cache"),
    }
    client = make_client(S3Settings.from_environment())
    if not client.bucket_exists(BUCKET):
        client.make_bucket(BUCKET)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("AWS_CA_BUNDLE", raising=False)
        for name, value in env.items():
            patch.setenv(name, value)
        store = S3Store(env["PELICAN_STORE"])
        yield Cluster(env, store, Kube(NAMESPACE), Target.from_environment())
        store.delete("")


def _config_of(account: str) -> dict[str, Any]:
    """A kubeconfig of a service account's token, for the same server."""
    seen = json.loads(kubectl("config", "view", "--minify", "--raw", "-o", "json"))
    token = kubectl("-n", NAMESPACE, "create", "token", account, "--duration=4h").strip()
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": seen["clusters"],
        "users": [{"name": account, "user": {"token": token}}],
        "contexts": [
            {"name": "t", "context": {"cluster": seen["clusters"][0]["name"], "user": account}}
        ],
        "current-context": "t",
    }


@pytest.fixture(scope="session")
def buffer(cluster: Cluster) -> str:
    """What train-rl reads of a filter: ids of a few samples of the pool."""
    import io

    import polars as pl

    ids = pl.read_parquet("samples/train/*.parquet", columns=["id"])["id"].sort()[:24]
    data = io.BytesIO()
    pl.DataFrame({"sample_id": ids}).write_parquet(data)
    cluster.store.write("made/buffer/buffer.parquet", data.getvalue())
    return f"{cluster.store.uri}/made/buffer"

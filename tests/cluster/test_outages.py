"""The API server and the store are away for a while: nothing is lost, nothing done twice."""

from __future__ import annotations

import json
import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import polars as pl
import pytest

from pelican.launch.kube import Kube
from pelican.launch.pytorchjob import PyTorchJobLauncher
from pelican.storage.s3 import S3Store
from tests.cluster.conftest import LONG_S, NAMESPACE, Cluster
from tests.cluster.proxy import Proxy
from tests.cluster.test_launcher import kept_checkpoint, launch, running, train

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def test_an_api_server_away_for_20_s(
    cluster: Cluster, buffer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = json.loads(Path(os.environ["KUBECONFIG"]).read_text())
    server = urlsplit(config["clusters"][0]["cluster"]["server"])
    proxy = Proxy("127.0.0.1", (str(server.hostname), server.port or 443))
    config["clusters"][0]["cluster"] |= {
        "server": f"https://127.0.0.1:{proxy.address[1]}",
        "tls-server-name": str(server.hostname),
    }
    path = tmp_path / "config"
    path.write_text(json.dumps(config))
    monkeypatch.setenv("KUBECONFIG", str(path))
    launcher = PyTorchJobLauncher(Kube(NAMESPACE), cluster.target)
    job = train(cluster, "api-away", buffer)
    with ThreadPoolExecutor(1) as threads:
        result = threads.submit(launcher.run, job)
        running(cluster, "api-away", 2, result)
        proxy.down_for(20)
        assert result.result(timeout=LONG_S).attempts == 1
    assert cluster.store.exists(job.logs)


def test_a_store_away_for_30_s(
    cluster: Cluster, buffer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pods and launcher reach the store through a proxy on the address of this machine."""
    endpoint = urlsplit(os.environ["S3_ENDPOINT_URL"])
    target = (str(endpoint.hostname), endpoint.port or 443)
    with socket.create_connection(target) as probe:
        here = probe.getsockname()[0]
    proxy = Proxy(here, target)
    monkeypatch.setenv("S3_ENDPOINT_URL", f"{endpoint.scheme}://{here}:{proxy.address[1]}")
    through = Cluster(cluster.env, S3Store(cluster.store.uri), cluster.kube, cluster.target)
    job = train(through, "store-away", buffer, "rl.max_steps=8")
    with ThreadPoolExecutor(1) as threads:
        result = threads.submit(launch, through, job)
        kept = kept_checkpoint(cluster, "store-away")
        cluster.wait_for("a checkpoint", kept, LONG_S, meanwhile=result)
        away = threading.Thread(target=proxy.down_for, args=(30,))
        away.start()
        done = result.result(timeout=LONG_S)
        away.join()
    assert done.attempts == 1
    curve = pl.read_parquet(cluster.store.local(f"{job.spec.output}/curve.parquet"))
    assert curve["step"].unique().sort().to_list() == list(range(1, 9))

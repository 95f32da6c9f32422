"""Real Prometheus programs for tests, ended with them; Debian's packages bring them."""

from __future__ import annotations

import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.endpoints import free_port


def program(name: str) -> str:
    """Its path; the test is skipped without it."""
    found = shutil.which(name)
    if found is None:
        packages = {"promtool": "prometheus", "kubectl": "kubernetes-client"}
        pytest.skip(f"{name} is not there; Debian's {packages.get(name, name)} brings it")
    return found


def get(url: str, *, patience_s: float = 30.0) -> str:
    """The answer, once the server is up."""
    end = time.monotonic() + patience_s
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return str(answer.read().decode())
        except OSError as error:
            refused = isinstance(error, urllib.error.HTTPError) and error.code < 500
            if refused or time.monotonic() > end:
                raise
            time.sleep(0.05)


@contextmanager
def running(command: Sequence[str], url: str, log: Path) -> Iterator[str]:
    """A server until the block's end; gives `url`, which answers by then under /-/ready."""
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        try:
            get(f"{url}/-/ready")
            yield url
        finally:
            process.terminate()
            process.wait()


@contextmanager
def pushgateway(folder: Path) -> Iterator[str]:
    """A Pushgateway; gives its URL."""
    port = free_port()
    command = [program("prometheus-pushgateway"), f"--web.listen-address=127.0.0.1:{port}"]
    command.append("--persistence.file=")  # Debian's keeps what was pushed, in /var/lib
    with running(command, f"http://127.0.0.1:{port}", folder / "pushgateway.log") as url:
        yield url


def families(text: str) -> dict[str, Metric]:
    """The exposition format, by the names of `pelican.base.metrics`."""
    found = {}
    for family in text_string_to_metric_families(text):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        found[name] = family
    return found


def values(text: str) -> dict[str, float]:
    """`name{label="x",…}` without the labels that all have -> value."""
    out = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = {
                k: v
                for k, v in sorted(sample.labels.items())
                if k not in ("stage", "phase", "job", "instance")
            }
            inner = ",".join(f'{k}="{v}"' for k, v in labels.items())
            out[sample.name + (f"{{{inner}}}" if inner else "")] = sample.value
    return out

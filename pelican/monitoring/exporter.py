"""Where metrics go: served on a port while a stage works, pushed once when it has finished.

PELICAN_METRICS_PORT   `9464` or `127.0.0.1:9464`: Prometheus scrapes it
PELICAN_PUSHGATEWAY    URL of a Pushgateway
Without either nothing is imported, opened or kept. Trouble with metrics never ends a stage.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pelican.base.metrics import COMMON, SERIES, Series, send_to
from pelican.config.stages import STAGES

if TYPE_CHECKING:
    from prometheus_client.core import Metric

PORT, GATEWAY, FOLDER = "PELICAN_METRICS_PORT", "PELICAN_PUSHGATEWAY", "PROMETHEUS_MULTIPROC_DIR"
PUSH_TIMEOUT_S = 5.0
FOLDER_WAIT_S = 10.0  # of a replica for the first of its pod
STAGE, JOB = "pelican", "pelican-job"  # Prometheus' label `job` of what is pushed
Keep = Callable[[Series], bool]


def configured() -> bool:
    """Whether metrics go anywhere."""
    return bool(os.environ.get(PORT) or os.environ.get(GATEWAY))


class Registry:
    """The series of one process, with the labels that all of them carry."""

    def __init__(self, stage: str, phase: str) -> None:
        from prometheus_client import CollectorRegistry

        self.own = CollectorRegistry()
        self._common = (stage, phase)
        self._made: dict[str, Any] = {}

    def of(self, series: Series, labels: dict[str, str]) -> Any:
        """A series comes into being with its first value: a gauge that is not set is not 0."""
        made = self._made.get(series.name)
        if made is None:
            made = self._made[series.name] = self._make(series)
        return made.labels(*self._common, *(labels[name] for name in series.labels))

    def _make(self, series: Series) -> Any:
        from prometheus_client import Counter, Gauge, Histogram, Summary

        names = (*COMMON, *series.labels)
        if series.kind == "gauge":
            return Gauge(
                series.name,
                series.help,
                names,
                registry=self.own,
                multiprocess_mode=series.across,
            )
        if series.kind == "histogram":
            return Histogram(
                series.name, series.help, names, registry=self.own, buckets=series.buckets
            )
        made = Counter if series.kind == "counter" else Summary
        return made(series.name, series.help, names, registry=self.own)


class _View:
    """A collector that shows some series of another one."""

    def __init__(self, source: Any, keep: Keep) -> None:
        self._source, self._keep = source, keep

    def collect(self) -> Iterable[Metric]:
        for found in self._source.collect():
            # A counter's family has lost its `_total`.
            series = SERIES.get(found.name) or SERIES.get(f"{found.name}_total")
            if series is not None and self._keep(series):
                found.samples = [s for s in found.samples if not s.name.endswith("_created")]
                yield found


class StageExporter:
    """The metrics of one process of a stage. The first process of a pod serves those of all.

    `barrier` waits until every process of the job has called it; replicas, of which any may be lost,
    have none and wait for the folder of their pod alone.
    """

    def __init__(
        self, stage: str, phase: str, key: str, barrier: Callable[[], object] | None
    ) -> None:
        self._grouping = {"stage": stage, "phase": phase}
        self._gateway = os.environ.get(GATEWAY, "")
        self._folder: Path | None = None
        self._server: Any = None
        self._first = os.environ.get("LOCAL_RANK", "0") == "0"
        if int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("WORLD_SIZE", "1"))) > 1:
            self._folder = self._share(key, barrier)
        self._registry = Registry(stage, phase)
        send_to(self._registry)
        where = os.environ.get(PORT, "")
        if where and self._first and (STAGES[stage].long or not self._gateway):
            self._server = _serve(where, _View(self._source(), self._served))

    def finish(self) -> None:
        """Push what is not scraped, once for the whole job; then end."""
        if self._gateway and os.environ.get("RANK", "0") == "0":
            served = self._served if self._server is not None else lambda series: False
            view = _View(self._source(), lambda series: not served(series))
            push(self._gateway, STAGE, self._grouping, view)
        self.close()

    def close(self) -> None:
        """Serve nothing more and leave no file."""
        send_to(None)
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
        if self._folder is not None and self._first:
            shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> StageExporter:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is not None:
            self.close()

    def _served(self, series: Series) -> bool:
        """Results are pushed if they can be: a stage ends before the next scrape."""
        return series.moment == "live" or not self._gateway

    def _share(self, key: str, barrier: Callable[[], object] | None) -> Path | None:
        """An empty folder for the values of this pod's processes, and files instead of numbers."""
        from prometheus_client import values

        name = [key, *(os.environ.get(n, "") for n in ("MASTER_PORT", "TORCHELASTIC_RUN_ID"))]
        base = os.environ.get(FOLDER) or str(Path(tempfile.gettempdir()) / "pelican-metrics")
        folder = Path(base) / "-".join(filter(None, name))
        if self._first:
            shutil.rmtree(folder, ignore_errors=True)
            try:
                folder.mkdir(parents=True)
            except OSError as error:
                _warn(f"{FOLDER}: the processes of this pod share no metrics: {error}")
        if barrier is not None:
            barrier()
        deadline = time.monotonic() + FOLDER_WAIT_S
        while barrier is None and not folder.is_dir() and time.monotonic() < deadline:
            time.sleep(0.05)
        if not folder.is_dir():
            return None
        os.environ[FOLDER] = str(folder)
        values.ValueClass = values.MultiProcessValue()  # type: ignore[no-untyped-call]
        return folder

    def _source(self) -> Any:
        if self._folder is None:
            return self._registry.own
        from prometheus_client.multiprocess import MultiProcessCollector

        return MultiProcessCollector(None, str(self._folder))  # type: ignore[no-untyped-call]


class NoExporter:
    """Nothing is configured."""

    def finish(self) -> None:
        return None

    def __enter__(self) -> NoExporter:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        return None


def open_stage(
    stage: str, phase: str, key: str, barrier: Callable[[], object] | None
) -> StageExporter | NoExporter:
    """Called once by every process of a stage; `key` names its job."""
    return StageExporter(stage, phase, key, barrier) if configured() else NoExporter()


@contextmanager
def pushed(stage: str, phase: str, job: str = STAGE) -> Iterator[Callable[[], None]]:
    """Values set inside are pushed by calling what is given, and at the end if all went well."""
    gateway = os.environ.get(GATEWAY, "")
    if not gateway:
        yield lambda: None
        return
    registry = Registry(stage, phase)
    send_to(registry)

    moment = "job" if job == JOB else "end"
    view = _View(registry.own, lambda series: series.moment == moment)
    reached = True

    def send() -> None:
        nonlocal reached
        if reached:  # a gateway that is away is waited for once
            reached = push(gateway, job, {"stage": stage, "phase": phase}, view)

    try:
        yield send
        send()
    finally:
        send_to(None)


def push(gateway: str, job: str, grouping: dict[str, str], collector: Any) -> bool:
    """Replace the group; on failure one line of warning. The run is no part of the group's key."""
    from prometheus_client import push_to_gateway

    try:
        push_to_gateway(gateway, job, collector, grouping, timeout=PUSH_TIMEOUT_S)
    except (OSError, ValueError) as error:
        _warn(f"{GATEWAY}={gateway!r} takes no metrics: {error}")
        return False
    return True


def _serve(where: str, collector: Any) -> Any:
    from prometheus_client import start_http_server

    host, _, port = where.rpartition(":")
    try:
        server, _ = start_http_server(int(port), host or "0.0.0.0", collector)
    except (OSError, ValueError, OverflowError) as error:
        _warn(f"{PORT}={where!r} can't be served: {error}")
        return None
    return server


def _warn(text: str) -> None:
    with suppress(OSError):
        print(f"warning: {text}", file=sys.stderr, flush=True)

"""Where metrics go: served on a port while a stage works, pushed once when it has finished.

PELICAN_METRICS_PORT   `9464` or `127.0.0.1:9464`: Prometheus scrapes it
PELICAN_PUSHGATEWAY    URL of a Pushgateway
Without either nothing is imported, opened or kept. Trouble with metrics never ends a stage.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pelican.base.metrics import SERIES, Series, record_into
from pelican.config import env
from pelican.config.stages import STAGES

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

PORT, GATEWAY, FOLDER = env.METRICS_PORT, env.PUSHGATEWAY, env.METRICS_FOLDER
PUSH_TIMEOUT_S = 5.0
FOLDER_WAIT_S = 10.0  # of a replica for the first of its pod
STAGE, JOB = "pelican", "pelican-job"  # Prometheus' label `job` of what is pushed
Keep = Callable[[Series], bool]


def configured() -> bool:
    """Whether metrics go anywhere."""
    return bool(env.read(PORT) or env.read(GATEWAY))


def _make_registry() -> CollectorRegistry:
    from prometheus_client import CollectorRegistry

    # The collector of several processes knows the names of its series only when it is asked.
    return CollectorRegistry(support_collectors_without_names=True)


def _restrict(registry: CollectorRegistry, keep: Keep) -> Any:
    """A collector of those series of `registry` that `keep` accepts."""
    return registry.restricted_registry(
        [name for series in SERIES.values() if keep(series) for name in series.samples]
    )


class StageExporter:
    """The metrics of one process of a stage. The first process of a pod serves those of all.

    `barrier` waits until every process of the job has called it; replicas, of which any may be lost,
    have none and wait for the folder of their pod alone.
    """

    def __init__(
        self, stage: str, phase: str, key: str, barrier: Callable[[], object] | None
    ) -> None:
        self._grouping = {"stage": stage, "phase": phase}
        self._gateway = env.read(GATEWAY)
        self._folder: Path | None = None
        self._server: Any = None
        self._first = env.local_rank() == 0
        if env.local_world_size() > 1:
            self._folder = self._share(key, barrier)
        self._registry = _make_registry()
        record_into(self._registry, stage, phase)
        where = env.read(PORT)
        if where and self._first and (STAGES[stage].long or not self._gateway):
            self._server = _serve(where, _restrict(self._source(), self._served))

    def finish(self) -> None:
        """Push what is not scraped, once for the whole job; then end."""
        if self._gateway and env.rank() == 0:
            served = self._served if self._server is not None else lambda series: False
            view = _restrict(self._source(), lambda series: not served(series))
            push(self._gateway, STAGE, self._grouping, view)
        self.close()

    def close(self) -> None:
        """Serve nothing more and leave no file."""
        record_into(None)
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

        name = [key, *(env.read(n) for n in ("MASTER_PORT", "TORCHELASTIC_RUN_ID"))]
        base = env.read(FOLDER) or str(Path(tempfile.gettempdir()) / "pelican-metrics")
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
        env.write(FOLDER, str(folder))
        values.ValueClass = values.MultiProcessValue()  # type: ignore[no-untyped-call]
        return folder

    def _source(self) -> CollectorRegistry:
        """The values of this process; of all of the pod, where they share a folder."""
        if self._folder is None:
            return self._registry
        from prometheus_client.multiprocess import MultiProcessCollector

        pod = _make_registry()
        MultiProcessCollector(pod, str(self._folder))  # type: ignore[no-untyped-call]
        return pod


class NoExporter:
    """The exporter where none is configured: it does nothing."""

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
    """Record values inside the block and push them to the gateway.

    They are pushed when the yielded function is called, and at the end unless the block raised.
    Without a gateway nothing is recorded.
    """
    gateway = env.read(GATEWAY)
    if not gateway:
        yield lambda: None
        return
    registry = _make_registry()
    record_into(registry, stage, phase)

    moment = "job" if job == JOB else "end"
    view = _restrict(registry, lambda series: series.moment == moment)
    reached = True

    def send() -> None:
        nonlocal reached
        if reached:  # a gateway that is away is waited for once
            reached = push(gateway, job, {"stage": stage, "phase": phase}, view)

    try:
        yield send
        send()
    finally:
        record_into(None)


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

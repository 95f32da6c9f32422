"""The log of a stage that runs in pods: rank 0's lines as they come, the failing rank's at the end."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from pelican.launch.base import OnProgress
from pelican.launch.follow import LogFollower
from pelican.launch.kube import Kube
from pelican.launch.podspec import Tree
from pelican.storage.objects import ObjectStore
from pelican.telemetry.events import parse

LAST_LINES = 60  # of another rank that failed
FINISH_S = 10.0  # for the last lines of a container that has ended


class JobLog:
    """Appends to the stage's log in the store, and hands progress on."""

    def __init__(self, store: ObjectStore, key: str, on_progress: OnProgress | None) -> None:
        self._store, self._key, self._on_progress = store, key, on_progress
        folder, _, name = key.rpartition("/")
        # Of its own: two launchers may follow one job from one machine.
        self._path: Path = store.local_root(folder) / f".{name}.{uuid.uuid4().hex}.tmp"
        try:
            self._path.write_bytes(store.read(key))  # of earlier attempts, by whomever
        except KeyError:
            self._path.write_bytes(b"")
        self._file = self._path.open("a", encoding="utf-8")
        self._followers: dict[str, LogFollower] = {}

    def note(self, text: str) -> None:
        """A line of the launcher's own."""
        self._write(f"# {time.strftime('%F %T')} {text}")

    def follow(self, kube: Kube, pod: Tree) -> None:
        """Follow this pod's log from its start, if its container has begun."""
        uid, name = pod["metadata"]["uid"], pod["metadata"]["name"]
        begun = pod.get("status", {}).get("phase") not in ("Pending", None)
        if begun and uid not in self._followers:
            self._followers[uid] = LogFollower(kube, name, self._line)

    def finish(self) -> None:
        """The pods have ended: take their last lines."""
        for follower in self._followers.values():
            follower.finish(FINISH_S)

    def failed(self, kube: Kube, pods: Sequence[Tree]) -> None:
        """The last lines of the pods that failed, but of those that were followed."""
        for pod in pods:
            if pod["metadata"]["uid"] in self._followers:
                continue
            if pod.get("status", {}).get("phase") != "Failed":
                continue
            name = pod["metadata"]["name"]
            self.note(f"the last lines of {name}")
            for line in kube.log(name, tailLines=str(LAST_LINES)).splitlines():
                if parse(line) is None:
                    self._write(line)

    def keep(self) -> None:
        """Bring what there is to the store."""
        self._file.flush()
        self._store.put(self._key, self._path)

    def close(self) -> None:
        if not self._file.closed:
            self.keep()
            self._file.close()
            self._path.unlink()

    def _line(self, line: str) -> None:
        found = parse(line)
        if found is None:
            self._write(line)
        elif found[0] == "progress" and self._on_progress is not None:
            self._on_progress(found[1])

    def _write(self, line: str) -> None:
        if not self._file.closed:
            self._file.write(line + "\n")

"""Clips that were cut before, by digest of the video and the rule; may be deleted at any time."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

from pelican.data.video.clips import Clip, ClipRule, cut_clip

MAX_BYTES = 4 << 30  # on disk
REMEMBERED = 4  # in memory: the questions of one video stand together


class ClipCache:
    """`cut_clip` that remembers. Threads may share it; a file that is damaged is cut again."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._recent: OrderedDict[str, Clip] = OrderedDict()
        self._busy: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            _trim(folder)

    def __call__(
        self, path: Path, rule: ClipRule, start_s: float | None = None, end_s: float | None = None
    ) -> Clip:
        stat = path.stat()
        digest = file_digest(str(path), stat.st_size, stat.st_mtime_ns)
        what = json.dumps([digest, asdict(rule), start_s, end_s])
        key = hashlib.blake2b(what.encode(), digest_size=16).hexdigest()
        with self._lock:
            busy = self._busy.setdefault(key, threading.Lock())
        with busy:  # two questions of one video come at once: it is cut once
            try:
                return self._remembered(key, lambda: cut_clip(path, rule, start_s, end_s))
            finally:
                with self._lock:
                    self._busy.pop(key, None)

    def _remembered(self, key: str, cut: Callable[[], Clip]) -> Clip:
        with self._lock:
            if key in self._recent:
                self._recent.move_to_end(key)
                return self._recent[key]
        clip = self._read(key)
        if clip is None:
            clip = cut()
            self._write(key, clip)
        with self._lock:
            self._recent[key] = clip
            while len(self._recent) > REMEMBERED:
                self._recent.popitem(last=False)
        return clip

    def _read(self, key: str) -> Clip | None:
        if self._folder is None:
            return None
        try:
            with zipfile.ZipFile(self._folder / f"{key}.zip") as file:
                times = json.loads(file.read("times.json"))
                frames = tuple(file.read(f"{i:04d}.jpg") for i in range(len(times)))
            os.utime(self._folder / f"{key}.zip")
            return Clip(frames, tuple(times))
        except (OSError, KeyError, ValueError, zipfile.BadZipFile):
            return None

    def _write(self, key: str, clip: Clip) -> None:
        if self._folder is None:
            return
        temporary = self._folder / f".{key}.{os.getpid()}.{threading.get_ident()}.tmp"
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as file:
            file.writestr("times.json", json.dumps(clip.times_s))
            for i, frame in enumerate(clip.frames):
                file.writestr(f"{i:04d}.jpg", frame)
        temporary.replace(self._folder / f"{key}.zip")


@lru_cache(maxsize=256)
def file_digest(path: str, size: int, time_ns: int) -> str:
    """Of a file's content; read once for a size and time."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


def _trim(folder: Path) -> None:
    """Drop what was used longest ago until `MAX_BYTES` are left."""
    files = sorted(
        ((p.stat().st_mtime, p.stat().st_size, p) for p in folder.glob("*.zip")), key=lambda f: f[0]
    )
    total = sum(size for _, size, _ in files)
    for _, size, path in files:
        if total <= MAX_BYTES:
            return
        path.unlink(missing_ok=True)
        total -= size

"""`pelican data import` of 100,000 questions about a still each, killed once in the middle.

Against reading and decoding the same files bare, with as many threads: processor seconds, so that a
busy machine changes little. The profile is of the threads that convert rows and of the one that
reads the source and writes shards. Every file is another image; twenty have the same pixels.
"""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.measure import at_least, at_most, child, figure, peak_mb

SIZE = (320, 240)
PICTURES = 20  # rows that share one picture
FOLDER = 1000  # files in one folder
BROKEN = 100  # every so many rows one has a cut image


def write(folder: Path, rows: int) -> None:
    """Write a data set in RoboPoint's format with relative image paths.

    Every JPEG gets its own comment, so that no two files are equal although they share pixels; one
    in BROKEN is cut short.
    """
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(max(1, rows // PICTURES)):
        small = rng.integers(0, 255, (15, 20, 3), dtype=np.uint8)
        out = io.BytesIO()
        Image.fromarray(small).resize(SIZE, Image.Resampling.BICUBIC).save(out, "JPEG", quality=90)
        pictures.append(out.getvalue())
    draws = random.Random(0)
    with (folder / "train.json").open("w") as file:
        file.write("[\n")
        for number in range(rows):
            name = f"images/{number // FOLDER:04d}/{number:07d}.jpg"
            path = folder / name
            if number % FOLDER == 0:
                path.parent.mkdir(parents=True)
            picture = pictures[draws.randrange(len(pictures))]
            comment = f"frame {number:012d}".encode()
            data = picture[:2] + b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment
            data += picture[2:]
            path.write_bytes(data[: len(data) // 2] if number % BROKEN == BROKEN - 1 else data)
            x, y = draws.random(), draws.random()
            row = {
                "id": f"q{number}",
                "messages": [
                    {"role": "user", "content": f"<image>\nWhere is the free place {number}?"},
                    {"role": "assistant", "content": f"[({x:.3f}, {y:.3f})]"},
                ],
                "images": [name],
            }
            file.write(json.dumps(row) + (",\n" if number < rows - 1 else "\n"))
        file.write("]\n")


def bare(folder: Path) -> dict[str, float]:
    """Read and decode every image, and nothing else."""
    from PIL import Image

    def decode(path: Path) -> None:
        try:
            with Image.open(path) as image:
                image.load()
        except OSError:
            pass

    paths = sorted((folder / "images").rglob("*.jpg"))
    started, wall = time.process_time(), time.perf_counter()
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as workers:
        for start in range(0, len(paths), FOLDER):
            list(workers.map(decode, paths[start : start + FOLDER]))
    return {
        "cpu_s": time.process_time() - started,
        "wall_s": time.perf_counter() - wall,
        "mb": peak_mb(),
    }


class Profile:
    """Processor seconds by what they were spent on, of all threads."""

    def __init__(self) -> None:
        self.spent: defaultdict[str, float] = defaultdict(float)
        self._lock = threading.Lock()

    def timed(self, what: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*values: Any, **named: Any) -> Any:
            started = time.thread_time()
            try:
                return work(*values, **named)
            finally:
                took = time.thread_time() - started
                with self._lock:
                    self.spent[what] += took

        return run

    def timed_rows(self, what: str, rows: Callable[..., Iterator[Any]]) -> Callable[..., Any]:
        step = self.timed(what, next)

        def run(*values: Any) -> Iterator[Any]:
            found = rows(*values)
            while (row := step(found, None)) is not None:
                yield row

        return run


@contextmanager
def watched(profile: Profile) -> Iterator[None]:
    """The parts of an import timed: opening and decoding, the rest of a row, rows, shards, the end."""
    from pelican.data.formats.chat import ChatReader
    from pelican.data.importing import media, run
    from pelican.data.importing import run as flow
    from pelican.data.importing import run as work

    places: list[tuple[Any, str, str]] = [
        (media, "_prepared", "decode"),
        (media.Loader, "image_bytes", "files"),
        (flow, "convert", "convert"),
        (work.Work, "_save", "shards"),
        (run, "_finish", "finish"),
        (ChatReader, "read", "rows"),
    ]
    before = [(where, name, getattr(where, name)) for where, name, _ in places]
    for (where, name, what), (_, _, was) in zip(places, before, strict=True):
        wrap = profile.timed_rows if what == "rows" else profile.timed
        setattr(where, name, wrap(what, was))
    try:
        yield
    finally:
        for where, name, was in before:
            setattr(where, name, was)


def imported(folder: Path, pool: Path) -> dict[str, Any]:
    """One import in this process, with its profile and its memory at each tenth."""
    from pelican.cli.data import Wishes, make_plan
    from pelican.data.importing.run import Tally, run_import

    profile = Profile()
    tenths: list[int] = []
    rows = int((folder / "rows").read_text())

    def progress(tally: Tally) -> None:
        if tally.total * 10 >= rows * (len(tenths) + 1):
            tenths.append(round(peak_mb()))

    plan = make_plan(str(folder), Wishes(reader="robopoint", name="made"))
    before = peak_mb()
    started, wall = time.process_time(), time.perf_counter()
    with watched(profile):
        result = run_import(plan, pool, progress)
    return {
        "cpu_s": time.process_time() - started,
        "wall_s": time.perf_counter() - wall,
        "mb": peak_mb(),
        "mb_before": before,
        "tenths": tenths,
        "good": result.tally.good,
        "kept": result.tally.kept,
        "bad": result.tally.quarantined.total(),
        "rows": result.version.rows,
        "profile": dict(profile.spent),
    }


def checked(pool: Path) -> dict[str, Any]:
    """Every check of `pelican data check`, without its page."""
    from pelican.data.checks import check

    started = time.process_time()
    found = check(pool, (), near=10)
    return {
        "cpu_s": time.process_time() - started,
        "mb": peak_mb(),
        "rows": found.rows,
        "faulty": len(found.findings.faulty),
    }


def killed(folder: Path, pool: Path, chunks: int) -> None:
    """Start the command and end it with SIGKILL once it has `chunks` finished chunks."""
    command = [sys.executable, "-m", "pelican", "data", "import", str(folder), "--out", str(pool)]
    work = pool.with_name(f"{pool.name}.versions") / ".import"
    process = subprocess.Popen(
        [*command, "--reader", "robopoint", "--name", "made"], stdout=subprocess.DEVNULL
    )
    last = work / f"chunk-{chunks - 1:05d}.json"
    while process.poll() is None and not last.exists():
        time.sleep(0.05)
    assert process.poll() is None, "the import ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()


def run(rows: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, pool, other = Path(name) / "lab", Path(name) / "pool", Path(name) / "resumed"
        folder.mkdir()
        write(folder, rows)
        (folder / "rows").write_text(str(rows))
        decoded = child("benchmarks.importing", "bare", str(folder))
        whole = child("benchmarks.importing", "import", str(folder), str(pool))
        bad = rows // BROKEN
        assert (whole["rows"], whole["bad"]) == (rows - bad, bad), whole
        size = f"{rows:,} JPEGs of {SIZE[0]} x {SIZE[1]}"
        report(rows, size, decoded, whole)
        looked = child("benchmarks.importing", "check", str(pool))
        assert (looked["rows"], looked["faulty"]) == (rows - bad, 0), looked
        figure("check of the pool", 1000 * looked["cpu_s"] / rows, "ms/row", "processor")
        figure("memory of the check", looked["mb"], "MB", "resident")
        made = json.loads((pool / "version.json").read_text())["id"]
        shutil.rmtree(f"{pool}.versions")  # three copies of the images would be too many

        chunks = max(1, rows // 2000)
        killed(folder, other, chunks)
        rest = child("benchmarks.importing", "import", str(folder), str(other))
        assert (rest["rows"], rest["bad"]) == (rows - bad, bad), rest
        once = rest["kept"] + rest["good"]
        assert once == rows - bad, "a row was lost or doubled"
        figure("rows kept over a kill", rest["kept"], "rows", f"of {chunks:,} finished chunks")
        same = json.loads((other / "version.json").read_text())["id"] == made
        at_least("the version is that of an import that was not killed", same, "", 1)


def report(rows: int, size: str, decoded: dict[str, Any], whole: dict[str, Any]) -> None:
    ratio = whole["cpu_s"] / decoded["cpu_s"]
    at_most("import against reading and decoding alone", ratio, "x", 2.0, f"processor; {size}")
    figure("import", 1000 * whole["cpu_s"] / rows, "ms/row", "processor")
    figure("reading and decoding alone", 1000 * decoded["cpu_s"] / rows, "ms/row", "processor")
    rate = rows / whole["wall_s"]
    cores = len(os.sched_getaffinity(0))
    figure("rate", rate, "rows/s", f"of this machine, {cores} cores")
    parts = whole["profile"]
    parts["convert"] -= parts["decode"] + parts["files"]
    parts["other"] = whole["cpu_s"] - sum(parts.values())
    names = {
        "decode": "opening, decoding and checking images",
        "files": "finding and reading files",
        "convert": "the rest of a row: answer, family, sample",
        "rows": "rows of the source",
        "shards": "writing shards",
        "finish": "counts, labels, card, commit",
        "other": "all else: threads, keys, chunks",
    }
    for part, about in names.items():
        figure(
            f"profile: {about}", 100 * parts[part] / whole["cpu_s"], "%", "of the processor time"
        )
    tenths = whole["tenths"]
    at_most("memory", whole["mb"] / 1000, "GB", 1.0, "resident")
    figure("memory after each tenth", tenths[-1], "MB", ", ".join(map(str, tenths)))
    if rows >= 10 * FOLDER:  # the first shards take what later ones take again
        growth = 1e6 * (whole["mb"] - tenths[1]) / (0.8 * rows)
        at_most("growth after the second tenth", growth, "B/row", 1000, "resident, to the end")


def main() -> None:
    if len(sys.argv) > 2:
        works: dict[str, Callable[..., dict[str, Any]]]
        works = {"bare": bare, "import": imported, "check": checked}
        print(json.dumps(works[sys.argv[1]](*map(Path, sys.argv[2:]))))
        return
    run(int(sys.argv[1]) if len(sys.argv) == 2 else 100_000)


if __name__ == "__main__":
    main()

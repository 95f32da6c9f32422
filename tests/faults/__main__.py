"""Strike runs with random faults: `make test-faults ARGS='--count 200'`, `ARGS='--seed 17'` repeats one.

A seed says all: the kind of fault, the place of the store, how much of the run was finished, the moment.
The same command is repeated, at most a few times, and the run is compared with one without faults. One JSON
line a fault, and a summary; the status is 1 if any deviates.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pelican.registry.models import Lineage, register
from pelican.storage.digests import file_digests
from pelican.storage.s3_client import S3Settings, make_client
from tests.endpoints import free_port
from tests.faults import site as sites
from tests.faults.site import BUCKET, LIMIT_S, RUN, Ended, Form, Site, wait_until
from tests.faults.strikes import KINDS, MENDED, Struck, nothing
from tests.faults.verdict import (
    Snapshot,
    compare,
    find_leftovers,
    judge_readers,
    judge_words,
    take,
)
from tests.minio_server import PROGRAM, Server

TRIES = 4  # of the same command, after the fault
DISK = "size=600m"
PATIENCE_S = "8"


@dataclass(frozen=True)
class Plan:
    """One fault, by its seed alone."""

    seed: int
    kind: str
    place: str
    when: str  # live: while a command runs; start: before it; rest: between two
    left: int | None  # stages that are still to be done; None: the store is empty
    after: int  # more finished stages until the strike
    wait_s: float  # and then
    steps: bool  # the tasks are called in one process


def plan(seed: int, stages: int) -> tuple[Plan, random.Random]:
    """What a seed means, and the rest of its random numbers."""
    rng = random.Random(seed)
    name = rng.choice(sorted(KINDS))
    place, when = rng.choice(KINDS[name].places), rng.choice(KINDS[name].when)
    left = rng.choice([None, *range(1, stages)]) if when != "rest" else rng.randrange(4)
    after = rng.randrange(min(left or stages, stages))
    steps = KINDS[name].steps and rng.random() < 0.85
    return Plan(seed, name, place, when, left, after, rng.uniform(0, 1.5), steps), rng


class Harness:
    """What all faults share: the form, the reference, a server."""

    def __init__(self, form: str, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.form: Form = sites.make_form(form, folder / "world")
        self.server: Server | None = None
        for name in (
            "AWS_PROFILE",
            "AWS_SESSION_TOKEN",
            "AWS_REGION",
            "AWS_CA_BUNDLE",
            "KUBECONFIG",
        ):
            os.environ.pop(name, None)
        os.environ |= {"PELICAN_CACHE": str(folder / "cache"), "S3_PATIENCE_S": PATIENCE_S}
        self.clock = sites.build_clock(folder)
        if shutil.which(PROGRAM):
            (folder / "minio").mkdir(exist_ok=True)
            self.server = Server(folder / "minio", free_port())
            self.server.start()
            stack.callback(self.server.stop)
            os.environ |= self.server.environment()
            client = make_client(S3Settings.from_environment())
            if not client.bucket_exists(BUCKET):
                client.make_bucket(BUCKET)
        self.reference = folder / "reference"
        self.whole = self._make_reference()

    def _make_reference(self) -> Snapshot:
        site = Site(self.form, self.folder, str(self.reference), f"reference-{os.getpid()}")
        if not (self.reference / "runs" / RUN / "summary.json").exists():
            ended = site.submit().end()
            assert ended.status == 0, ended.out + ended.err
            last = sites.stages_of(self.reference)
            policy = next(at for at in reversed(last) if "/train-" in at)
            lineage = Lineage(origin="run", source=f"run {RUN}")
            register(site.store, "struck", self.reference / policy / "checkpoint", lineage)
        return take(site)

    def lacks(self, plan: Plan) -> str | None:
        """What of this machine a fault needs and is not there."""
        if plan.place == "bucket" and self.server is None:
            return f"no {PROGRAM} on the PATH"
        if plan.place == "disk" and not _may_mount():
            return "this user may not mount a small disk"
        if plan.kind == "clock" and self.clock is None:
            return "no C compiler"
        return None

    def open_site(self, plan: Plan) -> Site:
        """The place of the fault, with what is finished of the run."""
        folder = Path(tempfile.mkdtemp(prefix=f"seed-{plan.seed}-", dir=self.folder))
        server = self.server if plan.place == "bucket" else None
        uri = f"s3://{BUCKET}/{folder.name}" if server else str(folder / "store")
        site = Site(self.form, folder, uri, f"{folder.name}-{os.getpid()}", server)
        if server is None:
            Path(uri).mkdir()
        if plan.place == "disk":
            subprocess.run(["mount", "-t", "tmpfs", "-o", DISK, "tmpfs", uri], check=True)
            site.disk = True
        if plan.kind == "clock":
            (folder / "clock").write_text("0")
            site.extra = {"LD_PRELOAD": str(self.clock), "FAULT_CLOCK": str(folder / "clock")}
        site.fill(self.reference, plan.left)
        if server is None:  # noted on this machine, as what a stage commits is
            os.environ["PELICAN_CACHE"] = str(folder / "cache")
            file_digests(path for path in Path(uri).rglob("*") if path.is_file())
        return site

    def fault(self, seed: int) -> dict[str, Any] | None:
        """One fault, its line; None if this machine lacks what it needs."""
        chosen, rng = plan(seed, len(self.whole["stages"]))
        if self.lacks(chosen):
            return None
        started, site = time.monotonic(), self.open_site(chosen)
        struck = Struck(site, rng, None)
        try:
            ended, deviations = self._strike(chosen, struck)
            left, listed = find_leftovers(site)
            deviations += compare(self.whole, take(site)) + left
        except (subprocess.TimeoutExpired, Exception) as error:
            ended, listed = [], []
            deviations = [f"the harness: {type(error).__name__}: {error}"]
        finally:
            site.close()
        line = asdict(chosen) | {"where": struck.where, "statuses": [e.status for e in ended]}
        line |= {"said": [e.err.strip()[-300:] for e in ended if e.status > 0]}
        line |= {"listed": listed, "deviations": deviations}
        line["seconds"] = round(time.monotonic() - started, 1)
        if not deviations:
            shutil.rmtree(site.folder, ignore_errors=True)
        else:
            line["folder"] = str(site.folder)
        return line

    def _strike(self, plan: Plan, struck: Struck) -> tuple[list[Ended], list[str]]:
        """The fault, and the command again until it is done: how each ended, and what deviates."""
        kind, site = KINDS[plan.kind], struck.site
        ended: list[Ended] = []
        found: list[str] = []
        undo = nothing
        try:
            if plan.when == "live":
                struck.command = command = site.submit(plan.steps)
                wait_until(lambda: command.began, LIMIT_S)
                wanted = site.finished() + plan.after
                wait_until(lambda: not command.running or site.finished() >= wanted, LIMIT_S)
                time.sleep(plan.wait_s)
            if struck.command is None or struck.command.running:
                undo = kind.strike(struck)
            if plan.when == "rest":
                found += judge_readers(site)
            if plan.when == "start":
                struck.command = site.submit(plan.steps)
            for command in filter(None, (struck.command, *struck.others)):
                ended.append(command.end())
                found += judge_words(ended[-1], kind.statuses, "the struck command")
        finally:
            undo()
        for _ in range(TRIES):
            ended.append(site.submit(plan.steps).end())
            found += judge_words(ended[-1], MENDED, "the command again")
            if ended[-1].status == 0:
                return ended, found
            time.sleep(1)
        return ended, [*found, f"not done after {TRIES} more tries"]


@cache
def _may_mount() -> bool:
    """Whether this process may mount: not every root of a container may."""
    with tempfile.TemporaryDirectory() as folder:
        asked = ["mount", "-t", "tmpfs", "-o", DISK, "tmpfs", folder]
        done = shutil.which("mount") and not subprocess.run(asked, capture_output=True).returncode
        if done:
            subprocess.run(["umount", folder], check=True)
    return bool(done)


def main() -> int:
    """Run the seeds that the command line names."""
    parser = argparse.ArgumentParser(prog="make test-faults", description=__doc__)
    parser.add_argument("--seed", type=int, action="append", help="only this one; more than once")
    parser.add_argument("--first", type=int, default=1, help="the first of --count seeds")
    parser.add_argument("--count", type=int, default=200, help="how many faults")
    parser.add_argument("--kinds", default=",".join(KINDS), help="skip the seeds of other kinds")
    parser.add_argument("--form", choices=("made", "real"), default="made", help="of the stages")
    parser.add_argument("--lines", type=Path, help="file to which the JSON lines are appended")
    parser.add_argument("--folder", type=Path, help="to work in, kept; default: a temporary one")
    parser.add_argument("--plan", action="store_true", help="print what the seeds mean")
    asked = parser.parse_args()
    kinds = asked.kinds.split(",")
    unknown = set(kinds) - KINDS.keys()
    if unknown:
        parser.error(f"there is no kind {unknown.pop()!r}; there are {', '.join(KINDS)}")
    folder = asked.folder or Path(tempfile.mkdtemp(prefix="faults-"))
    folder.mkdir(parents=True, exist_ok=True)
    outcomes: Counter[str] = Counter()
    bad: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # ends the server
    with ExitStack() as stack:
        harness = Harness(asked.form, folder.resolve(), stack)
        stages = len(harness.whole["stages"])
        for seed in _seeds(asked, kinds, stages):
            line = asdict(plan(seed, stages)[0]) if asked.plan else harness.fault(seed)
            if line is None:
                outcomes["skipped"] += 1
                print(f"seed {seed}: {harness.lacks(plan(seed, stages)[0])}", file=sys.stderr)
                continue
            text = json.dumps(line)
            print(text, flush=True)
            if asked.lines:
                with asked.lines.open("a") as file:
                    file.write(f"{text}\n")
            outcomes[line["kind"] if line.get("where", "-") else "came too late"] += 1
            bad += [seed] if line.get("deviations") else []
    print(f"{sum(outcomes.values())} faults: {dict(outcomes)}; deviating seeds: {bad or 'none'}")
    if not bad and not asked.folder:
        shutil.rmtree(folder)
    return int(bool(bad))


def _seeds(asked: argparse.Namespace, kinds: list[str], stages: int) -> Iterator[int]:
    """The seeds in their order, without those of other kinds."""
    if asked.seed:
        yield from asked.seed
        return
    seed, given = asked.first, 0
    while given < asked.count:
        if plan(seed, stages)[0].kind in kinds:
            given += 1
            yield seed
        seed += 1


if __name__ == "__main__":
    sys.exit(main())

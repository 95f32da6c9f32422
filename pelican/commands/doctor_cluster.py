"""The part of `pelican doctor` about launcher, store and cluster, and whether they would work."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from pelican.commands.findings import Finding, Level, look_at
from pelican.errors import PelicanError, UserInputError
from pelican.launch.choice import AUTO, choose
from pelican.storage.objects import open_store

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
    config = os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
    if shutil.which("kubectl") is None:
        return Finding("optional", "kubectl", "not found: only a cluster needs it")
    if not Path(config).exists():
        return Finding("optional", "kubectl", f"no configuration at {config}", "KUBECONFIG=file")
    return Finding("ok", "kubectl", config)


def _bucket(uri: str) -> str:
    open_store(uri).probe()
    return f"{uri} at {os.environ.get('S3_ENDPOINT_URL', 'AWS')}"


def _folder(uri: str) -> str:
    store = open_store(uri)
    store.probe()
    if not os.access(store.uri, os.W_OK):
        raise UserInputError(f"{store.uri} is not writable")
    return f"{store.uri}, {shutil.disk_usage(store.uri).free / 1e9:.0f} GB free"


def _jobs() -> Finding:
    from pelican.launch.kube import Absent, Kube
    from pelican.launch.target import Target

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

    A pod whose Secret is not there waits for ever. Only a cluster that is named is asked: the one of
    `~/.kube/config` may be another.
    """
    from pelican.launch.target import Target

    if not (os.environ.get("KUBECONFIG") or os.environ.get("KUBERNETES_SERVICE_HOST")):
        return
    target = Target.from_environment()
    names = [name for name in (target.store_secret, target.ca_secret) if name]
    for name in names:
        yield _secret(name, target.namespace, "jobs", "missing")
    if steps:
        told = os.environ.get("KFP_NAMESPACE")
        for name in names:  # where Kubeflow's steps run is its own affair unless it was said
            level: Level = "missing" if told else "optional"
            yield _secret(name, told or KUBEFLOW, "Kubeflow's steps", level)


def _secret(name: str, namespace: str, whose: str, level: Level) -> Finding:
    from pelican.launch.kube import Kube

    about = f"{name} in namespace {namespace}, of {whose}"
    try:
        there = Kube(namespace, patience_s=5.0).has_secret(name)
    except PelicanError as error:
        return Finding("optional", "credentials", f"{about}: not to be seen ({error})")
    if there:
        return Finding("ok", "credentials", about)
    mend = f"kubectl -n {namespace} create secret generic {name} ... (docs/cluster.md)"
    return Finding(level, "credentials", f"no {about}", mend)


def _kubeflow() -> str:
    from pelican.launch.kfp_api import Kfp

    kfp = Kfp()
    try:
        kfp.experiments()
    except KeyError:
        raise UserInputError(
            f"{kfp.settings.host} answers, but not as Kubeflow Pipelines"
        ) from None
    return kfp.settings.host

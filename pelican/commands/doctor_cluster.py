"""The part of `pelican doctor` about a cluster: which launcher and why, and whether it would work."""

from __future__ import annotations

import os
from collections.abc import Iterator

from pelican.errors import PelicanError
from pelican.launch.choice import AUTO, choose

Line = tuple[bool, str, str, str]  # works, name, about, how to mend it
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


def examine(store_uri: str) -> Iterator[Line]:
    """The launcher that follows from the environment, and what it needs."""
    name, why = choose(AUTO, store_uri)
    yield True, "launcher", f"{name}: {why}", ""
    if store_uri.startswith("s3://"):
        yield _store(store_uri)
    if name == "pytorchjob":
        yield _jobs()
    if name == "kubeflow":
        yield _kubeflow()


def _store(uri: str) -> Line:
    from pelican.storage.objects import open_store

    try:
        open_store(uri).probe()
    except PelicanError as error:
        return False, "store", str(error), "S3_ENDPOINT_URL, AWS_ACCESS_KEY_ID, docs/cluster.md"
    return True, "store", f"{uri} at {os.environ.get('S3_ENDPOINT_URL', 'AWS')}", ""


def _jobs() -> Line:
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
        return False, "cluster", "it knows no PyTorchJob", mend
    except PelicanError as error:
        return False, "cluster", str(error), "make deploy, KUBECONFIG, PELICAN_NAMESPACE"
    if denied:
        return False, "cluster", f"{namespace}: you may not {', '.join(denied)}", "make deploy"
    return True, "cluster", f"PyTorchJobs in namespace {namespace}", ""


def _kubeflow() -> Line:
    from pelican.launch.kfp_api import Kfp

    try:
        kfp = Kfp()
        kfp.experiments()
    except (PelicanError, KeyError) as error:
        return False, "kubeflow", str(error), "KFP_HOST, KFP_TOKEN_FILE"
    return True, "kubeflow", kfp.settings.host, ""

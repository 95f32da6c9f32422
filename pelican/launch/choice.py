"""Who drives a run: this machine's processes, jobs of a cluster, or Kubeflow; and why."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

from pelican.errors import UserInputError
from pelican.recipes.overrides import nearest

Name = Literal["local", "pytorchjob", "kubeflow"]
NAMES: tuple[Name, ...] = get_args(Name)
AUTO = "auto"


def choose(
    given: str, store_uri: str, environ: Mapping[str, str] | None = None
) -> tuple[Name, str]:
    """The launcher and a sentence that says why. Raises UserInputError for one that can't be."""
    env = os.environ if environ is None else environ
    remote = store_uri.startswith("s3://")
    cluster = _cluster(env)
    if given == AUTO:
        return _follows(env, remote, cluster)
    for name in NAMES:
        if given == name:
            if name != "local" and not remote:
                raise UserInputError(
                    f"the launcher {name!r} needs a store that pods reach, not {store_uri};"
                    " set PELICAN_STORE=s3://bucket/prefix"
                )
            if name == "kubeflow" and not env.get("KFP_HOST"):
                raise UserInputError("the launcher 'kubeflow' needs KFP_HOST, the API's address")
            if name == "pytorchjob" and not cluster:
                raise UserInputError("the launcher 'pytorchjob' needs a cluster; set KUBECONFIG")
            return name, "asked for"
    raise UserInputError(f"there is no launcher {given!r}{nearest(given, [*NAMES, AUTO])}")


def _follows(env: Mapping[str, str], remote: bool, cluster: str) -> tuple[Name, str]:
    kfp = env.get("KFP_HOST")
    if not remote:
        hint = ""
        if kfp or cluster:
            what = "KFP_HOST" if kfp else cluster
            hint = f" ({what} is set; PELICAN_STORE=s3://bucket/prefix would use the cluster)"
        return "local", f"the store is a folder{hint}"
    if kfp:
        return "kubeflow", "KFP_HOST is set and the store is S3"
    if cluster:
        return "pytorchjob", f"{cluster} is set, KFP_HOST is not, and the store is S3"
    return "local", "the store is S3, but neither KFP_HOST nor KUBECONFIG is set"


def _cluster(env: Mapping[str, str]) -> str:
    """What names a cluster; empty if nothing does."""
    if env.get("KUBECONFIG") and all(Path(p).exists() for p in env["KUBECONFIG"].split(":") if p):
        return "KUBECONFIG"
    return "KUBERNETES_SERVICE_HOST" if env.get("KUBERNETES_SERVICE_HOST") else ""

"""Which cluster, as whom, with which images: settings of the launcher, from the environment."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pelican import settings
from pelican.recipe import Recipe

_POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
# Stages without torch; the others need it, or vLLM.
_LIGHT = ("reward", "filter")


@dataclass(frozen=True)
class Target:
    """`docs/cluster.md` has the variables. Secrets are named, never held."""

    namespace: str = "pelican"
    service_account: str = "pelican-stage"
    store_secret: str = "pelican-s3"
    ca_secret: str | None = None
    pull_secrets: tuple[str, ...] = ()
    control_image: str = settings.IMAGE
    train_image: str = "pelican-train:0.1.0"
    rollout_image: str = "pelican-rollout:0.1.0"
    pushgateway: str | None = None
    kfp_run: str | None = None

    @classmethod
    def from_environment(cls) -> Target:
        env = os.environ
        own = cls()

        def value(name: str, default: str) -> str:
            return env.get(f"PELICAN_{name}") or default

        return cls(
            namespace=value("NAMESPACE", _namespace(own.namespace)),
            service_account=value("SERVICE_ACCOUNT", own.service_account),
            store_secret=value("S3_SECRET", own.store_secret),
            ca_secret=env.get("PELICAN_S3_CA_SECRET") or None,
            pull_secrets=tuple(filter(None, value("PULL_SECRETS", "").split(","))),
            control_image=settings.image(),
            train_image=value("TRAIN_IMAGE", own.train_image),
            rollout_image=value("ROLLOUT_IMAGE", own.rollout_image),
            pushgateway=env.get("PELICAN_PUSHGATEWAY") or None,
            kfp_run=env.get("KFP_RUN_ID") or None,
        )

    def variables(self) -> dict[str, str]:
        """The environment that says the same to a launcher in a pod."""
        found = {
            "PELICAN_NAMESPACE": self.namespace,
            "PELICAN_SERVICE_ACCOUNT": self.service_account,
            "PELICAN_S3_SECRET": self.store_secret,
            "PELICAN_IMAGE": self.control_image,
            "PELICAN_TRAIN_IMAGE": self.train_image,
            "PELICAN_ROLLOUT_IMAGE": self.rollout_image,
        }
        if self.ca_secret:
            found["PELICAN_S3_CA_SECRET"] = self.ca_secret
        if self.pull_secrets:
            found["PELICAN_PULL_SECRETS"] = ",".join(self.pull_secrets)
        if self.pushgateway:
            found["PELICAN_PUSHGATEWAY"] = self.pushgateway
        return found

    def image_of(self, stage: str, recipe: Recipe) -> str:
        """The smallest image that has what the stage imports."""
        if stage in _LIGHT:
            return self.control_image
        decodes = stage in ("rollout", "distill", "eval")
        vllm = decodes and recipe.rollout.engine == "vllm"
        return self.rollout_image if vllm else self.train_image


def _namespace(default: str) -> str:
    """Of this pod, if this is one."""
    try:
        return _POD_NAMESPACE.read_text().strip()
    except OSError:
        return default

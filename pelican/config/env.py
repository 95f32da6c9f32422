"""Where things are on this machine: the repository, the store, the image, the launcher.

Settings come from the environment, never from a recipe: a recipe means the same everywhere.
"""

from __future__ import annotations

import os
from pathlib import Path

IMAGE = "pelican-control:0.1.0"
BATCH_SIZE = "PELICAN_ROLLOUT_BATCH_SIZE"
ATTEMPT = "PELICAN_ATTEMPT"
LEASE_S = "PELICAN_LEASE_S"
IMAGE_CACHE_MB = "PELICAN_IMAGE_CACHE_MB"
REUSE = "PELICAN_REUSE"
GENERATION_SERVERS = "PELICAN_GENERATION_SERVERS"
GENERATION_FOLDER = "PELICAN_GENERATION_FOLDER"


def home() -> Path:
    """The repository's root: PELICAN_HOME, else where this package lies."""
    return Path(os.environ.get("PELICAN_HOME") or Path(__file__).parents[2]).absolute()


def store_uri(given: str | None = None) -> str:
    """The store: `given`, else PELICAN_STORE, else `.pelican/store` below the repository."""
    uri = given or os.environ.get("PELICAN_STORE") or str(home() / ".pelican" / "store")
    return uri if "://" in uri else str(Path(uri).expanduser().absolute())


def cache() -> Path:
    """What may be deleted and is computed again: PELICAN_CACHE, else `.pelican/cache`."""
    return Path(os.environ.get("PELICAN_CACHE") or home() / ".pelican" / "cache").absolute()


def resolve(where: str) -> str:
    """A path or URI of a recipe; relative paths are below the repository's root."""
    if "://" in where or Path(where).is_absolute():
        return where
    return str(home() / where)


def image() -> str:
    """Base image of the pipeline's components: PELICAN_IMAGE when compiling."""
    return os.environ.get("PELICAN_IMAGE") or IMAGE


def batch_size(of_recipe: int) -> int:
    """Completions decoded together: the recipe's, or fewer, as a launcher says if memory ran out.

    It is no part of a stage's fingerprint, because a completion does not depend on its batch.
    """
    given = os.environ.get(BATCH_SIZE, "")
    return min(of_recipe, max(1, int(given))) if given.isdecimal() else of_recipe


def image_cache_bytes(otherwise: int) -> int:
    """Encoded images that a training process keeps: PELICAN_IMAGE_CACHE_MB, else `otherwise`."""
    given = os.environ.get(IMAGE_CACHE_MB, "")
    return int(given) * 10**6 if given.isdecimal() else otherwise


def launcher_name() -> str:
    """Who runs the jobs: PELICAN_LAUNCHER."""
    return os.environ.get("PELICAN_LAUNCHER") or "process"


def attempt() -> str:
    """Names the processes that one launcher started together; empty where pods come and go."""
    return os.environ.get(ATTEMPT, "")


def lease_s() -> float:
    """Seconds without a sign of life after which a replica's work is taken over."""
    return float(os.environ.get(LEASE_S) or 60.0)


def reuse() -> bool:
    """Whether a stage that another run has finished is taken over: PELICAN_REUSE=on."""
    return os.environ.get(REUSE, "") == "on"


def generation_servers() -> tuple[str, ...]:
    """URLs of the servers that a training draws its completions from; empty: it starts its own."""
    given = os.environ.get(GENERATION_SERVERS, "")
    return tuple(url.strip() for url in given.split(",") if url.strip())


def generation_folder() -> str | None:
    """Where a training leaves weights for these servers: a folder that all have mounted."""
    return os.environ.get(GENERATION_FOLDER) or None

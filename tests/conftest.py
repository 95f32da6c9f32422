"""A made world: small pools, checkpoints that look like checkpoints, a store, made stages."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from pelican.config.presets import find_recipe
from pelican.config.recipe import Recipe
from pelican.records import Split
from pelican.storage.store import FolderStore
from tests.buckets import bucket, minio  # noqa: F401 - fixtures for every folder

# How long an example takes says how busy the machine is, not whether the code is right.
hypothesis.settings.register_profile("busy", deadline=None)
hypothesis.settings.load_profile("busy")

FAKES = Path(__file__).parent / "fakes"
ROOT = Path(__file__).parent.parent


def write_checkpoint(folder: Path) -> Path:
    """A folder with what preflight looks for; the weights are one small tensor."""
    folder.mkdir(parents=True)
    for name in (
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "preprocessor_config.json",
    ):
        (folder / name).write_text("{}")
    header = {"weight": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
    return folder


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The features of the tests' towers stay out of the repository's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PELICAN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of an untrained model; nobody changes it."""
    from tests.engines.twin import write_twin

    return write_twin(tmp_path_factory.mktemp("twin") / "twin")


@dataclass
class World:
    """A store, models and pools below one folder, and the command line with made stages."""

    root: Path
    env: dict[str, str] = field(default_factory=dict)

    @property
    def store(self) -> FolderStore:
        return FolderStore(self.root / "store")

    @property
    def overrides(self) -> list[str]:
        """Overrides that make `tiny` read this world."""
        models = [f"models.{name}={self.root}/{name}" for name in ("policy", "teacher")]
        return models + [f"data.{name}={self.root}/{name}" for name in _POOLS]

    def recipe(self, *more: str) -> Recipe:
        return find_recipe("tiny", [*self.overrides, "rollout.workers=1 rl.processes=1", *more])

    def environment(self, **wishes: dict[str, Any]) -> dict[str, str]:
        """Of a process with made stages; `wishes`: stage -> what shall go wrong."""
        path = os.pathsep.join([str(FAKES), str(ROOT)])
        found = {**os.environ, "PYTHONPATH": path, "PELICAN_STORE": str(self.root / "store")}
        found["PELICAN_FAKE"] = json.dumps({k.replace("_", "-"): v for k, v in wishes.items()})
        found["PELICAN_WARM"] = "off"  # a warm process knows only the real stages
        return {**found, **self.env}

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "pelican", *arguments]

    def submit(
        self, *arguments: str, overrides: str = "", **wishes: dict[str, Any]
    ) -> subprocess.CompletedProcess[str]:
        """`pelican submit` of the small recipe, to its end."""
        return subprocess.run(
            self.submit_command(*arguments, overrides=overrides),
            env=self.environment(**wishes),
            capture_output=True,
            text=True,
            timeout=300,
        )

    def submit_command(self, *arguments: str, overrides: str = "") -> list[str]:
        small = "rollout.workers=1 rl.processes=1 sft.processes=1 loops=2"
        sets = [*self.overrides, *f"{small} {overrides}".split()]
        # The last of two equal fields wins here, for the tests' sake.
        merged = {text.partition("=")[0]: text for text in sets}
        return self.command("submit", "--set", " ".join(merged.values()), *arguments)


_POOLS = ("train", "replay", "evaluation", "general")


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Pools of a few samples and two checkpoints."""
    return make_world(tmp_path)


def make_world(root: Path) -> World:
    """A world below the folder `root`."""
    from tests.data.factory import general, sample, write_pool

    for name in ("policy", "teacher"):
        write_checkpoint(root / name)
    write_pool(root / "train", [sample(i) for i in range(12)])
    write_pool(root / "replay", [general(i) for i in range(100, 106)])
    held = [sample(i, split=Split.TEST) for i in range(200, 206)]
    write_pool(root / "evaluation", held)
    write_pool(root / "general", [general(i, split=Split.TEST) for i in range(300, 306)])
    return World(root)

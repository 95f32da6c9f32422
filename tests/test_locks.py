"""Every Python package of an image comes from a lock with hashes; a compiler comes from Debian."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
IMAGES = sorted((ROOT / "images").glob("*.Dockerfile"))


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_every_package_of_a_lock_has_a_version_and_hashes_and_no_address(lock: Path) -> None:
    text = re.sub(r"^ *#.*\n", "", lock.read_text(), flags=re.MULTILINE)
    packages = [line for line in text.replace("\\\n", " ").splitlines() if line]
    assert packages
    for package in packages:
        assert re.fullmatch(
            r"[a-z0-9._-]+(\[[a-z,-]+\])?==\S+( ;[^#]+?)?( +--hash=sha256:\w{64})+", package
        )


@pytest.mark.parametrize("image", IMAGES, ids=lambda path: path.name)
def test_an_image_installs_from_locks_alone(image: Path) -> None:
    installs = re.findall(r"pip install(.*(?:\\\n.*)*)", image.read_text())
    assert installs
    for install in installs:
        found = re.search(r"--require-hashes -r (requirements/[a-z-]+\.txt)$", install)
        assert found and (ROOT / found[1]).exists(), install


def test_all_images_have_one_base_by_its_digest() -> None:
    """A tag may be moved by its owner; the first layers are shared only upon the same base."""
    bases = {re.findall(r"^ARG BASE=(.*)$", path.read_text(), re.MULTILINE)[0] for path in IMAGES}
    assert len(bases) == 1
    assert re.fullmatch(r"python:3\.11-slim@sha256:[0-9a-f]{64}", bases.pop())
    for path in IMAGES:
        assert re.findall(r"^FROM (.*)$", path.read_text(), re.MULTILINE) == ["${BASE}"]


def test_vllms_lock_goes_with_that_of_training() -> None:
    """It has what train.txt lacks, and two packages in older versions."""

    def names(lock: str) -> set[str]:
        text = (ROOT / "requirements" / lock).read_text()
        return set(re.findall(r"^([a-z0-9._-]+)==", text, re.MULTILINE))

    assert names("vllm.txt") & names("train.txt") == {"numpy", "cuda-bindings"}
    assert "vllm" in names("vllm.txt")


@pytest.mark.parametrize("image", ["train", "rollout"])
def test_an_image_that_has_triton_has_a_compiler_and_tries_it(image: str) -> None:
    lines = (ROOT / "images" / f"{image}.Dockerfile").read_text().splitlines()
    (compiler,) = [n for n, line in enumerate(lines) if "install" in line and " gcc g++ " in line]
    tried = lines.index("RUN python images/compile_triton.py")
    assert compiler < tried < lines.index("COPY pelican pelican")
    assert "!images/compile_triton.py" in (ROOT / ".dockerignore").read_text().splitlines()


def test_a_build_without_a_compiler_ends(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    script = [sys.executable, str(ROOT / "images" / "compile_triton.py")]
    absent = {**os.environ, "CC": str(tmp_path / "cc")}
    done = subprocess.run(script, env=absent, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "cc" in done.stderr.splitlines()[-1]

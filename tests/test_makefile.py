"""Text that is given to make stays text: neither make nor a shell takes it for a program."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.MULTILINE)
LISTS = dict(re.findall(r"^(TEXT|OPERATOR) := (.*)$", MAKEFILE, re.MULTILINE))
TEXT, OPERATOR = LISTS["TEXT"].split(), LISTS["OPERATOR"].split()
# What recipes and the programs in them read, though the Makefile does not set it.
READ = ["KUBECONFIG", "S3_ENDPOINT_URL", "PELICAN_STORE"]
WAYS = ["environment", "command line"]
PROGRAMS = "pelican pytest python ruff mypy lint-imports"
# Each is a command for make, for a shell, for a shell within quotes, or on a line of its own.
PLANTED = {
    "of make": "$(shell touch {mark})x",
    "of make, twice expanded": "$$(shell touch {mark}) $(eval X := $(shell touch {mark}))",
    "of a shell": "$(touch {mark})`touch {mark}`; touch {mark} #",
    "in quotes": """x'; touch {mark}; '"; touch {mark}; "\ntouch {mark}\n""",
    "of a glob": "* ~ {{a,b}}",
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The Makefile where every program that it starts only notes its words in `calls`."""
    place = tmp_path / "place"
    (place / "requirements").mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, place)
    for name in ("dev", "assets", "vllm-cpu"):
        (place / "requirements" / f"{name}.txt").touch()
    stub = '#!/bin/bash\nprintf "%s\\037" "${0##*/}" "$@" >>"$CALLS"; printf "\\036" >>"$CALLS"\n'
    programs = {".venv/bin": PROGRAMS, "bin": "uv kubectl docker python3.11 ldconfig apt-get git"}
    for folder, names in programs.items():
        (place / folder).mkdir(parents=True)
        for name in names.split():
            path = place / folder / name
            path.write_text(stub + ("echo libEGL.so.1\n" if name == "ldconfig" else ""))
            path.chmod(0o755)
    (place / ".make").mkdir()
    (place / ".make" / "installed").touch()
    return place


def call(
    place: Path, target: str, given: dict[str, str], way: str
) -> tuple[subprocess.CompletedProcess[str], list[list[str]]]:
    """`make target` with these variables, and the words of each program that it started."""
    calls = place.parent / "calls"
    calls.write_bytes(b"")
    path = f"{place / 'bin'}:/usr/bin:/bin"
    environment = {"PATH": path, "HOME": str(place), "CALLS": str(calls)}
    words = [f"{name}={text}" for name, text in given.items()]
    found = subprocess.run(
        ["make", target, *(words if way == "command line" else [])],
        cwd=place,
        env=environment | (given if way == "environment" else {}),
        capture_output=True,
        text=True,
        timeout=60,
    )
    started = calls.read_text().split("\036")[:-1]
    return found, [one.split("\037")[:-1] for one in started]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("target", TARGETS)
def test_no_variable_of_any_target_is_run(place: Path, target: str, way: str) -> None:
    for kind, text in PLANTED.items():
        shutil.copytree(place, again := place.parent / kind.replace(" ", "-"), symlinks=True)
        marks = {name: again / f"RAN-{name}" for name in TEXT + READ}
        given = {name: text.format(mark=mark) for name, mark in marks.items()}
        found, _ = call(again, target, given, way)
        ran = [name for name, mark in marks.items() if mark.exists()]
        assert not ran, f"{kind} text in {ran} was run by make {target}"
        assert found.returncode == 0, f"{kind}: {found.stderr}"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("target", ["help", "install", "images", "deploy", "undeploy"])
def test_nor_do_the_operators_variables_become_more_than_words(
    place: Path, target: str, way: str
) -> None:
    shutil.rmtree(place / ".make")
    for text in PLANTED.values():
        marks = {name: place / f"RAN-{name}" for name in OPERATOR}
        call(place, target, {n: text.format(mark=mark) for n, mark in marks.items()}, way)
        assert not [name for name, mark in marks.items() if mark.exists()]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", PLANTED)
def test_a_program_gets_the_text_as_it_was_given(place: Path, kind: str, way: str) -> None:
    given = {name: PLANTED[kind].format(mark=f"/nowhere/{name}") for name in TEXT}
    _, calls = call(place, "submit", given, way)
    options = {n: f"--{n.lower()}={given[n]}" for n in TEXT if f"--{n.lower()}=" in MAKEFILE}
    wanted = [options[n] for n in ("PIPELINE", "RECIPE", "SET", "LAUNCHER", "RUN", "DATA", "FROM")]
    assert calls == [["pelican", "submit", *wanted, *given["ARGS"].split()]]


def test_make_itself_expands_no_variable_that_is_given() -> None:
    """Every variable with a default is in a list, and none of a list stands in a rule as make's."""
    defaults = re.findall(r"^(?:export )?(\w+) \?=", MAKEFILE, re.MULTILINE)
    assert set(defaults) == set(TEXT + OPERATOR)
    lines = [line for line in MAKEFILE.splitlines() if not line.startswith("#")]
    expanded = set(re.findall(r"(?<!\$)\$[({](\w+)", "\n".join(lines)))
    assert "BIN" in expanded and not expanded & {*defaults, *READ}


def test_without_a_name_or_data_submit_gives_none(place: Path) -> None:
    _, ((*words,),) = call(place, "submit", {}, "environment")
    assert words == [
        "pelican",
        "submit",
        "--pipeline=metaloop",
        "--recipe=tiny",
        "--set=",
        "--launcher=auto",
    ]

"""What README and docs name is there: commands with their options, make targets, paths."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer.main

from pelican.cli.main import app
from pelican.config.presets import BASES, PIPELINES, SETS, find_recipe

ROOT = Path(__file__).parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")),
    *(ROOT / folder / "README.md" for folder in ("samples", "tiny")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "decisions").glob("*.md")),
]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z][a-z-]*):.*## ", MAKEFILE, re.MULTILINE))
VARIABLES = set(re.findall(r"^(?:export )?([A-Z_]+) \?=", MAKEFILE, re.MULTILINE)) | {"PYTHON"}
FOLDERS = "benchmarks|components|docs|images|manifests|models|pelican|pipelines|requirements|samples|tests|tiny"
MOST_PAGES = 16


def blocks(text: str) -> Iterator[str]:
    """The lines of indented code, without comments; a quoted text over several lines is one."""
    line = ""
    for part in re.findall(r"^ {4,}(\S.*)$", text, re.MULTILINE):
        line = f"{line} {part}".strip()
        if line.endswith("\\"):
            line = line.removesuffix("\\")
            continue
        if len(re.findall(r"(?<!\\)\"", line)) % 2 == 0:
            yield re.split(r"\s#\s", f"{line} ")[0]
            line = ""


def inline(text: str) -> list[str]:
    return [" ".join(found.split()) for found in re.findall(r"(?<!`)`([^`]+)`(?!`)", text)]


def commands(page: Path, name: str) -> list[str]:
    """Every command line of `pelican` or `make` on a page, from its first word on."""
    text = page.read_text(encoding="utf-8")
    found = []
    for line in [*blocks(text), *inline(text)]:
        if match := re.match(rf"(?:[A-Z_]+=\S+ )*({name}(?: .*)?)$", line.strip()):
            found.append(match[1])
    return found


def words(line: str) -> list[str]:
    """Optional and repeated parts are taken as given: `[--json]`, `RUN …`."""
    given = shlex.split(re.sub(r"\[(--?[a-z][^]]*|[A-Z]+)\]", r"\1", line))
    return [word for word in given if word not in ("…", "...")]


def check_overrides(given: list[str], recipe: str) -> None:
    """Fields that exist, with values that fit; placeholders in capitals stand for a text."""
    find_recipe(recipe, [text for text in given if "…" not in text])


@lru_cache
def program() -> Any:
    return typer.main.get_command(app)


def check_pelican(line: str) -> None:
    command = program()
    rest = words(line)[1:]
    given: dict[str, list[str]] = {}
    recipe = "tiny"
    while rest and hasattr(command, "commands"):
        name = rest.pop(0)
        assert name in command.commands, f"{line}: there is no command {name}"
        command = command.commands[name]
    options = {name: one for one in command.params for name in one.opts if name.startswith("-")}
    while rest:
        word = rest.pop(0)
        if not re.match(r"--?[a-z]", word):
            recipe = word if word.split("+")[0] in BASES else recipe
            continue
        name, equals, value = word.partition("=")
        assert name in options or name == "--help", f"{line}: {command.name} has no option {name}"
        if name in options and not options[name].is_flag and (equals or rest):
            given.setdefault(name, []).append(value if equals else rest.pop(0))
    for pipeline in given.get("--pipeline", []):
        assert pipeline in {*PIPELINES, *SETS, "NAME"}, line
    check_overrides(given.get("--set", []), given.get("--recipe", [recipe])[0])


def check_make(line: str) -> None:
    _, *rest = words(line)
    given = dict(word.split("=", 1) for word in rest if re.match(r"[A-Z_]+=", word))
    targets = [word for word in rest if re.fullmatch(r"[a-z-]+", word)]
    assert set(targets) <= TARGETS, f"{line}: there is no such target"
    assert set(given) <= VARIABLES, f"{line}: the Makefile knows no such variable"
    assert given.get("PIPELINE", "metaloop") in {*PIPELINES, *SETS}, line
    check_overrides([given.get("SET", "")], given.get("RECIPE", "tiny"))
    if targets == ["submit"]:
        check_pelican(f"pelican submit {given.get('ARGS', '')}")


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_command_of_a_page_exists(page: Path) -> None:
    for line in commands(page, "pelican"):
        for one in line.split(" | "):
            parent = line.split(" | ")[0].split()[:2]
            check_pelican(one if one.startswith("pelican") else " ".join([*parent, one]))
    for line in commands(page, "make"):
        check_make(line)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_path_of_a_page_exists(page: Path) -> None:
    for name in inline(page.read_text(encoding="utf-8")):
        if re.fullmatch(rf"(?:{FOLDERS})/[\w.*/-]+", name):
            assert list(ROOT.glob(name.rstrip("/"))), f"{page.name}: {name} is not there"
    for module in re.findall(
        r"python -m ((?:benchmarks|manifests|pelican|tiny)[\w.]*)", page.read_text()
    ):
        assert list(ROOT.glob(f"{module.replace('.', '/')}*")), (
            f"{page.name}: {module} is not there"
        )
    for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), f"{page.name}: {link} is not there"


def test_the_pages_have_commands() -> None:
    """Else the tests above would look at nothing."""
    assert len([line for page in PAGES for line in commands(page, "pelican")]) > 80
    assert len([line for page in PAGES for line in commands(page, "make")]) > 40


def test_every_page_is_named_by_the_overview() -> None:
    overview = (ROOT / "docs" / "README.md").read_text()
    pages = sorted((ROOT / "docs").glob("*.md"))
    for page in pages:
        assert page.name in overview or page.name == "README.md", page.name
    assert len(pages) <= MOST_PAGES, "merge two pages, or put the dated part into evidence.md"


def main_path() -> list[str]:
    """The files of the README's main path, in its order."""
    part = (ROOT / "README.md").read_text().split("## The main path\n")[1].split("\n## ")[0]
    return re.findall(r"^    (\S+\.py) ", part, re.MULTILINE)


def test_each_file_of_the_main_path_names_the_next() -> None:
    """By an import, or in its docstring, so that a newcomer can follow it without searching."""
    path = main_path()
    assert len(path) == 12
    for here, following in pairwise(path):
        text = (ROOT / here).read_text(encoding="utf-8")
        module = following.removesuffix(".py").replace("/", ".")
        assert following in text or re.search(rf"\b{module}\b", text), f"{here}: {following}"
    assert all((ROOT / name).exists() for name in path)


def test_a_decision_is_dated_and_short() -> None:
    for record in sorted((ROOT / "docs" / "decisions").glob("*.md")):
        if record.name != "README.md":
            assert re.fullmatch(r"20\d\d-\d\d-\d\d-[a-z0-9-]+\.md", record.name), record.name
            assert len(record.read_text(encoding="utf-8").splitlines()) <= 60, record.name


def test_every_page_that_the_code_names_exists() -> None:
    """In sentences that users see, in docstrings and in comments."""
    folders = ("pelican", "pipelines", "components", "tiny", "benchmarks", "manifests", "samples")
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix not in (".py", ".js", ".html", ".yaml", ".md"):
                continue
            for name in re.findall(r"docs/[\w/-]+\.md", path.read_text(encoding="utf-8")):
                assert (ROOT / name).exists(), f"{path}: {name} is not there"


def test_make_hands_quoted_overrides_on(tmp_path: Path) -> None:
    """JSON needs quotes of both kinds, and lines may be broken."""
    for name in ("uv", "python", "installed"):  # in the order in which they are made
        (tmp_path / name).touch()
    spy = tmp_path / "pelican"
    spy.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    spy.chmod(0o755)
    wish = 'resources.train_rl.node_selector=\'{"pool": "h100"}\'\n loops=2'
    command = ["make", "-s", "submit", "RECIPE=tiny+threshold(0.5)", f"SET={wish}"]
    done = subprocess.run(
        [*command, f"MADE={tmp_path}", f"BIN={tmp_path}", f"UV={tmp_path}/uv"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    words = ["--pipeline=metaloop", "--recipe=tiny+threshold(0.5)", f"--set={wish}"]
    assert done.stdout.startswith("\n".join(["submit", *words, "--launcher"]))
    selector = find_recipe("tiny", [wish]).resources.train_rl.node_selector
    assert selector == {"pool": "h100"}

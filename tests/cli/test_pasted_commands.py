"""Commands that Pelican prints can be pasted into a shell, whatever a path or a name holds."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelican.cli.data import check_and_print
from pelican.cli.recipes import print_recipe
from pelican.cli.runs import _again
from pelican.config.overrides import as_override, parse_overrides
from pelican.data.importing.media import Finder
from pelican.data.tables import RowError
from tests.data.factory import sample, write_pool

NASTY = ["my pools", "it's", 'say "hi"', "a$HOME;b", "a=b & c", "(new)"]


def pasted(text: str) -> list[str]:
    """The words that a shell makes of the first command between backticks."""
    found = re.search(r"`((?:pelican|make) .*)`", text)
    assert found, text
    echo = ["bash", "-c", f"printf '%s\\0' {found[1]}"]
    return subprocess.run(echo, capture_output=True, text=True, check=True).stdout.split("\0")[:-1]


@pytest.mark.parametrize("name", NASTY)
def test_the_next_commands_of_a_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    folder = write_pool(tmp_path / name / "pool", [sample(number) for number in range(3)])
    held_out = write_pool(tmp_path / "held", [sample(number) for number in range(3, 6)])
    page = tmp_path / "page.html"
    check_and_print(str(folder), [], page, 1.0, 10, False)
    words = pasted(capsys.readouterr().out.split("next: ")[1])
    assert words[:5] == ["pelican", "data", "check", str(folder), "--against"]
    check_and_print(str(folder), [str(held_out)], page, 1.0, 10, False)
    words = pasted(capsys.readouterr().out.split("next: ")[1])
    assert words[:2] == ["make", "submit"]
    variable, _, given = words[2].partition("=")
    assert variable == "SET"
    assert parse_overrides([given]) == {"data.train": str(folder)}


@given(st.text())
def test_an_override_gives_any_value_back(value: str) -> None:
    assert parse_overrides([as_override("data.train", value)]) == {"data.train": value}


@pytest.mark.parametrize("name", NASTY)
def test_the_hints_of_an_import(tmp_path: Path, name: str) -> None:
    there = tmp_path / name / "im"
    there.mkdir(parents=True)
    (there / "0.png").write_bytes(b"")
    finder = Finder((tmp_path / name,))
    with pytest.raises(RowError, match="--map") as caught:
        finder.find(f"/their {name}/im/0.png")
    option = re.search(r"--map (.*) would find it", caught.value.reason)
    assert option and shlex.split(option[1]) == [f"/their {name}={tmp_path / name}"]
    with pytest.raises(RowError, match="--media") as caught:
        Finder((tmp_path,)).find("im/0.png")
    option = re.search(r"--media (.*) would find it", caught.value.reason)
    assert option and shlex.split(option[1]) == [str(tmp_path / name)]


@pytest.mark.parametrize("name", NASTY)
def test_the_command_that_continues_a_run(name: str) -> None:
    override = as_override("retrain.data", name)
    tree = {"pipeline": "retrain", "address": "tiny+threshold(0.5)", "run": "x"}
    again = _again({**tree, "overrides": [override, "retrain.parent=tiny:3 loops=1"]})
    assert pasted(f"`{again}`")[2:] == [
        "--data", name, "--from", "tiny:3", "--recipe", "tiny+threshold(0.5)"
    ]  # fmt: skip
    again = _again({**tree, "pipeline": "metaloop", "overrides": [as_override("data.train", name)]})
    words = pasted(f"`{again}`")
    assert parse_overrides([words[words.index("--set") + 1]]) == {"data.train": name}


def test_a_recipe_with_brackets(capsys: pytest.CaptureFixture[str]) -> None:
    print_recipe("tiny+threshold(0.5)", [], False)
    words = pasted(capsys.readouterr().out.split("next: ")[1])
    assert words[:4] == ["pelican", "submit", "--recipe", "tiny+threshold(0.5)"]

"""`pelican recipe list`: every name that `pelican submit` takes, and none that it refuses."""

from __future__ import annotations

import re

import pytest

from pelican.cli.recipes import print_recipes
from pelican.config.presets import (
    ABLATIONS,
    ABLATIONS_OF_A_NUMBER,
    BASES,
    PIPELINES,
    SETS,
    find_recipe,
)
from pelican.experiments import ABLATIONS as IN_SET


@pytest.fixture
def listed(capsys: pytest.CaptureFixture[str]) -> dict[str, list[str]]:
    """The names below each title's first word."""
    print_recipes()
    found: dict[str, list[str]] = {}
    for block in capsys.readouterr().out.split("\n\n"):
        title, *lines = block.splitlines()
        names = [re.split(r" {2,}", line.strip())[0] for line in lines]
        found[re.split(r"\W", title)[0]] = names
    return found


def test_every_name_is_listed(listed: dict[str, list[str]]) -> None:
    assert listed["recipes"] == list(BASES)
    changes = [*(f"+{name}" for name in ABLATIONS), *(f"+{n}(x)" for n in ABLATIONS_OF_A_NUMBER)]
    assert sorted(listed["ablations"] + listed["variants"]) == sorted(changes)
    assert listed["pipelines"] == [*PIPELINES, *SETS]
    assert listed["of"] == list(IN_SET)


def test_what_is_listed_can_be_submitted(listed: dict[str, list[str]]) -> None:
    for change in listed["ablations"] + listed["variants"]:
        assert find_recipe("tiny" + change.replace("(x)", "(0.5)")).name.startswith("tiny_")

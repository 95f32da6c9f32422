"""Imports go downwards only, between packages and between modules; `pyproject.toml` has the order."""

from __future__ import annotations

import tomllib
from pathlib import Path

import grimp
import pytest
from importlinter.cli import lint_imports

ROOT = Path(__file__).parent.parent
PACKAGES = ("pelican", "pipelines", "components", "tiny")


def test_no_import_goes_upwards_or_in_a_circle(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(ROOT)
    status = lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True, no_logo=True)
    assert status == 0, capsys.readouterr().out


def test_every_module_has_its_place_in_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (layers,) = (c["layers"] for c in contracts["contracts"] if c["type"] == "layers")
    placed = {name.strip() for layer in layers for name in layer.split("|")}
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    assert placed == graph.find_children("pelican") | {"pipelines", "components", "tiny"}


def test_an_import_inside_a_function_counts() -> None:
    """`pelican.cli.main` imports its commands only when they run."""
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    assert graph.direct_import_exists(importer="pelican.cli.main", imported="pelican.cli.submit")

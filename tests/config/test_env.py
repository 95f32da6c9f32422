"""The table of environment variables is whole, is the only reader, and makes `docs/settings.md`."""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path

import pytest

from pelican.cli.settings import make_page
from pelican.config import env
from pelican.launch.podspec import Target
from pelican.storage.s3_client import S3Settings

ROOT = Path(__file__).parents[2]
ROWS = {row.name: row for rows in env.VARIABLES.values() for row in rows}
# base stands below config and pod.py has the standard library alone; warm.py becomes another process.
READERS = {
    *("config/env.py", "base/pod.py", "base/process.py", "base/endpoint.py", "launch/warm.py"),
}
OWN = re.compile(r"(PELICAN|S3|AWS|KFP|KUBE\w*|PET|TORCHELASTIC|PROMETHEUS)_\w+|KUBECONFIG")
PARTS = {"PELICAN_TRIGGER_", "S3_SECRET"}  # of names that are put together


def test_the_page_of_settings_is_what_the_table_says() -> None:
    assert (ROOT / "docs" / "settings.md").read_text() == make_page()


def test_the_environment_is_read_in_one_module() -> None:
    sources = sorted((ROOT / "pelican").rglob("*.py"))
    found = {
        str(path.relative_to(ROOT / "pelican"))
        for path in sources
        if re.search(r"os\.environ|getenv", path.read_text())
    }
    assert found - READERS == set()


def test_every_variable_that_the_code_names_has_a_row() -> None:
    names = {
        node.value
        for path in (ROOT / "pelican").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    named = {name for name in names if OWN.fullmatch(name)} - PARTS
    assert {n for n in named if not n.startswith("PELICAN_TRIGGER_")} - ROWS.keys() == set()


def test_a_name_without_a_row_is_not_read() -> None:
    with pytest.raises(KeyError, match="PELICAN_STOER"):
        env.read("PELICAN_STOER")


def test_what_is_empty_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PELICAN_LEASE_S", "")
    assert env.lease_s() == 60.0
    monkeypatch.setenv("PELICAN_LEASE_S", "2.5")
    assert env.lease_s() == 2.5


def test_changes_of_the_environment_end_with_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_LIBRARYS", "old")
    monkeypatch.delenv("ANOTHER_LIBRARYS", raising=False)
    with (
        pytest.raises(ZeroDivisionError),
        env.changed({"A_LIBRARYS": "new", "ANOTHER_LIBRARYS": "x"}),
    ):
        assert (os.environ["A_LIBRARYS"], os.environ["ANOTHER_LIBRARYS"]) == ("new", "x")
        raise ZeroDivisionError
    assert os.environ["A_LIBRARYS"] == "old"
    assert "ANOTHER_LIBRARYS" not in os.environ


def test_a_default_that_stands_elsewhere_too_is_the_same() -> None:
    target = Target()
    assert target.service_account == ROWS["PELICAN_SERVICE_ACCOUNT"].default
    assert target.store_secret == ROWS["PELICAN_S3_SECRET"].default
    assert target.control_image == ROWS["PELICAN_IMAGE"].default
    assert target.train_image == ROWS["PELICAN_TRAIN_IMAGE"].default
    assert target.rollout_image == ROWS["PELICAN_ROLLOUT_IMAGE"].default
    assert S3Settings.from_environment({}).patience_s == float(ROWS["S3_PATIENCE_S"].default)

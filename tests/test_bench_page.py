"""The page of benchmarks: sections are renewed one by one, and a skipped one keeps its figures."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import run

MEASURES = 'print(\'::row {"name": "speed", "value": 2.0, "unit": "x"}\')'
SKIPS = "print('::skipped the engine is not installed; `make engine` installs it')"
FAILS = "raise SystemExit('no such file')"


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two benchmarks, `a` and `b`, that are written by the tests."""
    monkeypatch.setattr(run, "PAGE", tmp_path / "page.md")
    titles = {"a": "The first", "b": "The second"}
    benches: dict[str, tuple[str, list[str], list[str], str]] = {
        name: (f"bench_{name}", [], [], title) for name, title in titles.items()
    }
    monkeypatch.setattr(run, "BENCHES", benches)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return run.PAGE


def bench(page: Path, monkeypatch: pytest.MonkeyPatch, **sources: str) -> int:
    for name, source in sources.items():
        (page.parent / f"bench_{name}.py").write_text(source)
    monkeypatch.setattr(sys, "argv", ["run", "--only", *sources])
    with pytest.raises(SystemExit) as ended:
        run.main()
    return int(str(ended.value.code))


def test_a_skipped_benchmark_says_so_until_it_has_figures_and_then_keeps_them(
    page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bench(page, monkeypatch, a=SKIPS, b=MEASURES) == 0
    assert run.sections(page.read_text())["The first"].endswith(
        "Skipped: the engine is not installed; `make engine` installs it.\n"
    )
    assert bench(page, monkeypatch, a=MEASURES) == 0
    measured = page.read_text()
    assert "Skipped" not in measured and measured.count("| speed | 2 x |") == 2
    assert bench(page, monkeypatch, a=SKIPS) == 0
    assert page.read_text() == measured


def test_a_benchmark_that_fails_says_why_and_leaves_the_others(
    page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bench(page, monkeypatch, a=FAILS, b=MEASURES) == 1
    parts = run.sections(page.read_text())
    assert "Did not finish: exit status 1: no such file" in parts["The first"]
    assert "| speed | 2 x |" in parts["The second"]

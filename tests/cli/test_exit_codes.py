"""What a step's failure is to who submitted it: the same error, so the same exit status."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pelican.cli.main import main
from pelican.cli.submit import error_from
from pelican.errors import PelicanError, ResourceError, UserInputError
from pelican.launch.explain import PreemptedError
from pelican.launch.job import CancelledError, StageError
from pelican.launch.pytorchjob import StuckError
from pelican.runs.failure import record_failure
from pelican.runs.layout import read_failure
from pelican.storage.store import FolderStore
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UserInputError, 2),
        (StuckError, 75),
        (PreemptedError, 75),
        (ResourceError, 77),
        (CancelledError, 130),
        (StageError, 1),
    ],
)
def test_a_step_that_failed_keeps_its_status(
    tmp_path: Path, error: type[PelicanError], status: int
) -> None:
    store = FolderStore(tmp_path)
    with pytest.raises(SystemExit) as ended, record_failure(store, "r", "train-rl", 2, "rl"):
        raise error("it ended")
    assert ended.value.code == status
    failure = read_failure(store, "r")
    found = error_from(failure)
    assert found.exit_code == status
    assert str(found) == "train-rl, loop 2 rl: it ended"


@pytest.mark.parametrize("module", ["typer", "pelican.base.disk"])
def test_ctrl_c_is_one_sentence_while_the_command_still_imports(
    tmp_path: Path, module: str
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path, target=None):\n"
        f"        if name == {module!r}:\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
    )
    ended = subprocess.run(
        [sys.executable, "-m", "pelican", "recipe", "list"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == -signal.SIGINT and ended.stderr == "error: stopped by Ctrl-C\n"


def test_ctrl_c_is_one_sentence_while_the_command_works(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def press(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pelican.cli.recipes.find_recipe", press)
    monkeypatch.setattr(sys, "argv", ["pelican", "recipe", "show", "tiny"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 130 and capsys.readouterr().err == "error: stopped by Ctrl-C\n"

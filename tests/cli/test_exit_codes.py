"""What a step's failure is to who submitted it: the same error, so the same exit status."""

from __future__ import annotations

from pathlib import Path

import pytest

from pelican.cli.submit import error_from
from pelican.errors import PelicanError, ResourceError, UserInputError
from pelican.launch.explain import PreemptedError
from pelican.launch.job import CancelledError, StageError
from pelican.launch.pytorchjob import StuckError
from pelican.runs.failure import record_failure
from pelican.runs.layout import read_failure
from pelican.storage.store import FolderStore


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

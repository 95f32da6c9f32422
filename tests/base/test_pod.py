"""What a pod starts: real processes, and what they leave for whoever follows the job."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pelican.base import pod

ROOT = Path(__file__).parent.parent.parent
PROGRAM = (
    "import sys, pelican.base.pod as pod; pod.MESSAGE = __import__('pathlib').Path(sys.argv[1]); "
)


def run(tmp_path: Path, *arguments: str) -> tuple[int, dict[str, object] | None]:
    message = tmp_path / "message"
    code = subprocess.run(
        [
            sys.executable,
            "-c",
            PROGRAM + "sys.exit(pod.main(sys.argv[2:]))",
            str(message),
            *arguments,
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT), "RANK": "0", "WORLD_SIZE": "1"},
        capture_output=True,
        timeout=120,
    ).returncode
    return code, json.loads(message.read_text()) if message.exists() else None


def test_the_error_of_a_stage_is_in_the_message_and_the_code(tmp_path: Path) -> None:
    code, message = run(tmp_path, "reward", str(tmp_path / "none.json"), "1")
    assert code == 2
    assert message is not None
    assert message["exit_code"] == 2
    assert "none.json" in str(message["message"])


@pytest.mark.parametrize(
    ("code", "error", "oom", "expected"),
    [
        (0, None, False, (0, "")),
        (1, {"exit_code": 75, "message": "away"}, True, (75, "away")),
        (1, None, True, (77, "memory")),
        (-9, None, False, (137, "SIGKILL")),
        (1, None, False, (1, "")),
    ],
)
def test_the_verdict(
    code: int, error: dict[str, object] | None, oom: bool, expected: tuple[int, str]
) -> None:
    told, message = pod.explain_end(code, error, oom)
    assert told == expected[0]
    assert expected[1] in message


def test_the_first_rank_that_failed_is_asked(tmp_path: Path) -> None:
    for number, (name, text) in enumerate(
        [("broken", "{"), ("1", '{"exit_code": 2}'), ("0", '{"exit_code": 75}')]
    ):
        (tmp_path / f"{name}.json").write_text(text)
        os.utime(tmp_path / f"{name}.json", (number, number))
    assert pod.first_error(tmp_path) == {"exit_code": 2}


def test_only_several_processes_run_under_torchrun() -> None:
    assert "torch.distributed.run" not in pod.command("eval", "s3://x", 1, 1)
    for processes, nodes in ((2, 1), (1, 2)):
        assert "torch.distributed.run" in pod.command("eval", "s3://x", processes, nodes)

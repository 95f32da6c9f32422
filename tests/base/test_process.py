"""What a stage's libraries start ends with it, though they ask no kernel for that."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from pelican.base.process import guard_group, is_running, unique_pid

STAGE = """
import subprocess, sys, time
from pelican.base.process import guard_group
guard_group()
print(subprocess.Popen(["sleep", "600"]).pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("killed", [True, False])
def test_the_group_is_gone_with_its_first_process(killed: bool) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STAGE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as stage:
        assert stage.stdout is not None and stage.stdin is not None
        child = unique_pid(int(stage.stdout.readline()))
        assert is_running(child)
        if killed:
            stage.send_signal(signal.SIGKILL)
        else:
            stage.stdin.close()
        stage.wait()
    deadline = time.monotonic() + 30
    while is_running(child):
        assert time.monotonic() < deadline, "the child outlived its stage"
        time.sleep(0.05)


def test_a_group_that_is_not_its_own_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getpgrp", lambda: os.getpid() + 1)
    assert guard_group() is None

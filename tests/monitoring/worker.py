"""One rank of a made stage, as its own process: `python -m tests.monitoring.worker FOLDER`."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from pelican.base import metrics as m
from pelican.monitoring import exporter, record


def meet(folder: Path, name: str) -> None:
    """Wait until every rank has come here."""
    (folder / f"{name}-{os.environ['RANK']}").touch()
    while len(list(folder.glob(f"{name}-*"))) < int(os.environ["WORLD_SIZE"]):
        time.sleep(0.01)


def main() -> None:
    folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    with exporter.open_stage("rollout", "rl", "made", lambda: meet(folder, "begin")) as stage:
        m.TOKENS_GENERATED.inc(10 * (rank + 1))
        m.SUCCESS.observe(rank / 4, family="counting")
        m.REWARD.observe(rank, family="counting", component="total")
        m.LEARNING_RATE.set(0.5)
        record.progressed(rank, 8, counted=True)
        m.LAST_STEP.set(1000.0 + rank)
        m.DURATION.set(12.0)
        meet(folder, "set")
        if rank == 0:
            (folder / "ready").touch()
        while not (folder / "scraped").exists():
            time.sleep(0.01)
        stage.finish()


if __name__ == "__main__":
    main()

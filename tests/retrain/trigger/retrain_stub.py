"""Stands for the pipeline behind `pelican retrain` in tests of the trigger, with its contract.

The plan, the lock, the run's files and the exit codes are the real ones; training is left out.
MADE_SLOW_S: how long a run takes. MADE_AWAY: a file that makes the call fail as infrastructure.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

from pelican.base.files import run_alone
from pelican.retrain.plan import plan_of
from pelican.retrain.records import Verdict, read_verdict, write_verdict
from pelican.runs.layout import run_lock
from pelican.storage import open_store
from pelican.storage.manifests import now


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--data", "--from", "--recipe", "--set", "--launcher", "--store"):
        parser.add_argument(name)
    given = vars(parser.parse_args())
    store = open_store(given["store"])
    plan = plan_of(store, given["data"], given["from"], given["recipe"], [given["set"]])
    away = os.environ.get("MADE_AWAY")
    if away and Path(away).exists():
        print("error: the made backend is away", file=sys.stderr)
        sys.exit(75)
    with run_alone(run_lock(store, plan.run), plan.run):
        if read_verdict(store, plan.run) is not None:
            return
        time.sleep(float(os.environ.get("MADE_SLOW_S", "0")))
        # One line for every run that was carried to its end.
        with (store.local_root("made") / "runs.txt").open("a") as file:
            file.write(f"{plan.run} {plan.data} {plan.parent}\n")
        store.upload("made")
        verdict = Verdict(
            outcome="no weakness",
            run=plan.run,
            data=plan.data,
            parent=plan.parent,
            reasons=["made"],
            at=now(),
        )
        write_verdict(store, verdict)
        store.write(f"runs/{plan.run}/summary.json", json.dumps({"state": "complete"}).encode())


if __name__ == "__main__":
    main()

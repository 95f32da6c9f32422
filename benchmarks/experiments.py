"""DPPO against its controls at equal compute: `make experiments`; the table goes to the terminal.

`make submit PIPELINE=ablations` runs the whole set and writes docs/results.md. Runs are ordinary
runs of the store: finished ones are not run again, interrupted ones continue.
"""

from __future__ import annotations

import argparse

from pelican import settings
from pelican.commands.ablations import run_all
from pelican.experiments.table import table
from pelican.experiments.variants import ABLATIONS, CONTROLS, TAG
from pelican.storage.objects import open_store


def main() -> None:
    """`run` and `table`; both take the same choice of variants and seeds."""
    parser = argparse.ArgumentParser(prog="benchmarks.experiments", description=__doc__)
    parser.add_argument("action", choices=["run", "table"])
    parser.add_argument("--variants", nargs="+", default=list(CONTROLS), choices=list(ABLATIONS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--tag", default=TAG)
    parser.add_argument("--set", default="", help="overrides for every variant")
    given = parser.parse_args()
    chosen = {name: ABLATIONS[name] for name in given.variants}
    if given.action == "run":
        run_all(chosen, given.seeds, given.tag, given.set)
    store = open_store(settings.store_uri(None))
    print("\n".join(table(store, chosen, given.seeds, given.tag, given.set)))


if __name__ == "__main__":
    main()

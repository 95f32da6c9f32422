"""DPPO against its controls at equal compute: `make experiments`; the table goes to the terminal.

`make submit PIPELINE=ablations` runs the whole set and writes docs/results.md. Runs are ordinary
runs of the store: finished ones are not run again, interrupted ones continue.
"""

from __future__ import annotations

import argparse
import sys

from pelican.cli.submit import run_all
from pelican.config import env
from pelican.errors import PelicanError
from pelican.experiments import CONTROLS, TAG, VARIANTS, table
from pelican.storage import open_store


def main() -> None:
    """`run`, then the table of the whole set; or `table` alone. Status 1 if a run failed."""
    parser = argparse.ArgumentParser(prog="benchmarks.experiments", description=__doc__)
    parser.add_argument("action", choices=["run", "table"])
    parser.add_argument("--variants", nargs="+", default=list(CONTROLS), choices=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--tag", default=TAG)
    parser.add_argument("--set", default="", help="overrides for every variant")
    given = parser.parse_args()
    failed: list[str] = []
    try:
        if given.action == "run":
            chosen = {name: VARIANTS[name] for name in given.variants}
            failed = run_all(chosen, given.seeds, given.tag, given.set)
    except PelicanError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    finally:
        print("\n".join(table(open_store(env.store_uri(None)), given.tag)))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()

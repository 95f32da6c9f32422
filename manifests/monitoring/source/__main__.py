"""`python -m manifests.monitoring.source write` makes the JSON files, `serve` shows the panels locally."""

from __future__ import annotations

import sys

from pelican.config import env
from pelican.errors import PelicanError

FOLDER = "manifests/monitoring/dashboards"


def main(arguments: list[str]) -> None:
    """`write` or `serve`."""
    if arguments == ["write"]:
        from manifests.monitoring.source.grafana import write

        for path in write(env.home() / FOLDER):
            print(path.relative_to(env.home()))
    elif arguments == ["serve"]:
        from manifests.monitoring.source.local import serve

        serve(env.home() / ".pelican" / "prometheus")
    else:
        sys.exit("usage: python -m manifests.monitoring.source write | serve")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except PelicanError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)

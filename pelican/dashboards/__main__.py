"""`python -m pelican.dashboards write` makes the JSON files, `serve` shows the panels locally."""

from __future__ import annotations

import sys

from pelican import settings
from pelican.errors import PelicanError

FOLDER = "manifests/monitoring/dashboards"


def main(arguments: list[str]) -> None:
    """`write` or `serve`."""
    if arguments == ["write"]:
        from pelican.dashboards.grafana import write

        for path in write(settings.home() / FOLDER):
            print(path.relative_to(settings.home()))
    elif arguments == ["serve"]:
        from pelican.dashboards.local import serve

        serve(settings.home() / ".pelican" / "prometheus")
    else:
        sys.exit("usage: python -m pelican.dashboards write | serve")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except PelicanError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)

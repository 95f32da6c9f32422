"""The page of all environment variables: `python -m pelican.cli.settings > docs/settings.md`."""

from __future__ import annotations

from collections.abc import Iterable

from pelican.config.env import VARIABLES, Variable
from pelican.retrain.trigger.config import variables

_HEAD = """\
# Settings

Every environment variable that Pelican reads. What determines a result stands in the recipe
instead; these say where a run takes place, and with which means. Made from
`pelican/config/env.py` and the fields of `TriggerConfig` by
`python -m pelican.cli.settings > docs/settings.md`; a test compares them.

An empty variable counts as unset. A **secret** is never printed, kept in a file or written into a pod's
specification: clusters mount it or take it from a Secret.
"""
_FOOT = """\
The S3 client reads more of AWS's names by itself, such as AWS_SESSION_TOKEN beside the two keys,
AWS_PROFILE and AWS_SHARED_CREDENTIALS_FILE (else `~/.aws/credentials`), and AWS_ROLE_ARN beside a
pod's token.
"""


def make_page() -> str:
    """The page in Markdown."""
    parts = [_HEAD]
    for title, rows in VARIABLES.items():
        parts.append(_section(title, rows))
        if title == "S3":
            parts.append(_FOOT)
    parts.append(_section("Trigger", variables()))
    return "\n".join(parts)


def _section(title: str, rows: Iterable[Variable]) -> str:
    lines = [
        f"## {title}",
        "",
        "| variable | what it is for | takes | default |",
        "|---|---|---|---|",
    ]
    for row in rows:
        use = f"{row.use} **Secret.**" if row.secret else row.use
        default = row.otherwise or (f"`{row.default}`" if row.default else "")
        lines.append(f"| {row.name} | {use} | {row.unit} | {default} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    print(make_page(), end="")

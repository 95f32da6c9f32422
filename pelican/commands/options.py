"""What several commands have in common: options, and panels of the help."""

from __future__ import annotations

from typing import Annotated

import typer

PODS = "Commands that pods run"  # a panel of the help

Store = Annotated[
    str | None, typer.Option(help="Store; default PELICAN_STORE, else .pelican/store.")
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Overrides, such as 'loops=2 rl.max_steps=50': `pelican recipe show`."
    ),
]
Address = Annotated[
    str, typer.Option("--recipe", help="Such as tiny or tiny+rl_only: `pelican recipe list`.")
]
Launcher = Annotated[
    str, typer.Option(help="local, pytorchjob, kubeflow; auto: what is configured.")
]
Data = Annotated[
    str | None, typer.Option(help="Of a retraining: data version, prefix of the store, or folder.")
]
From = Annotated[
    str | None, typer.Option("--from", help="Of a retraining: model, such as tiny or tiny:3.")
]

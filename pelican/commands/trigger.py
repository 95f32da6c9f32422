"""`pelican trigger …`: what notices new data."""

import typer

app = typer.Typer(help="Notices new data and starts one retraining per batch.", no_args_is_help=True)

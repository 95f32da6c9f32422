"""`pelican trigger …`: what notices new data. Settings: PELICAN_TRIGGER_*, see docs/retrain.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pelican.cli.output import Store, check_output
from pelican.config import env
from pelican.errors import UserInputError
from pelican.storage import open_store

app = typer.Typer(
    help="Notices new data and starts one retraining per batch.", no_args_is_help=True
)


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8080,
    probe_port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            help="Answer /healthz, /readyz and /metrics on this port, and on no other.",
        ),
    ] = None,
    store: Store = None,
) -> None:
    """Take bucket notifications (POST /v1/events/s3) and look after the batches."""
    from pelican.retrain.trigger.config import located, read_config
    from pelican.retrain.trigger.worker import CommandSubmitter

    config = read_config()
    if not (config.tokens or config.secrets):
        raise UserInputError(
            "nobody could send events: set PELICAN_TRIGGER_TOKENS_FILE (bearer) or"
            " PELICAN_TRIGGER_SECRETS_FILE (HMAC), or their values without _FILE"
        )
    config = located(config, env.store_uri(store), events=True)
    try:
        from pelican.retrain.trigger.server import listen
        from pelican.retrain.trigger.server import serve as run
        from pelican.retrain.trigger.service import create_apps
    except ImportError as error:
        raise UserInputError(
            f"{error.name} is not installed; `uv pip install -e '.[trigger]'` brings it"
        ) from None
    objects = open_store(env.store_uri(store))
    apart = probe_port is not None
    events, probes = create_apps(objects, config, CommandSubmitter(objects, config), apart=apart)
    at = listen(host, port)
    _log()
    run((events, at), None if probe_port is None else (probes, listen(host, probe_port)), config)


@app.command()
def poll(
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 60.0,
    once: Annotated[
        bool, typer.Option(help="Look once, and end when no run is under way.")
    ] = False,
    now: Annotated[bool, typer.Option(help="Do not wait until the data is quiet.")] = False,
    rescan: Annotated[
        bool, typer.Option(help="Read known keys again, in case they were changed.")
    ] = False,
    store: Store = None,
) -> None:
    """Look for new objects now and then instead of waiting for notifications; else like `serve`."""
    from pelican.retrain.trigger.config import located, read_config
    from pelican.retrain.trigger.poll import keep_polling
    from pelican.retrain.trigger.worker import CommandSubmitter

    config = located(read_config(), env.store_uri(store))
    objects = open_store(env.store_uri(store))
    submitter = CommandSubmitter(objects, config)
    _log()
    new = keep_polling(
        objects, config, submitter, every_s=every, once=once, at_once=now, rescan=rescan
    )
    print(f"{new} new objects")


@app.command("compile")
def compile_(
    output: Annotated[
        Path, typer.Option("-o", "--output", help="File for the compiled pipeline (YAML).")
    ],
    store: Store = None,
) -> None:
    """Compile the pipeline that polls once, for a recurring run of Kubeflow."""
    from kfp import compiler

    from pipelines.compile import setting_up
    from pipelines.retrain import build_poll
    from pipelines.run import step_pods

    uri = env.store_uri(store)
    check_output(output, "--output")
    with setting_up(step_pods(open_store(uri))):
        compiler.Compiler().compile(build_poll(uri), str(output))
    print(f"{output}: {output.stat().st_size / 1024:.0f} KB")


@app.command()
def audit(store: Store = None) -> None:
    """Every decision, the oldest first, one JSON object a line."""
    from pelican.retrain.trigger.inbox import read_audit

    for entry in read_audit(open_store(env.store_uri(store))):
        print(json.dumps(entry))


def _log() -> None:
    import logging

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")

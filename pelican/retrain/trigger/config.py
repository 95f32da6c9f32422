"""The trigger's settings from the environment, its metrics, and where new data is delivered."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from pydantic import Field, SecretStr, ValidationError

from pelican.base.model import Frozen
from pelican.config import env
from pelican.errors import UserInputError

# The trigger's settings: from the environment, so that a Secret and a ConfigMap can give them.

PREFIX = "PELICAN_TRIGGER_"


class TriggerConfig(Frozen):
    """One field, one variable: `PELICAN_TRIGGER_QUIET_S=60`. Lists are separated by spaces.

    `tokens` and `secrets` may be files instead (`PELICAN_TRIGGER_TOKENS_FILE`), one a line; several
    are valid at a time, so that they can be changed without a gap.
    """

    model: str = Field("tiny", description="the model whose current version is retrained")
    recipe: str = Field("tiny", description="recipe of the retraining")
    overrides: str = Field("", description="fields of the recipe to change, as of `--set`")
    launcher: str = Field(
        "auto",
        description="where runs take place: local, pytorchjob, kubeflow; auto: as the environment says",
    )
    command: str = Field(
        "",
        description="command that is called instead of `pelican retrain`, with the same arguments",
    )
    source: str | None = Field(
        None, description="store that new objects are delivered to; none: the store itself"
    )
    bucket: str | None = Field(None, description="bucket whose events count; none: every bucket's")
    prefix: str = Field("", description="beginning of the keys that count")
    suffix: str = Field(".parquet", description="end of the keys that count")
    tokens: list[SecretStr] = Field([], description="bearer tokens (MinIO's auth_token)")
    secrets: list[SecretStr] = Field([], description="HMAC keys of signed requests")
    quiet_s: float = Field(
        60, ge=0, description="a batch is whole after so many seconds without an event"
    )
    max_wait_s: float = Field(
        900, ge=0, description="a batch is whole, too, when its first event is so old"
    )
    max_objects: int = Field(
        1000, gt=0, description="a batch is whole, too, when it has so many objects"
    )
    tick_s: float = Field(2, gt=0, description="seconds between two looks at the batches")
    lease_s: float = Field(
        60, gt=0, description="seconds of silence after which another replica takes over"
    )
    attempts: int = Field(10, gt=0, description="most starts of one batch's run")
    backoff_s: float = Field(
        10, gt=0, description="seconds before the second start; they double up to 10 minutes"
    )
    tolerance_s: float = Field(
        300, gt=0, description="greatest age of a signed request's timestamp in seconds"
    )
    retention_s: float = Field(
        90 * 86400,
        gt=0,
        description="seconds for which settled events and request ids are remembered",
    )
    audit_s: float = Field(400 * 86400, gt=0, description="seconds for which decisions are kept")
    max_body: int = Field(1 << 20, gt=0, description="most bytes of a request")
    max_events: int = Field(1000, gt=0, description="most events of a request")
    rate: float = Field(10, gt=0, description="most requests a second from one address")
    burst: int = Field(100, gt=0, description="most requests at once from one address")
    max_silent: int = Field(
        256,
        gt=0,
        description="most connections that have not sent their whole request; for a new one the"
        " longest silent is closed",
    )
    max_silent_per_address: int = Field(
        64,
        gt=0,
        description="the same from one address; behind an Ingress all come from a few: MAX_SILENT",
    )


def read_config(environment: Mapping[str, str] | None = None) -> TriggerConfig:
    """Settings from the environment. Raises UserInputError naming the variable."""
    given = env.read_all() if environment is None else environment
    values: dict[str, object] = {}
    for name in TriggerConfig.model_fields:
        variable = f"{PREFIX}{name.upper()}"
        if name in ("tokens", "secrets"):
            values[name] = _secrets(given, variable)
        elif given.get(variable):
            values[name] = given[variable]
    try:
        return TriggerConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        variable = f"{PREFIX}{str(first['loc'][0]).upper()}"
        raise UserInputError(f"{variable} does not fit: {first['msg']}") from None


def variables() -> list[env.Variable]:
    """The trigger's rows of the page of settings, one a field."""
    rows = []
    for name, field in TriggerConfig.model_fields.items():
        secret = name in ("tokens", "secrets")
        default = "" if secret or field.default is None else str(field.default)
        about = field.description or ""
        rows.append(env.Variable(f"{PREFIX}{name.upper()}", about, default=default, secret=secret))
    return rows


def _secrets(given: Mapping[str, str], variable: str) -> list[str]:
    found = given.get(variable, "").split()
    file = given.get(f"{variable}_FILE")
    if file:
        try:
            found += Path(file).read_text().split()
        except OSError as error:
            raise UserInputError(
                f"{variable}_FILE: {file} can't be read: {error.strerror}"
            ) from None
    short = [text for text in found if len(text) < 16]
    if short:
        raise UserInputError(f"{variable}: a token of {len(short[0])} characters; use 16 or more")
    return found


# What Prometheus scrapes of one replica; a registry of its own, so that several fit a process.

# What a tick decided, or what it waits for.
Decision = Literal["sealed", "quiet", "idle", "held", "started", "running", "backoff", "finished"]


class Metrics:
    """Counters and gauges of the trigger. Labels have few values, none from a request."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, about: str, *labels: str) -> Counter:
            return Counter(f"pelican_trigger_{name}", about, labels, registry=self.registry)

        def gauge(name: str, about: str) -> Gauge:
            return Gauge(f"pelican_trigger_{name}", about, registry=self.registry)

        self.requests = counter("requests", "Requests by what became of them", "result")
        self.events = counter("events", "Events by what became of them", "result")
        self.sealed = counter("batches_sealed", "Batches that this replica made")
        self.started = counter("starts", "Starts of runs, repeated ones too")
        self.finished = counter("batches_finished", "Batches by how they ended", "outcome")
        self.decisions = counter(
            "decisions",
            "What ticks decided: sealed, quiet (waits for more events), idle, held (another replica"
            " works), started, running, backoff (waits to start again), finished",
            "decision",
        )
        for decision in get_args(Decision):  # at 0 from the start: a rate takes two scrapes
            self.decisions.labels(decision)
        self.errors = counter("tick_errors", "Ticks that failed, such as when the store is away")
        self.pending = gauge("pending_events", "Events that wait for their batch")
        self.oldest = gauge("oldest_pending_seconds", "How long the oldest of them has waited")
        self.backlog = gauge("batches_unfinished", "Batches that are sealed and not finished")

    def text(self) -> bytes:
        return generate_latest(self.registry)


# Where new data is delivered: a place that no run writes to, or runs would trigger runs.


def located(config: TriggerConfig, store_uri: str, *, events: bool = False) -> TriggerConfig:
    """`config` with its source named; with `events` a whole bucket, since their keys are a bucket's.

    Raises UserInputError where that can't be, or where what runs write would count as new data.
    """
    source = config.source or store_uri
    if events and source.startswith("s3://"):
        bucket, _, inside = source.removeprefix("s3://").partition("/")
        if config.source and inside:
            raise UserInputError(
                f"{PREFIX}SOURCE is {source}, but events name the keys of a whole bucket; set it to"
                f" s3://{bucket}, and let {PREFIX}PREFIX begin with {inside}/"
            )
        source = f"s3://{bucket}"
        config = config.model_copy(update={"bucket": config.bucket or bucket})
    written = f"{store_uri}/runs/"
    if written.startswith(f"{source}/{config.prefix}"):
        raise UserInputError(
            f"what runs write to {store_uri} would count as new data; set {PREFIX}PREFIX to where"
            " data is delivered, such as incoming/"
        )
    return config.model_copy(update={"source": source})

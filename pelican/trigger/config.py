"""The trigger's settings: from the environment, so that a Secret and a ConfigMap can give them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import Field, SecretStr, ValidationError

from pelican.errors import UserInputError
from pelican.frozen import Frozen

PREFIX = "PELICAN_TRIGGER_"


class TriggerConfig(Frozen):
    """One field, one variable: `PELICAN_TRIGGER_QUIET_S=60`. Lists are separated by spaces.

    `tokens` and `secrets` may be files instead (`PELICAN_TRIGGER_TOKENS_FILE`), one a line; several
    are valid at a time, so that they can be changed without a gap.
    """

    model: str = Field("tiny", description="the model whose current version is retrained")
    recipe: str = "tiny"
    overrides: str = Field("", description="as of --set")
    launcher: str = Field("auto", description="local, pytorchjob, kubeflow; auto: as configured")
    command: str = Field("", description="called instead of `pelican retrain`, same arguments")
    source: str | None = Field(None, description="store of the objects; none: the store itself")
    bucket: str | None = Field(None, description="other buckets' events are ignored")
    prefix: str = Field("", description="keys below it count")
    suffix: str = ".parquet"
    tokens: list[SecretStr] = Field([], description="bearer tokens (MinIO's auth_token)")
    secrets: list[SecretStr] = Field([], description="HMAC keys of signed requests")
    quiet_s: float = Field(60, ge=0, description="a batch is whole after so long without an event")
    max_wait_s: float = Field(900, ge=0, description="or when its first event is so old")
    max_objects: int = Field(1000, gt=0, description="or when it has so many objects")
    tick_s: float = Field(2, gt=0, description="how often batches are looked after")
    lease_s: float = Field(60, gt=0, description="a replica that is silent so long is replaced")
    attempts: int = Field(10, gt=0, description="starts of one batch's run")
    backoff_s: float = Field(10, gt=0, description="before the second start; doubles up to 10 min")
    tolerance_s: float = Field(300, gt=0, description="age of a signed request's timestamp")
    retention_s: float = Field(
        90 * 86400, gt=0, description="settled events and request ids are remembered so long"
    )
    audit_s: float = Field(400 * 86400, gt=0, description="decisions are kept so long")
    max_body: int = Field(1 << 20, gt=0, description="bytes of a request")
    max_events: int = Field(1000, gt=0, description="of one request")
    rate: float = Field(10, gt=0, description="requests a second from one address")
    burst: int = Field(100, gt=0, description="requests at once from one address")


def read_config(environment: Mapping[str, str] | None = None) -> TriggerConfig:
    """Settings from the environment. Raises UserInputError naming the variable."""
    given = os.environ if environment is None else environment
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

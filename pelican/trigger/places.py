"""Where new data is delivered: a place that no run writes to, or runs would trigger runs."""

from __future__ import annotations

from pelican.errors import UserInputError
from pelican.trigger.config import PREFIX, TriggerConfig


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

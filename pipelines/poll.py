"""One look for new data: the pipeline of a recurring run, where a store sends no events."""

from typing import Any

from kfp import dsl

from components.poll import poll
from pipelines.parts import prepared


def build(default_store: str) -> Any:
    """One step; what it starts is a run of its own."""

    @dsl.pipeline(name="poll", description=__doc__)
    def look(
        store: str = default_store,
        model: str = "tiny",
        recipe: str = "tiny",
        overrides: str = "",
        prefix: str = "incoming/",
        launcher: str = "auto",
    ) -> None:
        task = poll(
            store=store,
            model=model,
            recipe=recipe,
            overrides=overrides,
            prefix=prefix,
            launcher=launcher,
        )
        prepared(task, "poll")

    return look

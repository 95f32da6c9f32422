"""State, scores and report of a run, written last, also after a failure."""

from kfp import dsl
from kfp.dsl import Metrics, Output, PipelineTaskFinalStatus

from pelican.settings import image


@dsl.component(base_image=image(), install_kfp_package=False)
def summary(
    store: str,
    run: str,
    pipeline: str,
    metrics: Output[Metrics],
    status: PipelineTaskFinalStatus,
) -> None:
    """Write `summary.json` and the report; log finite metrics under stable names."""
    from pelican.runs import finish
    from pelican.storage.objects import open_store

    succeeded = status.state in ("COMPLETE", "SUCCEEDED")
    for name, value in finish(open_store(store), run, pipeline, succeeded).items():
        metrics.log_metric(name, value)

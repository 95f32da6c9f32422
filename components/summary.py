"""State, scores and report of a run, written last, also after a failure."""

from kfp import dsl
from kfp.dsl import HTML, ClassificationMetrics, Markdown, Metrics, Output, PipelineTaskFinalStatus

from pelican.config.env import image


@dsl.component(base_image=image(), install_kfp_package=False)
def summary(
    store: str,
    run: str,
    pipeline: str,
    metrics: Output[Metrics],
    success: Output[ClassificationMetrics],
    report: Output[HTML],
    verdict: Output[Markdown],
    status: PipelineTaskFinalStatus,
) -> None:
    """Write `summary.json` and the report, and show them; `success`: base (rows) and last policy."""
    from pathlib import Path

    from pelican.report.kubeflow import conclude
    from pelican.storage import open_store

    succeeded = status.state in ("COMPLETE", "SUCCEEDED")
    shown = conclude(open_store(store), run, pipeline, succeeded)
    for name, value in shown.metrics.items():
        metrics.log_metric(name, value)
    if shown.matrix is not None:
        success.log_confusion_matrix(shown.matrix.categories, shown.matrix.rows)
    Path(report.path).write_text(shown.page, encoding="utf-8")
    Path(verdict.path).write_text(shown.markdown, encoding="utf-8")

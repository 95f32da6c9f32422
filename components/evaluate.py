"""Held-out scores of a policy, and whether to go on."""

from typing import NamedTuple

from kfp import dsl
from kfp.dsl import ClassificationMetrics, Markdown, Metrics, Output

from pelican.config.env import image


@dsl.component(base_image=image(), install_kfp_package=False)
def evaluate(
    store: str,
    run: str,
    loop: int,
    phase: str,
    policy: str,
    metrics: Output[Metrics],
    success: Output[ClassificationMetrics],
    gate: Output[Markdown],
    base: str = "",
    previous: str = "",
) -> NamedTuple(
    "Outputs", [("scores", str), ("embodied", float), ("general", float), ("Output", int)]
):
    """Held-out scores of a policy, and whether to go on: 1 or 0.

    That output has no name of its own because conditions of kfp.local find no other. `success`:
    right and wrong answers of the base (rows) and now, by family.
    """
    from pathlib import Path

    from pelican.launch.step import step
    from pelican.report.kubeflow import evaluation
    from pelican.storage import open_store

    done = step("eval", store, run, loop, phase, policy=policy, base=base, previous=previous)
    shown = evaluation(open_store(store), done.output, base)
    for name, value in shown.metrics.items():
        metrics.log_metric(name, value)
    if shown.matrix is not None:
        success.log_confusion_matrix(shown.matrix.categories, shown.matrix.rows)
    Path(gate.path).write_text(shown.markdown, encoding="utf-8")
    embodied, general = done.metric("embodied"), done.metric("general")
    return done.output, embodied, general, int(done.metric("go_on") >= 0.5)

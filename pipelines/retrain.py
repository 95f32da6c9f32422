"""New data in, a better model out: the metaloop on what the current model can't do of new data.

    new data --intake--> train, held out
    current --rollout--reward--filter--> any weakness? -- no: stop and say so
         yes: practice = new samples not mastered + replay of the old ledger
    current, practice --metaloop--> policy --gate--> candidate --> current

The first evaluation is the current model's on the old and the new held-out sets; that of the last
loop is the new model's; the gate compares them.
"""

from typing import Any

from kfp import dsl

from components.gate import gate
from components.intake import intake
from components.poll import poll
from components.practice import practice
from components.promote import promote
from pelican.config.recipe import Recipe
from pelican.records import Phase
from pipelines.metaloop import build_loop
from pipelines.parts import Stages, add_preflight, closing_summary, name_task, only_if, prepare_task

POLL = "One look for new data: the pipeline of a recurring run, where a store sends no events."


def build_retrain(config: Recipe) -> Any:
    """Intake, diagnosis, and, if there is a weakness, the metaloop, the gate and the promotion."""
    first_loop = build_loop(1, config)

    @dsl.pipeline(name="retrain", description=__doc__)
    def retrain(store: str, run: str, recipe: str, redo: bool = False) -> None:
        with closing_summary(store, run, "retrain"):
            start = add_preflight(store, run, recipe, redo)
            taken = prepare_task(intake(store=store, run=run, checked=start), "intake of new data")
            current = taken.output
            diagnosis = Stages(store, run, 0, Phase.BASE)
            rollouts = diagnosis.add("rollout", policy=current)
            scores = diagnosis.add("reward", rollouts=rollouts)
            ledger = diagnosis.add("filter", scores=scores, policy=current)
            weak = prepare_task(practice(store=store, run=run, ledger=ledger), "diagnosis")
            with only_if(weak.outputs["Output"] == 1, "any weakness?"):
                base = diagnosis.evaluate(current).prefix
                loop = first_loop(store=store, run=run, policy=current, base=base, previous=base)
                name_task(loop, f"loop 1 of {config.loops}")
                judged = prepare_task(gate(store=store, run=run).after(loop), "gate")
                with only_if(judged.outputs["Output"] == 1, "better, nothing forgotten?"):
                    version = judged.outputs["version"]
                    prepare_task(promote(store=store, run=run, version=version), "promote")

    return retrain


def build_poll(default_store: str) -> Any:
    """One step; what it starts is a run of its own."""

    @dsl.pipeline(name="poll", description=POLL)
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
        prepare_task(task, "poll")

    return look

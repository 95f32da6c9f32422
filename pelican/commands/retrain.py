"""`pelican retrain --data VERSION --from MODEL`: one call that any trigger may make, and make again."""

from __future__ import annotations

from collections.abc import Sequence

from pelican import settings
from pelican.errors import PelicanError, UserInputError
from pelican.retrain.plan import plan_of
from pelican.retrain.records import Verdict, read_verdict
from pelican.runs import state
from pelican.storage.objects import open_store

REASONS = 6  # of a verdict, shown


def retrain(
    data: str | None,
    model: str | None,
    address: str,
    overrides: Sequence[str],
    store: str | None,
    launcher: str,
) -> None:
    """Retrain `model` on `data`, once: the same call again continues the run, or tells its verdict."""
    if not data or not model:
        raise UserInputError(
            "a retraining needs new data and a model to go on from:"
            " `pelican retrain --data VERSION --from MODEL`; with make: DATA=… FROM=…"
        )
    objects = open_store(settings.store_uri(store))
    plan = plan_of(objects, data, model, address, overrides)
    if plan.learned:
        print(f"{plan.parent} has learned from {plan.data} already; nothing to do")
        return
    verdict = read_verdict(objects, plan.run)
    now = state(objects, plan.run)
    if now == "running":
        print(f"run {plan.run} is under way; `pelican show {plan.run}` tells how far it is")
        return
    if verdict is None or now != "complete":
        from pelican.commands.submit import submit

        # A run that nobody follows to its end would be taken for lost.
        submit("retrain", address, plan.overrides, plan.run, store, launcher, wait=True)
        verdict = read_verdict(objects, plan.run)
    else:
        print(f"run {plan.run} is complete")
    if verdict is None:
        raise PelicanError(f"run {plan.run} ended without a verdict; `pelican show {plan.run}`")
    print_verdict(verdict)


def print_verdict(verdict: Verdict) -> None:
    """What became of the model, and why."""
    said = {
        "promoted": f"{verdict.version} is current",
        "refused": f"refused; {verdict.parent} stays current",
        "no weakness": f"nothing to learn; {verdict.parent} stays current",
        "overtaken": f"{verdict.version} passed, but another version became current meanwhile",
    }
    print(f"verdict {said[verdict.outcome]}")
    for reason in verdict.reasons[:REASONS]:
        print(f"        {reason}")
    if len(verdict.reasons) > REASONS:
        print(f"        and {len(verdict.reasons) - REASONS} more; `pelican models show` has them")

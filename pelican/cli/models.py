"""`pelican models …`: the registry by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pelican.cli.output import Store, check_output
from pelican.config import env
from pelican.errors import DamagedError, UserInputError
from pelican.storage import open_store
from pelican.storage.store import ObjectStore

app = typer.Typer(help="The registry of models.", no_args_is_help=True)

Address = Annotated[str, typer.Argument(help="Such as tiny (its current), tiny:3, tiny:candidate.")]


def _store(given: str | None) -> ObjectStore:
    return open_store(env.store_uri(given))


@app.command()
def add(
    model: Annotated[str, typer.Argument(help="The model's name.")],
    checkpoint: Annotated[Path, typer.Argument(help="A Hugging Face folder.")],
    store: Store = None,
) -> None:
    """Register a checkpoint that was trained elsewhere; a model's first version becomes current."""
    from pelican.registry.export import model_card
    from pelican.registry.models import (
        Lineage,
        checkpoint_digest,
        promote,
        read_aliases,
        register,
        user_name,
    )
    from pelican.runs.layout import run_of_path
    from pelican.storage.checkpoints import check_checkpoint

    objects = _store(store)
    folder = Path(env.resolve(str(checkpoint)))
    check_checkpoint("checkpoint", str(folder))
    made_by = run_of_path(objects, folder)
    source = f"checkpoint {checkpoint_digest(folder)}"
    lineage = Lineage(origin="imported", source=source, run=made_by)
    version = register(objects, model, folder, lineage, model_card(model, lineage))
    if read_aliases(objects, model).current is None:
        promote(objects, model, version.version, user_name(), None, "first version")
    named = ", ".join(read_aliases(objects, model).names_of(version.version))
    print(f"{version.name}  {named or 'no alias'}")


@app.command("list")
def list_(store: Store = None) -> None:
    """Every version, the newest first, with its aliases."""
    from pelican.cli.output import rows_table, tell_damage
    from pelican.registry.models import list_models, list_versions, read_aliases

    objects = _store(store)
    damaged: list[DamagedError] = []
    rows = []
    for model in list_models(objects):
        aliases = read_aliases(objects, model, damaged.append)
        for version in list_versions(objects, model, damaged.append):
            score = version.lineage.scores.get("embodied")
            rows.append(
                [
                    version.name,
                    ", ".join(aliases.names_of(version.version)),
                    f"{version.created:%Y-%m-%d %H:%M}",
                    version.lineage.parent or "-",
                    ", ".join(use.version for use in version.lineage.data[-1:]) or "-",
                    f"{score['score']:.1f}" if score else "-",
                ]
            )
    if rows or damaged:
        rows_table(["version", "alias", "made", "parent", "newest data", "embodied"], rows)
    else:
        print(f"{objects.uri} has no model; `pelican models add NAME CHECKPOINT` registers one")
    tell_damage(damaged)


@app.command()
def show(
    address: Address,
    as_json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False,
    store: Store = None,
) -> None:
    """Lineage, scores, decisions and moves of one version."""
    from pelican.cli.output import tell_damage
    from pelican.registry.export import model_card
    from pelican.registry.models import read_aliases, read_decisions, resolve_model

    objects = _store(store)
    damaged: list[DamagedError] = []
    version = resolve_model(objects, address)
    decisions = read_decisions(objects, version.model, version.version, damaged.append)
    aliases = read_aliases(objects, version.model, damaged.append)
    tell_damage(damaged)
    if as_json:
        tree = version.model_dump(mode="json")
        tree["aliases"] = aliases.names_of(version.version)
        tree["decisions"] = [decision.model_dump(mode="json") for decision in decisions]
        print(json.dumps(tree, indent=1))
        return
    named = ", ".join(aliases.names_of(version.version)) or "no alias"
    card = model_card(version.name, version.lineage, decisions[-1] if decisions else None)
    print(card.split("---\n", 2)[2].strip() + f"\n\naliases: {named}")
    for decision in decisions:
        if decision.kind == "override":
            print(f"{decision.at:%Y-%m-%d %H:%M} {decision.reasons[0]}")
    for move in aliases.history:
        if version.version in (move.version, move.before):
            why = f": {move.reason}" if move.reason else ""
            before = f" (before: {move.before})" if move.before else ""
            print(
                f"{move.at:%Y-%m-%d %H:%M} {move.action} {move.version}{before} by {move.by}{why}"
            )
    if aliases.current == version.version:
        print(f"next: `pelican retrain --data POOL --from {version.model}` goes on from it")
    else:
        print(f"next: `pelican models promote {version.name}` makes it the current one")


@app.command()
def promote(
    address: Address,
    override: Annotated[
        str | None, typer.Option(help="Promote although the gate refused; the reason is kept.")
    ] = None,
    store: Store = None,
) -> None:
    """Make a version the current one. The gate's decision must stand for it, or an override."""
    from pelican.registry.models import latest_decision, read_aliases, resolve_model, user_name
    from pelican.registry.models import override as overrule
    from pelican.registry.models import promote as move

    objects = _store(store)
    version = resolve_model(objects, address)
    model, number = version.model, version.version
    current = read_aliases(objects, model).current
    decision = latest_decision(objects, model, number)
    expected = current
    if override is not None:
        if not override.strip():
            raise UserInputError("--override needs a reason; it is kept beside the model")
        against = f"{model}:{current}" if current else None
        overrule(objects, model, number, against, user_name(), override.strip())
    elif decision is not None and decision.against is not None:
        expected = int(decision.against.rpartition(":")[2])
    after = move(objects, model, number, user_name(), expected, override or "")
    print(f"current {model}:{after.current}, previous {after.previous or 'none'}")


@app.command()
def rollback(
    model: Annotated[str, typer.Argument()],
    reason: Annotated[str, typer.Option(help="Kept in the history.")] = "",
    store: Store = None,
) -> None:
    """Go back to the previous version; again undoes it."""
    from pelican.registry.models import rollback as back
    from pelican.registry.models import user_name

    after = back(_store(store), model, user_name(), reason)
    print(f"current {model}:{after.current}, previous {model}:{after.previous}")


@app.command()
def export(
    address: Address,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder, or YAML with --kserve.")],
    kserve: Annotated[bool, typer.Option(help="An InferenceService instead of a folder.")] = False,
    uri: Annotated[str | None, typer.Option(help="Where KServe finds the checkpoint.")] = None,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs of the InferenceService.")] = 1,
    namespace: Annotated[str, typer.Option(help="Of the InferenceService.")] = "",
    store: Store = None,
) -> None:
    """Write a Hugging Face folder, or a manifest for KServe."""
    from pelican.registry.export import export_folder, inference_service, storage_uri
    from pelican.registry.models import resolve_model

    objects = _store(store)
    version = resolve_model(objects, address)
    if kserve:
        check_output(output, "--output")
        where = uri or storage_uri(objects, version)
        output.write_text(inference_service(version, where, gpus=gpus, namespace=namespace))
    else:
        export_folder(objects, version, output)
    print(f"{output}: {version.name}")

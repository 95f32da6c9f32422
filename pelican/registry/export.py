"""A registered model for others: a Hugging Face folder with its card, or a manifest for KServe."""

from __future__ import annotations

import shutil
from pathlib import Path

from pelican.base.files import resolve_below
from pelican.errors import UserInputError
from pelican.registry.models import Decision, Lineage, ModelVersion, version_prefix
from pelican.storage.digests import file_digest
from pelican.storage.store import ObjectStore
from pelican.storage.verify import VERSION

# The model card, written from the lineage: the README.md of a checkpoint's folder.


def model_card(model: str, lineage: Lineage, decision: Decision | None = None) -> str:
    """Markdown with the metadata that Hugging Face reads. Says what is not known instead of leaving it out."""
    tags = ["vision-language", "robotics"] + (["dppo"] if lineage.origin == "run" else [])
    lines = ["---", "library_name: transformers", "pipeline_tag: image-text-to-text", "tags:"]
    lines += [f"  - {tag}" for tag in tags]
    lines += ["---", "", f"# {model}", "", _origin(lineage), "", "## Lineage", ""]
    lines += [f"- parent: {lineage.parent or 'none'}", f"- run: {lineage.run or 'none'}"]
    recipe = f"{lineage.recipe_name} ({lineage.recipe})" if lineage.recipe else "unknown"
    lines += [f"- recipe: {recipe}", f"- code: {lineage.code.get('commit', 'unknown')}"]
    packages = [f"{k} {v}" for k, v in sorted(lineage.code.items()) if k != "commit"]
    lines += [f"- packages: {', '.join(packages) or 'unknown'}"]
    lines += ["", "## Data", "", *_data(lineage), "", "## Scores", "", *_scores(lineage)]
    if decision is not None:
        lines += ["", "## Decision of the gate", ""]
        lines += [f"Against {decision.against or 'nothing'}: {_verdict(decision)}.", ""]
        lines += [f"- {'passed' if c.passed else 'FAILED'}: {c.reason}" for c in decision.checks]
    return "\n".join(lines) + "\n"


def _origin(lineage: Lineage) -> str:
    if lineage.origin == "imported":
        return f"Imported; source {lineage.source}. How it was trained is not known here."
    return (
        f"Retrained from {lineage.parent} by deliberate practice (DPPO, arXiv 2511.16602):"
        " reinforcement learning on what the parent nearly could, a teacher's verified answers to"
        " what it could not, replay against forgetting."
    )


def _verdict(decision: Decision) -> str:
    return "promoted" if decision.passed else "refused"


def _data(lineage: Lineage) -> list[str]:
    if not lineage.data:
        return ["None but what the imported checkpoint was trained on."]
    rows = [
        "| data version | digest | training rows | held out | quarantined |",
        "|---|---|---|---|---|",
    ]
    for use in lineage.data:
        numbers = f"{use.samples} | {use.held_samples} | {use.quarantined}"
        rows.append(f"| {use.version} | {use.digest} | {numbers} |")
    return rows


def _scores(lineage: Lineage) -> list[str]:
    if not lineage.scores:
        return ["Not evaluated here."]
    rows = [
        "Points of 100 with 95 % intervals.",
        "",
        "| | score | low | high |",
        "|---|---|---|---|",
    ]
    for name, score in lineage.scores.items():
        rows.append(f"| {name} | {score['score']:.1f} | {score['low']:.1f} | {score['high']:.1f} |")
    return rows


# A registered model for others: a Hugging Face folder, or a manifest that KServe serves with vLLM.


def export_folder(store: ObjectStore, version: ModelVersion, folder: Path) -> Path:
    """Checkpoint, model card and lineage as one folder that `from_pretrained` loads.

    Every file is compared with its digest. The folder appears whole or not at all.

    Raises:
        UserInputError: `folder` is there, or a file is damaged or named outside of it.
    """
    if folder.exists():
        raise UserInputError(f"{folder} is there already; give another folder")
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        for file in version.files:
            target = resolve_below(temporary, file.path)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(store.local(f"{version.checkpoint}/{file.path}"), target)
            if file_digest(target) != file.sha256:
                raise UserInputError(
                    f"{version.checkpoint}/{file.path} is not what was registered; restore it from"
                    " a backup of the store, or export another version"
                )
        prefix = version_prefix(version.model, version.version)
        if store.exists(f"{prefix}/README.md"):
            (temporary / "README.md").write_bytes(store.read(f"{prefix}/README.md"))
        (temporary / VERSION).write_text(version.model_dump_json(indent=1))
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def inference_service(
    version: ModelVersion, uri: str, *, gpus: int = 1, namespace: str = ""
) -> str:
    """An InferenceService (serving.kserve.io/v1beta1), YAML; `uri` is where KServe finds the checkpoint.

    KServe's Hugging Face runtime serves a Qwen2.5-VL checkpoint with its vLLM backend.
    """
    limits = {"cpu": "4", "memory": "24Gi"} | ({"nvidia.com/gpu": str(gpus)} if gpus else {})
    name = f"{version.model}-{version.version}"
    metadata: dict[str, object] = {"name": version.model}
    if namespace:
        metadata["namespace"] = namespace
    metadata["labels"] = {"pelican/model": version.model, "pelican/version": str(version.version)}
    metadata["annotations"] = {"pelican/digest": version.digest}
    tree = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": metadata,
        "spec": {
            "predictor": {
                "model": {
                    "modelFormat": {"name": "huggingface"},
                    "args": [f"--model_name={name}", "--backend=vllm"],
                    "storageUri": uri,
                    "resources": {"limits": limits, "requests": dict(limits)},
                }
            }
        },
    }
    import yaml

    return str(yaml.safe_dump(tree, sort_keys=False))


def storage_uri(store: ObjectStore, version: ModelVersion) -> str:
    """The URI of a version's checkpoint, `<store>/<checkpoint>`, for KServe's storage initialiser.

    Raises:
        UserInputError: The store is a folder, which no cluster reads.
    """
    if "://" not in store.uri:
        raise UserInputError(
            f"the store {store.uri} is a folder, which no cluster reads; give the checkpoint's"
            " address with --uri, such as pvc://models/tiny or s3://bucket/key"
        )
    return f"{store.uri.rstrip('/')}/{version.checkpoint}"

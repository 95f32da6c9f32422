"""The model card, written from the lineage: the README.md of a checkpoint's folder."""

from __future__ import annotations

from pelican.registry.decisions import Decision
from pelican.registry.versions import Lineage


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

"""Names and numbers as a reader meets them on the pages."""

from __future__ import annotations

from pelican.evaluation.metrics import Difference

MINUS = "\N{MINUS SIGN}"
FAMILIES = {
    "affordance": "Affordance",
    "counting": "Counting and distance",
    "temporal": "Causal and temporal",
    "success": "Task success",
    "planning": "Task planning",
    "prediction": "Task prediction",
    "general": "General",
}
DIMENSIONS = {
    "physical_causal": "Physical and causal",
    "perception_grounding": "Perception and grounding",
    "quantitative_numerical": "Quantitative and numerical",
    "spatial_geometric": "Spatial and geometric",
    "temporal_sequential": "Temporal and sequential",
    "affordance_function": "Affordance and function",
    "multi_object_consistency": "Multi-object consistency",
    "scene_action_understanding": "Scene and action",
    "decision_planning": "Decision and planning",
}


def signed(value: float, digits: int = 1) -> str:
    """+1.2 or a true minus sign; what rounds to zero has no sign."""
    words = f"{value:+.{digits}f}".replace("-", MINUS)
    return words[1:] if float(words[1:]) == 0 else words


def interval(change: Difference) -> str:
    """The paired interval in words."""
    return f"{signed(change.low)} to {signed(change.high)}"


def family(name: str) -> str:
    return FAMILIES.get(name, name.replace("_", " ").capitalize())


def dimension(name: str) -> str:
    return DIMENSIONS.get(name, name.replace("_", " ").capitalize())


def horizon(name: str) -> str:
    return {
        "image": "image",
        "text": "text alone",
        "clip_to_32s": "clip up to 32 s",
        "clip_over_32s": "clip over 32 s",
    }.get(name, name)


def first_upper(words: str) -> str:
    return words[:1].upper() + words[1:]


def place(name: str) -> tuple[int, str]:
    """Families and dimensions in the order of the paper, then others by name."""
    known = [*FAMILIES, *DIMENSIONS]
    return (known.index(name) if name in known else len(known), name)

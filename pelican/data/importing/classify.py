"""The family and the capability dimension of a question, by rules, with a confidence."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from pelican.data.tables import RowError
from pelican.records import Answer, Dimension, Family
from pelican.rewards.families import FAMILIES

F, D = Family, Dimension
M = TypeVar("M", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class Label:
    """Family and dimension of a question, by which `rule`, and how sure: 1 is a source's or person's word."""

    family: Family
    dimension: Dimension
    confidence: float
    rule: str


# Question types as data sets and benchmarks name them: exact, lower case, spaces as underscores.
TYPES: dict[str, tuple[Family, Dimension]] = {
    # VSI-Bench
    "object_counting": (F.COUNTING, D.QUANTITATIVE_NUMERICAL),
    "object_abs_distance": (F.COUNTING, D.QUANTITATIVE_NUMERICAL),
    "object_size_estimation": (F.COUNTING, D.QUANTITATIVE_NUMERICAL),
    "room_size_estimation": (F.COUNTING, D.QUANTITATIVE_NUMERICAL),
    "object_rel_distance": (F.COUNTING, D.SPATIAL_GEOMETRIC),
    "object_rel_direction_easy": (F.COUNTING, D.SPATIAL_GEOMETRIC),
    "object_rel_direction_medium": (F.COUNTING, D.SPATIAL_GEOMETRIC),
    "object_rel_direction_hard": (F.COUNTING, D.SPATIAL_GEOMETRIC),
    "route_planning": (F.PLANNING, D.DECISION_PLANNING),
    "obj_appearance_order": (F.TEMPORAL, D.TEMPORAL_SEQUENTIAL),
    # RefSpatial, Where2Place
    "location": (F.AFFORDANCE, D.SPATIAL_GEOMETRIC),
    "placement": (F.AFFORDANCE, D.AFFORDANCE_FUNCTION),
    "unseen": (F.AFFORDANCE, D.SPATIAL_GEOMETRIC),
    # Open-EQA
    "object_recognition": (F.GENERAL, D.PERCEPTION_GROUNDING),
    "attribute_recognition": (F.GENERAL, D.PERCEPTION_GROUNDING),
    "object_state_recognition": (F.SUCCESS, D.SCENE_ACTION_UNDERSTANDING),
    "object_localization": (F.GENERAL, D.PERCEPTION_GROUNDING),
    "spatial_understanding": (F.GENERAL, D.SPATIAL_GEOMETRIC),
    "functional_reasoning": (F.AFFORDANCE, D.AFFORDANCE_FUNCTION),
    "world_knowledge": (F.GENERAL, D.DECISION_PLANNING),
    # MVBench
    "action_sequence": (F.TEMPORAL, D.TEMPORAL_SEQUENTIAL),
    "action_prediction": (F.PREDICTION, D.TEMPORAL_SEQUENTIAL),
    "action_antonym": (F.TEMPORAL, D.SCENE_ACTION_UNDERSTANDING),
    "action_count": (F.COUNTING, D.QUANTITATIVE_NUMERICAL),
    "action_localization": (F.TEMPORAL, D.TEMPORAL_SEQUENTIAL),
    "fine_grained_action": (F.TEMPORAL, D.SCENE_ACTION_UNDERSTANDING),
    "unexpected_action": (F.TEMPORAL, D.SCENE_ACTION_UNDERSTANDING),
    "object_existence": (F.TEMPORAL, D.MULTI_OBJECT_CONSISTENCY),
    "object_interaction": (F.TEMPORAL, D.SCENE_ACTION_UNDERSTANDING),
    "object_shuffle": (F.TEMPORAL, D.MULTI_OBJECT_CONSISTENCY),
    "moving_attribute": (F.TEMPORAL, D.MULTI_OBJECT_CONSISTENCY),
    "moving_count": (F.COUNTING, D.QUANTITATIVE_NUMERICAL),
    "moving_direction": (F.TEMPORAL, D.SPATIAL_GEOMETRIC),
    "scene_transition": (F.TEMPORAL, D.SCENE_ACTION_UNDERSTANDING),
    "state_change": (F.SUCCESS, D.SCENE_ACTION_UNDERSTANDING),
    "character_order": (F.TEMPORAL, D.TEMPORAL_SEQUENTIAL),
    "counterfactual_inference": (F.PREDICTION, D.PHYSICAL_CAUSAL),
    "episodic_reasoning": (F.TEMPORAL, D.TEMPORAL_SEQUENTIAL),
    "egocentric_navigation": (F.PLANNING, D.DECISION_PLANNING),
}

# In order; the first that matches the question wins.
_WORD_RULES: tuple[tuple[str, Family, Dimension, float], ...] = (
    (r"\b(?:next (?:step|action|subtask)|what should .* (?:do|be done)|plan\b|steps? (?:to|are needed))",
     F.PLANNING, D.DECISION_PLANNING, 0.8),
    (r"\b(?:success(?:ful|fully|fully)?|succeed|complet(?:e|ed)|accomplish|fail(?:ed|ure)?)\b",
     F.SUCCESS, D.SCENE_ACTION_UNDERSTANDING, 0.8),
    (r"\b(?:will happen|will .* (?:fall|hit|move|be)|going to|predict|what happens (?:next|if)|would happen)",
     F.PREDICTION, D.PHYSICAL_CAUSAL, 0.8),
    (r"\b(?:how many|number of|count)\b", F.COUNTING, D.QUANTITATIVE_NUMERICAL, 0.9),
    (r"\b(?:how (?:far|tall|long|wide|big|large|high)|distance|height|width|size) .*\b(?:cm|m|meters?|metres?|inch|inches|feet)\b",
     F.COUNTING, D.QUANTITATIVE_NUMERICAL, 0.85),
    (r"\b(?:grasp|grab|pick up|place (?:it|the)|put (?:it|the)|where (?:can|should|would)|afford|push|handle|vacant|free space)\b",
     F.AFFORDANCE, D.AFFORDANCE_FUNCTION, 0.7),
    (r"\b(?:before|after|first|last|order|sequence|when (?:did|does|is))\b",
     F.TEMPORAL, D.TEMPORAL_SEQUENTIAL, 0.7),
    (r"\b(?:why|cause|because)\b", F.TEMPORAL, D.PHYSICAL_CAUSAL, 0.7),
    (r"\b(?:left|right|above|below|behind|in front of|closest|nearest|farthest|direction)\b",
     F.COUNTING, D.SPATIAL_GEOMETRIC, 0.5),
)  # fmt: skip
_RULES = tuple((re.compile(p, re.IGNORECASE | re.DOTALL), f, d, c) for p, f, d, c in _WORD_RULES)

# Where no other rule fits: what the kind of answer suggests.
_KINDS: dict[str, tuple[Family, Dimension, float]] = {
    "points": (F.AFFORDANCE, D.PERCEPTION_GROUNDING, 0.6),
    "box": (F.AFFORDANCE, D.PERCEPTION_GROUNDING, 0.6),
    "distance": (F.COUNTING, D.QUANTITATIVE_NUMERICAL, 0.8),
    "count": (F.COUNTING, D.QUANTITATIVE_NUMERICAL, 0.6),
    "order": (F.TEMPORAL, D.TEMPORAL_SEQUENTIAL, 0.7),
    "interval": (F.TEMPORAL, D.TEMPORAL_SEQUENTIAL, 0.9),
    "steps": (F.PLANNING, D.DECISION_PLANNING, 0.7),
}
_REST = (F.GENERAL, D.PERCEPTION_GROUNDING, 0.2)


def classify(
    question: str, answer: Answer, question_type: str = "", family: str = "", dimension: str = ""
) -> Label:
    """The label of a question; `family` and `dimension` as the source says them, if it does.

    The family always has a reward for the answer's kind: a free answer to a question of affordance
    is general, since nothing there could score it.
    """
    guess = _guess(question, answer.kind, question_type)
    if family or dimension:
        said_family = _member(Family, family, guess.family)
        said_dimension = _member(Dimension, dimension, guess.dimension)
        whole = bool(family and dimension)
        guess = Label(said_family, said_dimension, 1.0 if whole else guess.confidence, "source")
    if answer.kind in FAMILIES[guess.family]:
        return guess
    other, _, sure = _KINDS.get(answer.kind, _REST)
    return Label(
        other, guess.dimension, min(sure, guess.confidence), f"{guess.rule}, no reward there"
    )


def _guess(question: str, kind: str, question_type: str) -> Label:
    name = re.sub(r"[\s-]+", "_", question_type.strip().lower())
    if name in TYPES:
        return Label(*TYPES[name], 0.95, f"type {name}")
    if kind in ("points", "box", "distance", "interval", "order"):
        family, dimension, sure = _KINDS[kind]
        for pattern, found, of, _ in _RULES:
            if found is family and pattern.search(question):
                return Label(family, of, max(sure, 0.8), f"answer {kind}")
        return Label(family, dimension, sure, f"answer {kind}")
    for pattern, family, dimension, sure in _RULES:
        match = pattern.search(question)
        if match:
            return Label(
                family, dimension, sure, f"word {' '.join(match[0].lower().split())[:30]!r}"
            )
    if kind in _KINDS:
        return Label(*_KINDS[kind], f"answer {kind}")
    return Label(*_REST, "none")


def _member(kind: type[M], name: str, otherwise: M) -> M:
    if not name:
        return otherwise
    try:
        return kind(name)
    except ValueError:
        known = ", ".join(kind)
        raise RowError(
            "schema", f"{name!r} is no {kind.__name__.lower()}; there are {known}"
        ) from None

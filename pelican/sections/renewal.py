"""The sections `retrain` and `gate`: new data for a model that is registered."""

from __future__ import annotations

from pydantic import Field

from pelican.sections.base import Section


class RetrainConfig(Section):
    """New data for a registered model; `pelican retrain` sets the first two fields."""

    data: str | None = Field(None, description="data version to learn from; none: no retraining")
    parent: str | None = Field(None, description="model version to go on from, such as tiny:3")
    held_share: float = Field(
        0.2, gt=0, lt=1, description="scenes held out of new data that has no test split itself [D]"
    )
    weak_below: float = Field(
        0.5, gt=0, le=1, description="a sample with a lower success rate is weak [D]"
    )
    min_weak: int = Field(20, ge=1, description="fewer weak samples are no reason to train [D]")
    min_weak_share: float = Field(
        0.05, ge=0, le=1, description="the same as a share of the diagnosed samples [D]"
    )
    replay: float = Field(1.0, ge=0, description="earlier samples per new one in practice [D]")


class GateConfig(Section):
    """When a retrained model takes the place of the current one; points are of 100."""

    min_gain: float = Field(0.0, ge=0, description="points to gain on the new held-out set [D]")
    confidence: float = Field(
        0.95, ge=0.5, lt=1, description="share of bootstrap resamples with more than that gain [D]"
    )
    max_drop: float = Field(
        3.0, ge=0, description="points a family, dimension or benchmark may lose on old sets [D]"
    )
    min_questions: int = Field(
        20, ge=1, description="parts of the old held-out sets with fewer are judged together [D]"
    )
    min_scenes: int = Field(
        5, ge=2, description="scenes that a gain or a loss must be seen on to be believed [D]"
    )
    tolerances: dict[str, float] = Field(
        {}, description='limits of their own, by name, such as {"counting": 5}'
    )
    max_quarantined: float = Field(
        0.1, ge=0, le=1, description="share of the new rows that may be unusable [D]"
    )
    min_teacher_agreement: float = Field(
        0.5,
        ge=0,
        description="new labels that the teacher's answers confirm, relative to old ones [D]",
    )

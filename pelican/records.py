"""What flows between the stages: samples, rollouts, scores and ledger rows.

Imports neither torch nor pyarrow; the tables' columns are in `pelican.data.tables`. A run, which makes
all of them, starts in `pelican/cli/submit.py`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from pelican.base.model import Frozen


class Family(StrEnum):
    """The six task families of DPPO, each with its own reward, and general replay."""

    AFFORDANCE = "affordance"
    COUNTING = "counting"
    TEMPORAL = "temporal"
    SUCCESS = "success"
    PLANNING = "planning"
    PREDICTION = "prediction"
    GENERAL = "general"


EMBODIED_FAMILIES: tuple[Family, ...] = tuple(f for f in Family if f is not Family.GENERAL)


class Dimension(StrEnum):
    """The nine capability dimensions of arXiv 2511.00108."""

    PHYSICAL_CAUSAL = "physical_causal"
    PERCEPTION_GROUNDING = "perception_grounding"
    QUANTITATIVE_NUMERICAL = "quantitative_numerical"
    SPATIAL_GEOMETRIC = "spatial_geometric"
    TEMPORAL_SEQUENTIAL = "temporal_sequential"
    AFFORDANCE_FUNCTION = "affordance_function"
    MULTI_OBJECT_CONSISTENCY = "multi_object_consistency"
    SCENE_ACTION_UNDERSTANDING = "scene_action_understanding"
    DECISION_PLANNING = "decision_planning"


class Phase(StrEnum):
    """The two phases of a loop; BASE is the policy before loop 1.

    START and END are what a run with `data.dev` does once its loops have ended: the base and the policy
    that the run offers, each evaluated on the sealed set.
    """

    BASE = "base"
    RL = "rl"
    SFT = "sft"
    START = "start"
    END = "end"

    @property
    def sealed(self) -> bool:
        """Whether an evaluation of this phase reads the sealed set, and no gate reads it."""
        return self in (Phase.START, Phase.END)

    @property
    def words(self) -> str:
        """For a person: after which phase a policy is, or whose look at the sealed set this is."""
        return _PHASES[self]


_PHASES = {
    Phase.BASE: "base",
    Phase.RL: "RL",
    Phase.SFT: "SFT",
    Phase.START: "base, sealed",
    Phase.END: "final, sealed",
}


class Mask(Frozen):
    """A binary mask in COCO's compressed run-length encoding; `size` is (height, width)."""

    size: tuple[int, int]
    counts: str


# A coordinate v lies at v / scale of the image's side; (width, height) where the sides differ, as
# pixels do.
Scale = PositiveInt | tuple[PositiveInt, PositiveInt]


def sides_of(scale: Scale) -> tuple[int, int]:
    """The width and height of the frame in which coordinates count."""
    return (scale, scale) if isinstance(scale, int) else scale


class PointsAnswer(Frozen):
    """Points inside a mask; `scale` is of the replies, not of the mask."""

    kind: Literal["points"] = "points"
    mask: Mask
    scale: Scale = 100


class BoxAnswer(Frozen):
    """A box (x0, y0, x1, y1) on the same grid as points."""

    kind: Literal["box"] = "box"
    box: tuple[float, float, float, float]
    scale: Scale = 100

    @model_validator(mode="after")
    def _ordered(self) -> BoxAnswer:
        x0, y0, x1, y1 = self.box
        width, height = sides_of(self.scale)
        if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
            raise ValueError(f"box {self.box} is empty or leaves the frame of {self.scale}")
        return self


class CountAnswer(Frozen):
    """An exact whole number."""

    kind: Literal["count"] = "count"
    value: int = Field(ge=0)


class DistanceAnswer(Frozen):
    """A length; scored by mean relative accuracy."""

    kind: Literal["distance"] = "distance"
    value: float = Field(gt=0, allow_inf_nan=False)
    unit: Literal["mm", "cm", "m", "in", "ft"] = "cm"


class ChoiceAnswer(Frozen):
    """One of the options A, B, C, …; `answer` is the letter."""

    kind: Literal["choice"] = "choice"
    options: tuple[str, ...] = Field(min_length=2, max_length=26)
    answer: str = Field(pattern="^[A-Z]$")

    @model_validator(mode="after")
    def _inside(self) -> ChoiceAnswer:
        if ord(self.answer) - ord("A") >= len(self.options):
            raise ValueError(f"answer {self.answer} is outside its {len(self.options)} choices")
        return self


class YesNoAnswer(Frozen):
    """Yes or no."""

    kind: Literal["yes_no"] = "yes_no"
    value: bool


class OrderAnswer(Frozen):
    """Items in their order; scored by normalised Kendall tau."""

    kind: Literal["order"] = "order"
    items: tuple[str, ...] = Field(min_length=2)


class IntervalAnswer(Frozen):
    """A span of time in seconds; scored by temporal IoU."""

    kind: Literal["interval"] = "interval"
    start: float = Field(ge=0)
    end: float

    @model_validator(mode="after")
    def _ordered(self) -> IntervalAnswer:
        if self.end <= self.start:
            raise ValueError(f"interval {self.start} to {self.end} s is empty")
        return self


class StepsAnswer(Frozen):
    """A plan; scored by the longest common subsequence."""

    kind: Literal["steps"] = "steps"
    steps: tuple[str, ...] = Field(min_length=1)


class TextAnswer(Frozen):
    """A short text that must match exactly (case, spaces and articles aside)."""

    kind: Literal["text"] = "text"
    value: str = Field(min_length=1)
    aliases: tuple[str, ...] = ()


class OpenAnswer(Frozen):
    """Free text that a judge model compares with the reference."""

    kind: Literal["open"] = "open"
    reference: str = Field(min_length=1)


Answer = Annotated[
    PointsAnswer
    | BoxAnswer
    | CountAnswer
    | DistanceAnswer
    | ChoiceAnswer
    | YesNoAnswer
    | OrderAnswer
    | IntervalAnswer
    | StepsAnswer
    | TextAnswer
    | OpenAnswer,
    Field(discriminator="kind"),
]


class Turn(Frozen):
    """One message; the media come before the text of the first user turn."""

    role: Literal["system", "user", "assistant"]
    text: str


class Split(StrEnum):
    """Where a sample may be used. `DEV` is for developing; `TEST` is sealed."""

    TRAIN = "train"
    DEV = "dev"
    TEST = "test"


class Sample(Frozen):
    """One question about an image, a clip, or, of general replay, none of them (`text`)."""

    id: str = Field(min_length=1)
    media_kind: Literal["image", "clip", "text"]
    images: tuple[bytes, ...] = Field(
        description="encoded images, clip frames in order; none of a question in text alone"
    )
    times_s: tuple[float, ...] = Field(description="time of every image in its clip, seconds")
    turns: tuple[Turn, ...] = Field(min_length=1)
    family: Family
    dimension: Dimension
    answer: Answer
    source: str = Field(min_length=1, description="data set or generator")
    scene: str = Field(min_length=1, description="scene or episode; never in two splits")
    split: Split
    benchmark: str = "default"
    chance: float = Field(0.0, ge=0, le=1, description="score of the best guess without looking")

    @model_validator(mode="after")
    def _aligned(self) -> Sample:
        if bool(self.images) == (self.media_kind == "text"):
            raise ValueError(f"{len(self.images)} images in a sample of kind {self.media_kind}")
        if len(self.times_s) != len(self.images):
            raise ValueError(f"{len(self.images)} images but {len(self.times_s)} times")
        if any(b <= a for a, b in zip(self.times_s, self.times_s[1:], strict=False)):
            raise ValueError("clip times do not increase")
        if self.turns[-1].role != "user":
            raise ValueError("the last turn is not the user's")
        return self

    @property
    def span_s(self) -> float:
        """Length of the clip in seconds; 0 without one."""
        return self.times_s[-1] - self.times_s[0] if self.times_s else 0.0

    @property
    def question(self) -> str:
        """The text of the last user turn."""
        return self.turns[-1].text


class Rollout(Frozen):
    """One completion of one sample by one policy."""

    sample_id: str
    index: int = Field(ge=0, description="0 … T - 1 within the sample")
    seed: int
    completion: str
    tokens: int = Field(ge=0, description="tokens generated, the end token included")
    finish: Literal["stop", "length"]
    prompt_tokens: int = Field(
        0, ge=0, description="of the prompt, which all rollouts of a sample share; 0: not known"
    )


class Score(Frozen):
    """The reward of one rollout, with its parts. A completion that can't be read scores 0."""

    sample_id: str
    index: int = Field(ge=0)
    reward: float = Field(ge=0, le=1, description="lambda_f * format + lambda_t * task")
    format: float = Field(ge=0, le=1)
    task: float = Field(ge=0, le=1)
    success: bool
    think_chars: int = Field(ge=0)
    answer: str = Field(description="what was extracted, as text")
    reason: str = Field("", description="why the task part is 0, empty if it is not")


class LedgerRow(Frozen):
    """Difficulty of one sample for one policy. SR = success rate; difficulty = 1 - SR."""

    sample_id: str
    loop: int = Field(ge=0)
    phase: Phase
    success_rate: float = Field(ge=0, le=1)
    mean_reward: float = Field(ge=0, le=1)
    rollouts: int = Field(gt=0, description="T")
    policy: str = Field(description="digest of the checkpoint that was rolled out")
    family: Family
    dimension: Dimension
    source: str
    outcome: Literal["mastered", "practice", "intractable"]

"""From the simulator's questions to the samples that every stage reads."""

from collections.abc import Sequence

from pydantic import TypeAdapter

from pelican.records import Answer, Dimension, Family, Sample, Split, Turn
from tiny.sim.records import QA

SOURCE = "pelican-sim"
_ANSWER: TypeAdapter[Answer] = TypeAdapter(Answer)


def to_sample(
    qa: QA,
    frames: Sequence[bytes],
    times_s: Sequence[float],
    *,
    id: str,
    scene: str,
    split: Split,
) -> Sample:
    """The question as a sample; neither the gold text nor its reasoning goes along."""
    family = Family(qa.family)
    return Sample(
        id=id,
        media_kind="image" if len(frames) == 1 else "clip",
        images=tuple(frames),
        times_s=tuple(times_s),
        turns=(Turn(role="user", text=qa.question),),
        family=family,
        dimension=Dimension(qa.dimension),
        answer=_ANSWER.validate_python(qa.answer),
        source=SOURCE,
        scene=scene,
        split=split,
        benchmark="cards" if family is Family.GENERAL else f"tabletop-{family}",
        chance=qa.chance,
    )

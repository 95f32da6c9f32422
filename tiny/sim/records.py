"""What the simulator yields: plain data about one episode, with its frames as JPEG bytes.

Picture coordinates are whole numbers on a grid of 0..99 (x right, y down).
"""

from dataclasses import asdict, dataclass, field
from typing import Any

Mask = dict[str, Any]  # {"size": [h, w], "counts": COCO's compressed string}
SIZE = 112
STEP_S = 8.0


@dataclass
class SimConfig:
    """What episodes are made of. `frames` 1: a still; 4: a short clip; 8: a long one."""

    frames: int = 1
    objects: tuple[int, int] = (2, 8)
    events: tuple[int, int] = (0, 0)
    tray: float = 0.55  # share of scenes
    stack: float = 0.2
    clutter: int = 4  # at most
    shadows: float = 0.12  # share of scenes; a shadow trebles the cost of a frame
    min_pixels: int = 45  # an object that shows less is not in a scene's first frame
    failures: float = 0.5  # share of events that do not do what was asked


@dataclass
class Thing:
    """One object as it is in one frame."""

    kind: str
    colour: str
    name: str
    xyz: tuple[float, float, float]  # cm
    pixels: int  # that show
    centre: tuple[int, int]  # of what shows, 0..99; (-1, -1) if nothing does
    box: tuple[int, int, int, int]  # x0, y0, x1, y1 on 0..100
    mask: Mask | None
    slot: tuple[int, int] | None  # column from the left, row from the front
    in_tray: bool
    fallen: bool
    on: str | None  # name of the object that it stands on
    held: bool


@dataclass
class Event:
    """One action of the arm. `asked`: what it was told; the rest: what the physics made of it."""

    asked: str  # name of the object that was asked for
    goal: str  # tray, table, left, right
    kind: str  # place, push
    object: str  # the object that the arm handled
    outcome: str  # done, dropped, wrong, missed, outside, knocked
    t_start: float
    t_end: float
    source: tuple[int, int]  # image centre of the handled object before
    target: tuple[int, int]  # and after
    moved: list[str] = field(default_factory=list)  # all objects that moved > 3 cm


@dataclass
class Episode:
    """One scene: its pictures, what is in the first and last of them, and what happened."""

    id: str
    seed: int
    frames: list[bytes]
    times_s: list[float]
    states: list[list[Thing]]  # objects in every frame; masks in the first and last alone
    tray: Mask | None
    tray_side: str | None  # left or right
    free: list[Mask]  # bare table in the first and last frame
    events: list[Event]
    gripper: list[tuple[int, int]]  # point between the fingers, every frame
    gripper_target: str | None  # object that the gripper is over or holds in the last frame
    pose: str  # home, over, hold: the arm in the last frame

    @property
    def first(self) -> list[Thing]:
        """Objects in the first frame."""
        return self.states[0]

    @property
    def last(self) -> list[Thing]:
        """Objects in the last frame."""
        return self.states[-1]

    def to_json(self) -> dict[str, Any]:
        """Everything but the frames."""
        return {k: v for k, v in asdict(self).items() if k != "frames"}

    @classmethod
    def from_json(cls, row: dict[str, Any], frames: list[bytes]) -> "Episode":
        """Inverse of `to_json`."""

        def thing(t: dict[str, Any]) -> Thing:
            for key in ("xyz", "centre", "box", "slot"):
                t[key] = tuple(t[key]) if t[key] is not None else None
            return Thing(**t)

        def event(e: dict[str, Any]) -> Event:
            return Event(**e | {k: tuple(e[k]) for k in ("source", "target")})

        row = dict(row)
        row["states"] = [[thing(dict(t)) for t in s] for s in row["states"]]
        row["events"] = [event(e) for e in row["events"]]
        row["gripper"] = [tuple(g) for g in row["gripper"]]
        return cls(frames=frames, **row)


@dataclass
class QA:
    """One question with its answer in every form that is needed of it."""

    family: str
    dimension: str
    template: str
    question: str
    answer: dict[str, Any]  # one of pelican.records' answers
    gold: str  # what goes inside <answer>
    think: str  # what goes inside <think>
    chance: float  # score of the best guess without looking, on its template
    narrow: bool  # in the base model's narrow data too

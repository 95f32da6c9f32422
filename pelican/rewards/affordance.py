"""Affordance reasoning: where to grasp, push or place, as points in a mask or as a box.

A box is refused where points are asked, else the box that covers everything would win.
"""

from pelican.rewards import kinds
from pelican.rewards.base import Scorers

SCORERS: Scorers = {"points": kinds.points, "box": kinds.box, **kinds.CLOSED}

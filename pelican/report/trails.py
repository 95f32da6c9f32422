"""Figure 5 of the paper: how each family's trajectories move through the plane."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from pelican.report.svg import WIDE, Svg, linear, span


@dataclass(frozen=True)
class Trail:
    """Where one family's trajectories lie, policy by policy: (label, x, y)."""

    name: str
    style: str
    points: Sequence[tuple[str, float, float]]


def trails(found: Sequence[Trail], width: float = WIDE) -> Markup | None:
    """Figure 5: a path a family through the plane, from a ring to a large dot, fainter early."""
    everything = [p for trail in found for p in trail.points]
    if len(everything) < 3:
        return None
    small = width < WIDE
    height, margin = (330.0, 20.0) if small else (430.0, 34.0)
    figure = Svg(width, height, "Centroids of the trajectories by family, policy by policy")
    x = linear(span([p[1] for p in everything]), (margin, width - margin))
    y = linear(span([p[2] for p in everything]), (height - margin, margin))
    for trail in found:
        places = [(x(a), y(b)) for _, a, b in trail.points]
        figure.path(places, "line thin faint", trail.style)
        for index, ((label, _, _), (px, py)) in enumerate(zip(trail.points, places, strict=True)):
            tip = f"{trail.name}, {label}"
            if index == 0:
                figure.circle(px, py, 4.5, "dot hollow", trail.style, tip)
            elif index == len(places) - 1:
                figure.circle(px, py, 7.5, "dot", trail.style, tip)
            else:
                share = round(40 + 60 * index / (len(places) - 1))
                of = trail.style.removeprefix("--c:")
                style = f"--c:color-mix(in srgb,{of} {share}%,var(--panel))"
                figure.circle(px, py, 5, "dot", style, tip)
    ends = [(y(t.points[-1][2]) + 4, x(t.points[-1][1]), t) for t in found if t.points]
    for place, px, trail in sorted(ends, key=lambda end: end[0]):
        left = px > width * 0.7
        at = px - 11 if left else px + 11
        figure.text(at, place, trail.name, "mark end", "end" if left else "start", trail.style)
    return figure.markup()

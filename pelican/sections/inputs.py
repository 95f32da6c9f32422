"""The sections `models` and `data`: what a metaloop starts from."""

from __future__ import annotations

from pydantic import Field

from pelican.sections.base import Section


class Models(Section):
    """Checkpoints: Hugging Face folders, by path or URI."""

    policy: str = Field(description="base policy")
    teacher: str = Field(description="stronger model that answers the weak set")


class Data(Section):
    """The pools, as prefixes that hold Parquet shards of samples."""

    train: str = Field(description="embodied training pool")
    replay: str = Field(description="general samples against forgetting")
    evaluation: str = Field(description="embodied held-out set")
    general: str = Field(description="general held-out suite")
    horizon_s: tuple[float, ...] = Field(
        (32.0, 64.0), min_length=1, description="longest clip per loop, the last repeats [P]"
    )
    samples_per_loop: int | None = Field(None, gt=0, description="fresh samples a loop; none: all")
    max_pixels: int = Field(1_003_520, gt=0, description="an image above is scaled down")
    corrections: str | None = Field(
        None, description="a person's corrections of the training pool, JSON lines"
    )

    def horizon(self, loop: int) -> float:
        """Longest clip in seconds that loop `loop` (from 1) trains on."""
        return self.horizon_s[min(loop, len(self.horizon_s)) - 1]

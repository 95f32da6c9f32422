"""What every section of a recipe has in common."""

from __future__ import annotations

from pydantic import ConfigDict

from pelican.frozen import Frozen


class Section(Frozen):
    """Defaults are checked like given values."""

    model_config = ConfigDict(validate_default=True)

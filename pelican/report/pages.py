"""How every page is made from its template: one file, which loads nothing."""

from __future__ import annotations

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from pelican.monitoring.progress import duration
from pelican.report import words


def render_page(template: str, **values: Any) -> str:
    """The HTML of a template below `templates/`; whatever is put in is escaped."""
    return _environment().get_template(template).render(values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("pelican.report", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {
        "signed": words.signed,
        "duration": duration,
        "family": words.family,
        "dimension": words.dimension,
        "in_order": lambda names: sorted(names, key=words.place),
        "one": lambda value: f"{value:.1f}",
        "many": lambda value: f"{value:,}",
        "first_upper": words.first_upper,
    }
    return environment

"""How every page is made from its template: one file, which loads nothing."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from pelican.base.model import digest_of
from pelican.config import env
from pelican.errors import RefusedError
from pelican.monitoring.progress import duration
from pelican.report import words
from pelican.storage.store import FolderStore, ObjectStore


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


def keep_page(store: ObjectStore, key: str, html: str) -> Path:
    """Write a page to the store, or to this machine's cache if the store may only be read.

    Returns where it lies here.
    """
    data = html.encode("utf-8", "replace")
    try:
        store.write(key, data)
        return store.local(key)
    except RefusedError:
        aside = FolderStore(env.cache() / "pages" / digest_of(store.uri))
        aside.write(key, data)
        _tell_once(f"{store.uri} may only be read, so its pages are kept in {aside.uri}")
        return aside.local(key)


@cache
def _tell_once(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)

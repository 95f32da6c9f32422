"""Typed overrides, `loops=2 rl.max_steps=50`: each mistake ends in one sentence."""

from __future__ import annotations

import difflib
import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast, get_args

from pydantic import BaseModel, ValidationError

from pelican.base.parse import parse_json
from pelican.config.recipe import Recipe
from pelican.errors import UserInputError


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: the nearest known one, or all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(known)}"


def parse_overrides(texts: Sequence[str]) -> dict[str, str]:
    """`["loops=2 rl.max_steps=50"]` as field -> text of the value."""
    found: dict[str, str] = {}
    for text in texts:
        try:
            words = shlex.split(text)
        except ValueError as error:
            raise UserInputError(f"the override {text!r} cannot be read: {error}") from None
        for word in words:
            name, equals, value = word.partition("=")
            if not equals or not name:
                raise UserInputError(f"the override {word!r} is not of the form field=value")
            if name in found and found[name] != value:
                raise UserInputError(f"{name} is set twice, to {found[name]!r} and to {value!r}")
            found[name] = value
    return found


def as_override(name: str, value: object) -> str:
    """`name=value` as `parse_overrides` reads it, whatever the value holds; a shell wants it quoted again."""
    return shlex.quote(f"{name}={value}")


def apply_overrides(recipe: Recipe, overrides: Mapping[str, str]) -> Recipe:
    """`recipe` with fields replaced and all of it validated again."""
    tree = recipe.model_dump()
    for name, text in overrides.items():
        _set(recipe, tree, name, text)
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise UserInputError(sentence(error, overrides)) from None


def _absent(model: BaseModel, prefix: str = "") -> set[str]:
    """Leaves of the optional sections that a recipe does without, such as `reward.judge.endpoint`."""
    found: set[str] = set()
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            found |= _absent(value, f"{prefix}{name}.")
        elif value is None:
            for kind in get_args(field.annotation):
                if isinstance(kind, type) and issubclass(kind, BaseModel):
                    found |= {f"{prefix}{name}.{leaf}" for leaf in kind.model_fields}
    return found


def fields(model: BaseModel, prefix: str = "") -> dict[str, Any]:
    """Every leaf of a recipe by its dotted name."""
    found: dict[str, Any] = {}
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            found |= fields(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def describe(name: str) -> str:
    """What a field means, by its dotted name; empty if it has no description."""
    model: Any = Recipe
    *sections, leaf = name.split(".")
    for section in sections:
        model = model.model_fields[section].annotation
    return cast(str | None, model.model_fields[leaf].description) or ""


def _set(recipe: Recipe, tree: dict[str, Any], name: str, text: str) -> None:
    known = fields(recipe) | dict.fromkeys(_absent(recipe))
    if name not in known:
        inside = sorted(field for field in known if field.startswith(f"{name}."))
        if inside:
            raise UserInputError(f"{name} is a section; set one of its fields: {', '.join(inside)}")
        raise UserInputError(f"the recipe has no field {name!r}{_nearest_field(name, known)}")
    if text.lower().lstrip("+-") in ("nan", "inf", "infinity"):
        raise UserInputError(f"{name}={text} does not fit: expected a finite number")
    *sections, leaf = name.split(".")
    for section in sections:
        if tree.get(section) is None:  # an optional one; `rl.variant` is left out of its tree
            tree[section] = {}
        tree = tree[section]
    value = _value(text)
    alone = isinstance(known[name], tuple) and type(value) in (int, float)
    tree[leaf] = (value,) if alone else value  # a list of one, `data.horizon_s=64`


def _nearest_field(name: str, known: Iterable[str]) -> str:
    known = list(known)
    leaf = name.split(".")[-1]
    same_leaf = [field for field in known if field.split(".")[-1] == leaf]
    if same_leaf:
        section = name.rpartition(".")[0]
        close = difflib.get_close_matches(section, [f.rpartition(".")[0] for f in same_leaf], 1, 0)
        best = next((f for f in same_leaf if close and f.startswith(close[0])), same_leaf[0])
        return f"; did you mean {best!r}?"
    return nearest(name, known)


def _value(text: str) -> Any:
    """JSON where it is JSON (2, 0.5, true, null, [32, 64]), `none`, `32,64`, else the text."""
    if text.lower() in ("none", "true", "false"):
        return {"none": None, "true": True, "false": False}[text.lower()]
    for candidate in (text, f"[{text}]"):
        try:
            return parse_json(candidate)
        except ValueError:
            continue
    return text


_EXPECTED = {
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "float_type": "a number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "string_type": "a text",
    "tuple_type": "a list such as 32,64",
    "missing": "more values",
    "too_long": "fewer values",
    "finite_number": "a finite number",
}


def sentence(error: ValidationError, overrides: Mapping[str, str]) -> str:
    """The first mistake, with the field, the value and what was expected."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"] if isinstance(part, str))
    if first["type"] == "missing" and isinstance(first["loc"][-1], str):
        return f"{field} is missing; set it too"
    expected = _EXPECTED.get(first["type"])
    if expected is None:
        message = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
        expected = message[:1].lower() + message[1:]
    if not field or first["type"] == "value_error":  # the validators here name their fields
        return f"the recipe does not fit together: {expected}"
    given = overrides.get(field, json.dumps(first["input"], default=str))
    return f"{field}={given} does not fit: expected {expected}"

"""lmms-eval task folders: YAML that names a data set and its fields. No function of it is run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from jinja2 import TemplateError
from jinja2.sandbox import SandboxedEnvironment

from pelican.base.files import resolve_below
from pelican.data.formats.base import Found, Options, Reader, Record, Source
from pelican.data.formats.tables import load, table_records
from pelican.errors import UserInputError

_PLACES = {"doc_to_text": "question", "doc_to_target": "answer", "doc_to_visual": "image"}


class _Loader(yaml.SafeLoader):
    """YAML without objects; `!function utils.f` stays the text "!function utils.f"."""


_Loader.add_constructor("!function", lambda loader, node: f"!function {node.value}")


class LmmsEval(Reader):
    name = "lmms_eval"
    about = "an lmms-eval task folder: YAML with task, dataset_path, doc_to_text, doc_to_target"

    def sniff(self, source: Source, options: Options) -> float:
        return 0.9 if _tasks(source) else 0.0

    def read(self, source: Source, options: Options) -> Iterator[Found]:
        for task in _tasks(source):
            where = str(task["dataset_path"])
            local = (source.root / where).resolve()
            split = options.split or str(
                task.get("test_split") or task.get("validation_split") or ""
            )
            arguments = replace(options, config=str(task.get("dataset_name") or ""), split=split)
            for name, rows in _rows(local, where, arguments).items():
                for number, row in enumerate(rows, 1):
                    place = f"{task['task']}, {name}, row {number}"
                    asked, columns = _asked(row, task, options)
                    for found in table_records(asked, place, columns):
                        if isinstance(found, Record):
                            title = str(task["task"])
                            found = replace(
                                found, benchmark=title, source=found.source or title, split="test"
                            )
                        yield found


def _rows(local: Path, where: str, options: Options) -> dict[str, Any]:
    return load(str(local) if local.exists() else where, options)


def _tasks(source: Source) -> list[dict[str, Any]]:
    """Every task of the folder, with what its `include` brings."""
    found = []
    for path in source.of(".yaml", ".yml"):
        task = _yaml(path)
        if "task" in task and "dataset_path" in task and isinstance(task["task"], str):
            found.append(task)
    return found


def _yaml(path: Path, depth: int = 0) -> dict[str, Any]:
    try:
        value = yaml.load(path.read_text(), Loader=_Loader)
    except (OSError, UnicodeDecodeError):
        return {}
    except yaml.YAMLError as error:
        raise UserInputError(f"{path} is no YAML ({' '.join(str(error).split())[:200]})") from None
    if not isinstance(value, dict):
        return {}
    include = value.get("include")
    if isinstance(include, str) and depth < 5:
        try:
            other = resolve_below(path.parent, include)
        except UserInputError:  # it is left out, as one that is not there
            return value
        return {**_yaml(other, depth + 1), **value}
    return value


def _asked(
    row: dict[str, Any], task: dict[str, Any], options: Options
) -> tuple[dict[str, Any], Options]:
    """The row with its question and answer as the task's fields and templates say.

    A field that is `!function` is left to the known names of columns: Python of a task is not run.
    """
    row, columns = dict(row), dict(options.columns)
    for field, ours in _PLACES.items():
        rule = task.get(field)
        if not isinstance(rule, str) or rule.startswith("!function") or ours in columns:
            continue
        if "{{" in rule:
            columns[ours] = f"_{ours}"
            try:
                row[f"_{ours}"] = SandboxedEnvironment().from_string(rule).render(**row)
            except (TemplateError, TypeError, ValueError, OverflowError) as error:
                raise UserInputError(
                    f"task {task['task']}: {field} can't be rendered ({error}); name the column"
                    f" with --column {ours}=NAME"
                ) from None
        elif rule in row:
            columns[ours] = rule
    if isinstance(task.get("doc_to_choice"), str) and task["doc_to_choice"] in row:
        columns.setdefault("options", task["doc_to_choice"])
    return row, replace(options, columns=columns)


READERS = (LmmsEval(),)

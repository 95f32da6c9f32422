"""Custom resources as their projects define them: the definitions come with the Go modules."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml


def definition(module: str, path: str, version: str) -> dict[str, Any]:
    """The schema of one version of a custom resource; skips the test where it can't be had."""
    if shutil.which("go") is None:
        pytest.skip(
            "there is no `go` on the PATH: custom resource definitions come with Go modules"
        )
    try:
        done = subprocess.run(
            ["go", "mod", "download", "-json", module],
            capture_output=True,
            text=True,
            timeout=300,
            cwd="/",
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"the Go module {module} could not be downloaded within 300 s")
    if done.returncode:
        pytest.skip(f"the Go module {module} could not be downloaded")
    text = Path(json.loads(done.stdout)["Dir"], path).read_text()
    tree = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    (found,) = [v for v in tree["spec"]["versions"] if v["name"] == version]
    schema: dict[str, Any] = _strict(found["schema"]["openAPIV3Schema"])
    return schema


def check(job: dict[str, Any], schema: dict[str, Any]) -> None:
    """Raises jsonschema.ValidationError for what an API server would refuse or drop."""
    jsonschema.Draft202012Validator(schema).validate(json.loads(json.dumps(job)))


def _strict(schema: Any) -> Any:
    """Fields that are not named are errors, as with `kubectl --validate=strict`."""
    if isinstance(schema, list):
        return [_strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: _strict(part) for name, part in schema.items()}
    open_ = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object" and not open_:
        found["additionalProperties"] = False
    if schema.get("x-kubernetes-int-or-string"):
        found = {"type": ["integer", "string"]}
    return found

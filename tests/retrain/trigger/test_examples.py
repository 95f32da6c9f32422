"""The files for clusters and CI: they parse, and name only what there is."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from pelican.retrain.trigger.config import TriggerConfig
from tests.conftest import ROOT

FILES = sorted(
    [
        *(ROOT / "manifests" / "trigger").glob("*.yaml"),
        *(ROOT / "docs" / "examples").glob("*.yaml"),
        ROOT / ".github" / "workflows" / "retrain.yaml",
    ]
)


def documents(path: Path) -> list[dict[str, Any]]:
    return [tree for tree in yaml.safe_load_all(path.read_text()) if tree]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_it_parses_and_its_settings_exist(path: Path) -> None:
    assert documents(path)
    for name in re.findall(r"PELICAN_TRIGGER_(\w+)", path.read_text()):
        assert name.removesuffix("_FILE").lower() in TriggerConfig.model_fields, name


def test_the_kustomization_names_every_manifest() -> None:
    folder = ROOT / "manifests" / "trigger"
    (tree,) = documents(folder / "kustomization.yaml")
    there = {path.name for path in folder.glob("*.yaml")} - {"kustomization.yaml"}
    assert set(tree["resources"]) == there


WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yaml"))


def steps_of(path: Path) -> list[dict[str, Any]]:
    (workflow,) = documents(path)
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def steps() -> list[str]:
    return [step["run"] for step in steps_of(WORKFLOWS[-1]) if "run" in step]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_pins_actions_and_keeps_secrets_to_the_step_that_submits(path: Path) -> None:
    (workflow,) = documents(path)
    for tree in (workflow, *workflow["jobs"].values()):
        assert "env" not in tree, "what all steps have, an installed package has, too"
    for step in steps_of(path):
        if "uses" in step:
            assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", step["uses"])
        assert "${{" not in step.get("run", ""), "pasted into the script"
        if "secrets." in str(step):
            assert step["run"].startswith("make submit")
    assert "persist-credentials': False" in str(steps_of(path)[0])


def test_the_tekton_step_that_gets_a_strangers_text_has_no_secret_among_its_variables() -> None:
    """Kubernetes replaces $(NAME) in the value of a variable by that of another one."""
    task, _ = documents(ROOT / "docs" / "examples" / "tekton-retrain.yaml")
    for step in task["spec"]["steps"]:
        assert "$(params" not in step["script"]
        assert not [source for source in step.get("envFrom", []) if "secretRef" in source]
        assert "secretKeyRef" not in str(step)


def test_every_step_of_the_workflow_is_a_make_target() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert steps() and all(step.split()[0] == "make" for step in steps())
    assert all(step.split()[1] in targets for step in steps())


@pytest.mark.parametrize("step", [s for s in steps() if "retrain" in s])
def test_the_step_calls_the_command_with_the_data_as_one_word(step: str, tmp_path: Path) -> None:
    """As the runner would, but for the installation: `pelican` only writes its arguments down."""
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "pelican"
    script.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    script.chmod(0o755)
    (tmp_path / "made").mkdir()
    installed = tmp_path / "made" / "installed"
    variables = [f"BIN={tmp_path / 'bin'}", f"MADE={tmp_path / 'made'}"]
    installed.touch()
    wicked = "x'; touch wicked; '"
    found = subprocess.run(
        [*step.split(), *variables, "-o", str(installed)],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "DATA": wicked, "FROM": "tiny:3"},
        capture_output=True,
        text=True,
        check=True,
    )
    words = found.stdout.splitlines()
    assert {"--pipeline=retrain", f"--data={wicked}", "--from=tiny:3"} <= set(words)
    assert not (ROOT / "wicked").exists()

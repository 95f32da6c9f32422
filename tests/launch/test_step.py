"""What a component calls: specifications from the run's recipe, one more try if memory ran out."""

from __future__ import annotations

import io
import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pelican.config import env
from pelican.launch.step import make_job, make_spec, smaller_job, step
from pelican.monitoring.progress import PlainView
from pelican.records import Phase
from pelican.runs.layout import expected_stages, stage_prefix
from pelican.stages.fingerprint import finished_manifest
from pelican.stages.stage import StageName
from tests.conftest import ROOT, World

RUN = "test"


@pytest.fixture
def started(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A run after its preflight; `step` sets handlers of signals, which are set back."""
    write_recipe(world, "rollout.batch_size=128")
    for name in ("PYTHONPATH", "PELICAN_WARM"):
        monkeypatch.setenv(name, world.environment()[name])
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield world
    for number, handler in before.items():
        signal.signal(number, handler)


def write_recipe(world: World, *overrides: str) -> None:
    text = world.recipe(*overrides).model_dump_json()
    world.store.write(f"runs/{RUN}/recipe.json", text.encode())


def take(world: World, stage: StageName, monkeypatch: pytest.MonkeyPatch, **wish: Any) -> Any:
    wishes = world.environment(**({stage: wish} if wish else {}))
    monkeypatch.setenv("PELICAN_FAKE", wishes["PELICAN_FAKE"])
    return step(stage, world.store.uri, RUN, 1, "rl", policy=str(world.root / "policy"))


def attempts(world: World, stage: StageName) -> int:
    return world.store.read(f"runs/{RUN}/logs/loop-1-{stage}-rl.log").decode().count("# ")


@pytest.mark.parametrize("stage", ["rollout", "distill", "eval"])
def test_out_of_memory_is_tried_once_more_with_half_the_batch(
    started: World,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    stage: StageName,
) -> None:
    done = take(started, stage, monkeypatch, do="memory", once=str(started.root / "once"))
    assert done.manifest.notes["batch_size"] == 64
    assert attempts(started, stage) == 2
    events = [json.loads(x) for x in re.findall("^::event (.*)$", capsys.readouterr().out, re.M)]
    assert [event["event"] for event in events] == ["start", "smaller", "done"]
    assert events[1]["batch_size"] == 64 and events[2]["attempts"] == 2
    # The batch is no part of what the stage is known by.
    spec = make_spec(started.store, stage, RUN, 1, "rl", {"policy": str(started.root / "policy")})
    assert finished_manifest(started.store, spec) == done.manifest


def test_what_a_stage_has_to_tell_is_told_when_it_has_ended(
    started: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    take(started, "distill", monkeypatch, tell="3 samples were left out")
    events = [json.loads(x) for x in re.findall("^::event (.*)$", capsys.readouterr().out, re.M)]
    assert [event["event"] for event in events] == ["start", "done", "told"]
    assert events[2]["message"] == "3 samples were left out"


def test_the_second_try_is_told_in_one_line() -> None:
    event = {"event": "smaller", "stage": "rollout", "loop": 1, "phase": "rl", "batch_size": 64}
    out = io.StringIO()
    assert PlainView(34, out).line(f"::event {json.dumps(event)}")
    (line,) = out.getvalue().splitlines()
    assert line.endswith("out of memory; once more with a rollout.batch_size of 64")


@pytest.mark.parametrize(
    ("stage", "tries", "field"),
    [
        ("rollout", 2, "rollout.batch_size"),
        ("train-rl", 1, "rl.prompts_per_step"),
        ("train-sft", 1, "sft.batch_size"),
    ],
)
def test_what_still_does_not_fit_names_the_field_of_the_recipe(
    started: World,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    stage: StageName,
    tries: int,
    field: str,
) -> None:
    with pytest.raises(SystemExit) as caught:
        take(started, stage, monkeypatch, do="memory")
    assert caught.value.code == 77
    assert attempts(started, stage) == tries
    found = capsys.readouterr()
    assert f"a run with a smaller {field} may fit" in found.err
    assert found.out.count('"smaller"') == tries - 1


def test_only_what_a_smaller_batch_helps_is_made_smaller(
    started: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def halved(stage: StageName) -> str | None:
        job = smaller_job(make_job(make_spec(started.store, stage, RUN, 1, "rl", {})))
        return job.env[env.BATCH_SIZE] if job else None

    assert halved("eval") == "64" and halved("train-rl") is None and halved("reward") is None
    monkeypatch.setenv(env.BATCH_SIZE, "32")
    assert halved("eval") == "16"
    write_recipe(started, "rollout.batch_size=1")
    assert halved("eval") is None
    write_recipe(started, "rollout.engine=vllm")
    assert halved("eval") is None


def test_the_engine_decodes_what_the_launcher_says(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pelican.engines import open_engine
    from pelican.engines.transformers import TransformersEngine

    taken: list[int] = []

    def load(model: Any, checkpoint: Path, batch_size: int, threads: int) -> None:
        taken.append(batch_size)

    monkeypatch.setattr(TransformersEngine, "load", load)
    recipe = world.recipe("rollout.batch_size=128")
    for given in ("", "64", "999", "many"):
        monkeypatch.setenv(env.BATCH_SIZE, given)
        open_engine(recipe.rollout, recipe.model, world.root / "policy")
    assert taken == [128, 64, 128, 128]


@pytest.mark.parametrize(
    ("override", "there"),
    [
        ("", True),
        ("distill.endpoint=http://teacher:8000/v1", False),
        ("distill.only_replay=true", True),
    ],
)
def test_distill_is_given_a_teacher_only_if_it_asks_one(
    started: World, override: str, there: bool
) -> None:
    write_recipe(started, override)
    given = {"policy": str(started.root / "policy"), "weak": "runs/test/loop-1/filter-sft"}
    spec = make_spec(started.store, "distill", RUN, 1, "sft", given)
    assert ("teacher" in spec.inputs) == there
    assert {"policy", "weak", "pool", "replay"} <= set(spec.inputs)


def test_the_architecture_names_the_prefixes_that_the_stages_own(world: World) -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    table = re.findall(r"^\| (`loop.*?) \|", text, re.MULTILINE)
    named = {name for row in table for name in re.findall(r"`(?:loop-[k0]/)?([a-z-]+)`", row)}
    shared: list[StageName] = ["rollout", "reward", "filter", "eval"]
    phases: dict[Phase, list[StageName]] = {
        Phase.BASE: ["eval"],
        Phase.RL: [*shared, "train-rl"],
        Phase.SFT: [*shared, "distill", "train-sft"],
        Phase.START: ["eval"],
        Phase.END: ["eval"],
    }
    owned = {
        Path(stage_prefix(RUN, 1, stage, phase.value)).name
        for phase, stages in phases.items()
        for stage in stages
    }
    assert named == owned
    with_dev = world.recipe("loops=1", "data.dev=samples/dev")
    assert len(owned) == expected_stages(with_dev, "metaloop")

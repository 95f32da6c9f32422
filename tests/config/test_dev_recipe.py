"""A pool for choosing beside the one for measuring: what a recipe may say of it, and who reads which."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest

from pelican.config.presets import find_recipe, for_pipeline
from pelican.config.stages import STAGES
from pelican.data.select import check_splits
from pelican.errors import UserInputError
from pelican.launch.step import make_spec
from pelican.records import Split
from pelican.runs.layout import keep_recipe
from pelican.runs.preflight import needed_pools
from pelican.storage.store import FolderStore
from tests.data.factory import sample, write_pool

DEV = "data.dev=samples/dev"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("rl.stop.of=probe", "rl.stop.of=probe needs data.dev"),
        ("data.dev=samples/test", "data.evaluation and its dev pool are both samples/test"),
        (f"{DEV} data.dev_general=samples/general", "data.general and its dev pool are both"),
        ("data.dev_general=samples/dev", "data.dev_general needs data.dev"),
        (f"{DEV} rl.stop.of=probe rl.stop.probe.windows=2", "rl.stop.probe.windows"),
    ],
)
def test_what_does_not_fit_is_refused(overrides: str, words: str) -> None:
    with pytest.raises(UserInputError) as error:
        find_recipe("tiny", [overrides])
    assert words in str(error.value)


def test_the_new_fields_are_in_no_digest_until_they_are_used() -> None:
    tree = find_recipe("tiny").model_dump(mode="json")
    assert "dev" not in tree["data"] and not {"of", "probe"} & tree["rl"]["stop"].keys()
    used = find_recipe("tiny", [f"{DEV} rl.stop.of=samples"]).model_dump(mode="json")
    assert used["data"]["dev"] == "samples/dev" and used["rl"]["stop"]["of"] == "samples"
    sections = {row.name: row.result for row in STAGES.values()}
    assert "rl" in sections["train-rl"] and "data" in sections["eval"]


def places(tmp_path: Path, overrides: str, stage: str, phase: str) -> dict[str, str]:
    """The held-out pools that a stage is given, by their folders' names."""
    store = FolderStore(tmp_path)
    keep_recipe(store, "made", find_recipe("tiny", [overrides]))
    spec = make_spec(store, stage, "made", int(phase in ("rl", "sft")), phase, {})  # type: ignore[arg-type]
    wanted = {"evaluation", "general", "probe"} & spec.inputs.keys()
    return {name: spec.inputs[name].rpartition("/")[2] for name in wanted}


def test_gates_and_probe_read_dev_and_the_end_reads_the_sealed_set(tmp_path: Path) -> None:
    both = f"{DEV} data.dev_general=samples/other"
    for phase in ("base", "rl", "sft"):
        found = places(tmp_path / phase, DEV, "eval", phase)
        assert found == {"evaluation": "dev", "general": "general"}
        found = places(tmp_path / f"{phase}2", both, "eval", phase)
        assert found == {"evaluation": "dev", "general": "other"}
    for phase in ("start", "end"):
        found = places(tmp_path / phase, both, "eval", phase)
        assert found == {"evaluation": "test", "general": "general"}
    assert places(tmp_path / "none", "", "eval", "sft")["evaluation"] == "test"
    assert places(tmp_path / "no", DEV, "train-rl", "rl") == {}
    probe = f"{DEV} rl.stop.of=probe"
    assert places(tmp_path / "probe", probe, "train-rl", "rl") == {"probe": "dev"}


def test_preflight_checks_the_dev_pool_too() -> None:
    assert "dev" not in needed_pools(find_recipe("tiny"))
    assert {"dev", "evaluation"} <= set(needed_pools(find_recipe("tiny", [DEV])))
    probe = find_recipe("tiny", [f"{DEV} rl.stop.of=probe"])
    assert set(needed_pools(for_pipeline("evaluate", probe))) == set(
        needed_pools(find_recipe("tiny"))
    )


def test_a_scene_that_chooses_may_not_measure(tmp_path: Path) -> None:
    for name in ("dev", "evaluation"):
        write_pool(tmp_path / name, [sample(1, split=Split.TEST)])
    with pytest.raises(UserInputError, match=r"\(dev pool\) and in split test \(evaluation pool\)"):
        check_splits({name: tmp_path / name for name in ("dev", "evaluation")})


@pytest.mark.parametrize(
    ("one", "other", "split", "leaks"),
    [
        ("train", "evaluation", Split.TRAIN, True),
        ("replay", "general", Split.TRAIN, True),
        ("train", "dev", Split.TRAIN, True),
        ("dev", "evaluation", Split.DEV, True),
        ("dev_general", "general", Split.TEST, True),
        ("train", "evaluation", Split.TEST, False),  # only its rows of split train are trained on
        ("train", "dev", Split.DEV, False),
        ("train", "replay", Split.TRAIN, False),
        ("evaluation", "general", Split.TEST, False),
    ],
)
def test_a_folder_of_two_names_leaks_what_both_read(
    tmp_path: Path, one: str, other: str, split: Split, leaks: bool
) -> None:
    folder = write_pool(tmp_path / "pool", [sample(i, split=split) for i in range(3)])
    with pytest.raises(UserInputError, match=f"{other} pool") if leaks else nullcontext():
        check_splits({one: folder, other: folder})


def test_an_evaluation_alone_reads_what_is_sealed() -> None:
    recipe = for_pipeline("evaluate", find_recipe("tiny", [f"{DEV} rl.stop.of=probe"]))
    assert recipe.data.dev is None
    assert recipe == type(recipe).model_validate(recipe.model_dump())
    assert for_pipeline("evaluate", find_recipe("tiny")) == find_recipe("tiny")

"""Before any training starts: bad input ends in one sentence, a run keeps its recipe."""

from __future__ import annotations

import json
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelican.cli.submit import choose_run, new_run_name
from pelican.config.presets import find_recipe
from pelican.data import images
from pelican.errors import DamagedError, UserInputError
from pelican.runs.layout import (
    Submission,
    check_run_name,
    expected_stages,
    keep_recipe,
    read_recipe,
    read_recipe_tree,
)
from pelican.runs.preflight import CHECKED, claim, preflight
from pelican.storage.manifests import now
from pelican.storage.store import FolderStore
from tests.conftest import World
from tests.data.factory import sample, write_pool


def check(world: World, run: str = "test", *overrides: str) -> None:
    preflight(world.store.uri, run, world.recipe(*overrides).model_dump_json())


def test_a_sound_world_passes_and_the_recipe_is_kept(world: World) -> None:
    check(world)
    check(world)  # again, as when a run continues
    stored = read_recipe_tree(world.store, "test")
    assert stored == world.recipe().model_dump(mode="json")
    pools = json.loads(world.store.read("runs/test/preflight.json"))
    assert pools["train"]["samples"] == 12


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        ("rm {0}/policy/config.json", "models.policy: the checkpoint .* lacks config.json"),
        ("echo x > {0}/policy/config.json", "config.json is not JSON"),
        ("echo {{ > {0}/policy/model.safetensors.index.json", "index.json names no weights"),
        ("echo [] > {0}/policy/model.safetensors.index.json", "index.json names no weights"),
        ("rm {0}/policy/tokenizer.json", "lacks tokenizer.json or vocab.json"),
        ("rm {0}/policy/model.safetensors", r"lacks \*.safetensors"),
        ("rm -r {0}/teacher", "models.teacher: there is no checkpoint"),
        ("truncate -s -4 {0}/policy/model.safetensors", "copy it again"),
        ("truncate -s 4 {0}/policy/model.safetensors", "not a whole safetensors file"),
        ("rm -r {0}/train", "data.train: there is no pool"),
        ("rm {0}/general/*", "data.general"),
        ("truncate -s 100 {0}/train/*.parquet", "data.train"),
        ("cp {0}/train/* {0}/evaluation/x.parquet", "keep each"),
        (
            "rm {0}/train/*; cp {0}/evaluation/* {0}/train/",
            "data.train: none of the .* is of split",
        ),
    ],
)
def test_bad_input_ends_in_one_sentence(world: World, spoil: str, words: str) -> None:
    subprocess.run(spoil.format(world.root), shell=True, check=True)
    with pytest.raises(UserInputError, match=words) as caught:
        check(world)
    assert "\n" not in str(caught.value)


def test_a_teacher_that_is_not_asked_need_not_be_there(world: World) -> None:
    subprocess.run(["rm", "-r", str(world.root / "teacher")], check=True)
    check(world, "served", "distill.endpoint=http://teacher:8000/v1")


def test_pools_are_decoded_once_in_a_store_and_again_if_they_change(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []
    checked = images.checked_image

    def count(data: bytes, max_pixels: int) -> bytes:
        decoded.append(max_pixels)
        return checked(data, max_pixels)

    monkeypatch.setattr(images, "checked_image", count)
    check(world)
    first, report = len(decoded), world.store.read("runs/test/preflight.json")
    assert first > 0
    check(world)
    check(world, "another", "rl.kl=0.5")
    assert len(decoded) == first
    assert world.store.read("runs/another/preflight.json") == report
    check(world, "smaller", "data.max_pixels=1000")  # scales, so it decodes anew
    assert set(decoded[first:]) == {1000}
    before = len(decoded)
    write_pool(world.root / "train", [sample(i) for i in range(13)])
    check(world)
    assert len(decoded) > before
    assert json.loads(world.store.read("runs/test/preflight.json"))["train"]["samples"] == 13


def test_a_pool_that_failed_or_a_damaged_record_is_checked_again(world: World) -> None:
    shard = next((world.root / "train").glob("*.parquet"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:100])
    for _ in range(2):
        with pytest.raises(UserInputError, match=r"data.train"):
            check(world)
    shard.write_bytes(whole)
    check(world)
    records = {key: world.store.read(key) for key in world.store.keys(CHECKED)}
    for damage in (b"{", b"{}", b"null", b"[" * 200_000):
        for record in records:
            world.store.write(record, damage)
        check(world)
        assert {key: world.store.read(key) for key in records} == records


def test_pools_that_are_too_large_to_decode_may_not_share_a_scene_either(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pelican.runs.preflight.DECODED_BYTES", 0)
    check(world)
    subprocess.run(
        f"cp {world.root}/train/* {world.root}/evaluation/x.parquet", shell=True, check=True
    )
    with pytest.raises(UserInputError, match="keep each scene in one split"):
        check(world)


def test_a_run_keeps_its_recipe(world: World) -> None:
    check(world)
    told = rf"rl.kl \({world.recipe().rl.kl}, now 0.5\); choose another run name"
    with pytest.raises(UserInputError, match=told):
        check(world, "test", "rl.kl=0.5")


@pytest.mark.parametrize("damage", [b"", b'{"name": "ti', b"[" * 200_000])
def test_a_damaged_recipe_is_written_again_if_the_submission_knows_it(
    world: World, damage: bytes
) -> None:
    check(world)
    store, key = world.store, "runs/test/recipe.json"
    whole = store.read(key)
    store.write(key, damage)
    with pytest.raises(DamagedError, match=r"test/recipe.json is damaged"):
        check(world)
    store.write("runs/test/run.json", submission(world, "test").model_dump_json().encode())
    with pytest.raises(DamagedError, match=r"test/recipe.json is damaged"):
        check(world, "test", "rl.kl=0.5")
    check(world)
    assert store.read(key) == whole


def submission(world: World, run: str, pipeline: str = "metaloop") -> Submission:
    return Submission(
        run=run,
        pipeline=pipeline,
        address="tiny",
        overrides=[],
        recipe=world.recipe().digest(),
        submitted=now(),
    )


def test_the_unfinished_run_of_the_same_recipe_and_pipeline_continues(world: World) -> None:
    asked, recipe = submission(world, "-"), world.recipe()
    assert choose_run(world.store, asked, recipe, None) == new_run_name(world.store, recipe)
    made = submission(world, "cut-off").model_dump_json().encode()
    world.store.write("runs/cut-off/run.json", made)
    assert choose_run(world.store, asked, recipe, None) == "cut-off"
    assert choose_run(world.store, submission(world, "-", "evaluate"), recipe, None) != "cut-off"
    world.store.write("runs/cut-off/summary.json", b'{"state": "complete"}')
    assert choose_run(world.store, asked, recipe, None) != "cut-off"


def test_a_run_of_another_pipeline_is_refused(world: World) -> None:
    made = submission(world, "mine").model_dump_json().encode()
    world.store.write("runs/mine/run.json", made)
    with pytest.raises(UserInputError, match="of pipeline 'metaloop', not 'evaluate'"):
        choose_run(world.store, submission(world, "-", "evaluate"), world.recipe(), "mine")
    made = made.replace(b"metaloop", b"metaloow")  # a bit flipped: no pipeline, so no refusal
    world.store.write("runs/mine/run.json", made)
    assert choose_run(world.store, submission(world, "-"), world.recipe(), "mine") == "mine"


def test_two_runs_of_a_recipe_on_one_day_have_two_names(world: World) -> None:
    first = new_run_name(world.store, world.recipe())
    world.store.write(f"runs/{first}/run.json", b"{}")
    assert new_run_name(world.store, world.recipe()) == check_run_name(f"{first}-2")


@pytest.mark.parametrize(
    ("pipeline", "override", "stages"),
    [("metaloop", "", 34), ("metaloop", "sft.enabled=false", 16), ("evaluate", "", 1)],
)
def test_the_stages_of_a_run_are_known_before(
    world: World, pipeline: str, override: str, stages: int
) -> None:
    assert expected_stages(world.recipe(override), pipeline) == stages


@given(st.integers(0, 100_000), st.integers(0, 7))
def test_no_flip_of_a_recipe_is_believed(
    tmp_path_factory: pytest.TempPathFactory, at: int, bit: int
) -> None:
    store, recipe = FolderStore(tmp_path_factory.mktemp("store")), find_recipe("tiny")
    keep_recipe(store, "r", recipe)
    data = bytearray(store.read("runs/r/recipe.json"))
    data[at % len(data)] ^= 1 << bit
    store.write("runs/r/recipe.json", bytes(data))
    try:
        assert read_recipe(store, "r") == recipe  # a flip that changes no value: white space
    except DamagedError as error:
        assert "recipe.json is" in str(error)
    kept = Submission(
        run="r",
        pipeline="metaloop",
        address="tiny",
        overrides=[],
        recipe=recipe.digest(),
        submitted=now(),
    )
    store.write("runs/r/run.json", kept.model_dump_json().encode())
    claim(store, "r", recipe)  # the same command
    assert read_recipe(store, "r") == recipe

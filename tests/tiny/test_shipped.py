"""The sets below samples/ are what their card says: counts, splits, answers, chance levels."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from pelican.data.pool import check_pool
from pelican.data.select import check_splits
from pelican.data.tables import read_samples
from pelican.records import EMBODIED_FAMILIES, Dimension, Sample
from tiny.sim.chance import gold_text, guess_score, task_score
from tiny.sim.guesses import guess_of
from tiny.sim.samples import about, template_of
from tiny.sim.scenes import KINDS, SETS, seed_of

FOLDER = Path(__file__).parents[2] / "samples"
EMBODIED = ("train", "dev", "test")
each_set = pytest.mark.parametrize("name", SETS)


@cache
def rows(name: str) -> tuple[Sample, ...]:
    return tuple(read_samples(FOLDER / name))


def facts(name: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((FOLDER / name / "about.json").read_text("utf-8"))
    return read


@each_set
def test_every_row_of_a_set_can_be_used(name: str) -> None:
    report = check_pool(FOLDER / name, max_pixels=112 * 112, horizon_s=64)
    assert not report.quarantine.rows
    assert report.samples == len(rows(name)) and not report.beyond_horizon
    assert report.splits == {SETS[name].split.value: report.samples}


def test_no_scene_and_no_picture_is_in_two_splits() -> None:
    check_splits({name: FOLDER / name for name in SETS})
    places: defaultdict[str, set[str]] = defaultdict(set)
    for name in SETS:
        for row in rows(name):
            places[row.scene].add(name)
    assert all(len(names) == 1 for names in places.values())


@each_set
def test_families_are_equal_and_templates_nearly(name: str) -> None:
    families = Counter(r.family for r in rows(name))
    assert set(families.values()) == {SETS[name].per_family}
    if name in EMBODIED:
        assert set(families) == set(EMBODIED_FAMILIES)
        assert {r.dimension for r in rows(name)} == set(Dimension)
    for family in families:
        templates = Counter(template_of(r) for r in rows(name) if r.family is family)
        assert min(templates.values()) * len(templates) > 0.35 * families[family]
        assert max(templates.values()) * len(templates) < 2.1 * families[family]


@each_set
def test_answers_earn_the_full_score_and_options_are_four(name: str) -> None:
    for row in rows(name):
        assert task_score(row, gold_text(row)) == pytest.approx(1), row.id
        assert row.answer.kind != "yes_no"
        if row.answer.kind == "choice":
            assert len(row.answer.options) >= 4
        assert len(row.turns) == 1  # neither answer nor reasoning


@each_set
def test_chance_is_what_the_guess_of_the_template_earns(name: str) -> None:
    groups: defaultdict[str, list[Sample]] = defaultdict(list)
    for row in rows(name):
        groups[template_of(row)].append(row)
    for template, members in groups.items():
        assert {r.chance for r in members} == {round(guess_score(guess_of(template), members), 4)}


@each_set
def test_about_json_tells_the_truth(name: str) -> None:
    told = facts(name)
    del told["made_with"]
    assert told == about(rows(name), told["seed"])


@each_set
def test_scenes_come_from_the_seeds_of_their_set(name: str) -> None:
    for row in rows(name):
        kind = "cards" if row.scene.startswith("card") else KINDS[row.media_kind == "clip"]
        first = seed_of(SETS[name], facts(name)["seed"], kind, 0)
        assert 0 <= int(row.scene.split("-")[1]) - first < 10**6


def test_clips_are_short_or_long() -> None:
    for name in EMBODIED:
        spans = Counter(r.span_s for r in rows(name) if r.media_kind == "clip")
        assert set(spans) == {24.0, 56.0} and min(spans.values()) > 0.3 * spans.total()


def test_pictures_are_stored_once() -> None:
    files = [p for name in SETS for p in (FOLDER / name).glob("*.parquet")]
    pictures = {image for name in SETS for row in rows(name) for image in row.images}
    assert sum(p.stat().st_size for p in files) < 1.12 * sum(map(len, pictures))
    assert sum(p.stat().st_size for p in files) < 36e6


def test_the_card_gives_the_counts_and_chance_levels() -> None:
    card = (FOLDER / "README.md").read_text("utf-8")
    for name in EMBODIED:
        for family, fact in facts(name)["families"].items():
            line = re.search(rf"^\| {family} \|.*$", card, re.MULTILINE)
            assert line and f"{100 * fact['chance']:.1f}" in line[0], (name, family)
    for name in SETS:
        assert re.search(rf"^\| `{name}` \|.*\b{len(rows(name))}\b", card, re.MULTILINE), name


def test_datasets_opens_a_set_with_decoded_pictures(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the train extra is missing")
    files = [str(p) for p in sorted((FOLDER / "dev").glob("*.parquet"))]
    rows = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path))["train"]
    assert rows[0]["images"][0].size == (112, 112)

"""Sample sets: balanced, the same bytes from any process, fresh ones with seeds of their own."""

from __future__ import annotations

import importlib.util
import itertools
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from pelican.data.tables import read_samples
from pelican.records import Sample, Split
from tiny.sim.chance import best_guess, gold_text, guess_score, task_score
from tiny.sim.convert import to_sample
from tiny.sim.records import QA
from tiny.sim.samples import choose, difference, shares, write_set
from tiny.sim.scenes import FRESH, KINDS, SETS, Scene, seed_of

_PARTS = ("mujoco", "robosuite", "trimesh", "fast_simplification")
_MISSING = [part for part in _PARTS if importlib.util.find_spec(part) is None]
needs_sim = pytest.mark.skipif(
    bool(_MISSING), reason=f"rendering needs {', '.join(_MISSING)}: make sample-data installs them"
)
SMALL = "replace(FRESH, stills=8, clips=6, per_family=4)"


def question(template: str, value: str, text: str = "what is it?") -> QA:
    answer = {"kind": "text", "value": value}
    dimension = "perception_grounding"
    return QA("prediction", dimension, template, text, answer, value, "", 0.0, True)


def sample(qa: QA, number: int = 0) -> Sample:
    name = f"x-{qa.family}-{qa.template}-{number:06d}"
    return to_sample(qa, [b"x"], [0.0], id=name, scene=name, split=Split.TRAIN)


def scenes(*templates: str) -> list[Scene]:
    """One scene for each string; its letters are the templates that it offers."""
    return [
        Scene(str(i), "stills", [bytes([i])], [0.0], [question(t, "a") for t in letters])
        for i, letters in enumerate(templates)
    ]


@pytest.mark.parametrize(
    ("available", "total", "given"),
    [
        ({"a": 9, "b": 9}, 4, {"a": 2, "b": 2}),
        ({"a": 1, "b": 9}, 6, {"a": 1, "b": 5}),
        ({"a": 1, "b": 2}, 9, {"a": 1, "b": 2}),
        ({"a": 9, "b": 9, "c": 9}, 7, {"a": 2, "b": 2, "c": 3}),
    ],
)
def test_shares_are_as_equal_as_can_be(
    available: dict[str, int], total: int, given: dict[str, int]
) -> None:
    assert shares(available, total) == given


def test_a_choice_takes_rare_templates_and_spreads_over_the_scenes() -> None:
    drawn = scenes("ab", "ab", "ab", "abc")
    kept = choose(drawn, 6, seed=0)
    assert Counter(q.template for qas in kept for q in qas) == {"a": 2, "b": 3, "c": 1}
    assert {len(qas) for qas in kept} <= {1, 2}


def test_too_few_scenes_are_an_error() -> None:
    with pytest.raises(RuntimeError, match="draw more"):
        choose(scenes("a", "b"), 3, seed=0)


def test_no_two_sets_share_a_seed() -> None:
    makes = [*SETS.values(), FRESH]
    assert len({make.block for make in makes}) == len(makes)
    spans = sorted(
        (seed_of(make, seed, kind, 0), seed_of(make, seed, kind, 10**6 - 1))
        for make in makes
        for seed in (0, 1, 10**6 - 1)
        for kind in KINDS
    )
    assert all(a[1] < b[0] for a, b in itertools.pairwise(spans))
    assert spans[0][0] > 2 * 10**7 * 10**6  # above any corpus of render_corpus
    with pytest.raises(ValueError, match="seed -1"):
        seed_of(FRESH, -1, "stills", 0)


def test_the_best_guess_is_the_commonest_answer() -> None:
    rows = [sample(question("t", value), i) for i, value in enumerate("aabac")]
    assert best_guess(rows) == ("a", 0.6)


def test_a_guess_may_repeat_what_the_question_names() -> None:
    texts = [("red cube", "red cube"), ("blue mug", "blue mug"), ("white can", "red can")]
    rows = [
        sample(question("t", f"pick {right}", f"move the {asked}. next step?"), i)
        for i, (asked, right) in enumerate(texts)
    ]
    guess, value = best_guess(rows)
    assert guess == "pick {0}" and value == pytest.approx(2 / 3)
    assert guess_score("pick {1}", rows) == 0


def test_a_difference_is_explained(tmp_path: Path) -> None:
    rows = [sample(question("t", value), i) for i, value in enumerate("ab")]
    assert write_set(tmp_path / "s", rows, {}) == "new"
    assert write_set(tmp_path / "s", rows, {}) == "the same bytes as before"
    assert "another pyarrow" in write_set(tmp_path / "s", rows, {"made_with": "else"})
    other = [rows[0], rows[1].model_copy(update={"chance": 0.5})]
    assert "1 of 2 questions" in write_set(tmp_path / "s", other, {})
    assert "another seed" in write_set(tmp_path / "s", other[:1], {})


@needs_sim
def test_two_processes_make_the_same_fresh_set(tmp_path: Path) -> None:
    code = (
        "import sys; from dataclasses import replace; from tiny.sim import samples;"
        f"from tiny.sim.scenes import FRESH; samples.FRESH = {SMALL};"
        "samples.main(['--split', 'fresh', '--seed', '3', '--workers', '1', '--out', sys.argv[1]])"
    )
    made = []
    for name in ("a", "b"):
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / name)],
            env={**os.environ, "MUJOCO_GL": "egl", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        if "EGL" in done.stderr and done.returncode:
            pytest.skip("no EGL: apt-get install libegl1 libgl1-mesa-dri")
        assert done.returncode == 0, done.stderr
        made.append(tmp_path / name / "fresh-3")
    assert difference(*made) == "the same bytes as before"
    rows = list(read_samples(made[0]))
    assert set(Counter(r.family for r in rows).values()) == {4}
    assert {r.split for r in rows} == {Split.TEST}
    assert all(r.id.startswith("fresh-3-") for r in rows)
    assert all(task_score(r, gold_text(r)) == 1 for r in rows)


def test_fresh_sets_are_made_like_the_test_set() -> None:
    assert replace(FRESH, block=SETS["test"].block) == SETS["test"]

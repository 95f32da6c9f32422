"""Which questions are asked, and that answers are kept; then the command on a real, untrained model."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from pelican.cli.premises import print_premises
from pelican.config.presets import find_recipe
from pelican.config.recipe import Sampling
from pelican.data.pool import read_index
from pelican.engines.base import Engine, rollout_seed
from pelican.errors import UserInputError
from pelican.premises.probe import PART, Clock, Probe, choose
from pelican.records import ChoiceAnswer, OpenAnswer, Rollout, Sample, Split
from tests.data.factory import clip, general, sample, write_pool

RECIPE = find_recipe("tiny")


class Scripted(Engine):
    """Says the same to everything, and counts what it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def generate(
        self, samples: Iterable[Sample], sampling: Sampling, n: int, seed: int
    ) -> Iterator[list[Rollout]]:
        for one in samples:
            self.asked += n
            yield [
                Rollout(
                    sample_id=one.id,
                    index=index,
                    seed=rollout_seed(seed, one.id, index),
                    completion="<think>one, two</think><answer>2</answer>",
                    tokens=9,
                    finish="stop",
                )
                for index in range(n)
            ]


def probe(folder: Path, minutes: float = 60.0) -> Probe:
    return Probe(folder, RECIPE, Clock(minutes), lambda name, done, of: None)


def test_sealed_rows_are_never_asked(tmp_path: Path) -> None:
    mixed = [sample(i, split=Split.TEST if i % 2 else Split.TRAIN) for i in range(40)]
    chosen = choose(read_index(write_pool(tmp_path / "pool", mixed)), RECIPE, 100)
    assert {e.split for e in [*chosen.main, *chosen.extra]} == {Split.TRAIN}
    assert chosen.sealed == 20 and len(chosen.main) == 20
    dev = [sample(i, split=Split.DEV) for i in range(10)]
    assert len(choose(read_index(write_pool(tmp_path / "dev", dev)), RECIPE, 100).main) == 10
    sealed = read_index(write_pool(tmp_path / "test", [sample(1, split=Split.TEST)]))
    with pytest.raises(UserInputError, match=r"1 are sealed by split test"):
        choose(sealed, RECIPE, 100)


def test_scenes_come_once_before_any_comes_twice(tmp_path: Path) -> None:
    rows = [sample(i, scene=f"scene-{i % 12}", family="counting") for i in range(60)]
    chosen = choose(read_index(write_pool(tmp_path, rows)), RECIPE, 12)
    assert max(Counter(e.scene for e in chosen.main).values()) == 1


def test_rare_kinds_and_long_clips_are_asked_besides(tmp_path: Path) -> None:
    rows = [sample(i, family="counting", dimension="spatial_geometric") for i in range(60)]
    choice = ChoiceAnswer(options=("a", "b"), answer="A")
    rows += [
        sample(100 + i, family="temporal", dimension="physical_causal", answer=choice)
        for i in range(2)
    ]
    rows += [clip(200, (0.0, 50.0), family="counting", dimension="spatial_geometric")]
    rows += [sample(300, family="planning", answer=OpenAnswer(reference="take the cup"))]
    chosen = choose(read_index(write_pool(tmp_path, rows)), RECIPE, 20)
    assert len(chosen.main) == 20 and all(e.span_s <= 32 for e in chosen.main)
    asked = {e.id for e in [*chosen.main, *chosen.extra]}
    assert {"s00100", "s00101", "s00200"} <= asked and "s00300" not in asked
    assert chosen.unscored == 1


def test_answers_are_kept_and_more_are_added(tmp_path: Path) -> None:
    index = read_index(write_pool(tmp_path / "pool", [sample(i) for i in range(2 * PART)]))
    entries = choose(index, RECIPE, 2 * PART).main
    engine = Scripted()
    first = probe(tmp_path / "kept", minutes=0).ask(
        "pool", index, entries, lambda: engine, attempts=2, until=1.0
    )
    assert len(first) == PART and engine.asked == 3 * PART  # a part is begun whatever the time
    again = probe(tmp_path / "kept").ask(
        "pool", index, entries, lambda: engine, attempts=2, until=1.0
    )
    assert len(again) == 2 * PART and engine.asked == 6 * PART
    assert again[:PART] == first
    (damaged, *_) = sorted((tmp_path / "kept").iterdir())
    damaged.write_bytes(b"{")
    mended = probe(tmp_path / "kept").ask(
        "pool", index, entries, lambda: engine, attempts=2, until=1.0
    )
    assert mended == again and engine.asked == 9 * PART
    right = [one for one in again if one.successes]
    assert right and all(one.greedy.whole and one.greedy.success for one in right)


def run(model: Path, pool: Path, **changes: object) -> None:
    given: dict[str, object] = {
        "teacher": str(model),
        "general": None,
        "samples": 6,
        "tries": 2,
        "minutes": 60.0,
        "as_json": False,
        "output": None,
    }
    overrides = ["rollout.sampling.max_tokens=8 eval.sampling.max_tokens=8"]
    print_premises(str(model), str(pool), "tiny", overrides, **{**given, **changes})  # type: ignore[arg-type]


def test_the_command_on_a_real_model(
    tmp_path: Path,
    twin: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PELICAN_HOME", str(tmp_path))
    pool = write_pool(
        tmp_path / "pool", [sample(i, dimension="spatial_geometric") for i in range(6)]
    )
    around = write_pool(tmp_path / "general", [general(i) for i in range(4)])
    numbers = tmp_path / "out.json"
    run(twin, pool, general=str(around), output=numbers)
    said = capsys.readouterr().out
    assert "P1 does not hold: 0.0 %" in said and "6 questions of 6" in said
    tree = json.loads(numbers.read_text())
    assert [p["name"] for p in tree["premises"]] == ["P1", "P2", "P3", "P4", "P5a", "P5b", "P6"]
    run(twin, pool, general=str(around), as_json=True)
    assert json.loads(capsys.readouterr().out) == tree


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pool": "nowhere"}, "nowhere"),
        ({"model": "nowhere"}, "MODEL nowhere"),
        ({"general": "nowhere"}, "nowhere"),
        ({"teacher": "nowhere"}, "--teacher nowhere"),
        ({"output": Path()}, "--output"),
    ],
)
def test_what_a_person_gets_wrong_is_one_sentence(
    changes: dict[str, object],
    said: str,
    tmp_path: Path,
    twin: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PELICAN_HOME", str(tmp_path))
    rows = [sample(i, dimension="spatial_geometric") for i in range(2)]
    pool = Path(str(changes.pop("pool", write_pool(tmp_path / "pool", rows))))
    model = Path(str(changes.pop("model", twin)))
    with pytest.raises(UserInputError, match=said) as caught:
        run(model, pool, **changes)
    assert "\n" not in str(caught.value)


def test_a_pool_of_unreadable_pictures_is_one_sentence(
    tmp_path: Path, twin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PELICAN_HOME", str(tmp_path))
    pool = write_pool(tmp_path / "pool", [sample(i, images=(b"no picture",)) for i in range(3)])
    with pytest.raises(UserInputError, match="none of 3 questions"):
        run(twin, pool)

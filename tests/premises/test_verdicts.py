"""Each premise on made answers: where it holds, where not, and where so many questions can't tell."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelican.config.presets import find_recipe
from pelican.premises.probe import Asked, Attempt, Kind, Taught
from pelican.premises.verdicts import Evidence, Measure, Premises, Verdict, judge, kinds_of

RIGHT, WRONG = "7", "8"


def attempt(right: bool, *, thought: bool = True, answer: str = "") -> Attempt:
    return Attempt(
        success=right,
        task=float(right),
        whole=thought,
        think_chars=40 if thought else 0,
        cut=False,
        answer=answer or (RIGHT if right else WRONG),
    )


def question(
    number: int,
    rights: int,
    of: int = 16,
    *,
    greedy: bool | None = None,
    chance: float = 0.0,
    **more,
) -> Asked:
    """`rights` of the drawn answers are right; the wrong ones differ unless `wrong` names one."""
    wrong = more.pop("wrong", None)
    thoughts = more.pop("thoughts", lambda right: True)
    drawn = [
        attempt(
            i < rights, thought=thoughts(i < rights), answer="" if i < rights else wrong or f"w{i}"
        )
        for i in range(of)
    ]
    values = {
        "id": f"q{number}",
        "family": "counting",
        "dimension": "quantitative_numerical",
        "kind": "count",
        "scene": f"scene{number}",
        "chance": chance,
        "later": False,
        "extra": False,
        "greedy": attempt(rights > of / 2 if greedy is None else greedy),
        "drawn": drawn,
    }
    return Asked.model_validate(values | more)


def found(
    asked: Sequence[Asked],
    *overrides: str,
    taught: Sequence[Taught] | None = None,
    general: Sequence[Asked] = (),
    pool: dict[Kind, int] | None = None,
) -> Premises:
    kinds = kinds_of((a.family, a.dimension, a.kind, a.later) for a in asked)
    recipe = find_recipe("tiny", overrides)
    rows = pool or {kind: 100 * n for kind, n in kinds.items()}
    return judge(Evidence(asked, general, taught, rows, 0, recipe))


def verdict(premises: Premises, name: str) -> Verdict:
    return next(p for p in premises.premises if p.name == name)


def tries(rights: int, n: int = 60) -> list[Taught]:
    return [
        Taught(id=f"q{i}", scene=f"scene{i}", tries=[attempt(k < rights) for k in range(4)])
        for i in range(n)
    ]


HARD = [question(i, 0) for i in range(60)] + [question(100 + i, 16) for i in range(140)]
UNSTEADY = [question(i, 6, greedy=False) for i in range(80)] + [
    question(100 + i, 16) for i in range(100)
]
# Right as often as wrong, but always the same wrong answer: the mode is wrong.
DOUBT = [question(i, 5, greedy=False, wrong="w") for i in range(80)] + [
    question(100 + i, 16) for i in range(100)
]


def test_answers_without_a_thought_are_no_reasoning() -> None:
    mute = [question(i, 8, thoughts=lambda right: False) for i in range(100)]
    assert verdict(found(mute), "P1").verdict == "does not hold"
    assert verdict(found(UNSTEADY), "P1").verdict == "holds"
    assert verdict(found(UNSTEADY[:5]), "P1").verdict == "can't be told"


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (UNSTEADY, "holds"),
        (DOUBT, "does not hold"),
        (UNSTEADY[:4], "can't be told"),
        ([question(i, 16) for i in range(100)], "does not hold"),  # nothing left to win
        ([question(i, 8, kind="points") for i in range(100)], "can't be told"),  # nobody can vote
    ],
)
def test_headroom_is_skill_if_a_vote_finds_it(asked: list[Asked], expected: str) -> None:
    assert verdict(found(asked), "P2").verdict == expected


def test_guessing_is_not_practice() -> None:
    guessed = verdict(found([question(i, 4, chance=0.25) for i in range(100)]), "P2").measures
    by_name = {m.name: m.value for m in guessed}
    assert by_name["mixed in 8"] > 0.9
    assert by_name["mixed beyond guessing"] == 0


@pytest.mark.parametrize(
    ("asked", "taught", "expected"),
    [
        (HARD, tries(4), "holds"),
        (HARD, tries(2), "does not hold"),
        (HARD, tries(4, n=3), "can't be told"),
        (HARD, None, "can't be told"),
        (HARD, [], "can't be told"),
        (HARD[60:], None, "does not hold"),  # nothing is missing, whatever a teacher knows
        ([question(i, 0, chance=0.25) for i in range(100)], tries(4), "does not hold"),
    ],
)
def test_concepts_are_missing_if_the_teacher_has_them(
    asked: list[Asked], taught: list[Taught] | None, expected: str
) -> None:
    assert verdict(found(asked, taught=taught), "P3").verdict == expected


def test_a_rare_weak_kind_is_work_for_a_later_loop() -> None:
    rare = [question(500 + i, 0, kind="text", extra=True) for i in range(20)]
    kind = {False: ("counting", "quantitative_numerical", "count", False)}
    text = ("counting", "quantitative_numerical", "text", False)
    few, many = {kind[False]: 10_000, text: 8}, {kind[False]: 10_000, text: 4_000}
    assert verdict(found(HARD + rare, pool=few), "P4").verdict == "holds"
    assert verdict(found(HARD + rare, pool=many), "P4").verdict == "does not hold"
    unmet = {("planning", "decision_planning", f"kind {i}", False): 10 for i in range(9)}
    for pool in (few, many):  # what no question is of may be what loop 1 misses
        assert verdict(found(HARD + rare, pool=pool | unmet), "P4").verdict == "can't be told"
    long = ("counting", "quantitative_numerical", "count", True)
    assert verdict(found(HARD, pool={kind[False]: 600, long: 400}), "P4").verdict == "holds"


def test_prompts_are_plentiful_if_none_is_drawn_twice() -> None:
    pool = {("counting", "quantitative_numerical", "count", False): 50_000}
    assert verdict(found(UNSTEADY, pool=pool), "P5a").verdict == "does not hold"
    many = "data.samples_per_loop=20000"
    assert verdict(found(UNSTEADY, many, pool=pool), "P5a").verdict == "holds"


def test_the_teacher_is_scarce_if_it_answers_less_than_the_weak() -> None:
    pool = {("counting", "quantitative_numerical", "count", False): 50_000}
    assert verdict(found(HARD, pool=pool), "P5b").verdict == "does not hold"
    # Nothing is weak, and nothing is asked of it but replay.
    nothing = verdict(found([question(i, 16) for i in range(50)], pool=pool), "P5b")
    assert nothing.verdict != "holds"
    assert all(m.value < float("inf") for m in nothing.measures)


def test_forgetting_shows_where_the_model_is_good_in_its_own_style() -> None:
    good = [question(i, 15, family="general", chance=0.2) for i in range(100)]
    bad = [question(i, 4, family="general", greedy=i % 4 == 0, chance=0.2) for i in range(100)]
    # Right whenever it thinks, and it seldom does: a change of style would raise the score.
    shy = [
        question(i, 4, family="general", greedy=True, thoughts=lambda right: right)
        for i in range(100)
    ]
    assert verdict(found(HARD, general=good), "P6").verdict == "holds"
    assert verdict(found(HARD, general=bad), "P6").verdict == "does not hold"
    assert verdict(found(HARD, general=shy), "P6").verdict == "does not hold"
    assert verdict(found(HARD), "P6").verdict == "can't be told"


def test_what_would_pay_follows_from_the_premises() -> None:
    pool = {("counting", "quantitative_numerical", "count", False): 50_000}
    plenty = found(UNSTEADY, "data.samples_per_loop=20000", pool=pool)
    assert {p.name: p.verdict for p in plenty.phases}["RL"] == "would pay"
    short = next(p for p in found(UNSTEADY, pool=pool).phases if p.name == "RL")
    assert short.verdict == "would not pay" and "by heart" in short.because
    doubt = next(p for p in found(DOUBT, pool=pool).phases if p.name == "RL")
    assert doubt.verdict == "would not pay" and "luck" in doubt.because
    taught = {p.name: p.verdict for p in found(HARD, taught=tries(4), pool=pool).phases}
    assert taught["SFT from the teacher"] == "would pay"


@given(
    st.lists(st.tuples(st.integers(0, 16), st.floats(0, 1), st.booleans()), min_size=1, max_size=30)
)
def test_any_answers_give_verdicts_that_are_json(rows: list[tuple[int, float, bool]]) -> None:
    asked = [
        question(i, rights, chance=chance, greedy=greedy)
        for i, (rights, chance, greedy) in enumerate(rows)
    ]
    premises = found(asked, general=asked[:2], taught=tries(1, n=2))
    assert Premises.model_validate_json(premises.model_dump_json()) == premises
    assert len(premises.premises) == 7
    for one in premises.premises:
        for measure in one.measures:
            assert measure.low <= measure.value + 1e-9 and measure.value <= measure.high + 1e-9


def test_a_verdict_is_of_the_interval_and_not_of_the_point() -> None:
    near = Measure(name="m", value=0.96, low=0.93, high=0.98, n=200)
    assert near.at_least(0.95) == near.at_most(0.95) == "can't be told"
    assert near.at_least(0.9) == "holds" and near.at_least(0.99) == "does not hold"

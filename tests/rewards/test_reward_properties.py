"""What holds for every completion: bounds, no exception, no gain from known hacks."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelican.errors import UserInputError
from pelican.records import (
    Answer,
    BoxAnswer,
    ChoiceAnswer,
    CountAnswer,
    DistanceAnswer,
    Family,
    IntervalAnswer,
    OpenAnswer,
    OrderAnswer,
    PointsAnswer,
    StepsAnswer,
    TextAnswer,
    YesNoAnswer,
)
from pelican.rewards import score
from pelican.rewards.families import FAMILIES
from tests.hostile import ends_at_once
from tests.rewards.samples import CONFIG, asking, graded, rectangle, wrap

OPTIONS = ("red cup", "blue cup", "bowl", "plate")
ANSWERS: dict[str, Answer] = {
    "points": PointsAnswer(mask=rectangle(20, 10, 60, 30)),
    "box": BoxAnswer(box=(10, 10, 40, 30)),
    "count": CountAnswer(value=3),
    "distance": DistanceAnswer(value=30),
    "choice": ChoiceAnswer(options=OPTIONS, answer="B"),
    "yes_no": YesNoAnswer(value=False),
    "order": OrderAnswer(items=("cup", "bowl", "plate")),
    "interval": IntervalAnswer(start=2, end=6),
    "steps": StepsAnswer(steps=("pick cup", "move to shelf", "place cup")),
    "text": TextAnswer(value="red cup"),
    "open": OpenAnswer(reference="it fell"),
}
RIGHT = {
    "points": "(30, 40)",
    "box": "[10, 10, 40, 30]",
    "count": "3 cups",
    "distance": "30 cm",
    "choice": "blue cup",
    "yes_no": "no",
    "order": "cup; bowl; plate",
    "interval": "2 to 6 s",
    "steps": "pick cup; move to shelf; place cup",
    "text": "red cup",
}
# Every rule once, by a family that has it and the kind that it scores.
RULES = {
    rule: (family, kind) for family, rules in FAMILIES.items() for kind, rule in rules.items()
}.values()
each_rule = pytest.mark.parametrize(("family", "kind"), RULES)
pieces = st.sampled_from(
    [
        "<think>",
        "</think>",
        "<answer>",
        "</answer>",
        "\\boxed{",
        "}",
        "(",
        ")",
        "[",
        "]",
        ",",
        ";",
        ">",
        "->",
        "-",
        ".",
        ":",
        "1",
        "23",
        "4.5",
        "-6",
        "1e9",
        ".5",
        "0:08",
        "A",
        "B",
        "Z",
        "a)",
        "yes",
        "no",
        "cup",
        "bowl",
        "red",
        "cm",
        "m",
        "in",
        "ft",
        "'",
        '"',
        "min",
        "s",
        "three",
        "one",
        "The",
        "answer",
        "is",
        "**",
        "$",
        "{",
        "\n",
        "�",
        "\x00",
        "٣",
        "½",
        "²",
    ]
)
texts = (
    st.text(max_size=80)
    | st.lists(pieces, max_size=25).map(" ".join)
    | st.lists(pieces, max_size=25).map("".join)
)


@settings(max_examples=1500, deadline=None)
@given(st.sampled_from([*RULES]), texts, st.booleans())
def test_any_completion_gets_a_score_in_bounds(
    rule: tuple[Family, str], text: str, tagged: bool
) -> None:
    family, kind = rule
    completion = wrap(text) if tagged else text
    found = score(asking(ANSWERS[kind], family), completion, CONFIG, judge=None)
    assert 0 <= found.task <= 1 and 0 <= found.reward <= 1 and found.format in (0, 1)
    assert bool(found.reason) == (found.task == 0)
    found.model_dump_json()


@pytest.mark.parametrize("digits", [400, 5000, 7900])
@each_rule
def test_a_number_without_end_is_no_exception(family: Family, kind: str, digits: int) -> None:
    n = "9" * digits
    for text in (
        n,
        f"({n}, {n})",
        f"[1, 1, {n}, {n}]",
        f"1 to {n} s",
        f"{n}:59 - {n}:59",
        f"1e{n}",
    ):
        assert graded(ANSWERS[kind], text, family).task <= 0.5


@each_rule
@pytest.mark.parametrize(
    "unit", ["(", "1,", "a ", "<answer>", "\\boxed{", "1. ", "- ", "{", "0:", "A) "]
)
def test_long_and_nested_text_is_read_in_linear_time(family: Family, kind: str, unit: str) -> None:
    text = unit * (7900 // len(unit))
    assert ends_at_once(lambda: graded(ANSWERS[kind], text, family))
    assert ends_at_once(lambda: score(asking(ANSWERS[kind], family), text * 4, CONFIG))


@given(st.sampled_from(sorted(RIGHT)), st.sampled_from([str.upper, str.lower, str.title]))
def test_case_does_not_matter(kind: str, change: object) -> None:
    assert callable(change)
    assert graded(ANSWERS[kind], change(RIGHT[kind])).task == 1


@given(st.sampled_from(sorted(RIGHT)), st.text(" \n\t", max_size=4), st.text(" \n\t", max_size=4))
def test_space_around_does_not_matter(kind: str, before: str, after: str) -> None:
    assert graded(ANSWERS[kind], before + RIGHT[kind] + after).task == 1


# --- hacks ------------------------------------------------------------------------------------


def test_a_box_around_everything_gets_what_it_covers() -> None:
    assert graded(ANSWERS["box"], "[0, 0, 100, 100]").task == pytest.approx(0.06)
    assert graded(ANSWERS["points"], "[0, 0, 100, 100]", Family.AFFORDANCE).task == 0


@given(st.integers(2, 20))
def test_a_grid_of_points_gets_at_most_the_masks_share(n: int) -> None:
    half = PointsAnswer(mask=rectangle(0, 0, 50, 50))
    spots = [(100 * (i + 0.5) / n, 100 * (j + 0.5) / n) for i in range(n) for j in range(n)]
    text = ", ".join(f"({x:.2f}, {y:.2f})" for x, y in spots)
    assert graded(half, text).task <= 0.5
    if n > 3:
        assert graded(half, text).reason.startswith("refused")


@given(st.integers(1, 9))
def test_repeating_a_sure_point_gains_nothing(times: int) -> None:
    text = ", ".join(["(30, 40)"] * times + ["(90, 90)"])
    assert graded(ANSWERS["points"], text).task == 0.5


@given(
    st.lists(st.sampled_from("ABCD"), min_size=2, unique=True),
    st.sampled_from(
        [
            " ",
            ", ",
            " or ",
            " and ",
            "/",
            ";",
            "\n",
            " then ",
            ") ",
            ". ",
            " | ",
            " is not ",
            " maybe ",
            "-",
            "+",
        ]
    ),
    st.booleans(),
)
def test_several_letters_never_pay(letters: list[str], separator: str, lower: bool) -> None:
    text = separator.join(letters) + (")" if separator == ") " else "")
    assert graded(ANSWERS["choice"], text.lower() if lower else text).task == 0


@given(st.permutations(OPTIONS), st.sampled_from([", ", "; ", " or ", "\n"]), st.integers(2, 4))
def test_several_options_never_pay(options: list[str], separator: str, n: int) -> None:
    assert graded(ANSWERS["choice"], separator.join(options[:n])).task == 0


@given(
    st.lists(st.integers(0, 12), min_size=2, unique=True), st.sampled_from([" ", ", ", " or ", "-"])
)
def test_several_numbers_never_pay(numbers: list[int], separator: str) -> None:
    text = separator.join(map(str, numbers))
    assert graded(ANSWERS["count"], text).task == 0
    assert graded(ANSWERS["distance"], separator.join(str(10 * n) for n in numbers)).task == 0


@given(st.integers(2, 30))
def test_repeated_steps_never_pay(times: int) -> None:
    once = RIGHT["steps"]
    assert graded(ANSWERS["steps"], "; ".join([once] * times)).task == pytest.approx(1 / times)
    assert graded(ANSWERS["order"], "; ".join([RIGHT["order"]] * times)).task == 0


@given(st.text(" \n\t.…-\u200b", max_size=20))
def test_empty_thinking_is_not_paid(think: str) -> None:
    assert score(asking(ANSWERS["count"]), wrap("3", think), CONFIG).format == 0


@given(st.floats(0, 100), st.floats(0, 100))
def test_the_true_span_beats_any_other(a: float, b: float) -> None:
    text = f"{min(a, b):.2f} to {max(a, b):.2f} s"
    assert graded(ANSWERS["interval"], text).task <= 1
    assert graded(ANSWERS["interval"], "0 to 1000 s").task < 0.01


# --- families, flips, speed -------------------------------------------------------------------


def test_a_family_without_a_reward_for_the_kind_says_so() -> None:
    with pytest.raises(
        UserInputError, match=r"family success has no reward .* 'steps'.*families.py"
    ):
        graded(ANSWERS["steps"], "pick", Family.SUCCESS)


def test_every_family_takes_the_closed_kinds() -> None:
    for family in Family:
        assert {"choice", "yes_no", "count", "text"} <= set(FAMILIES[family])


def test_a_mask_that_cannot_be_decoded_names_the_sample() -> None:
    from pelican.records import Mask

    broken = PointsAnswer(mask=Mask(size=(4, 4), counts="ü"))
    with pytest.raises(UserInputError, match=r"s00001.*mask of 4 x 4"):
        graded(broken, "(1, 1)")


def test_flips_are_a_share_and_the_same_every_time() -> None:
    config = CONFIG.model_copy(update={"flip": 0.25})
    sample = asking(ANSWERS["count"])
    one = [score(sample, wrap("3"), config, index=i, seed=7) for i in range(4000)]
    again = [score(sample, wrap("3"), config, index=i, seed=7) for i in range(4000)]
    other = [score(sample, wrap("3"), config, index=i, seed=8) for i in range(4000)]
    assert one == again and one != other
    flipped = [s for s in one if s.task == 0]
    assert abs(len(flipped) / 4000 - 0.25) < 0.03
    assert all(s.reason == "flipped" and s.reward == pytest.approx(0.1) for s in flipped)


def test_a_flip_pays_a_wrong_answer_and_a_larger_share_keeps_the_smaller() -> None:
    sample = asking(ANSWERS["count"])

    def paid(share: float) -> set[int]:
        config = CONFIG.model_copy(update={"flip": share})
        scores = [score(sample, wrap("4"), config, index=i) for i in range(500)]
        assert all((s.task == 1) == (s.reason == "") for s in scores)
        return {i for i, s in enumerate(scores) if s.success}

    assert paid(0.0) == set()
    assert paid(0.1) < paid(0.25) < paid(0.5)
    assert len(paid(1.0)) == 500

"""Every benchmark's rule against cases worked by hand; the source of a rule is its module's.

Among them: ties, empty answers, several answers, wrong units, and the oddities of the published
code that a cleaner rule would not have.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pelican.evaluation.published import BENCHMARKS, TWELVE
from pelican.evaluation.published.base import (
    Context,
    Graded,
    Picture,
    Question,
    final_reply,
    listed_letter,
)
from pelican.evaluation.published.vsibench import relative_accuracy

NOWHERE = Context(Path("."))


def png(value: int = 255) -> Picture:
    """10 x 10 pixels; inside are the columns 2 to 5 and the rows 3 to 6, 16 pixels."""
    pixels = np.zeros((10, 10), np.uint8)
    pixels[3:7, 2:6] = value
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return Picture(data=out.getvalue())


def graded(name: str, question: Question, completion: str, context: Context = NOWHERE) -> float:
    return BENCHMARKS[name].grade(question, final_reply(completion), context).value


def asking(truth: str, group: str = "g", mask: Picture | None = None) -> Question:
    options = ("A. peels", "B. washes", "C. cuts", "D. eats", "E. rests")
    return Question("q", "?", (Picture(b"-"),), truth, group, options=options, mask=mask)


SQUARE = "[(0.2, 0.2), (0.6, 0.2), (0.6, 0.6), (0.2, 0.6)]"
DISTANCE, CHOICE = "object_abs_distance", "route_planning"

# name -> (truth or the question's group and truth, completion, value)
CASES: dict[str, list[tuple[str, str, float]]] = {
    "vsibench": [
        # |p - g| / g against 1 - threshold for .50, .55, … .95
        (f"{DISTANCE} 10", "10", 1.0),
        (f"{DISTANCE} 10", "15", 0.1),  # 0.5 <= 0.5, a tie that counts
        (f"{DISTANCE} 10", "15.1", 0.0),
        (f"{DISTANCE} 10", "11", 0.9),  # 0.1 <= 1 - .90, .50 to .90
        (f"{DISTANCE} 10", "10.5", 1.0),  # 0.05 <= 1 - .95 holds by a hair
        (f"{DISTANCE} 10", "12", 0.6),  # 0.2 <= 1 - .80 fails by a hair in floats, as published
        (f"{DISTANCE} 3", "3 meters", 1.0),
        (f"{DISTANCE} 3", "300 cm", 0.0),  # units are not read
        (f"{DISTANCE} 3", "3m", 0.0),
        (f"{DISTANCE} 3", "about 3", 0.0),  # the first word
        (f"{DISTANCE} 3", "3. Or 4.", 1.0),  # of several the first
        (f"{DISTANCE} 3", "three", 0.0),
        (f"{DISTANCE} 3", "nan", 0.0),
        (f"{DISTANCE} 3", "", 0.0),
        (f"{CHOICE} B", "B", 1.0),
        (f"{CHOICE} B", "b. left", 1.0),
        (f"{CHOICE} B", "The answer is B", 0.0),
        (f"{CHOICE} B", "(B)", 0.0),
        (f"{CHOICE} B", "B\nbecause", 0.0),  # words end at spaces only
        (f"{CHOICE} B", "A B", 0.0),
        (f"{CHOICE} B", "", 0.0),
        (f"{CHOICE} B", "<think>A?</think><answer>B</answer>", 1.0),
    ],
    "where2place": [
        ("mask", "[(0.25, 0.45)]", 1.0),
        ("mask", "[(0.25, 0.45), (0.9, 0.9)]", 0.5),
        ("mask", "(0.25, 0.45), (0.9, 0.9), (0.3, 0.5), (0.3, 0.5)", 0.75),  # twice counts twice
        ("mask", "(3, 5)", 1.0),  # whole numbers are pixels
        ("mask", "(25, 45)", 0.0),  # per cent are pixels too, outside the frame
        ("mask", "(0.25, 0.45) (1.2, 0.5)", 0.5),  # outside the frame counts 0
        ("mask", "(0.6, 0.5)", 0.0),  # column 6 is the first outside
        ("mask", "(0.599, 0.699)", 1.0),
        ("mask", "(1.0, 1.0)", 0.0),  # pixel 10 of 0 to 9
        ("mask", "(0.2, 0.3, 0.6, 0.7)", 1.0),  # a box is all its pixels
        ("mask", "(0, 0, 10, 10)", 0.16),
        ("mask", "(2, 3, 20, 20)", 16 / 56),  # cut at the frame
        ("mask", "(-5, 0, 10, 10)", 0.08),  # a slice: column -5 is the fifth from the end
        ("mask", "(1, 2.5, 3, 4) (3, 5)", 0.0),  # the published code fails
        ("mask", "(6, 7, 2, 3)", 0.0),  # an empty box has none
        ("mask", "[0.25, 0.45]", 0.0),  # only round brackets
        ("mask", '<point x="25" y="45" alt="a">a</point>', 0.0),
        ("mask", '[{"point": [450, 250]}]', 0.0),
        ("mask", "in the middle", 0.0),
        ("mask", "", 0.0),
    ],
    "refspatial": [
        ("mask", "[(0.25, 0.45)]", 1.0),
        ("mask", "(0.25, 0.45) (0.9, 0.9)", 0.5),
        ("mask", "(3, 5)", 1.0),
        ("mask", "(0.25, 5)", 0.0),  # one decimal point makes both shares: y = 50
        ("mask", "(0.2, 0.3, 0.6, 0.7)", 1.0),
        ("mask", "(0, 0, 10, 10)", 0.0016),  # a box is always shares: 100 x 100, 16 inside
        ("mask", "( 0.25, 0.45)", 0.0),  # no space after the bracket
        ("mask", "[[25, 45]]", 0.0),
        ("mask", "", 0.0),
        ("mask", "(0.6, 0.5)", 0.0),  # column 6 is the first outside
        ("mask", "(25, 45)", 0.0),  # per cent are pixels, outside the frame
        ("mask", "(0.6, 0.7, 0.2, 0.3) (3, 5)", 0.0),  # the published code fails
        # Molmo: percent
        ("mask", '<points x1="25.0" y1="45.0" x2="90" y2="90" alt="a">a</points>', 0.5),
        ("mask", '<point x="25.0" y="45.0" alt="a">a (3, 5)</point>', 1.0),
        ("mask", '<point x="0.3" y="0.5" alt="a">a</point>', 0.0),
        ("mask", '<points coords="1 1 250 450" alt="a">a</points>', 1.0),
        # Gemini: y, x in thousandths; point_2d is x, y
        ("mask", '```json\n[{"point": [450, 250], "label": "a (9, 9)"}]\n```', 1.0),
        ("mask", '[{"point": [450, 250]}, {"point": [900, 900]}]', 0.5),
        ("mask", '[{"point": [650, 250]}]', 1.0),
        ("mask", '[{"point": [250, 650]}]', 0.0),
        ("mask", '{"point_2d": [250, 650]}', 1.0),
        ("mask", '{"point_2d": [0.25, 0.65]}', 1.0),
        ("mask", '{"points": [(0.25, 0.45)]}', 1.0),  # tuples are no JSON
        ("mask", '{"bbox_2d": [200, 300, 600, 700]}', 0.0),
        ("mask", '```json\n[{"point": [1e999, 250]}]\n```', 0.0),
    ],
    "robospatial": [
        ("Yes", "Yes, it fits.", 1.0),
        ("Yes", "I think yes", 0.0),
        ("Yes", "", 0.0),
        ("Yes", "no, yes", 0.0),
        ("No", "No.", 1.0),
        ("No", "not sure", 1.0),  # a prefix is enough
        (SQUARE, "[(0.4, 0.4)]", 1.0),
        (SQUARE, "[(0.9, 0.9), (0.4, 0.4)]", 0.0),  # only the first counts
        (SQUARE, "[0.4, 0.4]", 1.0),
        (SQUARE, "[.4, .4]", 1.0),
        (SQUARE, "[0.4, 0.4] or (0.9, 0.9)", 0.0),  # round brackets are looked for first
        (SQUARE, "(40, 40)", 0.0),  # per cent
        (SQUARE, '[("0.4", 0.4)]', 1.0),  # a number in quotes
        (SQUARE, "[True, 0]", 0.0),
        (SQUARE, "(0.2, 0.4)", 1.0),  # on the left edge is inside
        (SQUARE, "(0.6, 0.4)", 0.0),  # on the right edge is not
        (SQUARE, "[(-0.4, 0.4)]", 0.0),
        (SQUARE, "left of the cup", 0.0),
        (SQUARE, "", 0.0),
    ],
    "erqa": [
        ("A", "A", 1.0),
        ("A", "a.", 1.0),
        ("A", " A . ", 1.0),
        ("A", "(A)", 0.0),
        ("A", "A and B", 0.0),
        ("A", "A.B", 0.0),
        ("A", "The answer is A", 0.0),
        ("A", "", 0.0),
        ("C", "I see.</think><answer>C</answer>", 1.0),
        ("B", "2", 0.0),  # a number is no letter
        ("A", "A or B", 0.0),
    ],
    "egoschema": [
        ("B", "B", 1.0),
        ("C", "(C)", 1.0),
        ("D", "The answer is D.", 1.0),
        ("A", "A or B", 1.0),  # of several the first
        ("A", "B then A then B", 1.0),  # by each one's last mention
        ("B", "b", 0.0),
        ("A", "on CAMERA", 1.0),  # a word that ends in a capital A
        ("B", "he does nothing of the kind here", 0.0),
        ("A", "", 0.0),
        ("B", "2", 0.0),
    ],
    "mvbench": [
        ("B", "(B) red", 1.0),
        ("B", "b. red", 1.0),
        ("C", "The best option is (C).", 1.0),
        ("B", "B, C", 1.0),
        ("B", "B,C", 1.0),
        ("A", "It is a cat (B)", 1.0),  # the article is taken for A
        ("B", "It is a cat (B)", 0.0),
        ("D", "I'd say E", 1.0),  # so is what follows an apostrophe
        ("A", "AB", 0.0),
        ("A", "F", 0.0),
        ("A", "1,2; A", 1.0),
        ("A", "", 0.0),
        ("B", "A B", 0.0),  # the first that stands alone
        ("B", "2", 0.0),
    ],
    "phyx": [
        ("D", "The correct option is D.", 1.0),
        ("B", "B", 1.0),
        ("C", "c", 1.0),
        ("C", "Answer: C", 1.0),
        ("B", "A: 5 N\nB: 7 N", 1.0),  # the last label
        ("B", "Correct answer: B or C", 1.0),  # the first after the word
        ("B", "ANSWER B", 0.0),  # the word in capitals is not looked for
        ("C", "**C**", 1.0),
        ("C", "50 cm", 0.0),  # a value is not an option
        ("B", "The answer is A; B: 7 N", 1.0),  # without a judge
        ("A", "", 0.0),
    ],
    "omnispatial": [
        ("B", "It is left.\nAnswer: B", 1.0),
        ("B", "Answer: A, no. Answer: B", 1.0),  # the last
        ("B", "answer: b", 0.0),  # read, but compared with a capital
        ("B", "B", 0.0),
        ("B", "<answer>B</answer>", 1.0),
        ("B", "<answer>Answer: B</answer>", 1.0),
        ("A", "Answer: E", 0.0),  # upstream this is A
        ("A", "", 0.0),  # and so is this
        ("A", "Answer: A Answer: B", 0.0),
        ("B", "Answer: 2", 0.0),
    ],
    "blink": [
        ("B", "B", 1.0),
        ("B", "(B) left", 1.0),
        ("B", "b)", 1.0),
        ("B", "The answer is B", 0.0),  # T
        ("A", "A or B", 1.0),
        ("A", "1. A", 0.0),
        ("A", "", 0.0),
        ("A", "B or A", 0.0),
        ("B", "2", 0.0),
    ],
    "embspatial": [
        ("C", "C", 1.0),
        ("C", " ( C ) the table", 1.0),
        ("C", "c.", 1.0),
        ("C", "Close: C", 1.0),  # the first letter of a word
        ("C", "The table", 0.0),
        ("C", "A, C", 0.0),
        ("C", "", 0.0),
        ("C", "C, A", 1.0),
        ("C", "3", 0.0),
    ],
    "cosmos": [
        ("B", "<think>A or C?</think> <answer>B</answer>", 1.0),
        ("B", "<answer>(B) left</answer>", 1.0),
        ("B", "<answer>b</answer>", 0.0),
        ("B", "The answer is B", 0.0),  # T
        ("B", "answer: B", 1.0),
        ("A", "A or B", 1.0),
        ("A", "<answer></answer> A", 0.0),
        ("A", "<think>A", 0.0),  # a thought that never ended
        ("A", "", 0.0),
        ("A", "B or A", 0.0),
        ("B", "2", 0.0),
    ],
    "mmstar": [
        ("B", "B", 1.0),
        ("C", "(c) red", 1.0),
        ("A", "Option A", 1.0),
        ("D", "The answer is D", 1.0),
        ("B", "Because", 1.0),  # the first character
        ("B", "answer: B", 0.0),  # A
        ("B", "B or C", 1.0),
        ("A", "(", 0.0),
        ("A", "", 0.0),
    ],
}

# Where rules go wrong: a tie or an edge, several answers, and an answer in another unit (of length,
# of the grid, or a number for a letter). Each stands in CASES above.
HARD = {
    "vsibench": ("15", "3. Or 4.", "300 cm"),
    "where2place": ("(0.6, 0.5)", "[(0.25, 0.45), (0.9, 0.9)]", "(25, 45)"),
    "refspatial": ("(0.6, 0.5)", "(0.25, 0.45) (0.9, 0.9)", "(25, 45)"),
    "robospatial": ("(0.2, 0.4)", "[(0.9, 0.9), (0.4, 0.4)]", "(40, 40)"),
    "erqa": ("A or B", "A and B", "2"),
    "egoschema": ("B then A then B", "A or B", "2"),
    "mvbench": ("A B", "B, C", "2"),
    "phyx": ("A: 5 N\nB: 7 N", "Correct answer: B or C", "50 cm"),
    "omnispatial": ("Answer: A Answer: B", "Answer: A, no. Answer: B", "Answer: 2"),
    "blink": ("B or A", "A or B", "2"),
    "embspatial": ("C, A", "A, C", "3"),
    "cosmos": ("B or A", "A or B", "2"),
}


@pytest.mark.parametrize(
    ("name", "truth", "completion", "value"),
    [(name, *case) for name, cases in CASES.items() for case in cases],
)
def test_a_reply_is_graded_as_published(
    name: str, truth: str, completion: str, value: float
) -> None:
    group, truth = truth.split(" ") if name == "vsibench" else ("g", truth)
    mask = png() if truth == "mask" else None
    assert graded(name, asking(truth, group, mask), completion) == pytest.approx(value)


def test_every_benchmark_has_six_cases_or_more() -> None:
    assert len(TWELVE) == 12
    for benchmark in TWELVE:
        assert len(CASES[benchmark.name]) >= 6
        completions = {completion for _, completion, _ in CASES[benchmark.name]}
        assert {"", *HARD[benchmark.name]} <= completions


def test_grey_masks_count_by_their_value_in_where2place_only() -> None:
    question = asking("mask", mask=png(51))
    assert graded("where2place", question, "(3, 5)") == pytest.approx(0.2)
    assert graded("refspatial", question, "(3, 5)") == 1.0


def test_a_box_without_bounds_is_refused_and_not_computed() -> None:
    grade = BENCHMARKS["refspatial"].grade(
        asking("mask", mask=png()),
        final_reply("(0.0, 0.0, 9e9, 9)(0.0, 0.0, 99999.0, 9.0)"),
        NOWHERE,
    )
    assert (grade.value, grade.reason.split(":")[0]) == (0.0, "refused")


@pytest.mark.parametrize(
    ("predicted", "truth", "value"),
    [(4.0, 4.0, 1.0), (2.0, 4.0, 0.1), (6.0, 4.0, 0.1), (3.0, 4.0, 0.6), (0.0, 4.0, 0.0)],
)
def test_mean_relative_accuracy(predicted: float, truth: float, value: float) -> None:
    assert relative_accuracy(predicted, truth) == pytest.approx(value)


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("the man in the video washes the dishes", "B"),
        ("the man washes, then he cuts all of it", "B"),  # the first of two texts
        ("he washes it", ""),  # texts count from six words on
    ],
)
def test_an_options_own_text_is_found_in_a_longer_reply(reply: str, letter: str) -> None:
    assert listed_letter(reply, ("peels", "washes", "cuts")) == letter


@pytest.mark.parametrize(
    ("completion", "text", "tagged"),
    [
        ("B", "B", False),
        ("<think>A</think>B", "B", False),
        ("<think>A</think><answer> B </answer> C", "B", True),
        ("<answer>A</answer><answer>B</answer>", "A", True),
        ("<answer>A</answer></think><answer>B", "B", True),
        ("x \\boxed{1} \\boxed{\\text{B}} y", "B", True),
        (" B\n", " B\n", False),  # as the published code gets it
        ("<think>A</think>\n\n**B**\n", "**B**", False),
        ("\\boxed{cut", "cut", True),
        ("<think>so A", "", False),
        ("", "", False),
    ],
)
def test_the_final_answer_of_a_completion(completion: str, text: str, tagged: bool) -> None:
    reply = final_reply(completion)
    assert (reply.text, reply.tagged) == (text, tagged)


# An answer as each benchmark wants it, for a dress to be put on.
RIGHT: dict[str, tuple[str, str]] = {
    "vsibench": (f"{CHOICE} C", "C"),
    "where2place": ("mask", "[(0.25, 0.45)]"),
    "refspatial": ("mask", "[(0.25, 0.45)]"),
    "robospatial": (SQUARE, "(0.4, 0.4)"),
    "omnispatial": ("C", "Answer: C"),
    **dict.fromkeys(
        ("erqa", "egoschema", "mvbench", "phyx", "blink", "embspatial", "cosmos", "mmstar"),
        ("C", "C"),
    ),
}
DRESSED = (
    "<answer>{}</answer>",
    "<answer>\n{}\n</answer>",
    "<answer>\\boxed{{{}}}</answer>",
    "<answer>$\\boxed{{\\text{{{}}}}}$</answer>",
    "<answer>\\[\\boxed{{\\mathrm{{{}}}}}\\]</answer>",
    "<answer>\\text{{{}}}</answer>",
    "<answer>**{}**</answer>",
    "<answer>`{}`</answer>",
    "<answer>\\({}\\)</answer>",
    "\\boxed{{{}}}",
    "So $\\boxed{{\\text{{{}}}}}$.",
    "\\boxed{{\\,\\mathbf{{{}}}\\,}}",
    "\\boxed{{\\boxed{{{}}}}}",
)


@pytest.mark.parametrize("dress", DRESSED)
@pytest.mark.parametrize("name", RIGHT)
def test_dress_is_taken_off_before_the_published_rule_compares(name: str, dress: str) -> None:
    truth, answer = RIGHT[name]
    group, truth = truth.split(" ") if name == "vsibench" else ("g", truth)
    question = asking(truth, group, png() if truth == "mask" else None)
    completion = f"<think>A or B?</think>{dress.format(answer)}"
    assert graded(name, question, completion) == 1.0


@pytest.mark.parametrize("name", ["where2place", "refspatial", "robospatial"])
@pytest.mark.parametrize("reply", ["(" + "11, " * 3000, "(" + "1" * 9000, "[" * 9000, "(1" * 4000])
def test_a_reply_that_makes_a_careless_pattern_run_for_ever(name: str, reply: str) -> None:
    truth = SQUARE if name == "robospatial" else "mask"
    assert graded(name, asking(truth, mask=png()), reply) == 0.0


LIKELY = st.text("()[]{},.:;-+*\\/0123456789ABCDEe answr\n", max_size=40)


@given(LIKELY | LIKELY.map("<answer>{}</answer>".format) | st.text(max_size=40))
@settings(max_examples=60)
def test_no_reply_raises(reply: str) -> None:
    for name in CASES:
        truth = "mask" if name in ("where2place", "refspatial") else "B"
        truths = (
            [SQUARE, "No"] if name == "robospatial" else ["3"] if name == "vsibench" else [truth]
        )
        for one in truths:
            question = asking(one, DISTANCE, png() if one == "mask" else None)
            assert 0.0 <= graded(name, question, reply) <= 1.0


def scores(name: str, *values: tuple[str, float]) -> dict[str, float]:
    return BENCHMARKS[name].scores([Graded(group, value) for group, value in values])


def test_vsibench_takes_the_three_directions_for_one_type() -> None:
    found = scores(
        "vsibench",
        ("object_rel_direction_easy", 1.0),
        ("object_rel_direction_hard", 0.5),
        ("object_counting", 1.0),
        ("object_counting", 0.0),
        ("room_size_estimation", 0.3),
    )
    assert found["object_rel_direction"] == pytest.approx(50.0)  # the missing third counts 0
    assert found["overall"] == pytest.approx((50 + 50 + 30) / 3)
    assert "object_rel_direction" not in scores("vsibench", ("object_counting", 1.0))


@pytest.mark.parametrize("name", ["blink", "robospatial", "refspatial"])
def test_some_overall_scores_are_means_of_groups(name: str) -> None:
    assert scores(name, ("a", 1.0), ("a", 1.0), ("a", 1.0), ("b", 0.0))["overall"] == 50.0


@pytest.mark.parametrize("name", ["mvbench", "mmstar", "phyx", "embspatial", "cosmos", "erqa"])
def test_others_are_means_of_questions(name: str) -> None:
    found = scores(name, ("a", 1.0), ("a", 1.0), ("a", 1.0), ("b", 0.0))
    assert found == {"overall": 75.0, "a": 100.0, "b": 0.0}


@pytest.mark.parametrize(
    ("verdict", "reply", "value"),
    [
        ("5", "a fan", 1.0),
        ("Your mark: 3", "a fan", 0.5),
        ("Fair. Your mark: 4\nIt names it.", "a fan", 0.75),
        ("4.", "a fan", 0.75),
        ("1", "a fan", 0.0),
        ("9", "a fan", 1.0),  # cut to 1 … 5
        ("0", "a fan", 0.0),
        ("good", "a fan", 0.0),
        ("5", "", 0.0),
    ],
)
def test_openeqa_marks(verdict: str, reply: str, value: float) -> None:
    asked: list[str] = []

    def ask(prompt: str, max_tokens: int) -> str:
        asked.append(prompt)
        return verdict

    question = asking("Air conditioner")
    assert graded("openeqa", question, reply, Context(Path("."), ask)) == value
    assert len(asked) == bool(reply)
    assert graded("openeqa", question, "It is a fan. I th", Context(Path("."), ask)) >= 0
    assert "It is a fan.\n" in asked[-1] and "I th" not in asked[-1]


@pytest.mark.parametrize(("verdict", "value"), [("1", 1.0), ("Judgement: 1", 1.0), ("0", 0.0)])
def test_phyx_asks_a_judge_where_no_letter_can_be_read(verdict: str, value: float) -> None:
    context = Context(Path("."), lambda prompt, max_tokens: verdict)
    assert graded("phyx", asking("C"), "so 46.3 kN", context) == value
    assert graded("phyx", asking("C"), "Answer: C", context) == 1.0

"""The shape of a completion, and how the answer is found in any shape."""

from __future__ import annotations

from itertools import permutations

import pytest

from pelican.records import Answer, ChoiceAnswer, OrderAnswer, StepsAnswer
from pelican.rewards import score
from pelican.rewards.base import Unscorable
from pelican.rewards.parse import extract_answer
from pelican.rewards.score import format_reward, think_chars
from tests.rewards.samples import CONFIG, asking, wrap


@pytest.mark.parametrize(
    ("completion", "formatted"),
    [
        ("<think>x</think><answer>B</answer>", 1),
        ("  <think>\nx\n</think>\n\n<answer> B </answer>\n", 1),
        ("<think></think><answer>B</answer>", 0),
        ("<think> \n </think><answer>B</answer>", 0),
        ("<think>...</think><answer>B</answer>", 0),
        ("<think>\u200b</think><answer>B</answer>", 0),
        ("<think>x</think><answer> </answer>", 0),
        ("<answer>B</answer>", 0),
        ("<think>x</think>B", 0),
        ("<answer>B</answer><think>x</think>", 0),
        ("So: <think>x</think><answer>B</answer>", 0),
        ("<think>x</think> so <answer>B</answer>", 0),
        ("<think>x</think><answer>B</answer> Done.", 0),
        ("<think>x</think><think>y</think><answer>B</answer>", 0),
        ("<think>x</think><answer>A</answer><answer>B</answer>", 0),
        ("<think>x<answer>A</answer></think><answer>B</answer>", 0),
        ("<think>x</think><answer>B", 0),
        ("<THINK>x</THINK><answer>B</answer>", 0),
        ("<think>" + "x" * 50 + "</think><answer>B</answer>", 1),
        ("<think>" + "x" * 51 + "</think><answer>B</answer>", 0),
    ],
)
def test_format(completion: str, formatted: float) -> None:
    assert format_reward(completion, max_think_chars=50) == formatted


@pytest.mark.parametrize(
    ("completion", "text"),
    [
        ("<think>A?</think><answer>B</answer>", "B"),
        ("<answer>A</answer> no </think><answer>B</answer>", "B"),
        ("<think>A?</think>B", "B"),
        ("A? no. </think> B", "B"),  # the template opened the thought
        ("<answer>B", "B"),
        ("so \\boxed{A} no, \\boxed{\\text{B}}", "B"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("The red one is far. The answer is **B**", "B"),
        ("B", "B"),
        ("<answer>B</answer><answer> b. </answer>", "B"),
        ("<answer>B</answer> or \\boxed{C}", "B"),
    ],
)
def test_extraction(completion: str, text: str) -> None:
    assert extract_answer(completion).text == text


@pytest.mark.parametrize(
    ("completion", "reason"),
    [
        ("", "no answer"),
        ("<think>it may be B", "no answer"),  # a thought that never ended
        ("<think>x</think>", "no answer"),
        ("<think>x</think><answer></answer>", "no answer"),
        ("<answer>A</answer><answer>B</answer>", "several answers: 2 <answer> blocks"),
        ("<answer>" + "B " * 5000, "refused: the answer is longer than 8000 characters"),
    ],
)
def test_no_single_answer(completion: str, reason: str) -> None:
    with pytest.raises(Unscorable) as caught:
        extract_answer(completion)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("completion", "chars"),
    [
        ("<think> abc </think><answer>B</answer>", 3),
        ("abcd</think><answer>B</answer>", 4),
        ("<think>abcde", 5),
        ("<answer>B</answer>", 0),
        ("B", 0),
    ],
)
def test_think_chars(completion: str, chars: int) -> None:
    assert think_chars(completion) == chars


def test_reward_weighs_format_and_task() -> None:
    sample = asking(ChoiceAnswer(options=("x", "y"), answer="B"))
    both = score(sample, wrap("B"), CONFIG)
    assert (both.format, both.task, both.reward) == (1, 1, 1.0)
    assert score(sample, "B", CONFIG).reward == pytest.approx(0.9)
    assert score(sample, wrap("A"), CONFIG).reward == pytest.approx(0.1)
    assert score(sample, "A", CONFIG).reward == 0
    assert both.reason == "" and both.answer == "B" and both.think_chars == len("I look.")


def test_threshold_of_success() -> None:
    from pelican.records import IntervalAnswer

    sample = asking(IntervalAnswer(start=8, end=16))
    strict = CONFIG.model_copy(update={"success_threshold": 0.6})
    assert score(sample, wrap("8 to 12"), CONFIG).success
    assert not score(sample, wrap("8 to 12"), strict).success


@pytest.mark.parametrize("kind", ["order", "steps"])
def test_the_right_items_in_random_order_are_rarely_a_success(kind: str) -> None:
    def of(*items: str) -> Answer:
        return OrderAnswer(items=items) if kind == "order" else StepsAnswer(steps=items)

    items = ("cup", "bowl", "plate", "ball", "can")
    sample = asking(of(*items))
    loose = CONFIG.model_copy(update={"order_success_threshold": 0.5})
    orders = [wrap("; ".join(order)) for order in permutations(items)]
    assert sum(score(sample, text, CONFIG).success for text in orders) / len(orders) < 0.15
    assert sum(score(sample, text, loose).success for text in orders) / len(orders) > 0.5
    swapped = score(sample, wrap("cup; bowl; plate; can; ball"), CONFIG)
    assert swapped.task < 1 and swapped.success  # a practised order may have one slip
    assert not score(asking(of("cup", "bowl")), wrap("bowl; cup"), CONFIG).success

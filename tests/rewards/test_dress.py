"""What is dress of an answer and what is the answer."""

from __future__ import annotations

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelican.rewards.dress import last_boxed, undress
from tests.hostile import ends_at_once


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("B", "B"),
        ("  B \n", "B"),
        # LaTeX
        ("\\boxed{yes}", "yes"),
        ("\\boxed{\\text{Yes}}", "Yes"),
        ("$\\boxed{\\text{red cup}}$", "red cup"),
        ("$$\\boxed{B}$$", "B"),
        ("\\[ \\boxed{B} \\]", "B"),
        ("\\(B\\)", "B"),
        ("\\boxed {B}", "B"),
        ("\\boxed B", "B"),
        ("\\\\boxed{\\\\text{B}}", "B"),
        ("\\boxed{\\boxed{B}}", "B"),
        ("\\fbox{B}", "B"),
        ("The block fell, so \\boxed{\\textbf{(B)}}.", "(B)"),
        ("\\boxed{cup} $\\to$ \\boxed{bowl}", "cup → bowl"),
        ("\\textbf{red cup}", "red cup"),
        ("\\textcolor{red}{B}", "B"),
        ("{\\bf B}", "B"),
        ("{B}", "B"),
        ("\\mathbf{\\text{B}}", "B"),
        ("1.2\\,\\text{m}", "1.2 m"),
        ("1.2 \\text{ m}", "1.2  m"),
        ("$1.2~\\mathrm{m}$", "1.2 m"),
        ("$1.2~m$", "1.2 m"),
        ("1.2\\ m", "1.2 m"),
        ("1.2 \\quad m", "1.2   m"),
        ("1{,}200", "1,200"),
        ("20\\ \\text{m}^{2}", "20 m^2"),
        ("30^{\\circ}", "30°"),
        ("30^\\circ", "30°"),
        ("50\\%", "50%"),
        ("1.2 \\times 10^{2}", "1.2 × 10^2"),
        ("\\left(3, 4\\right)", "(3, 4)"),
        ("a \\rightarrow b \\Rightarrow c", "a → b → c"),
        ("red\\_cup", "red_cup"),
        ("\\dfrac{1}{2}", "\\frac{1}{2}"),
        ("\\begin{aligned} x \\end{aligned}", "x"),
        ("\\begin{enumerate}\\item open \\item lift\\end{enumerate}", "-  open \n-  lift"),
        # Markdown, HTML, marks of models, quotes
        ("**B**", "B"),
        ("***B***", "B"),
        ("*B*", "B"),
        ("__B__", "B"),
        ("`B`", "B"),
        ("```json\n[1, 2]\n```", "[1, 2]"),
        ("### B", "B"),
        ("1\\. open", "1. open"),
        ("<b>B</b>", "B"),
        ("20 m<sup>2</sup>", "20 m^2"),
        ("open<br>lift", "open\nlift"),
        ("a -&gt; b", "a -> b"),
        ("<|begin_of_box|>B<|end_of_box|>", "B"),
        ("B<|im_end|>", "B"),
        ('"B"', "B"),
        ("“B”", "B"),
        ("「B」", "B"),
        ("**\"`B`\"**", "B"),
        # no dress
        ("(B)", "(B)"),
        ("The answer is B", "The answer is B"),
        ("3 * 4", "3 * 4"),
        ("5'3\"", "5'3\""),
        ("~5 m", "~5 m"),
        ("red_cup", "red_cup"),
        ('{"x": 3}', '{"x": 3}'),
        ("{1, 2}", "{1, 2}"),
        ("<point>3</point>", "<point>3</point>"),
        ("<|box_start|>(1,2)<|box_end|>", "<|box_start|>(1,2)<|box_end|>"),
        ("\\frac{1}{2}", "\\frac{1}{2}"),
        ("\\unknown{a}", "\\unknown{a}"),
        ("a < b", "a < b"),
    ],
)  # fmt: skip
def test_dress_and_answer(text: str, bare: str) -> None:
    assert undress(text) == bare


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("x", None),
        ("\\boxed{A} no, \\boxed{B}", "B"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{a\\}b}", "a\\}b"),
        ("\\boxed{cut", "cut"),
        ("so \\boxed B.", "B."),
    ],
)
def test_the_last_box(text: str, content: str | None) -> None:
    assert last_boxed(text) == content


marks = st.sampled_from(
    ["\\", "{", "}", "$", "*", "_", "`", '"', "\\boxed{", "\\text{", "\\,", "\\to", "~", "<b>", "^"]
)


@given(st.lists(marks | st.sampled_from("aB1 ,:\n"), max_size=12).map("".join))
def test_nothing_is_left_to_take_off(text: str) -> None:
    bare = undress(text)
    assert undress(bare) == bare


@pytest.mark.parametrize(
    "unit",
    [*"\\{}$*_`<&~#\"'“^aB1 \n", "\\boxed{", "\\text{", "\\text", "\\textcolor{", "<<b>", "&amp;",
     "{\\rm ", "\\boxed ", "\\begin{", "</", "<br "],
)  # fmt: skip
def test_hostile_dress_is_taken_off_in_linear_time(unit: str) -> None:
    for text in (unit * (8000 // len(unit)), "<" * 2000 + "b>" * 2000):
        assert ends_at_once(partial(undress, text))
        assert ends_at_once(partial(last_boxed, text))

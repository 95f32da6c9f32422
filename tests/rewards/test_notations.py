"""Answers as models write them: LaTeX, units, number words, other scripts, marks of lists."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from pelican.config.recipe import RewardConfig
from pelican.records import (
    Answer,
    ChoiceAnswer,
    CountAnswer,
    DistanceAnswer,
    Family,
    IntervalAnswer,
    OrderAnswer,
    StepsAnswer,
    TextAnswer,
    Turn,
    YesNoAnswer,
)
from pelican.rewards import score
from pelican.rewards.base import Unscorable
from pelican.rewards.quantities import parse_count, parse_interval, parse_length
from pelican.rewards.scripts import count_words
from tests.data.factory import sample
from tests.hostile import ends_at_once
from tests.rewards.samples import wrap

YES, NO = YesNoAnswer(value=True), YesNoAnswer(value=False)
CUP = TextAnswer(value="red cup")
ORDER = OrderAnswer(items=("cup", "bowl", "plate"))
PLAN = StepsAnswer(steps=("pick the cup", "move to the shelf", "place the cup"))
CHOICE = ChoiceAnswer(options=("red cup", "blue cup", "bowl"), answer="B")
PUSH = ChoiceAnswer(options=("Gravity", "A push", "A magnet"), answer="B")
SPAN = IntervalAnswer(start=8, end=16)
ROOM = "How big is the room in square meters?"


def task(answer: Answer, text: str, question: str = "Which?", tagged: bool = True) -> float:
    one = sample(1, answer=answer, family=Family.GENERAL, turns=(Turn(role="user", text=question),))
    return score(one, wrap(text) if tagged else text, RewardConfig()).task


RIGHT: list[tuple[Answer, list[str]]] = [
    (YES, ["\\boxed{yes}", "\\boxed{\\text{Yes}}", "**Yes**", "True", "yes, no doubt", "Yes it is.",
           "Yes, there are no cups left", "是", "是的", "是的,它开着", "对", "はい", "네", "Oui.", "答案是:是",
           '{"answer": "yes"}', '{"reason": "it is lit", "answer": "Yes"}', "(yes)", "Yes - no other",
           "y", "Y", "Correct.", "si", "✓", "Yes. No idea why"]),
    (NO, ["no", "False", "No, it fell", "No, it is not", "不是", "否", "いいえ", "Nein", "没有", "no cups are there", "n", "Incorrect", "✗",
          "No way.", "no, no doubt"]),
    (CUP, ["\\boxed{red cup}", "$\\boxed{\\text{red cup}}$", "\\textbf{red cup}", "「red cup」",
           "Final answer: red cup", "**Answer:** red cup", "It is far, so the answer is red cup.", "ｒｅｄ ｃｕｐ",
           "<b>red cup</b>", "<|begin_of_box|>red cup<|end_of_box|>", '{"answer": "red cup"}']),
    (CHOICE, ["\\boxed{B}", "答案是B", "选B", "选项B", "B", "答案：B", "正确答案为B。", "应选B", "B选项", "（B）", "Ｂ",
              "B、blue cup", "答えはB", "정답은 B입니다", "Option B", "option b", "choice (b)", "(B) blue cup.",
              "Answer: (B) blue cup", "The correct option is B.", "B: blue cup", "\\boxed{\\text{(B)}}",
              "B is correct", "I choose B.", '{"answer": "B"}', "B - blue cup", "The answer is \\textbf{B}",
              "B, not sure", "No, B", "B is the right one", "B. It is not wrong"]),
    (PUSH, ["(B) A push", "B. A push", "Answer: (B) A push", "B: A push", "A push", "Option B: a push", "B A push",
            "(B) A push moved it"]),
    (ORDER, ["\\boxed{cup; bowl; plate}", "cup、bowl、plate", "cup \\rightarrow bowl \\rightarrow plate",
             "cup $\\to$ bowl $\\to$ plate", "cup ➜ bowl ➜ plate", "cup | bowl | plate", "1.cup 2.bowl 3.plate",
             "① cup ② bowl ③ plate", "①cup②bowl③plate", "cup then bowl then plate",
             "cup, then bowl, and finally plate", "cup → bowl → plate", "cup ⟶ bowl ⟶ plate", "cup => bowl => plate",
             "\\text{cup} \\Rightarrow \\text{bowl} \\Rightarrow \\text{plate}",
             "cup; bowl; plate.", "cup；bowl；plate",
             "First, cup, then bowl, finally plate", "First cup. Then bowl. Finally plate.", "cup - bowl - plate",
             "cup, bowl and plate", "cup / bowl / plate", "cup • bowl • plate", "cup & bowl & plate", "[1] cup [2] bowl [3] plate", "1️⃣ cup 2️⃣ bowl 3️⃣ plate",
             "cup ⮕ bowl ⮕ plate", "cup, then bowl then plate", "cup, then the bowl, then finally the plate", "cup 然后 bowl 然后 plate", "cup和bowl和plate", "a) cup b) bowl c) plate", "(a) cup (b) bowl (c) plate", '["cup", "bowl", "plate"]',
             "['cup', 'bowl', 'plate']", "- cup\n- bowl\n- plate", "• cup\n• bowl\n• plate", "1、cup 2、bowl 3、plate",
             "（1）cup（2）bowl（3）plate", "第一步：cup；第二步：bowl；第三步：plate", "先cup，然后bowl，最后plate",
             "**1.** cup **2.** bowl **3.** plate", "1\\. cup 2\\. bowl 3\\. plate",
             "\\begin{enumerate}\\item cup \\item bowl \\item plate\\end{enumerate}", "cup<br>bowl<br>plate",
             "cup -&gt; bowl -&gt; plate", "Step 1: cup\nStep 2: bowl\nStep 3: plate",
             "Step one: cup. Step two: bowl. Step three: plate.", '{"steps": ["cup", "bowl", "plate"]}']),
    (PLAN, ["Pick the cup. Move to the shelf. Place the cup.", "First pick the cup, then move to the shelf, and finally place the cup.",
            "pick the cup → move to the shelf → place the cup", "First, pick the cup. Then, move to the shelf. Finally, place the cup."]),
    (SPAN, ["8秒到16秒", "8s到16s", "8～16秒", "第8秒到第16秒", "从8秒至16秒", "00:08 - 00:16", "00:08–00:16",
            "00:00:08,000 --> 00:00:16,000", "8 s – 16 s", "8-16 s", "between 8 and 16 seconds", "[8 s, 16 s]", "8초부터 16초까지",
            '{"start": 8, "end": 16}', "\\boxed{[8, 16]}", "8.0 to 16.0 (s)", "$8\\,\\text{s} \\to 16\\,\\text{s}$",
            "0 min 8 s to 0 min 16 s"]),
    (IntervalAnswer(start=90, end=120), ["1 min 30 s to 2 min", "1m30s - 2m", "1分30秒到2分钟", "1:30 to 2:00", "90 s to 2 min"]),
    (CountAnswer(value=0), ["none", "There are no cups.", "zero", "0", "No cups", "None of them", "There aren't any cups", "没有", "nothing"]),
    (CountAnswer(value=2), ["2", "two", "两个", "There are two.", "2个", "a pair: 2"]),
    (CountAnswer(value=3), ["\\boxed{3}", "共3个", "有3个杯子", "3个", "３", "共三个", "三", "一共3个", "3 (three)", "٣", "<count>3</count>",
                            "3 on the 2nd shelf", "3 or so"]),
    (CountAnswer(value=6), ["half a dozen", "six"]),
    (CountAnswer(value=12), ["a dozen", "twelve", "十二个", "one dozen"]),
    (CountAnswer(value=21), ["twenty-one", "Twenty one cups.", "21", "二十一个"]),
    (CountAnswer(value=24), ["two dozen", "2 dozen"]),
    (CountAnswer(value=65), ["sixty-five"]),
    (CountAnswer(value=85), ["eighty-five", "eighty five"]),
    (CountAnswer(value=105), ["one hundred and five", "a hundred five", "105", "一百零五个"]),
    (CountAnswer(value=2300), ["two thousand three hundred", "2,300", "2.3 thousand"]),
    (DistanceAnswer(value=120, unit="cm"),
     ["1.2\\,\\text{m}", "1.2 \\text{ m}", "$1.2~\\mathrm{m}$", "\\boxed{1.2\\ \\text{m}}", "1.2 (m)", "1.2 [m]", "1.2米",
      "1m20cm", "47 1/4 in", "1.2 \\times 10^2 cm", "1.2 m", "1,2 m", "1,20 Meter", "1.2公尺", "约1.2米", "1.2メートル", "120センチ",
      "1.2미터", "1 m 20 cm", "1 m, 20 cm", "1.2 × 10² cm", "1.2e2 cm", "1 1/5 m", "1⅕ m", "47\\frac{1}{4} in", "47¼ in",
      "about 120", "120 in total", "120 from the table", "120 apart", "~1.2 m", "≈ 1.2 m", "1.2 mètres", "one hundred and twenty",
      "1200 mm", "0.0012 km", "one hundred twenty centimeters", "47.25\"", "3 ft 11 1/4 in", "3'11.25\"", "3′11.25″", "1.2 m.", "1.2 m tall",
      "47.25 in tall", "47.25 in.", "1.2-m", "1.2 m (120 cm)", "一点二米", "1.2 m, not far"]),
    (DistanceAnswer(value=2, unit="m"), ["两米", "二米", "二百厘米", "about two metres"]),
    (DistanceAnswer(value=0.5, unit="m"), ["half a meter", "1/2 m", "½ m", "0,5 m", "0.5", "fifty centimeters", ".5 m"]),
    (DistanceAnswer(value=1.5, unit="m"), ["one and a half meters", "1½ m", "1 1/2 m", "1,5 m", "1.5"]),
    (DistanceAnswer(value=1.2, unit="m"), ["1.2", "about 1.2 from the table", "1.2 in total", "1.2 apart", "1.2 or so", "1.2左右"]),
]  # fmt: skip

WRONG: list[tuple[Answer, list[str]]] = [
    (YES, ["no", "yes and no", "yes/no", "true or false", "是/否", "是或否", "No. 5", "No 5", "不是", "yesterday", "Non-empty",
           "yes? no, it is off", "no, yes", "not yes", "not correct"]),
    (NO, ["no idea", "No clue.", "no doubt", "No way to tell", "No information is given", "no answer", "not no"]),
    (CUP, ["\\boxed{cup}", "red cup or \\boxed{bowl}"]),
    (CHOICE, ["答案是A", "选A或B", "A或B", "\\boxed{A} or \\boxed{B}", "B或red cup", "option a", "A, B", "AB",
              "not B", "Not (B)", "It is not B.", "It isn't B", "all but B", "anything but B", "except B", "B is wrong",
              "B is incorrect", "B is not correct", "B isn't right", "rule out B", "不是B", "除了B", "B不对"]),
    (PUSH, ["(B) A magnet", "(A) A push", "A", "A or B"]),
    (ORDER, ["bowl、cup", "plate \\to bowl \\to cup", "cup and bowl"]),
    (CountAnswer(value=5), ["eighty-five", "ninety five", "twenty-five", "5 hundred", "5k", "五十个"]),
    (CountAnswer(value=1), ["one hundred", "one thousand", "one third", "1 million", "twenty-one", "1.2.3"]),
    (CountAnswer(value=2), ["two dozen", "two thirds", "two and a half", "2 dozen", "2.5",
                            "the 2nd", "not 2", "isn't 2", "not two", "at least 2", "at most 2", "more than 2", "fewer than two",
                            "up to 2", "2 or more", "2+", "<2", "> 2", "\\geq 2", "至少2个", "2个以上", "不是2个"]),
    (CountAnswer(value=0), ["no idea", "I have no way of knowing", "no", "no answer", "several"]),
    (CountAnswer(value=20), ["twenty-first", "twenty one"]),
    (DistanceAnswer(value=1.2, unit="m"),
     ["1.2 \\text{ cm}", "1.2\\,\\text{mm}", "1.2 (cm)", "1.2厘米", "1.2 miles", "1.2 µm", "1.2 m/s", "1.2 cm", "1.2 km", "1.2 nm",
      "1.2 m²", "1.2 m^2", "1.2 square meters", "1.2 m2", "1.2 m per second", "1.2 kg", "1.2 light years", "1.2 ly", "1.2 leagues",
      "1.2 hours", "1.2°", "1.2 %", "1.2 percent", "1.2光年", "1.2 hundred", "1.2 thousand m", "1.2k", "1.2x", "1.2xyz", "1.2 car lengths",
      "1.2 steps", "1.2 m^3", "1.2.3", "1.2 inches", "1.2公斤", "1.2 (kg)", "1.2 dm", "1.2 yd of 3 m", "$1.2$ \\text{kg}",
      "1.2 l", "1.2 times", "1.2 [ft]",
      "not 1.2 m", "less than 1.2 m", "more than 1.2", "at least 1.2 m", "> 1.2 m", "1.2 m or more", "1.2 picometers", "1.2 Å",
      "1.2 ångström", "1.2 thou", "超过1.2米", "1米2", "一米二"]),
    (SPAN, ["8 frames to 16 frames", "8% to 16%", "8 kg to 16 kg", "frame 8 to frame 16", "8 hours to 16 hours", "8分到16分",
            "not 8 to 16", "8 or 16", "8 s or 16 s"]),
]  # fmt: skip


@pytest.mark.parametrize("tagged", [True, False])
@pytest.mark.parametrize(
    ("answer", "text"), [(answer, text) for answer, texts in RIGHT for text in texts]
)
def test_a_right_answer_earns_1(answer: Answer, text: str, tagged: bool) -> None:
    assert task(answer, text, tagged=tagged) == 1


@pytest.mark.parametrize(
    ("answer", "text"), [(answer, text) for answer, texts in WRONG for text in texts]
)
def test_a_wrong_or_unreadable_answer_earns_nothing(answer: Answer, text: str) -> None:
    assert task(answer, text) == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("20 m^2", 1), ("20 \\text{ m}^2", 1), ("215 square feet", 1), ("20 square meters", 1), ("20", 1), ("20 m²", 1),
        ("20 sq m", 1), ("20平米", 1), ("20 qm", 1), ("not 20 m²", 0), ("20 sq. m.", 1), ("20 sqm", 1), ("20平方米", 1), ("20 ㎡", 1), ("20m2", 1), ("200000 cm²", 1),
        ("20 m", 0), ("20 ft", 0), ("20 cm", 0), ("20 m^3", 0), ("20 kg", 0),
    ],
)  # fmt: skip
def test_an_area_where_the_question_asks_for_one(text: str, expected: float) -> None:
    assert task(DistanceAnswer(value=20, unit="m"), text, ROOM) == expected
    assert task(DistanceAnswer(value=20, unit="m"), text, "多大(平方米)?") == expected


@pytest.mark.parametrize("text", ["20 to 30 cm", "1,5", "20,30,40", "4 m by 5 m", "30 cm or 3 m"])
def test_two_lengths_are_none(text: str) -> None:
    with pytest.raises(Unscorable):
        parse_length(text, "cm")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("the red cup", 3), ("", 0), ("红色的杯子", 3.1), ("红色 cup", 2.25), ("桌子上的红色杯子", 5),
        ("グリッパー", 2), ("컵 두 개", 3), ("a — b", 2),
    ],
)  # fmt: skip
def test_words_by_script(text: str, words: float) -> None:
    assert count_words(text) == pytest.approx(words, abs=0.05)


HOSTILE: list[Any] = [
    *"0129aAinm.,:;/-+'\"([{<>|\\$~*_^ \t\n一三米秒两是、B", "one ", "half a ", "1 ", "1/", "1,", "1 m ", "1m", "a) ", "1. ", "then ",
    "and ", "answer is ", "答案是", "no ", "yes ", "5 ft ", "1:", "1:11 ", "one and ", "hundred ", "\\boxed{", "->", "第一步",
    "0,1", "1.111.", "sq ", "x 10^", "\\ ", "<b> ",
]  # fmt: skip


@pytest.mark.parametrize("unit", HOSTILE)
def test_hostile_text_is_read_at_once(unit: str) -> None:
    many = unit * (7900 // len(unit))
    texts = [many, f"1{many}", "one " + unit * 1000, f"{many}x", f"so{many}x", f"a > b{many}c"]
    for answer, _ in RIGHT[:8] + RIGHT[-3:]:
        for text in texts:
            assert ends_at_once(partial(task, answer, text))


def test_boxes_of_one_answer_are_read_together() -> None:
    assert task(ORDER, "\\boxed{cup} \\to \\boxed{bowl} \\to \\boxed{plate}") == 1


def test_a_number_word_in_front_of_what_is_no_number() -> None:
    assert parse_count("someone took two") == 2
    assert parse_interval("8 to 16 seconds into the video") == (8, 16)

"""The gate as a table of cases."""

import pytest

from pelican.config.recipe import EvalConfig
from pelican.evaluation.gate import decide
from pelican.evaluation.metrics import Comparison, Difference, Flips

NO_FLIPS = Flips(n=0, kept=0, lost=0, gained=0)
SAME = (0.0, -1.0, 1.0)


def against(embodied=SAME, general=SAME, format_drop=0.0, think_share=1.0):
    def number(values):
        return values and Difference(delta=values[0], low=values[1], high=values[2], n=300)

    return Comparison(
        to="loop-0/eval-base",
        embodied=number(embodied),
        general=number(general),
        families={},
        dimensions={},
        embodied_flips=NO_FLIPS,
        general_flips=NO_FLIPS,
        format_drop=format_drop,
        think_share=think_share,
    )


BASE, ONE, TWO = "the base", "loop 1", "loop 2"
# What a policy is against each that was accepted before -> the checks that fail.
CASES = {
    "nothing to compare with": ({}, []),
    "all better": ({BASE: against((9, 6, 12)), ONE: against((3, 1, 5))}, []),
    "small loss, certain": ({BASE: against((9, 6, 12)), ONE: against((-2, -2.9, -1.1))}, []),
    "large loss, within noise": ({BASE: against(), ONE: against((-4, -9, 1))}, []),
    "large loss, certain": ({BASE: against(), ONE: against((-4, -6, -2))}, ["embodied"]),
    "loss of exactly the limit": ({BASE: against(), ONE: against((-3, -4, -2))}, []),
    "below the base": ({BASE: against((-8, -9, -7)), ONE: against((3, 1, 5))}, ["embodied"]),
    "a slow decline": ({ONE: against((-5, -7, -3)), TWO: against((-2, -4, -0.1))}, ["embodied"]),
    "general lost to the base": ({BASE: against(general=(-5, -7, -3))}, ["general"]),
    "general within noise": ({BASE: against(general=(-5, -11, 1))}, []),
    "general of the base's height, and loop 1 had learned it": (
        {BASE: against(general=(1, -4, 6)), ONE: against(general=(-19, -24, -14))},
        ["general"],
    ),
    "no general suite": ({BASE: against(general=None)}, []),
    "format lost": ({BASE: against(format_drop=6.0)}, ["format"]),
    "format a little lost": ({BASE: against(format_drop=4.9)}, []),
    "a format that the base did not have": (
        {BASE: against(format_drop=-2), ONE: against(format_drop=90)},
        ["format"],
    ),
    "thinking lost": ({BASE: against(think_share=0.1)}, ["thinking"]),
    "a base that did not think": ({BASE: against(think_share=None)}, []),
    "thinking that only loop 1 did": (
        {BASE: against(think_share=None), ONE: against(think_share=0.0)},
        ["thinking"],
    ),
    "thinking lost since loop 1, and loop 2 was short already": (
        {BASE: against(think_share=1), ONE: against(think_share=0.2), TWO: against(think_share=1)},
        ["thinking"],
    ),
    "several": (
        {
            BASE: against(general=(-9, -12, -6), think_share=0.0),
            ONE: against((-9, -12, -6)),
        },
        ["embodied", "general", "thinking"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_gate(name):
    accepted, failed = CASES[name]
    gate = decide(accepted, EvalConfig())
    assert [check.name for check in gate.checks if not check.passed] == failed
    assert gate.go_on == (not failed)
    assert len(gate.reasons) >= 1 and all(gate.reasons)


def test_every_number_of_a_decision_is_in_it():
    gate = decide({ONE: against((-4.25, -6.5, -2.5)), BASE: against()}, EvalConfig())
    check = next(check for check in gate.checks if check.name == "embodied")
    assert check.numbers == {"delta": -4.25, "low": -6.5, "high": -2.5, "n": 300, "limit": 3.0}
    assert "-4.2" in check.reason and "loop 1" in check.reason and "300" in check.reason


def test_the_limits_come_from_the_recipe():
    accepted = {BASE: against(general=(-2, -3, -1)), ONE: against((-2, -3, -1))}
    strict = EvalConfig(max_general_drop=1.0, max_embodied_drop=1.0)
    assert decide(accepted, EvalConfig()).go_on
    assert not decide(accepted, strict).go_on

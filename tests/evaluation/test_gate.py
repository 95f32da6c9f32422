"""The gate as a table of cases."""

import pytest

from pelican.config.recipe import EvalConfig
from pelican.evaluation.gate import decide
from pelican.evaluation.metrics import Comparison, Difference, Flips, Summary

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


def summary_with(**comparisons):
    return Summary(
        embodied=None,
        general=None,
        families={},
        dimensions={},
        benchmarks={},
        horizons={},
        format_rate=1.0,
        success_rate=0.5,
        mean_tokens=10,
        mean_think_chars=40,
        comparisons=comparisons,
    )


CASES = {
    "nothing to compare with": ({}, []),
    "all better": ({"base": against((9, 6, 12)), "previous": against((3, 1, 5))}, []),
    "small loss, certain": ({"previous": against((-2, -2.9, -1.1))}, []),
    "large loss, within noise": ({"previous": against((-4, -9, 1))}, []),
    "large loss, certain": ({"previous": against((-4, -6, -2))}, ["embodied"]),
    "loss of exactly the limit": ({"previous": against((-3, -4, -2))}, []),
    "below the base is not the embodied check": ({"base": against((-8, -9, -7))}, []),
    "general lost to the base": ({"base": against(general=(-5, -7, -3))}, ["general"]),
    "general within noise": ({"base": against(general=(-5, -11, 1))}, []),
    "general lost to previous alone": ({"previous": against(general=(-5, -7, -3))}, []),
    "no general suite": ({"base": against(general=None)}, []),
    "format lost": ({"base": against(format_drop=6.0)}, ["format"]),
    "format a little lost": ({"base": against(format_drop=4.9)}, []),
    "thinking lost": ({"base": against(think_share=0.1)}, ["thinking"]),
    "several": (
        {
            "base": against(general=(-9, -12, -6), think_share=0.0),
            "previous": against((-9, -12, -6)),
        },
        ["embodied", "general", "thinking"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_gate(name):
    comparisons, failed = CASES[name]
    gate = decide(summary_with(**comparisons), EvalConfig())
    assert [check.name for check in gate.checks if not check.passed] == failed
    assert gate.go_on == (not failed)
    assert len(gate.reasons) >= 1 and all(gate.reasons)


def test_every_number_of_a_decision_is_in_it():
    gate = decide(summary_with(previous=against((-4.25, -6.5, -2.5))), EvalConfig())
    check = next(check for check in gate.checks if check.name == "embodied")
    assert check.numbers == {"delta": -4.25, "low": -6.5, "high": -2.5, "n": 300, "limit": 3.0}
    assert "-4.2" in check.reason and "previous" in check.reason and "300" in check.reason


def test_the_limits_come_from_the_recipe():
    summary = summary_with(base=against(general=(-2, -3, -1)), previous=against((-2, -3, -1)))
    strict = EvalConfig(max_general_drop=1.0, max_embodied_drop=1.0)
    assert decide(summary, EvalConfig()).go_on
    assert not decide(summary, strict).go_on

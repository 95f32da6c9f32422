"""What became of a weak sample, as a table of cases; and which are chosen to be shown."""

import pytest

from pelican.report.history import Case, Moment, outcome_of
from pelican.report.ledger import _stratify, view_ledger
from pelican.report.run import open_run
from tests.report.made_run import NAME, MadeRun


def moments(*rates: tuple[str, float]) -> list[Moment]:
    """`1rl` is loop 1 before RL, `1sft` loop 1 after RL."""
    return [Moment(int(w[0]), w[1:], rate, 8 if w[1:] == "rl" else 4) for w, rate in rates]


CASES = {
    "solved_rl": (moments(("1rl", 0), ("1sft", 0.75)), {}),
    "solved_teacher": (moments(("1rl", 0), ("1sft", 0), ("2rl", 0.5)), {1: True}),
    "solved_later": (moments(("1sft", 0), ("2rl", 0.5)), {1: False}),
    "sometimes": (moments(("1rl", 0), ("1sft", 0.25)), {}),
    "taught": (moments(("1rl", 0), ("1sft", 0)), {1: True}),
    "teacher_failed": (moments(("1rl", 0), ("1sft", 0)), {1: False}),
    "weak": (moments(("1sft", 0), ("2rl", 0)), {1: True}),
    "forgotten": (moments(("1rl", 0.5), ("1sft", 0)), {1: True}),
}


@pytest.mark.parametrize("outcome", CASES)
def test_the_outcome_of_a_history(outcome):
    timeline, taught = CASES[outcome]
    assert outcome_of(timeline, taught) == outcome


def test_the_solver_is_who_acted_after_the_last_failure():
    timeline = moments(("1rl", 0), ("1sft", 0), ("2rl", 0), ("2sft", 1.0))
    assert outcome_of(timeline, {1: True}) == "solved_rl"


def test_every_stratum_is_shown_before_any_is_shown_twice():
    def case(index: int, family: str) -> Case:
        return Case(f"{family}-{index}", family, "spatial_geometric", [], "weak")

    cases = [case(i, "counting") for i in range(50)] + [case(0, "planning"), case(0, "success")]
    chosen = _stratify(cases, 5, seed=0)
    assert {c.family for c in chosen} == {"counting", "planning", "success"}
    assert len(chosen) == 5
    assert [c.id for c in chosen] == [c.id for c in _stratify(cases, 5, seed=0)]


def test_the_counts_are_of_all_weak_samples_not_of_those_shown(tmp_path):
    run = open_run(MadeRun(tmp_path, train=60).write(), NAME)
    view = view_ledger(run, limit=10)
    assert len(view.cases) == 10 < view.total
    assert sum(view.outcomes.values()) == view.total
    assert sum(sum(row.values()) for row in view.by_family.values()) == view.total


def test_a_case_has_its_question_pictures_rollouts_and_the_teachers_answer(tmp_path):
    run = open_run(MadeRun(tmp_path, train=60).write(), NAME)
    cases = view_ledger(run).cases
    assert all(case.question and case.images and case.answer for case in cases)
    taught = [case for case in cases if case.outcome == "teacher_failed"]
    assert taught and all(any("teacher" in a.when for a in case.attempts) for case in taught)
    orders = [attempt.order for attempt in cases[0].attempts]
    assert orders == sorted(orders)


def test_a_run_whose_pool_is_elsewhere_still_has_its_ledger(tmp_path):
    made = MadeRun(tmp_path, train=60)
    made.write()
    (made.pool / "shard-000.parquet").unlink()
    view = view_ledger(open_run(made.store, NAME))
    assert view.cases and not any(case.images for case in view.cases)

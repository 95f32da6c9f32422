"""What RL's own completions are rewarded for: the judge's part, and the noise of the ablation."""

from __future__ import annotations

from pelican.config.recipe import RewardConfig
from pelican.records import Family, OpenAnswer
from pelican.rewards.base import Judgement
from pelican.stages.train_rl import practicable, training_scorer
from tests.data.factory import sample

CLOSED = sample(0)
OPEN = sample(1, family=Family.PLANNING, answer=OpenAnswer(reference="lift it"))


def test_free_text_is_practised_only_with_a_judge() -> None:
    assert practicable([CLOSED, OPEN], None) == [CLOSED]
    assert practicable([CLOSED, OPEN], lambda *_: Judgement(yes=1, no=0)) == [CLOSED, OPEN]


def test_the_judge_decides_in_training_too() -> None:
    def judge(question: str, reference: str, answer: str) -> Judgement:
        return Judgement(yes=3, no=0) if reference == answer else Judgement(yes=0, no=3)

    scorer = training_scorer(RewardConfig(), 0, judge)
    assert scorer(OPEN, "<answer>lift it</answer>", 0, 0).success
    assert not scorer(OPEN, "<answer>drop it</answer>", 0, 0).success


def test_other_completions_are_flipped_at_every_step() -> None:
    scorer = training_scorer(RewardConfig(flip=0.5), 0, None)

    def flipped(step: int) -> tuple[bool, ...]:
        """Of eight wrong answers those that are called right."""
        return tuple(scorer(CLOSED, "", index, step).success for index in range(8))

    assert flipped(3) == flipped(3)
    assert len({flipped(step) for step in range(10)}) > 5

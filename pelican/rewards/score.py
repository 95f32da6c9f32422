"""The reward of one completion: format and task, weighed. Never raises on any completion."""

from __future__ import annotations

from pelican.errors import UserInputError
from pelican.recipe import RewardConfig
from pelican.records import Family, Sample, Score
from pelican.rewards import (
    affordance,
    counting,
    general,
    planning,
    prediction,
    success,
    temporal,
)
from pelican.rewards.base import Asked, Judge, Scorer, Scorers, Unscorable, Verdict
from pelican.rewards.extract import extract_answer
from pelican.rewards.flip import is_flipped
from pelican.rewards.format import format_reward, think_chars

FAMILIES: dict[Family, Scorers] = {
    Family.AFFORDANCE: affordance.SCORERS,
    Family.COUNTING: counting.SCORERS,
    Family.TEMPORAL: temporal.SCORERS,
    Family.SUCCESS: success.SCORERS,
    Family.PLANNING: planning.SCORERS,
    Family.PREDICTION: prediction.SCORERS,
    Family.GENERAL: general.SCORERS,
}
SHOWN_CHARS = 500  # of the answer, as the score keeps it


def score(
    sample: Sample,
    completion: str,
    config: RewardConfig,
    *,
    index: int = 0,
    seed: int = 0,
    judge: Judge | None = None,
) -> Score:
    """R = format_weight * R_fmt + (1 - format_weight) * R_task, all in [0, 1].

    What can't be read scores a task reward of 0 with its reason. `index` is the rollout's, `seed`
    and `index` choose what `config.flip` flips. Raises only for the sample's fault
    (UserInputError) or the judge's (InfrastructureError), never for the completion's.
    """
    scorer = scorer_of(sample)
    try:
        text = extract_answer(completion).text
    except Unscorable as failure:
        verdict = Verdict(0.0, "", failure.reason)
    else:
        try:
            verdict = scorer(Asked(sample.answer, text, sample.question, judge))
        except Unscorable as failure:
            verdict = Verdict(0.0, text, failure.reason)
        except UserInputError as error:
            raise UserInputError(f"sample {sample.id!r}: {error}") from None
    task, reason = verdict.value, verdict.reason
    if is_flipped(config.flip, seed, sample.id, index):
        task, reason = 1.0 - task, "flipped"
    formatted = format_reward(completion, config.max_think_chars)
    reward = config.format_weight * formatted + (1.0 - config.format_weight) * task
    return Score(
        sample_id=sample.id,
        index=index,
        reward=min(1.0, reward),  # 1 + 1e-16 is not a reward
        format=formatted,
        task=task,
        success=task >= config.threshold(sample.answer.kind),
        think_chars=think_chars(completion),
        answer=_storable(verdict.answer[:SHOWN_CHARS]),
        reason="" if task > 0 else _storable(reason or "wrong"),
    )


def scorer_of(sample: Sample) -> Scorer:
    """The scorer of a sample's family and kind of answer."""
    scorers = FAMILIES[sample.family]
    try:
        return scorers[sample.answer.kind]
    except KeyError:
        raise UserInputError(
            f"sample {sample.id!r}: family {sample.family} has no reward for answers of kind"
            f" {sample.answer.kind!r}, only {', '.join(sorted(scorers))};"
            f" add one in pelican/rewards/{sample.family}.py"
        ) from None


def _storable(text: str) -> str:
    """Without lone surrogates, which neither JSON nor Parquet takes."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()

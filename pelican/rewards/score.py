"""The reward of one completion: format and task, weighed. Never raises on any completion."""

from __future__ import annotations

import hashlib
import re

from pelican.config.recipe import RewardConfig
from pelican.errors import UserInputError
from pelican.records import Sample, Score
from pelican.rewards.base import Asked, Judge, Scorer, Unscorable, Verdict
from pelican.rewards.families import FAMILIES
from pelican.rewards.parse import extract_answer

# The ablation `reward.flip`: a share of the rewards is turned round.


def is_flipped(share: float, seed: int, sample_id: str, index: int) -> bool:
    """Whether this rollout's task reward becomes 1 - task. What 0.1 flips, 0.25 flips too."""
    if share <= 0:
        return False
    key = f"{seed}/{index}/{sample_id}".encode("utf-8", "replace")
    draw = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big")
    return draw < share * 2.0**64


# The format reward: one thought, then one answer.

_WORD = re.compile(r"\w")
_TAGS = ("<think>", "</think>", "<answer>", "</answer>")


def format_reward(completion: str, max_think_chars: int) -> float:
    """1 for exactly one `<think>…</think>` and then one `<answer>…</answer>`, else 0.

    Both hold at least one letter or digit ("..." is an empty thought), nothing but white space
    stands around them, and the thought is no longer than `max_think_chars` characters.
    """
    for tag in _TAGS:
        if completion.count(tag) != 1:
            return 0.0
    text = completion.strip()
    if not (text.startswith("<think>") and text.endswith("</answer>")):
        return 0.0
    think, closed, rest = text[len("<think>") :].partition("</think>")
    between, opened, answer = rest.partition("<answer>")
    if not (closed and opened) or between.strip():
        return 0.0
    filled = _WORD.search(think) and _WORD.search(answer[: -len("</answer>")])
    return 1.0 if filled and len(think.strip()) <= max_think_chars else 0.0


def think_chars(completion: str) -> int:
    """Characters of the thought, white space around it left out; also where the tags are broken.

    Without `<think>` the thought is what stands before `</think>` (templates that open it in the
    prompt); without `</think>` it runs to the end (a completion that was cut).
    """
    before, closed, _ = completion.rpartition("</think>")
    body = before if closed else completion
    _, opened, think = body.partition("<think>")
    if opened:
        return len(think.strip())
    return len(body.strip()) if closed else 0


# `score`: format and task reward, weighed.

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
            f" {sample.answer.kind!r}, only for {', '.join(sorted(scorers))}; ask for one of these,"
            " or add a reward in pelican/rewards/families.py"
        ) from None


def _storable(text: str) -> str:
    """Without lone surrogates, which neither JSON nor Parquet takes."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()

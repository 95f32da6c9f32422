"""Sums over the rollouts of each sample where those stand together, as the reward stage writes them.

Then no id need be hashed for each of its rollouts, and no rollout is there twice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

_BATCH = 100_000  # rollouts: few enough that the memory of one batch serves the next


@dataclass(frozen=True)
class _Runs:
    """The runs of one batch; the first may go on from the batch before."""

    ids: pl.Series
    successes: npt.NDArray[np.int64]
    rewards: npt.NDArray[np.float64]  # sums
    rollouts: npt.NDArray[np.int64]
    first: int  # index of the batch's first rollout
    last: int


def sums_of_runs(scores: pl.LazyFrame) -> pl.DataFrame | None:
    """One row per sample: sample_id, successes, mean_reward, rollouts, doubled (0).

    `scores` has the columns sample_id, index, reward and success. None unless the rollouts of each
    sample stand together, numbered upwards, and nothing is null.
    """
    parts: list[_Runs] = []
    cut = False
    for batch in scores.collect_batches(chunk_size=_BATCH, maintain_order=True):
        if batch.is_empty():
            continue
        runs = _runs(batch)
        if runs is None:
            return None
        if parts and parts[-1].ids[-1] == runs.ids[0]:
            if runs.first <= parts[-1].last:
                return None
            cut = True
        parts.append(runs)
    if not parts:
        return None
    ids = pl.concat([part.ids for part in parts])
    successes = np.concatenate([part.successes for part in parts])
    rewards = np.concatenate([part.rewards for part in parts])
    rollouts = np.concatenate([part.rollouts for part in parts])
    if cut:
        changes = _changes(ids)
        ids, starts = _each_once(ids, changes), _starts(changes.to_numpy())
        successes, rewards, rollouts = (
            np.add.reduceat(column, starts) for column in (successes, rewards, rollouts)
        )
    rising = bool((ids.slice(1) > ids.head(-1)).all())
    if not rising and ids.n_unique() < len(ids):
        return None
    return pl.DataFrame(
        {
            "sample_id": ids.set_sorted() if rising else ids,
            "successes": successes,
            "mean_reward": rewards / rollouts,
            "rollouts": rollouts,
            "doubled": np.zeros(len(ids), np.int64),
        }
    )


def _runs(batch: pl.DataFrame) -> _Runs | None:
    if any(batch.null_count().row(0)):
        return None
    ids, index = batch["sample_id"], batch["index"].to_numpy()
    changes = _changes(ids)
    changed = changes.to_numpy()
    if not (changed | (index[1:] > index[:-1])).all():
        return None
    starts = _starts(changed)
    successes = batch["success"].to_numpy().view(np.uint8)
    return _Runs(
        ids=_each_once(ids, changes),
        successes=np.add.reduceat(successes, starts, dtype=np.int64),
        rewards=np.add.reduceat(batch["reward"].to_numpy(), starts),
        rollouts=np.diff(starts, append=len(batch)),
        first=int(index[0]),
        last=int(index[-1]),
    )


def _changes(ids: pl.Series) -> pl.Series:
    """Whether each id but the first is not that of the row before."""
    return ids.slice(1) != ids.head(-1)


def _starts(changed: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    return np.append(0, np.flatnonzero(changed) + 1)


def _each_once(ids: pl.Series, changes: pl.Series) -> pl.Series:
    # A filter takes a fifth of the time that gathering rows takes.
    return ids.head(1).append(ids.slice(1).filter(changes))

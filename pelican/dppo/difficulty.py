"""How difficult each sample is for the policy: success rates, the ledger, the practice buffer."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from pelican.config.recipe import FilterConfig
from pelican.data.frames import whole
from pelican.data.select import Measure
from pelican.data.tables import LEDGER, write_frame
from pelican.errors import UserInputError
from pelican.records import Phase

# The files of a filter stage: ledger, buffer and weak set.

FILES = ("ledger.parquet", "buffer.parquet", "weak.parquet")


def write_tables(
    folder: Path,
    rates: pl.DataFrame,
    config: FilterConfig,
    seed: int,
    *,
    loop: int,
    phase: Phase,
    policy: str,
) -> tuple[Buffer, int]:
    """Write FILES, made of the success rates.

    The ledger, by far the largest, is written while the buffer is drawn: polars needs no lock of
    Python's, and drawing needs one core.

    Args:
        folder: Gets the files.
        rates: One row a sample, as `rates_of` gives them.
        config: The recipe's section `filter`.
        seed: Decides among equal samples.
        loop: Of the ledger's rows.
        phase: Of the ledger's rows.
        policy: The digest of the policy that made the rollouts.

    Returns:
        The buffer, and how many samples are weak.
    """
    with ThreadPoolExecutor(1) as aside:
        ledger = ledger_table(rates, loop, phase, policy)
        written = aside.submit(write_frame, folder / "ledger.parquet", ledger)
        buffer, weak = build_buffer(rates, config, seed), weak_set(rates)
        write_frame(folder / "buffer.parquet", buffer.rows)
        write_frame(folder / "weak.parquet", weak)
        written.result()
    return buffer, len(weak)


# Success rates: SR(c) = (1/T) * sum of 1[success] over the T rollouts of a sample.


def rates_of(score_files: Sequence[Path], pool: pl.DataFrame) -> pl.DataFrame:
    """Success rates with the samples' family, dimension and source.

    `pool` has the columns id, family, dimension and source. Raises UserInputError for a rollout
    that was scored twice, or for a score whose sample is not in the pool.
    """
    with whole(*score_files):
        rates = rates_of_runs(score_files)
        if rates is None:
            rates = success_rates(_scores(score_files)).collect()
    doubled = rates.filter(pl.col("doubled") > 0)
    if len(doubled):
        raise UserInputError(
            f"{len(doubled)} samples have a rollout that was scored twice, such as"
            f" {doubled['sample_id'][0]!r}; delete the reward stage's output and run it again"
        )
    about = pool.select(pl.col("id").alias("sample_id"), "family", "dimension", "source")
    joined = _with_columns_of(about, rates.drop("doubled"))
    unknown = joined.filter(pl.col("family").is_null())
    if len(unknown):
        raise UserInputError(
            f"{len(unknown)} scored samples are not in the pool, such as"
            f" {unknown['sample_id'][0]!r}; scores and pool are of different runs"
        )
    return joined


def _with_columns_of(about: pl.DataFrame, rates: pl.DataFrame) -> pl.DataFrame:
    """The rates, by id, with the columns of a pool; null where it has no such sample."""
    if about["sample_id"].equals(rates["sample_id"]):  # the whole pool was rolled out
        return rates.hstack(about.drop("sample_id"))
    if about["sample_id"].is_sorted():  # as the rates are: then they are merged, not hashed
        about = about.with_columns(pl.col("sample_id").set_sorted())
    merged = rates.lazy().join(about.lazy(), on="sample_id", how="left", maintain_order="left")
    # Only the streaming engine merges; the other one hashes, in three times the time.
    return merged.collect(engine="streaming")


def success_rates(scores: pl.LazyFrame) -> pl.LazyFrame:
    """One row per sample, by id: success_rate, mean_reward, rollouts (T), outcome, doubled.

    `doubled` counts rollouts that occur twice. Means are rounded to 9 digits, so that the order in
    which threads add does not show in a digest.
    """
    sums = scores.group_by("sample_id").agg(
        pl.col("success").sum().alias("successes"),
        pl.col("reward").mean().alias("mean_reward"),
        pl.len().alias("rollouts"),
        (pl.len() - pl.col("index").n_unique()).alias("doubled"),
    )
    return _rates(sums).sort("sample_id")


def _rates(sums: pl.LazyFrame) -> pl.LazyFrame:
    successes, count = pl.col("successes"), pl.col("rollouts")
    outcome = (
        pl.when(successes == count)
        .then(pl.lit("mastered"))
        .when(successes == 0)
        .then(pl.lit("intractable"))
        .otherwise(pl.lit("practice"))
    )
    return sums.select(
        "sample_id",
        (successes / count).alias("success_rate"),
        pl.col("mean_reward").round(9),
        count.cast(pl.Int32),
        outcome.alias("outcome"),
        "doubled",
    )


def rates_of_runs(files: Sequence[Path]) -> pl.DataFrame | None:
    """As `success_rates`, if the rollouts of a sample stand together, numbered upwards; else None."""
    sums = sums_of_runs(_scores(files))
    return None if sums is None else _rates(sums.lazy()).sort("sample_id").collect()


def _scores(files: Sequence[Path]) -> pl.LazyFrame:
    return pl.scan_parquet(list(files)).select("sample_id", "index", "reward", "success")


# Chance: a four-way choice at random is right in some of eight rollouts nine times of ten, and RL would
# practise it. The success rate stays what it is; only what becomes of the sample is decided against the
# score of a guess.


def without_guesses(rates: pl.DataFrame, chances: pl.DataFrame, p: float) -> pl.DataFrame:
    """`rates` in which samples whose successes may be guesses are intractable.

    May be: as many successes or more come by chance with probability `p` or more (one-sided binomial
    test). Where even a success in every rollout would not be below `p`, nothing can be told, and the
    success rate decides.

    Args:
        rates: One row a sample, as `rates_of` gives them.
        chances: Columns id and chance; a sample's chance is taken for its guesses' success rate.
        p: Between 0 and 1.
    """
    successes = (pl.col("success_rate") * pl.col("rollouts")).round().cast(pl.Int64)
    about = chances.select(pl.col("id").alias("sample_id"), pl.col("chance").fill_null(0.0))
    seen = rates.join(about, on="sample_id", how="left", maintain_order="left").with_columns(
        successes=successes, chance=pl.col("chance").clip(0, 1)
    )
    of = ["successes", "rollouts", "chance"]
    kinds = seen.select(of).unique()
    judged = [_guessed(s, n, chance, p) for s, n, chance in kinds.iter_rows()]
    kinds = kinds.with_columns(pl.Series("guessed", judged, pl.Boolean))
    guessed = seen.join(kinds, on=of, how="left", maintain_order="left")["guessed"]
    outcome = pl.when(guessed).then(pl.lit("intractable")).otherwise(pl.col("outcome"))
    return rates.with_columns(outcome.alias("outcome"))


def _guessed(successes: int, rollouts: int, chance: float, p: float) -> bool:
    return at_least(rollouts, rollouts, chance) < p <= at_least(successes, rollouts, chance)


def at_least(successes: int, rollouts: int, chance: float) -> float:
    """The probability of so many successes or more in independent rollouts of this chance."""
    return sum(
        math.comb(rollouts, k) * chance**k * (1 - chance) ** (rollouts - k)
        for k in range(successes, rollouts + 1)
    )


# The difficulty-aware buffer: what RL practises; and the weak set, which RL could not solve.

BUFFER = ("sample_id", "success_rate", "mean_reward", "family", "dimension")
Rows = npt.NDArray[np.int64]  # [chosen], numbers of rows


@dataclass(frozen=True)
class Buffer:
    """The samples to practise (columns of BUFFER, by id), and how many others were left out, and why.

    `counts`: buffer + dropped_mastered + dropped_intractable + dropped_practice = samples.
    """

    rows: pl.DataFrame
    counts: dict[str, int]


def build_buffer(rates: pl.DataFrame, config: FilterConfig, seed: int) -> Buffer:
    """Choose the samples to practise by their success rate (SR).

    Args:
        rates: One row a sample, as `rates_of` gives them; the order of the rows does not matter.
        config: With `strategy` difficulty, samples with SR = 1 are left out (mastered). Those with
            0 < SR < 1 are taken, the nearest to 0.5 first if `buffer_size` limits. Those with SR = 0
            (intractable) are at most the share `intractable_share` of the buffer; guesses never. With
            random, as many samples are drawn from all of them, whatever their SR.
        seed: Decides among equals.
    """
    rows = {name: _rows(rates, name) for name in ("mastered", "practice", "intractable")}
    practice, intractable = rows["practice"], rows["intractable"]
    intractable = intractable[rates["success_rate"].to_numpy()[intractable] == 0]
    size = config.buffer_size
    if size is not None and len(practice) > size:
        practice = _shuffle(rates, practice, seed)
        # Stable, so that among equals the draw decides; rounded, for 0.3 and 0.7 are equals.
        distance = np.abs(rates["success_rate"].to_numpy()[practice] - 0.5).round(9)
        practice = practice[np.argsort(distance, kind="stable")][:size]
    room = math.inf if size is None else size - len(practice)
    allowed = int(min(intractable_cap(len(practice), config.intractable_share), room))
    if len(intractable) > allowed:
        intractable = _shuffle(rates, intractable, seed)[:allowed]
    chosen = np.concatenate([practice, intractable])
    if config.strategy == "random":
        chosen = _shuffle(rates, np.arange(len(rates)), seed)[: len(chosen)]
    kept = np.zeros(len(rates), bool)
    kept[chosen] = True
    counts = {"samples": len(rates), "buffer": len(chosen)}
    for outcome, there in rows.items():
        counts[outcome] = len(there)
        counts[f"dropped_{outcome}"] = int((~kept[there]).sum())
    return Buffer(_by_id(rates.select(BUFFER).filter(pl.Series(kept))), counts)


def intractable_cap(practice: int, share: float) -> int:
    """The largest z with z / (practice + z) <= share: the cap is a share of the final buffer."""
    return math.floor(share * practice / (1.0 - share) + 1e-9)


def weak_set(rates: pl.DataFrame) -> pl.DataFrame:
    """The intractable samples: SR = 0, or no more than guesses (columns of BUFFER, by id)."""
    return _by_id(rates.select(BUFFER).filter(rates["outcome"] == "intractable"))


def _by_id(rows: pl.DataFrame) -> pl.DataFrame:
    return rows if rows["sample_id"].is_sorted() else rows.sort("sample_id")


def _rows(rates: pl.DataFrame, outcome: str) -> Rows:
    return np.flatnonzero((rates["outcome"] == outcome).to_numpy())


def _shuffle(rates: pl.DataFrame, rows: Rows, seed: int) -> Rows:
    """The rows in a random order that depends on the seed and the ids alone."""
    names = rates["sample_id"].gather(rows)
    start = hashlib.blake2b(f"{seed}/".encode(), digest_size=8)
    digests = []
    for name in names.cast(pl.Binary).to_list():
        digest = start.copy()
        digest.update(name)
        digests.append(digest.digest())
    draws = np.frombuffer(b"".join(digests), dtype=">u8").astype(np.uint64)
    order = pl.DataFrame({"row": rows, "draw": draws, "name": names}).sort("draw", "name")
    shuffled: Rows = order["row"].to_numpy()
    return shuffled


# The ledger: how hard each sample was, per loop and phase, and for which policy.
#
# In loop k the row of phase rl is measured before RL, that of phase sft after RL and before SFT. So
# RL lies between (k, rl) and (k, sft), and SFT between (k, sft) and (k + 1, rl).


def ledger_table(rates: pl.DataFrame, loop: int, phase: Phase, policy: str) -> pl.DataFrame:
    """The rows of one loop and phase; `policy` is the digest of what was rolled out."""
    return rates.with_columns(
        pl.lit(loop, dtype=pl.Int32).alias("loop"),
        pl.lit(phase.value).alias("phase"),
        pl.lit(policy).alias("policy"),
    ).select(LEDGER.names)


def measure_of(ledger: pl.DataFrame) -> Measure:
    """What a filter's ledger says of each family and dimension, for draws by weakness.

    A rate of failures has one success and one failure more than were seen: a stratum of which little
    is known is neither left out nor trusted.
    """
    failed = ((1 - pl.col("success_rate")).sum() + 1) / (pl.len() + 2)
    rates = ledger.group_by("family", "dimension").agg(failed.round(9).alias("failed"))
    loop, phase = ledger.select("loop", "phase").row(0)
    found = {(family, dimension): rate for family, dimension, rate in rates.iter_rows()}
    return Measure(loop, Phase(phase), found)


# Sums of runs: a faster way to the success rates where the rollouts of a sample stand together.
#
# The reward stage writes them so. Then no id is hashed for each of its rollouts, and no rollout is
# counted twice. `sums_of_runs` says None where they do not, and `success_rates` does the work.

_BATCH = 100_000  # rollouts: few enough that the memory of one batch serves the next


@dataclass(frozen=True)
class _Runs:
    """Sums over the runs of one batch, an entry a run: the rollouts of one sample that stand
    together. The first run may continue the last one of the batch before.
    """

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
    """Whether each id, from the second on, differs from the one before."""
    return ids.slice(1) != ids.head(-1)


def _starts(changed: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Where runs start, from whether each row but the first differs from the one before: [runs]."""
    return np.append(0, np.flatnonzero(changed) + 1)


def _each_once(ids: pl.Series, changes: pl.Series) -> pl.Series:
    # A filter takes a fifth of the time that gathering rows takes.
    return ids.head(1).append(ids.slice(1).filter(changes))

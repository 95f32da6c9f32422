"""Which samples a loop practises on, and which split a sample belongs to."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pelican.config.recipe import Recipe
from pelican.data.entries import DIMENSION, FAMILY, SPLIT, Entries, Entry, rows_of
from pelican.data.images import image_bytes, image_digest
from pelican.data.pool import PoolIndex
from pelican.data.tables import RowError, shard_paths, shard_rows
from pelican.errors import UserInputError
from pelican.records import Phase, Split

# The samples of a loop: fresh ones, spread over the families, the same on every machine.

Numbers = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int8]
Flags = npt.NDArray[np.bool_]  # of each row


@dataclass(frozen=True)
class LoopSamples:
    """The rows that a loop rolls out, in the order of the pool; `fresh` of them no earlier loop saw.

    A row is fresh if no row of its scene was drawn before: SFT teaches what is drawn and what is like
    it, and a scene that was taught tells of memory, not of skill.
    """

    entries: list[Entry]
    fresh: int


Stratum = tuple[str, str]  # family and dimension


@dataclass(frozen=True)
class Measure:
    """Failure rates, each between 0 and 1, that the run measured in a loop and phase."""

    loop: int
    phase: Phase
    failures: Mapping[Stratum, float]

    @property
    def moment(self) -> tuple[int, int]:
        return self.loop, list(Phase).index(self.phase)


def failures_before(measures: Sequence[Measure], loop: int, phase: Phase) -> dict[Stratum, float]:
    """Of each stratum the newest failure rate from before this loop and phase."""
    now = Measure(loop, phase, {}).moment
    known: dict[Stratum, float] = {}
    for measure in sorted(measures, key=lambda measure: measure.moment):
        if measure.moment < now:
            known.update(measure.failures)
    return known


def loop_samples(
    index: PoolIndex,
    recipe: Recipe,
    loop: int,
    phase: Phase,
    measures: Sequence[Measure] = (),
) -> LoopSamples:
    """The rows that loop `loop` rolls out in `phase`.

    Phase rl: the loop's `samples_per_loop` fresh rows. Phase sft: the same and as many further
    fresh rows, so that weak mining also sees what RL did not train on. While the pool lasts no scene
    comes again; then other rows of scenes that were seen, then the rows that were used least. Only
    split `train`, only clips within the loop's horizon. Without `samples_per_loop` both phases see
    every such row.

    Args:
        index: The pool.
        recipe: Decides how many, and whether `measures` count.
        loop: From 1; 0 is a diagnosis.
        phase: `sft` sees what `rl` does, and more.
        measures: With `data.draws=weakness` all that the run has measured; that of later draws is
            passed over. The same ones give the same samples.

    Raises:
        UserInputError: no row is of split train and within the horizon.
    """
    entries = Entries.of(index.entries)
    size = recipe.data.samples_per_loop or len(entries)
    draws = _Draws(entries, recipe, size, measures if recipe.data.by_weakness else ())
    if not draws.candidates(loop).any():
        raise UserInputError(
            f"pool {index.folder} has no sample of split train within the horizon of"
            f" {recipe.data.horizon(loop):g} s; check data.train and data.horizon_s"
        )
    for earlier in range(1, loop):  # loop 0, a diagnosis, draws as loop 1 does
        draws.take(earlier, 2)
    taken = draws.take(loop, 2 if phase is Phase.SFT else 1)
    found = sorted(rows_of(index.entries, taken.rows), key=lambda e: (e.shard, e.row))
    return LoopSamples(found, int(taken.fresh.sum()))


def teachable(
    index: PoolIndex, recipe: Recipe, loop: int, rolled_out: Collection[str] = ()
) -> tuple[list[Entry], int]:
    """The rows within the loop's horizon that may be taught now, and how many may not.

    The others are of scenes that a later loop is the first to roll out: taught now, they would come
    to that loop as fresh ones. Without `samples_per_loop` every loop rolls out everything, and all may
    be taught. What later loops draw by weakness nobody knows yet: then, but in the last loop, only the
    scenes of what this loop has `rolled_out` (ids) may be.
    """
    entries = Entries.of(index.entries)
    within = entries.column("span_s") <= recipe.data.horizon(loop)
    may = within.copy()
    size = recipe.data.samples_per_loop
    if recipe.data.by_weakness:
        draws = _Draws(entries, recipe, len(entries))
        if loop < recipe.loops:
            known = pa.array(rolled_out, pa.string())
            seen = pc.is_in(pa.array(entries.column("id"), pa.string()), known)
            may &= draws.mates(seen.to_numpy(zero_copy_only=False))
    elif size is not None:
        draws = _Draws(entries, recipe, size)
        for k in range(1, recipe.loops + 1):
            taken = draws.take(k, 2)
            if k > loop:
                may &= ~draws.mates(taken.fresh)
    return rows_of(index.entries, may), int(within.sum() - may.sum())


@dataclass(frozen=True)
class _Taken:
    """Of each row of the pool whether it was drawn, and whether no draw saw its scene before."""

    rows: Flags
    fresh: Flags


class _Draws:
    """The draws of a run, loop after loop: they depend on the pool, the recipe and the measures alone."""

    def __init__(
        self, entries: Entries, recipe: Recipe, size: int, measures: Sequence[Measure] = ()
    ) -> None:
        self._entries, self._recipe, self._size = entries, recipe, size
        self._measures = measures
        self._span_s, self._families = entries.column("span_s"), entries.column("family")
        self._train: Flags = entries.column("split") == SPLIT.index(Split.TRAIN)
        # A row that was drawn counts 2, another of its scene 1: it comes after those of new scenes.
        self._uses = np.zeros(len(entries), np.int64)

    @cached_property
    def _order(self) -> Numbers:
        return _shuffled(self._entries.column("id"), f"select:{self._recipe.seed}")

    @cached_property
    def _strata(self) -> Numbers:
        """A number for the family and dimension of each row."""
        families = self._families.astype(np.int64)
        numbers: Numbers = families * len(DIMENSION) + self._entries.column("dimension")
        return numbers

    @cached_property
    def _scenes(self) -> Numbers:
        """A number for the scene of each row."""
        names = pa.array(self._entries.column("scene"), pa.string())
        numbers: Numbers = names.dictionary_encode().indices.to_numpy(zero_copy_only=False)
        return numbers

    def candidates(self, loop: int) -> Flags:
        """The rows that loop `loop` may draw."""
        return self._train & (self._span_s <= self._recipe.data.horizon(loop))

    def mates(self, rows: Flags | Numbers) -> Flags:
        """The rows of the scenes of these rows."""
        seen = np.zeros(len(self._uses), bool)  # by scene: there are not more than rows
        seen[self._scenes[rows]] = True
        found: Flags = seen[self._scenes]
        return found

    def take(self, loop: int, draws: int) -> _Taken:
        """Draw `draws` times, for loop `loop`; no row twice."""
        before, candidates = self._uses.copy(), self.candidates(loop)
        every = self._size >= candidates.sum()  # then the order does not matter
        eligible = np.flatnonzero(candidates) if every else self._order[candidates[self._order]]
        taken = np.zeros(len(before), bool)
        for phase in (Phase.RL, Phase.SFT)[:draws]:
            rest = eligible[~taken[eligible]]
            failures = failures_before(self._measures, loop, phase)
            if failures:
                weights = _weights(self._strata[rest], failures)
                chosen = _draw(rest, self._strata, self._uses, self._size, weights)
            else:
                chosen = _draw(rest, self._families, self._uses, self._size)
            taken[chosen] = True
            self._uses[chosen] += 2
            mates = self.mates(chosen)
            self._uses[mates] = np.maximum(self._uses[mates], 1)
        return _Taken(taken, taken & (before == 0))


def shuffled(entries: Sequence[Entry], salt: str) -> list[Entry]:
    """`entries` in an order that depends on `salt` and their ids only, not on the shards."""

    return [entries[i] for i in _shuffled([entry.id for entry in entries], salt)]


def _shuffled(ids: Iterable[str], salt: str) -> Numbers:
    """The places of `ids` in an order that depends on `salt` and the ids alone."""
    start = hashlib.blake2b(f"{salt}:".encode(), digest_size=16)
    digests = []
    for name in ids:
        digest = start.copy()
        digest.update(name.encode())
        digests.append(digest.digest())
    high, low = np.frombuffer(b"".join(digests), ">u8").reshape(-1, 2).T
    order: Numbers = np.lexsort((low, high))
    return order


def _weights(strata: Numbers, failures: Mapping[Stratum, float]) -> dict[int, float]:
    """The failure rate of each stratum that occurs; one that nobody measured has the mean of all."""
    mean = sum(failures.values()) / len(failures)
    found = {}
    for code in np.unique(strata).tolist():
        family, dimension = FAMILY[code // len(DIMENSION)], DIMENSION[code % len(DIMENSION)]
        found[code] = failures.get((family.value, dimension.value), mean)
    return found


def _draw(
    rows: Numbers,
    strata: Codes | Numbers,
    uses: Numbers,
    size: int,
    weights: Mapping[int, float] | None = None,
) -> Numbers:
    """`size` of `rows`, those used least first, stratified.

    Args:
        rows: Numbers of rows, in the order in which a stratum gives them.
        strata: Of each row of the pool: its family, or whatever `weights` are of.
        uses: Of each row of the pool.
        size: Of the draw.
        weights: A row of a stratum counts so much; without it each counts as one.
    """
    chosen = rows[:0]
    for level in np.unique(uses[rows]):
        same = rows[uses[rows] == level]
        room = size - len(chosen)
        if room < len(same):
            parts = {code: same[strata[same] == code] for code in np.unique(strata[same]).tolist()}
            counts = {code: len(part) for code, part in parts.items()}
            if weights is None:  # of equal remainders the family whose name comes first has the row
                named = _quotas({FAMILY[code].value: n for code, n in counts.items()}, room)
                quota = {code: named[FAMILY[code].value] for code in counts}
            else:
                quota = weighted_quotas(counts, weights, room)
            same = np.concatenate([part[: quota[code]] for code, part in parts.items()])
        chosen = np.concatenate([chosen, same])
    return chosen


def stratified(entries: Sequence[Entry], size: int) -> list[Entry]:
    """The first of every family, each family's part within one row of its share of `entries`."""
    if size >= len(entries):
        return list(entries)
    families: defaultdict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        families[entry.family.value].append(entry)
    quota = _quotas({name: len(rows) for name, rows in families.items()}, size)
    return [entry for name in sorted(families) for entry in families[name][: quota[name]]]


def _quotas(counts: Mapping[str, int], size: int) -> dict[str, int]:
    """How many of each family, to within one row of its share."""
    shares = {name: size * count / sum(counts.values()) for name, count in counts.items()}
    quota = {name: int(share) for name, share in shares.items()}
    # Largest remainders; a remainder exists only where the family has another row to give.
    by_remainder = sorted(counts, key=lambda name: (quota[name] - shares[name], name))
    for name in by_remainder[: size - sum(quota.values())]:
        quota[name] += 1
    return quota


def weighted_quotas(
    counts: Mapping[int, int], weights: Mapping[int, float], size: int
) -> dict[int, int]:
    """How many of each stratum: its share of rows times weight, but no more than there are.

    What a stratum lacks the others share out by the same rule. `size` is at most the sum of `counts`,
    weights are above 0.
    """
    quota = dict.fromkeys(counts, 0.0)
    rest, room = set(counts), float(size)
    while rest and room > 1e-9:
        mass = sum(counts[code] * weights[code] for code in rest)
        shares = {code: room * counts[code] * weights[code] / mass for code in rest}
        full = {code for code in rest if shares[code] >= counts[code]}
        for code in full or rest:
            quota[code] = counts[code] if full else shares[code]
        room = room - sum(counts[code] for code in full) if full else 0.0
        rest -= full
    whole = {code: int(share + 1e-9) for code, share in quota.items()}
    by_remainder = sorted(counts, key=lambda code: (whole[code] - quota[code], code))
    for code in by_remainder[: size - sum(whole.values())]:
        whole[code] += 1
    return whole


# Splits: no scene and no image may be both trained on and held out.

TRAINING_POOLS = frozenset({"train", "replay"})
DEV_POOLS = frozenset({"dev", "dev_general"})


def _side(pool: str) -> str:
    """What a pool is for: nothing of one side may be on another."""
    return "train" if pool in TRAINING_POOLS else "dev" if pool in DEV_POOLS else "held out"


@dataclass(frozen=True)
class _Place:
    """Where a scene or an image was seen first."""

    pool: str
    folder: Path
    split: str
    scene: str

    def leaks_to(self, other: _Place) -> bool:
        if self.split != other.split:
            return True
        sides = {_side(p.pool) for p in (self, other)}
        # Of one folder under two names only the rows of split train are trained on, but all are read
        # by what chooses or measures.
        kept_apart = self.folder == other.folder and "train" in sides and self.split != Split.TRAIN
        return len(sides) == 2 and not kept_apart

    def __str__(self) -> str:
        return f"split {self.split} ({self.pool} pool)"


def check_splits(folders: Mapping[str, Path], *, images: bool = True) -> None:
    """Raise UserInputError if a scene or an image is in two of train, dev and test.

    `folders`: pool name -> folder. The pools `train` and `replay` are trained on, by `dev` and
    `dev_general` policies are chosen, any other name is held out: the three sides may not share anything
    either, whatever their rows' `split` says.
    `images=False` reads scenes alone, which is quick in a pool of any size.
    """
    scenes: dict[str, _Place] = {}
    pictures: dict[bytes, _Place] = {}
    columns = ("scene", "split", "images") if images else ("scene", "split")
    for name, folder in folders.items():
        where = folder.resolve()
        root = where if where.is_dir() else where.parent
        for path in shard_paths(folder):
            for _, values in shard_rows(path, None, columns):
                if isinstance(values, RowError):
                    continue  # quarantined when the pool is read
                place = _Place(name, where, str(values["split"]), str(values["scene"]))
                first = scenes.setdefault(place.scene, place)
                if first.leaks_to(place):
                    raise UserInputError(
                        f"scene {place.scene!r} is in {first} and in {place};"
                        " keep each scene in one split"
                    )
                for image in values.get("images") or ():
                    try:
                        digest = image_digest(image_bytes(image, root))
                    except RowError:
                        continue
                    first = pictures.setdefault(digest, place)
                    if first.leaks_to(place):
                        raise UserInputError(
                            f"one image is in scene {first.scene!r} of {first} and in scene"
                            f" {place.scene!r} of {place}; keep each image in one split"
                        )

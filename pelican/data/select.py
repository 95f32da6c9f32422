"""Which samples a loop works on: fresh ones, spread over the families, the same on every machine."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence

from pelican.data.entry import Entry
from pelican.data.pool import PoolIndex
from pelican.errors import UserInputError
from pelican.recipe import Recipe
from pelican.records import Phase, Split


def loop_samples(index: PoolIndex, recipe: Recipe, loop: int, phase: Phase) -> list[Entry]:
    """The rows that loop `loop` rolls out in `phase`, in the order of the pool.

    Phase rl: the loop's `samples_per_loop` fresh rows. Phase sft: the same and as many further
    fresh rows, so that weak mining also sees what RL did not train on. Fresh rows overlap with no
    earlier draw while the pool lasts; then those used least come again. Only split `train`, only
    clips within the loop's horizon. Without `samples_per_loop` both phases see every such row.
    """
    candidates = [e for e in index.within(recipe.data.horizon(loop)) if e.split is Split.TRAIN]
    if not candidates:
        raise UserInputError(
            f"pool {index.folder} has no sample of split train within the horizon of"
            f" {recipe.data.horizon(loop):g} s; check data.train and data.horizon_s"
        )
    size = recipe.data.samples_per_loop
    if size is None or size >= len(candidates):
        return candidates
    uses: Counter[str] = Counter()
    order = shuffled(index.entries, f"select:{recipe.seed}")
    chosen: list[Entry] = []
    for k in range(1, max(loop, 1) + 1):  # loop 0, a diagnosis, draws as loop 1 does
        horizon = recipe.data.horizon(min(k, loop))
        eligible = [e for e in order if e.split is Split.TRAIN and e.span_s <= horizon]
        chosen = _draw(eligible, uses, size)
        if k >= loop and phase is not Phase.SFT:
            break
        taken = {e.id for e in chosen}
        chosen += _draw([e for e in eligible if e.id not in taken], uses, size)
    return sorted(chosen, key=lambda e: (e.shard, e.row))


def shuffled(entries: Sequence[Entry], salt: str) -> list[Entry]:
    """`entries` in an order that depends on `salt` and their ids only, not on the shards."""

    def key(entry: Entry) -> bytes:
        return hashlib.blake2b(f"{salt}:{entry.id}".encode(), digest_size=16).digest()

    return sorted(entries, key=key)


def _draw(eligible: Sequence[Entry], uses: Counter[str], size: int) -> list[Entry]:
    """`size` rows, those used least first, stratified by family; counts them as used."""
    levels: defaultdict[int, list[Entry]] = defaultdict(list)
    for entry in eligible:
        levels[uses[entry.id]].append(entry)
    chosen: list[Entry] = []
    for level in sorted(levels):
        chosen += stratified(levels[level], size - len(chosen))
    uses.update(entry.id for entry in chosen)
    return chosen


def stratified(entries: Sequence[Entry], size: int) -> list[Entry]:
    """The first of every family, each family's part within one row of its share of `entries`."""
    if size >= len(entries):
        return list(entries)
    families: defaultdict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        families[entry.family.value].append(entry)
    shares = {name: size * len(rows) / len(entries) for name, rows in families.items()}
    quota = {name: int(share) for name, share in shares.items()}
    # Largest remainders; a remainder exists only where the family has another row to give.
    by_remainder = sorted(families, key=lambda name: (quota[name] - shares[name], name))
    for name in by_remainder[: size - sum(quota.values())]:
        quota[name] += 1
    return [entry for name in sorted(families) for entry in families[name][: quota[name]]]

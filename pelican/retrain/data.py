"""The data of a retraining: delivered files taken in, weaknesses diagnosed, the practice set."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import polars as pl

from pelican.config.recipe import Recipe, RetrainConfig
from pelican.data.entries import Entry
from pelican.data.frames import read_frame
from pelican.data.pool import PoolIndex, read_index
from pelican.data.select import check_splits, shuffled, stratified
from pelican.data.tables import Quarantine, RowError, write_samples
from pelican.errors import UserInputError
from pelican.records import Sample, Split
from pelican.retrain.records import DataObject, DataVersion, FileFault, Intake, Weakness
from pelican.runs.preflight import DECODED_BYTES
from pelican.storage import open_store
from pelican.storage.store import ObjectStore

# Rows of pools copied into a pool of a run, images and all, one shard at a time.

SHARD = 512  # rows


def copy_rows(
    store: ObjectStore,
    index: PoolIndex,
    entries: Sequence[Entry],
    shard: str,
    *,
    max_pixels: int,
    quarantine: Quarantine,
    change: Callable[[Sample], Sample] = lambda sample: sample,
) -> list[str]:
    """Write `entries` as `<shard>-00000.parquet`, … ; returns their ids. Bad images: `quarantine`."""
    written: list[str] = []
    ordered = sorted(entries, key=lambda e: (e.shard, e.row))
    for start in range(0, len(ordered), SHARD):
        part = ordered[start : start + SHARD]
        samples = [
            change(s) for s in index.load(part, max_pixels=max_pixels, quarantine=quarantine)
        ]
        if samples:
            _put(store, f"{shard}-{start // SHARD:05d}.parquet", samples)
            written += [sample.id for sample in samples]
    return written


def _put(store: ObjectStore, key: str, samples: Iterable[Sample]) -> None:
    folder, _, name = key.rpartition("/")
    path = store.local_root(folder) / name
    write_samples(path, list(samples))
    store.put(key, path)


# Intake turns the delivered files into a clean pool to train on and a held-out one.
#
# A faulty row or file is quarantined and counted. The run ends only if nothing can be used, or if a
# scene stands on both sides of a split.

FACTS = "facts.json"


@dataclass(frozen=True)
class _File:
    """One delivered file: its index, or why it can't be read."""

    object: DataObject
    digest: str
    index: PoolIndex | None
    fault: str = ""


def take_in(
    store: ObjectStore,
    version: DataVersion,
    recipe: Recipe,
    prefix: str,
    old: dict[str, list[Path]],
) -> Intake:
    """Write `<prefix>/train` and `<prefix>/held` from a data version, and say what became of it.

    `old`: pools of earlier data, by side (`train`, `held`, `dev`), with which no scene may be shared.
    """
    files = [_fetch(store, open_store(version.source), o, prefix) for o in version.objects]
    faults = [FileFault(key=f.object.key, reason=f.fault) for f in files if f.index is None]
    quarantine = Quarantine()
    chosen = _usable(files, quarantine)
    if not chosen:
        why = [str(row) for row in quarantine.rows[:1]] + [f"{f.key}: {f.reason}" for f in faults]
        raise UserInputError(
            f"data version {version.name} holds no usable sample ({'; '.join(why[:2])}); deliver it again"
        )
    rows = sum(len(entries) for _, entries in chosen) + len(quarantine)
    train, held = _sides(chosen, version, recipe)
    max_pixels = recipe.data.max_pixels
    written: dict[str, list[str]] = {"train": [], "held": []}
    for number, (index, entries) in enumerate(chosen):
        for side, split, scenes in (
            ("train", Split.TRAIN, train),
            ("held", Split.TEST, held),
        ):
            written[side] += copy_rows(
                store,
                index,
                [e for e in entries if _group(e) in scenes],
                f"{prefix}/{side}/file-{number:04d}",
                max_pixels=max_pixels,
                quarantine=quarantine,
                change=partial(_rename, version=version.name, split=split),
            )
    for side in written:
        if not written[side]:
            raise UserInputError(
                f"data version {version.name} leaves no usable sample {_SIDES[side]}; deliver"
                " more scenes, or mark some with split test"
            )
    _check_leaks(store, prefix, old)
    facts = Intake(
        version=version.name,
        digest=version.digest,
        files={f.object.key: f.digest for f in files},
        faults=faults,
        rows=rows + len(faults),
        samples=len(written["train"]),
        held_samples=len(written["held"]),
        quarantined=quarantine.counts,
        quarantine=quarantine.notes(),
        families=dict(sorted(Counter(e.family.value for _, es in chosen for e in es).items())),
    )
    store.write(f"{prefix}/{FACTS}", facts.model_dump_json(indent=1).encode())
    return facts


_SIDES = {"train": "to train on", "held": "to hold out"}


def _fetch(store: ObjectStore, source: ObjectStore, wanted: DataObject, prefix: str) -> _File:
    """Bring one file here and index it. A file that can't be read is a fault, not an error."""
    try:
        data, tag = source.read_tagged(wanted.key)
    except KeyError:
        return _File(wanted, "", None, "the file is not there any more")
    digest = hashlib.sha256(data).hexdigest()
    if wanted.tag and wanted.tag not in (tag.strip('"'), digest):
        return _File(wanted, digest, None, "the file was changed after it was delivered")
    name = hashlib.sha256(wanted.key.encode()).hexdigest()[:16]
    path = store.local_root(f"{prefix}/work/files") / f"{name}.parquet"
    path.write_bytes(data)
    try:
        return _File(wanted, digest, read_index(path))
    except UserInputError as error:
        return _File(wanted, digest, None, str(error).replace(str(path), Path(wanted.key).name))


def _usable(files: Sequence[_File], quarantine: Quarantine) -> list[tuple[PoolIndex, list[Entry]]]:
    """The good rows of every file; an id that an earlier file has is quarantined."""
    seen: set[str] = set()
    chosen = []
    for file in files:
        if file.index is None:
            continue
        quarantine.extend(file.index.quarantine.rows)
        entries = []
        for entry in file.index.entries:
            if entry.id in seen:
                error = RowError("duplicate_id", f"id {entry.id!r} is in an earlier file too")
                quarantine.add(Path(file.object.key).name, entry.row, entry.id, error)
                continue
            seen.add(entry.id)
            entries.append(entry)
        chosen.append((file.index, entries))
    return chosen


def _group(entry: Entry) -> tuple[str, bool]:
    """The unit of splitting: samples of one scene stay together."""
    return entry.scene, entry.split is Split.TRAIN


def _sides(
    chosen: Sequence[tuple[PoolIndex, list[Entry]]], version: DataVersion, recipe: Recipe
) -> tuple[set[tuple[str, bool]], set[tuple[str, bool]]]:
    """Scenes to train on and to hold out: as the rows say, or a share drawn by the scene's name.

    As many are held out as the gate wants to see, but at most half.
    """
    groups = {_group(e) for _, entries in chosen for e in entries}
    held = {group for group in groups if not group[1]}
    if not held:
        ordered = sorted(groups, key=lambda g: _draw(version.digest, g[0]))
        wanted = max(round(recipe.retrain.held_share * len(ordered)), recipe.gate.min_scenes)
        held = set(ordered[: min(wanted, len(ordered) // 2)])
    return groups - held, held


def _draw(salt: str, scene: str) -> bytes:
    key = f"{salt}:{scene}".encode("utf-8", "replace")
    return hashlib.blake2b(key, digest_size=8).digest()


def _rename(sample: Sample, version: str, split: Split) -> Sample:
    """Ids that no earlier sample has; held-out rows are a benchmark of their own."""
    update: dict[str, object] = {"id": f"{version}/{sample.id}", "split": split}
    if split is Split.TEST:
        update["benchmark"] = version
    return sample.model_copy(update=update)


def _check_leaks(store: ObjectStore, prefix: str, old: dict[str, list[Path]]) -> None:
    """No scene or image of the new data is on the other side of the old, nor on both of its own."""
    new = {side: store.local(f"{prefix}/{side}") for side in _SIDES}
    pairs = [(new["train"], new["held"])]
    pairs += [(new["train"], folder) for folder in (*old["held"], *old["dev"])]
    pairs += [(folder, new["held"]) for folder in old["train"]]
    for train, held in pairs:
        small = sum(_size(folder) for folder in (train, held)) <= DECODED_BYTES
        check_splits({"train": train, "evaluation": held}, images=small)


def _size(folder: Path) -> int:
    paths = [folder] if folder.is_file() else folder.rglob("*.parquet")
    return sum(path.stat().st_size for path in paths)


# Diagnosis finds the weak samples of the new data; the practice set is what the loops train on.

WEAKNESS = "weakness.json"


@dataclass(frozen=True)
class Sources:
    """The pools that a practice set is made of."""

    new_train: Path
    new_held: Path
    old_train: list[Path]
    old_held: list[Path]
    ledgers: list[Path]


def diagnose(ledger: pl.DataFrame, config: RetrainConfig) -> Weakness:
    """The weak samples by the diagnosis' ledger; training is worth while if they are enough."""
    weak = ledger.filter(pl.col("success_rate") < config.weak_below)
    share = len(weak) / max(1, len(ledger))
    go_on = len(weak) >= config.min_weak and share >= config.min_weak_share
    mean = float(ledger["success_rate"].to_numpy().mean()) if len(ledger) else 0.0
    found = (
        f"{len(weak)} of {len(ledger)} diagnosed samples ({100 * share:.1f} %) have a success rate"
        f" below {config.weak_below:g}, the mean is {mean:.2f}"
    )
    wanted = f"{config.min_weak} and {100 * config.min_weak_share:g} % are reason to train"
    return Weakness(
        go_on=go_on,
        reason=f"{found}; {wanted}",
        diagnosed=len(ledger),
        mastered=len(ledger.filter(pl.col("outcome") == "mastered")),
        weak=len(weak),
        share=share,
        mean_success_rate=mean,
        weak_by_family={
            str(family): int(n) for family, n in weak.group_by("family").len().sort("family").rows()
        },
    )


def compose(
    store: ObjectStore,
    found: Weakness,
    ledger: pl.DataFrame,
    sources: Sources,
    recipe: Recipe,
    prefix: str,
) -> Weakness:
    """Write the pools of a retraining:

    `<prefix>/train` and `<prefix>/evaluation`.

    Training gets the new rows that are not mastered, and replay of the old. The evaluation pool holds
    every old held-out set and the new one, so that one evaluation answers both questions of the gate.

    Args:
        store: Gets the pools.
        found: The diagnosis.
        ledger: Of the diagnosis, for what is mastered.
        sources: The pools, new and old, and earlier ledgers.
        recipe: Its sections `data` and `retrain`.
        prefix: In the store.

    Returns:
        `found` with the numbers of rows, and of those left out because their images can't be read.
    """
    max_pixels, salt = recipe.data.max_pixels, f"replay:{recipe.seed}"
    lost = Quarantine()
    mastered = set(ledger.filter(pl.col("outcome") == "mastered")["sample_id"])
    index = read_index(sources.new_train)
    new = [entry for entry in index.entries if entry.id not in mastered]
    copied = copy_rows(
        store, index, new, f"{prefix}/train/new", max_pixels=max_pixels, quarantine=lost
    )
    wanted = round(recipe.retrain.replay * len(copied))
    hard = _once_hard(sources.ledgers)
    replayed, taken = 0, {entry.id for entry in index.entries}
    pools = [read_index(folder) for folder in sources.old_train]
    for number, (pool, part) in enumerate(zip(pools, _parts(pools, wanted), strict=True)):
        rows = [e for e in pool.entries if e.split is Split.TRAIN and e.id not in taken]
        entries = replay(rows, hard, part, salt)
        taken |= {entry.id for entry in entries}
        shard = f"{prefix}/train/old-{number:03d}"
        replayed += len(
            copy_rows(store, pool, entries, shard, max_pixels=max_pixels, quarantine=lost)
        )
    held, seen = 0, set[str]()
    for number, folder in enumerate([sources.new_held, *sources.old_held]):
        pool = read_index(folder)
        entries = [entry for entry in pool.entries if entry.id not in seen]
        seen |= {entry.id for entry in entries}
        shard = f"{prefix}/evaluation/set-{number:03d}"
        held += len(copy_rows(store, pool, entries, shard, max_pixels=max_pixels, quarantine=lost))
    return found.model_copy(
        update={
            "new_rows": len(copied),
            "replayed_rows": replayed,
            "held_rows": held,
            "left_out": lost.counts,
        }
    )


def replay(entries: Sequence[Entry], hard: set[str], size: int, salt: str) -> list[Entry]:
    """`size` earlier rows, stratified by family: first those that were once not mastered.

    What was learned is what can be forgotten; what was always mastered fills up.
    """
    ordered = shuffled(entries, salt)
    learned = [entry for entry in ordered if entry.id in hard]
    chosen = stratified(learned, size)
    taken = {entry.id for entry in chosen}
    rest = [entry for entry in ordered if entry.id not in taken]
    return [*chosen, *stratified(rest, size - len(chosen))] if size > len(chosen) else chosen


def _parts(pools: Sequence[PoolIndex], size: int) -> list[int]:
    """`size` divided over the pools by their rows."""
    total = max(1, sum(len(pool.entries) for pool in pools))
    return [min(len(pool.entries), round(size * len(pool.entries) / total)) for pool in pools]


def _once_hard(ledgers: Sequence[Path]) -> set[str]:
    """Samples that an earlier ledger has with a success rate below 1."""
    frames = [read_frame(path, columns=["sample_id", "success_rate"]) for path in ledgers]
    if not frames:
        return set()
    return set(pl.concat(frames).filter(pl.col("success_rate") < 1)["sample_id"])

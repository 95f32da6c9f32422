"""Intake: the delivered files as a clean pool to learn from and one to be held against.

What is wrong with a row or a whole file is quarantined and counted; only data of which nothing can
be used, or that stands on both sides of a split, ends the run.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pelican.data.entry import Entry
from pelican.data.pool import PoolIndex, read_index
from pelican.data.quarantine import Quarantine, RowError
from pelican.data.splits import check_splits
from pelican.errors import UserInputError
from pelican.preflight import DECODED_BYTES
from pelican.recipe import Recipe
from pelican.records import Sample, Split
from pelican.retrain.copying import copy_rows
from pelican.retrain.records import DataObject, DataVersion, FileFault, Intake
from pelican.storage.objects import ObjectStore, open_store

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

    `old`: pools of earlier data, by side (`train`, `held`), with which no scene may be shared.
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
                change=partial(_renamed, version=version.name, split=split),
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
    """What is never torn apart: a scene of one split."""
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


def _renamed(sample: Sample, version: str, split: Split) -> Sample:
    """Ids that no earlier sample has; held-out rows are a benchmark of their own."""
    update: dict[str, object] = {"id": f"{version}/{sample.id}", "split": split}
    if split is Split.TEST:
        update["benchmark"] = version
    return sample.model_copy(update=update)


def _check_leaks(store: ObjectStore, prefix: str, old: dict[str, list[Path]]) -> None:
    """No scene or image of the new data is on the other side of the old, nor on both of its own."""
    new = {side: store.local(f"{prefix}/{side}") for side in _SIDES}
    pairs = [(new["train"], new["held"])]
    pairs += [(new["train"], folder) for folder in old["held"]]
    pairs += [(folder, new["held"]) for folder in old["train"]]
    for train, held in pairs:
        small = sum(_size(folder) for folder in (train, held)) <= DECODED_BYTES
        check_splits({"train": train, "evaluation": held}, images=small)


def _size(folder: Path) -> int:
    paths = [folder] if folder.is_file() else folder.rglob("*.parquet")
    return sum(path.stat().st_size for path in paths)

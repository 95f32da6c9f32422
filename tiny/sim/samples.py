"""Makes the sample sets that the repository ships: `python -m tiny.sim.samples`.

A set draws its scenes from seeds of its own, asks every question of every scene, and keeps a
balanced choice: families equal, templates of a family as equal as the scenes allow.
"""

import argparse
import io
import json
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pelican.data.tables import read_samples, write_samples
from pelican.records import Sample
from tiny.sim.chance import guess_score
from tiny.sim.convert import to_sample
from tiny.sim.guesses import guess_of
from tiny.sim.records import QA
from tiny.sim.scenes import FRESH, SETS, Make, Scene, scenes_of

PER_SCENE = 4  # questions at most
SHARD_ROWS = 1000
TOOLS = ("mujoco", "robosuite", "fast-simplification", "numpy", "pillow", "pyarrow")


def shares(available: dict[str, int], total: int) -> dict[str, int]:
    """Share `total` out as equally as possible, no part above what `available` has of it."""
    out: dict[str, int] = {}
    left = total
    for done, (name, count) in enumerate(sorted(available.items(), key=lambda i: (i[1], i[0]))):
        out[name] = min(count, left // (len(available) - done))
        left -= out[name]
    return out


def choose(scenes: Sequence[Scene], per_family: int, seed: int) -> list[list[QA]]:
    """Choose what to keep: rare templates first, each from the scenes with the fewest questions so far."""
    order = [int(i) for i in np.random.default_rng(seed).permutation(len(scenes))]
    has: dict[tuple[str, str], list[int]] = {}
    for i in order:
        for qa in scenes[i].questions:
            has.setdefault((qa.family, qa.template), []).append(i)
    kept: list[list[QA]] = [[] for _ in scenes]
    missing: Counter[str] = Counter()

    def take(family: str, template: str, count: int) -> int:
        free = [i for i in has[family, template] if len(kept[i]) < PER_SCENE]
        free = [i for i in free if all(q.template != template for q in kept[i])]
        for i in sorted(free, key=lambda i: len(kept[i]))[:count]:
            kept[i].append(next(q for q in scenes[i].questions if q.template == template))
        return min(count, len(free))

    wanted: dict[tuple[str, str], int] = {}
    for family in sorted({f for f, _ in has}):
        available = {t: len(found) for (f, t), found in has.items() if f == family}
        parts = shares(available, per_family)
        missing[family] = per_family - sum(parts.values())
        wanted |= {(family, t): n for t, n in parts.items()}
    rare = sorted(wanted, key=lambda key: (len(has[key]), key))
    for family, template in rare:
        count = wanted[family, template]
        missing[family] += count - take(family, template, count)
    for family, template in reversed(rare):  # what full scenes could not give
        if missing[family]:
            missing[family] -= take(family, template, missing[family])
    if any(missing.values()):
        raise RuntimeError(f"too few scenes: {dict(+missing)} questions are missing; draw more")
    return kept


def make_samples(name: str, make: Make, seed: int, workers: int) -> tuple[list[Sample], Any]:
    """The samples of a set, rows of one scene together, and what they are."""
    scenes = list(scenes_of(make, seed, workers))
    kept = choose(scenes, make.per_family, seed)
    samples: list[Sample] = []
    templates: dict[str, list[Sample]] = {}
    for i in np.random.default_rng([seed, 1]).permutation(len(scenes)):
        scene = scenes[int(i)]
        for qa in kept[int(i)]:
            sample = to_sample(
                qa,
                scene.frames,
                scene.times_s,
                id=f"{name}-{qa.family}-{qa.template}-{len(samples):06d}",
                scene=scene.name,
                split=make.split,
            )
            samples.append(sample)
            templates.setdefault(template_of(sample), []).append(sample)
    chances = {t: round(guess_score(guess_of(t), rows), 4) for t, rows in templates.items()}
    samples = [s.model_copy(update={"chance": chances[template_of(s)]}) for s in samples]
    return samples, {**about(samples, seed), "made_with": {t: version(t) for t in TOOLS}}


def template_of(sample: Sample) -> str:
    """The template in a sample's id: set-family-template-number."""
    return sample.id.rsplit("-", 2)[1]


def about(samples: Sequence[Sample], seed: int) -> Any:
    """Counts and chance levels."""
    families: dict[str, Any] = {}
    for s in samples:
        family = families.setdefault(s.family.value, {"samples": 0, "chance": 0.0, "templates": {}})
        family["samples"] += 1
        family["chance"] += s.chance
        t = template_of(s)
        entry = {"samples": 0, "chance": s.chance, "guess": guess_of(t)}
        family["templates"].setdefault(t, entry)["samples"] += 1
    for family in families.values():
        family["chance"] = round(family["chance"] / family["samples"], 4)
        family["templates"] = dict(sorted(family["templates"].items()))
    clips = {s.scene: s for s in samples if s.media_kind == "clip"}
    return {
        "seed": seed,
        "split": samples[0].split.value,
        "samples": len(samples),
        "scenes": len({s.scene for s in samples}),
        "frames": sum(len(s.images) for s in {s.scene: s for s in samples}.values()),
        "clips": dict(sorted(Counter(f"{c.span_s:g} s" for c in clips.values()).items())),
        "families": dict(sorted(families.items())),
        "dimensions": dict(sorted(Counter(s.dimension.value for s in samples).items())),
        "kinds": dict(sorted(Counter(s.answer.kind for s in samples).items())),
    }


def write_set(folder: Path, samples: Sequence[Sample], facts: Any) -> str:
    """Writes a set in place of an older one; says how the two differ."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shards: list[list[Sample]] = [[]]
    for _, rows in groupby(samples, key=lambda s: s.scene):
        if len(shards[-1]) >= SHARD_ROWS:
            shards.append([])
        shards[-1] += rows
    for i, shard in enumerate(shards):
        write_samples(partial / f"part-{i:03d}.parquet", shard)
    text = json.dumps(facts, indent=1) + "\n"
    (partial / "about.json").write_text(text, encoding="utf-8")
    said = difference(folder, partial) if folder.exists() else "new"
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return said


def difference(old: Path, new: Path) -> str:
    """One sentence: how a set that was made again differs from the one before."""
    files = [sorted(p.name for p in folder.iterdir()) for folder in (old, new)]
    if files[0] == files[1] and all(
        (old / n).read_bytes() == (new / n).read_bytes() for n in files[0]
    ):
        return "the same bytes as before"
    before, after = ({s.id: s for s in read_samples(folder)} for folder in (old, new))
    if before.keys() != after.keys():
        return "other samples than before: another seed, or the generator or MuJoCo has changed"
    changed = [i for i in after if _told(before[i]) != _told(after[i])]
    pairs = [p for i in after for p in zip(before[i].images, after[i].images, strict=True)]
    apart = {p for p in pairs if p[0] != p[1]}
    if not changed and not apart:
        return "the same samples as before in other files: another pyarrow, or other versions noted"
    worst = max((_apart(a, b) for a, b in apart), default=0.0)
    return (
        f"{len(changed)} of {len(after)} questions or answers and {len(apart)} of"
        f" {len(set(pairs))} pictures are other than before (at most {worst:.2f} of 255 on average):"
        " another Mesa, MuJoCo or Pillow; about.json names the versions"
    )


def _told(sample: Sample) -> str:
    return sample.model_dump_json(exclude={"images"})


def _apart(a: bytes, b: bytes) -> float:
    x, y = (np.asarray(Image.open(io.BytesIO(p)), np.int16) for p in (a, b))
    return float(np.abs(x - y).mean())


def main(arguments: Sequence[str] | None = None) -> None:
    """`--split` is one of the shipped sets, `all`, or `fresh`: a new sealed set of `--seed`."""
    parser = argparse.ArgumentParser(prog="tiny.sim.samples", description=__doc__)
    parser.add_argument("--split", choices=[*SETS, "all", "fresh"], default="all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("samples"))
    parser.add_argument("--workers", type=int, default=2)
    chosen = parser.parse_args(arguments)
    sets = {n: m for n, m in SETS.items() if chosen.split in (n, "all")}
    if chosen.split == "fresh":
        sets = {f"fresh-{chosen.seed}": FRESH}
    for name, make in sets.items():
        samples, facts = make_samples(name, make, chosen.seed, chosen.workers)
        said = write_set(chosen.out / name, samples, facts)
        print(f"{chosen.out / name}: {len(samples)} samples, {said}", file=sys.stderr)


if __name__ == "__main__":
    main()

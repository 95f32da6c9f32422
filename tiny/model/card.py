"""Model cards of the shipped checkpoints: score per family and dimension beside chance.

python -m tiny.model.card models/tiny-base models/tiny-teacher --data samples/dev
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

from pelican.config.recipe import ModelConfig, RewardConfig, RolloutConfig, Sampling
from pelican.data.tables import read_samples
from pelican.engines.opening import open_engine
from pelican.records import Sample, Score
from pelican.rewards import score

ABOUT = {
    "tiny-base": "The base policy of the recipe `tiny`: trained on few objects, short clips and easy "
    "questions with some of the hard ones, and last, briefly, on answers most of which come without "
    "reasoning. So it is weak on the wide distribution, and can reason but seldom does.",
    "tiny-teacher": "The teacher of the recipe `tiny`: trained from the same beginning, longer and "
    "then on the wide distribution. It can be wrong; the reward checks its answers.",
}


def evaluate(checkpoint: Path, samples: list[Sample]) -> list[Score]:
    """Greedy answers of a checkpoint, scored."""
    model = ModelConfig(dtype="float32", freeze_vision=True, cache_vision=True)
    config = RolloutConfig(engine="transformers", batch_size=128)
    engine = open_engine(config, model, checkpoint)
    greedy = Sampling(temperature=0, max_tokens=64)
    rollouts = (r[0] for r in engine.generate(samples, greedy, 1, 0))
    reward = RewardConfig()
    return [score(s, r.completion, reward) for s, r in zip(samples, rollouts, strict=True)]


def table(samples: list[Sample], scores: list[Score], key: Callable[[Sample], str]) -> list[str]:
    """Markdown rows: group, count, score, chance, format; points of 100."""
    groups: dict[str, list[tuple[Sample, Score]]] = defaultdict(list)
    for sample, given in zip(samples, scores, strict=True):
        groups[key(sample)].append((sample, given))
    rows = ["| | n | score | chance | format |", "|---|---|---|---|---|"]
    for name, members in sorted(groups.items()):
        n = len(members)
        mean = [
            100 * sum(values) / n
            for values in (
                [s.task for _, s in members],
                [m.chance for m, _ in members],
                [s.format for _, s in members],
            )
        ]
        rows.append(f"| {name} | {n} | {mean[0]:.1f} | {mean[1]:.1f} | {mean[2]:.1f} |")
    return rows


def write_card(checkpoint: Path, sets: Iterable[Path]) -> str:
    """Write `README.md` into the checkpoint's folder; returns its text."""
    lines = [f"# {checkpoint.name}", "", ABOUT.get(checkpoint.name, ""), ""]
    lines += [
        "Architecture: Qwen2.5-VL (transformers' own class), trained from nothing by",
        "`make base-model` (`tiny/model/build.py`) on rendered scenes whose seeds are in no",
        "sample set. Weights: safetensors, float32. Licence: Apache-2.0.",
        "",
    ]
    for folder in sets:
        samples = list(read_samples(folder))
        scores = evaluate(checkpoint, samples)
        lines += [f"## Greedy score on {folder.name}, points of 100", ""]
        lines += [*table(samples, scores, lambda s: s.family.value), ""]
        lines += [*table(samples, scores, lambda s: s.dimension.value), ""]
    text = "\n".join(lines)
    (checkpoint / "README.md").write_text(text)
    return text


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoints", nargs="+", type=Path)
    parser.add_argument("--data", nargs="+", type=Path, required=True)
    options = parser.parse_args()
    for checkpoint in options.checkpoints:
        print(write_card(checkpoint, options.data))


if __name__ == "__main__":
    main()

"""How the policy's trajectories move over the loops (figure 5 of the paper)."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pelican.report.export import Row, Table
from pelican.report.figure import Figure, Legend, drawn, make_figure
from pelican.report.run import Run
from pelican.report.svg import colour
from pelican.report.trails import Trail, trails
from pelican.report.tsne import tsne
from pelican.report.words import family, place

WIDTH = 512  # of an embedding
QUESTIONS = 300  # of each family: their centroid no longer changes visibly with more
_TOKEN = re.compile(r"\w+|[^\w\s]")


def trajectory_figures(run: Run) -> list[Figure]:
    """One point a family and evaluation: the centroid of its trajectories, in the plane by t-SNE."""
    keys, completions = _trajectories(run)
    if len({when for when, _ in keys}) < 2:
        return []
    places = tsne(_centroids(completions))
    labels = [e.label for e in run.evaluations]
    names = sorted({name for _, name in keys}, key=place)
    found = []
    for name in names:
        rows = [i for i, (_, n) in enumerate(keys) if n == name]
        points = [(labels[keys[i][0]], float(places[i, 0]), float(places[i, 1])) for i in rows]
        found.append(Trail(family(name), _style(name), points))
    table: list[Row] = [[t.name, when, x, y] for t in found for when, x, y in t.points]
    figure = make_figure(
        "trajectories",
        "Trajectories over the loops",
        "Centroids of the greedy completions to the same held-out questions, by family, from the"
        " base (ring) to the final policy (large); the plane is t-SNE's, so near means alike and"
        " lengths mean little. A completion is embedded by the words it holds (TF-IDF of words and"
        " word pairs), not by a model. Figure 5 of the paper.",
        partial(trails, found),
        Table(("family", "policy", "x", "y"), table),
        [Legend(trail.name, trail.style, "dot") for trail in found],
    )
    return drawn([figure])


def _style(name: str) -> str:
    known = ("affordance", "counting", "temporal", "success", "planning", "prediction", "general")
    return colour(f"f-{name}" if name in known else "muted")


def _trajectories(run: Run) -> tuple[list[tuple[int, str]], list[list[str]]]:
    """(evaluation's place, family), and the completions of each; the same questions everywhere."""
    keys: list[tuple[int, str]] = []
    found: list[list[str]] = []
    if not run.evaluations:
        return keys, found
    common = run.evaluations[0].results.select("suite", "sample_id")
    for evaluation in run.evaluations[1:]:
        common = common.join(evaluation.results, on=["suite", "sample_id"], how="semi")
    for index, evaluation in enumerate(run.evaluations):
        rows = evaluation.results.join(common, on=["suite", "sample_id"], how="semi")
        for (name,), part in rows.group_by("family"):
            order = part.sort(pl.col("sample_id").hash(seed=0), "sample_id").head(QUESTIONS)
            keys.append((index, str(name)))
            found.append(order["completion"].to_list())
    order_of = sorted(range(len(keys)), key=lambda i: keys[i])
    return [keys[i] for i in order_of], [found[i] for i in order_of]


def _centroids(groups: Sequence[Sequence[str]]) -> NDArray[np.float64]:
    """The mean embedding of each group of completions, [len(groups), WIDTH], each of length 1."""
    parts = [_counts(group) for group in groups]
    documents = np.sum([np.count_nonzero(part, axis=0) for part in parts], axis=0)
    total = sum(len(part) for part in parts)
    rarity = np.log((1 + total) / (1 + documents)) + 1
    centroids = np.stack([_unit(part * rarity).mean(axis=0) for part in parts])
    return _unit(centroids)


def _counts(completions: Sequence[str]) -> NDArray[np.float64]:
    """Hashed counts of words and word pairs; a hash's lowest bit is its sign."""
    found = np.zeros((len(completions), WIDTH))
    for row, completion in enumerate(completions):
        words = _TOKEN.findall(completion.lower())
        for token in (*words, *(f"{a} {b}" for a, b in pairwise(words))):
            code = zlib.crc32(token.encode("utf-8", "replace"))
            found[row, (code >> 1) % WIDTH] += 1.0 if code & 1 else -1.0
    return found


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: NDArray[np.float64] = vectors / np.maximum(lengths, 1e-12)
    return unit

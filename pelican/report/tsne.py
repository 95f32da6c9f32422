"""t-SNE of a few hundred points, exact (van der Maaten and Hinton, JMLR 9, 2008), in numpy.

A report draws some fifty points; a library for that would be larger than Pelican's thin install.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
MOST = 1000  # points; time and memory grow with their square
_EARLY, _EXAGGERATION = 250, 12.0


def tsne(points: Floats, perplexity: float = 12.0, steps: int = 1000) -> Floats:
    """Coordinates [n, 2] of `points` [n, width]; begins with the principal axes, so no chance.

    `perplexity` is lowered to a third of the other points. Raises ValueError above MOST points.
    """
    count = len(points)
    if count > MOST:
        raise ValueError(f"{count} points are too many for exact t-SNE; at most {MOST}")
    if count < 3:
        return np.pad(np.arange(count, dtype=np.float64)[:, None], ((0, 0), (0, 1)))
    near = affinities(points, min(perplexity, (count - 1) / 3))
    place = _principal(points)
    velocity, gain = np.zeros_like(place), np.ones_like(place)
    rate = max(count / _EXAGGERATION / 4, 50.0)
    for step in range(steps):
        wanted = near * _EXAGGERATION if step < _EARLY else near
        weights = 1 / (1 + _squares(place))
        np.fill_diagonal(weights, 0)
        pull = (wanted - weights / weights.sum()) * weights
        slope = 4 * (pull.sum(axis=1)[:, None] * place - pull @ place)
        same = np.sign(slope) == np.sign(velocity)
        gain = np.maximum(np.where(same, gain * 0.8, gain + 0.2), 0.01)
        velocity = (0.5 if step < _EARLY else 0.8) * velocity - rate * gain * slope
        place = place + velocity
    place -= place.mean(axis=0)
    return place


def affinities(points: Floats, perplexity: float) -> Floats:
    """The joint probabilities p_ij, symmetric, of sum 1; every row's bandwidth by bisection."""
    squares = _squares(points)
    rows = np.zeros_like(squares)
    for i, distances in enumerate(squares):
        others = np.delete(distances, i)
        others = others - others.min()
        low, high = 0.0, np.inf
        beta = 1 / max(float(np.median(others)), 1e-12)
        for _ in range(64):
            weights = np.exp(-beta * others)
            share = weights / weights.sum()
            entropy = float(-np.sum(share * np.log(np.maximum(share, 1e-300))))
            if abs(entropy - np.log(perplexity)) < 1e-5:
                break
            if entropy > np.log(perplexity):
                low, beta = beta, beta * 2 if np.isinf(high) else (beta + high) / 2
            else:
                high, beta = beta, (beta + low) / 2
        rows[i] = np.insert(share, i, 0.0)
    joint: Floats = (rows + rows.T) / (2 * len(points))
    return joint


def _squares(points: Floats) -> Floats:
    """Squared distances, [n, n]."""
    lengths = np.sum(points**2, axis=1)
    squares: Floats = np.maximum(lengths[:, None] + lengths - 2 * points @ points.T, 0)
    np.fill_diagonal(squares, 0)
    return squares


def _principal(points: Floats) -> Floats:
    """The first two principal coordinates, scaled as t-SNE begins; signs are fixed."""
    centred = points - points.mean(axis=0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    found: Floats = np.zeros((len(points), 2))
    width = min(2, len(values))
    found[:, :width] = left[:, :width] * values[:width]
    found *= np.sign(found[np.abs(found).argmax(axis=0), [0, 1]] + 1e-300)
    scale = float(np.std(found[:, 0]))
    return found / scale * 1e-4 if scale > 0 else found

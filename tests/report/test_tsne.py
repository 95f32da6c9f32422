"""t-SNE: near stays near, the bandwidths meet the perplexity, nothing is left to chance."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelican.report.charts import MOST, affinities, tsne


def clusters(sizes: tuple[int, ...], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Points around well separated centres, and the cluster of each."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(0, 6, (len(sizes), 20))
    of = np.repeat(np.arange(len(sizes)), sizes)
    return centres[of] + generator.normal(0, 0.3, (len(of), 20)), of


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_nearest_neighbour_in_the_plane_is_of_the_same_cluster(seed):
    points, of = clusters((8, 12, 9, 11), seed)
    place = tsne(points, steps=500)
    squares = ((place[:, None] - place[None]) ** 2).sum(axis=2)
    np.fill_diagonal(squares, np.inf)
    assert (of[squares.argmin(axis=1)] == of).mean() > 0.95


def test_two_calls_give_the_same_plane():
    points, _ = clusters((6, 6), 0)
    assert np.array_equal(tsne(points, steps=50), tsne(points, steps=50))


@settings(max_examples=20)
@given(st.integers(5, 40), st.integers(0, 99))
def test_the_affinities_are_symmetric_and_sum_to_one(count, seed):
    points = np.random.default_rng(seed).normal(size=(count, 6))
    near = affinities(points, (count - 1) / 3)
    assert np.allclose(near, near.T) and near.sum() == pytest.approx(1)
    assert (near >= 0).all() and not near.diagonal().any()


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4])
def test_few_points_and_equal_points_have_finite_places(count):
    assert np.isfinite(tsne(np.ones((count, 4)), steps=20)).all()
    assert tsne(np.eye(5)[:count], steps=20).shape == (count, 2)


def test_too_many_points_are_refused():
    with pytest.raises(ValueError, match="too many"):
        tsne(np.zeros((MOST + 1, 2)))

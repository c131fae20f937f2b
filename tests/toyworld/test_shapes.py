"""Shapes: the tables of distances are what the outlines say."""

import numpy as np
import pytest

from pipeline.toyworld.shapes import COLOURS, CORNERED, EXTENT, ROUND, SHAPES, TABLE, distance_table


def _points() -> tuple[np.ndarray, np.ndarray]:
    axis = np.linspace(-EXTENT, EXTENT, TABLE)
    return np.meshgrid(axis, axis)


def test_there_are_twelve_shapes_of_two_kinds_and_eight_colours():
    assert len(set(SHAPES)) == 12 and set(ROUND).isdisjoint(CORNERED) and len(COLOURS) == 8


def test_the_distance_to_a_circle_is_the_distance_to_a_circle():
    x, y = _points()
    np.testing.assert_allclose(distance_table("circle"), np.hypot(x, y) - 0.85, atol=2e-3)


def test_the_distance_to_a_square_is_the_distance_to_a_square():
    x, y = _points()
    half = 0.85 * np.sqrt(np.pi) / 2
    u, v = np.abs(x + y) / np.sqrt(2) - half, np.abs(x - y) / np.sqrt(2) - half
    wanted = np.hypot(np.maximum(u, 0), np.maximum(v, 0)) + np.minimum(np.maximum(u, v), 0)
    np.testing.assert_allclose(distance_table("square"), wanted, atol=2e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_covers_the_same_area_and_fits_its_table(shape):
    table = distance_table(shape)
    cell = (2 * EXTENT / (TABLE - 1)) ** 2
    assert (table < 0).sum() * cell == pytest.approx(np.pi * 0.85**2, rel=0.02)
    assert min(table[0].min(), table[-1].min(), table[:, 0].min(), table[:, -1].min()) > 0


def test_an_unknown_shape_is_refused_by_name():
    with pytest.raises(ValueError, match="unknown shape 'blob'"):
        distance_table("blob")

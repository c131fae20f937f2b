"""Improvised scenes: what a grid says of a picture or a clip is what is seen in it."""

import numpy as np
import pytest

from pipeline.toyworld.shapes import COLOUR_NAMES, SHAPES
from tests.later import Later

recipe = Later("weights.recipe.improvise")

pytestmark = pytest.mark.weights


def test_grid_truth_counts_pixels():
    owner = np.full((4, 8, 8), -1, np.int8)
    owner[:, :2, :4] = 1
    owner[0, 4:, 4:] = 0
    truth = recipe.grid_truth(owner, objects=2, steps=2, cells=2)
    np.testing.assert_array_equal(
        truth.owner, [[[1, recipe.NOBODY], [recipe.NOBODY, 0]], [[1, recipe.NOBODY], [recipe.NOBODY, recipe.NOBODY]]]
    )
    np.testing.assert_allclose(truth.cover, [[[0.5, 0], [0, 0.5]], [[0.5, 0], [0, 0]]])


def test_a_pictures_place_points_to_the_centre_of_its_object():
    made = recipe.picture(np.random.default_rng(4), 128, 8)
    assert made.pixels.shape == (128, 128, 3) and made.present.sum() >= 2
    middle = (np.arange(8) + 0.5) / 8
    here = np.stack(np.meshgrid(middle, middle), axis=-1)
    centres = here + made.place[..., :2] * 0.14 * np.exp(made.place[..., 2:])
    for name in {(s, c) for s, c in zip(made.shape.ravel(), made.colour.ravel(), strict=True) if s >= 0}:
        mine = (made.shape == name[0]) & (made.colour == name[1])
        assert np.ptp(centres[mine], axis=0).max() < 1e-5
    assert made.shape.max() < len(SHAPES) and made.colour.max() < len(COLOUR_NAMES)


def test_a_window_of_a_clip_is_a_part_of_it():
    whole = recipe.clip(np.random.default_rng(8), 32, 64, 8, 4)
    part = recipe.clip(np.random.default_rng(8), 32, 64, 4, 4, window=16)
    assert whole.pixels.shape == (32, 64, 64, 3) and part.pixels.shape == (16, 64, 64, 3)
    assert whole.motion.shape == (8, 4, 4, len(recipe.MOTIONS)) and part.motion.shape == (4, 4, 4, len(recipe.MOTIONS))
    assert (whole.motion[whole.cover == 0] == 0).all() and whole.background == part.background

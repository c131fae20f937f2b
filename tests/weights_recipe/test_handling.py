"""Windows of handling: what is said of them is what is seen in them."""

import numpy as np
import pytest

from pipeline.toyworld.shapes import COLOUR_NAMES, COLOURS, SHAPES
from tests.later import Later

improvise = Later("weights.recipe.improvise")
recipe_handling = Later("weights.recipe.handling")

pytestmark = pytest.mark.weights


def window(seed, frames=16, size=64):
    return recipe_handling.handling(np.random.default_rng([seed, 7]), frames, size, 4, 4)


@pytest.fixture(scope="module")
def windows():
    return [window(seed) for seed in range(120)]


def test_a_window_is_drawn_from_its_seed_alone():
    one, same, other = window(1), window(1), window(2)
    assert one.pixels.shape == (17, 64, 64, 3) and one.pixels.dtype == np.uint8
    assert np.array_equal(one.pixels, same.pixels) and not np.array_equal(one.pixels, other.pixels)


def test_truth_has_the_shapes_that_it_says(windows):
    for seen in windows[:5]:
        assert seen.motion.shape == (len(improvise.MOTIONS),) and seen.cell_motion.shape == (
            4,
            4,
            4,
            len(improvise.MOTIONS),
        )
        assert seen.cover.shape == seen.cell_shape.shape == seen.cell_colour.shape == (4, 4, 4)
        assert seen.present[seen.shape] == 1 and seen.present[len(SHAPES) + seen.colour] == 1
        assert ((seen.cell_shape >= 0) == (seen.cover >= 0.12)).all()


def test_there_are_one_or_two_objects_and_every_act_occurs(windows):
    counts = [max(seen.present[: len(SHAPES)].sum(), seen.present[len(SHAPES) :].sum()) for seen in windows]
    assert set(counts) == {1, 2}
    moved = np.stack([np.abs(seen.motion) > 0.4 for seen in windows])
    assert moved.any(axis=0).all() and not moved.any(axis=1).all() and len(recipe_handling.ACTS) == 7


def test_a_cell_full_of_the_object_has_its_colour(windows):
    for seen in windows:
        full = np.argwhere((seen.cover > 0.95) & (seen.cell_colour == seen.colour))
        for step, row, column in full[:1]:
            pixels = seen.pixels[4 * step : 4 * step + 4, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
            said = np.array(COLOURS[COLOUR_NAMES[seen.colour]], float)
            # Light, shade and noise change the brightness; the hue stays.
            cosine = (
                pixels.mean(axis=(0, 1, 2)) @ said / np.linalg.norm(pixels.mean(axis=(0, 1, 2))) / np.linalg.norm(said)
            )
            assert cosine > 0.97


def test_the_objects_cells_carry_its_motion_and_a_bystanders_none(windows):
    for seen in windows:
        known = seen.cover >= 0.12
        moving = np.abs(seen.cell_motion).sum(axis=-1) > 0
        assert not (moving & ~known).any()
        same = known & (seen.cell_shape == seen.shape) & (seen.cell_colour == seen.colour)
        assert not (moving & ~same).any()
    assert 0 < recipe_handling.APART < 0.5


def test_what_travels_is_seen_to_travel_that_way(windows):
    """The centre of what the object covers moves as its velocity says."""
    agreed = []
    for seen in windows:
        speed = seen.motion[2]
        if speed < 0.8 or seen.present.sum() > 2:
            continue
        place = (np.arange(4) + 0.5) / 4
        weight = seen.cover / seen.cover.sum(axis=(1, 2), keepdims=True)
        x, y = (weight * place).sum(axis=(1, 2)), (weight * place[:, None]).sum(axis=(1, 2))
        agreed.append((x[-1] - x[0]) * seen.motion[0] + (y[-1] - y[0]) * seen.motion[1] > 0)
    assert len(agreed) > 5 and np.mean(agreed) > 0.95

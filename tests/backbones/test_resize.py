"""`resize: device`: the pixels of the default to a grey level, whatever the size of a video, under a key of its own."""

import numpy as np
import pytest
import torch

from pipeline import backbones
from pipeline.config import ParamsError, feature_key, parse_params
from tests.extraction.small import DINO, R3D
from tests.later import Later

r3d18 = Later("pipeline.backbones.r3d18")
towers = Later("pipeline.backbones.towers")


def frames(height, width, smooth=True):
    """(3, height, width, 3) uint8: a scene that moves, or noise, the hardest case."""
    rng = np.random.default_rng(0)
    if not smooth:
        return rng.integers(0, 256, (3, height, width, 3), np.uint8)
    rows, columns = np.mgrid[:height, :width]
    waves = [np.sin(rows / (7 + n) + n) * np.cos(columns / (11 - n)) for n in range(9)]
    return (127.5 + 127.5 * np.stack(waves, -1).reshape(height, width, 3, 3).transpose(2, 0, 1, 3)).astype(np.uint8)


WAYS = [
    (lambda on: towers.Pixels((64, 80), None, towers.BILINEAR, False, on), 1.0),
    (lambda on: towers.Pixels(73, (64, 64), towers.BICUBIC, False, on), 1.0),
    (lambda on: towers.Pixels((64, 64), None, towers.BILINEAR, True, on), 1e-5),
    (lambda on: r3d18.R3D18Pixels((128, 171), (112, 112), on), 1.0),
]


@pytest.mark.parametrize(("pixels", "tolerance"), WAYS)
@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize("size", [(240, 320), (135, 240), (90, 71)])
def test_pixels_are_those_of_the_default_to_one_grey_level(pixels, tolerance, smooth, size):
    given = frames(*size, smooth)
    ours, theirs = pixels(False)(given), pixels(True)(given)
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
    apart = np.abs(ours.astype(np.float64) - theirs)
    if smooth or getattr(pixels(True), "resample", towers.BILINEAR) != towers.BICUBIC:
        assert apart.max() <= tolerance
    else:  # uint8 is cut between the two passes, which noise overshoots
        assert (apart > tolerance).mean() < 0.02
    there = pixels(True).resized(torch.from_numpy(given).permute(0, 3, 1, 2))
    np.testing.assert_array_equal(there.numpy(), theirs)


@pytest.mark.parametrize("feature", [DINO, R3D], ids=["dinov3", "r3d18"])
def test_the_choice_is_in_the_key_and_the_default_is_not(feature):
    keys = [
        feature_key(parse_params({"features": {"f": feature | more}}), "f")
        for more in ({}, {"resize": "worker"}, {"resize": "device"})
    ]
    assert keys[0] == keys[1] != keys[2]


def test_only_what_can_resize_on_the_device_takes_the_choice():
    flow = {"backbone": "flow", "method": "dis", "sampling": {"fps": 4}, "preprocess": {"resize": [64, 64]}}
    with pytest.raises(ParamsError, match=r"features\.f\.(flow\.)?resize"):
        parse_params({"features": {"f": flow | {"resize": "device"}}})
    chosen = parse_params({"features": {"f": DINO, "g": DINO | {"resize": "device"}}}).features
    assert [of.resized_there for of in chosen.values()] == [False, True]
    assert backbones.resized_there(chosen["f"]) is None and backbones.resized_there(chosen["g"]) is not None

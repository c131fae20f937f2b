"""Scenes: what is rendered is what the ground truth says."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.toyworld.backgrounds import BACKGROUNDS
from pipeline.toyworld.scene import MARGIN, Scene, Track, camera_shake, dress, render
from pipeline.toyworld.shapes import COLOURS


def _track(shape: str = "circle", x: float = 0.4, y: float = 0.6, radius: float = 0.15, frames: int = 5) -> Track:
    ramp = np.linspace(0, 1, frames)
    return Track(shape, "red", x + 0.2 * ramp, y - 0.1 * ramp, radius * (1 + 0.3 * ramp), 0 * ramp)


def _scene(*tracks: Track, frames: int = 5) -> Scene:
    return Scene("snow", tracks, np.zeros((frames, 2)), texture_seed=3)


@pytest.mark.parametrize("shape", ["circle", "square", "cross", "oval"])
def test_centre_and_area_of_the_pixels_are_those_of_the_track(shape):
    track = _track(shape)
    _, owner = render(_scene(track), 128)
    for t, mask in enumerate(owner == 0):
        rows, columns = np.nonzero(mask)
        assert (columns.mean() + 0.5) / 128 == pytest.approx(track.x_T[t], abs=0.004)
        assert (rows.mean() + 0.5) / 128 == pytest.approx(track.y_T[t], abs=0.004)
        assert mask.sum() == pytest.approx(np.pi * (0.85 * track.radius_T[t] * 128) ** 2, rel=0.04)


def test_an_objects_pixels_have_its_colour():
    frames, owner = render(_scene(_track(radius=0.2)), 128)
    lit = frames[0][(owner[0] == 0) & (np.arange(128)[None, :] < 0.3 * 128)]
    assert np.abs(np.median(lit, axis=0) - COLOURS["red"]).max() < 12


def test_the_last_track_is_in_front():
    _, owner = render(_scene(_track(), _track("star", radius=0.05)), 64)
    assert owner[0, int(0.6 * 64), int(0.4 * 64)] == 1 and (owner[0] == 0).any()


def test_the_camera_moves_everything_alike():
    shift = np.tile([[3 / 128, -2 / 128]], (5, 1))
    still, still_owner = render(_scene(_track()), 128)
    moved, moved_owner = render(replace(_scene(_track()), camera_T2=shift), 128)
    np.testing.assert_array_equal(moved_owner[:, :-2, 3:], still_owner[:, 2:, :-3])
    assert np.abs(moved[:, :-2, 3:].astype(int) - still[:, 2:, :-3]).max() <= 1


def test_a_camera_that_leaves_the_background_is_refused():
    with pytest.raises(ValueError, match="the camera moves"):
        Scene("snow", [], np.full((4, 2), MARGIN), texture_seed=0)


def test_the_shake_of_dressed_scenes_never_leaves_the_background():
    amplitudes = [np.abs(camera_shake(np.random.default_rng(seed), 44, 0.008)).max() for seed in range(50)]
    assert max(amplitudes) < MARGIN


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_backgrounds_look_alike_at_every_resolution(background):
    scene = Scene(background, [], np.zeros((1, 2)), texture_seed=5)
    large, small = (render(scene, size)[0][0].astype(float) for size in (128, 64))
    halved = large.reshape(64, 2, 64, 2, 3).mean(axis=(1, 3))
    assert np.abs(halved - small).mean() < 6


def test_time_reversal_of_the_tracks_is_time_reversal_of_the_picture():
    track = _track()
    forwards, _ = render(_scene(track), 64)
    backwards, _ = render(_scene(track.during(slice(None, None, -1))), 64)
    np.testing.assert_array_equal(backwards[::-1], forwards)


def test_the_same_seed_gives_the_same_scene_and_another_seed_another():
    def made(seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        return render(dress(rng, "grass", [_track()], 5), 64)[0]

    np.testing.assert_array_equal(made(1), made(1))
    assert not np.array_equal(made(1), made(2))

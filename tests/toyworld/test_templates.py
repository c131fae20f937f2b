"""Templates: what each class asks of a model holds by construction."""

import numpy as np
import pytest
import scipy

from pipeline.toyworld.shapes import CORNERED, ROUND
from pipeline.toyworld.templates import (
    BY_TEXT,
    FAMILIES,
    STROBE_SEGMENTS,
    TEMPLATES,
    direction_opposite,
    strobe,
)


def _scene(text: str, seed: int, frames: int = 37):
    return BY_TEXT[text].scene(np.random.default_rng(seed), frames)


def test_there_are_sixteen_classes_with_distinct_labels_without_brackets():
    labels = {template.label for template in TEMPLATES}
    assert len(labels) == 16 and not any("[" in label or "]" in label for label in labels)


def test_the_opposite_of_a_direction_is_an_involution_without_fixed_points():
    opposite = direction_opposite()
    assert all(opposite[opposite[label]] == label != opposite[label] for label in opposite)


def test_half_need_order_and_a_quarter_need_appearance_and_some_need_both_at_one_place():
    assert sum(template.needs_order for template in TEMPLATES) >= 8
    assert sum(template.needs_appearance for template in TEMPLATES) >= 4
    assert sum(template.needs_binding for template in TEMPLATES) >= 4


@pytest.mark.parametrize("template", [t for t in TEMPLATES if t.needs_order], ids=lambda t: t.label)
def test_a_direction_class_is_its_opposite_with_time_reversed(template):
    """Frame by frame the two show the same set of pictures, so no single frame can tell them apart."""
    here, names = _scene(template.text, seed=11)
    there, their_names = _scene(template.opposite, seed=11)
    assert names == their_names
    for mine, theirs in zip(here.tracks, there.tracks, strict=True):
        for field in ("x_T", "y_T", "radius_T", "angle_T"):
            np.testing.assert_array_equal(getattr(mine, field)[::-1], getattr(theirs, field))


@pytest.mark.parametrize(
    ("text", "direction"),
    [
        ("Pushing [something] from left to right", lambda t: t.x_T[-1] - t.x_T[0]),
        ("Moving [something] up", lambda t: t.y_T[0] - t.y_T[-1]),
        ("Moving [something round] towards the camera", lambda t: t.radius_T[-1] - t.radius_T[0]),
    ],
)
def test_sentences_say_what_happens(text, direction):
    scene, names = _scene(text, seed=2)
    moved = [track for track in scene.tracks if np.ptp(track.x_T) + np.ptp(track.y_T) + np.ptp(track.radius_T) > 0]
    assert [track.name for track in moved] == names
    assert direction(moved[0]) > 0.04
    assert BY_TEXT[text].sentence(names).count(names[0]) == 1


def test_things_that_come_closer_do_and_a_cover_hides_what_it_covers():
    scene, _ = _scene("Moving [something] and [something] closer to each other", seed=3)
    first, second = scene.tracks[-2:]
    gap = np.hypot(first.x_T - second.x_T, first.y_T - second.y_T)
    assert gap[0] > 0.5 > 0.35 > gap[-1]
    scene, _ = _scene("Covering [something] with [something]", seed=3)
    target, lid = scene.tracks[-2:]
    assert np.hypot(lid.x_T - target.x_T, lid.y_T - target.y_T)[-1] == pytest.approx(0, abs=1e-9)
    assert lid.radius_T[-1] > 1.6 * target.radius_T[-1]


@pytest.mark.parametrize("template", [t for t in TEMPLATES if t.needs_binding], ids=lambda t: t.label)
def test_binding_classes_always_show_both_kinds_and_exactly_one_object_moves(template):
    for seed in range(20):
        scene, names = template.scene(np.random.default_rng(seed), 40)
        moved = [t for t in scene.tracks if np.ptp(t.x_T) + np.ptp(t.radius_T) + np.ptp(t.y_T) > 0]
        assert [track.name for track in moved] == names and moved[0].shape in FAMILIES[template.family]
        assert {track.shape in ROUND for track in scene.tracks} == {True, False}


def test_in_stills_of_binding_classes_nothing_tells_who_moves():
    """Size and place of the mover, as eight stills show them, are drawn as the others' are."""
    shown = ((np.arange(STROBE_SEGMENTS) + 0.5) / STROBE_SEGMENTS * 40).astype(int)
    seen: dict[bool, list[list[float]]] = {True: [], False: []}
    for index, template in enumerate(t for t in TEMPLATES if t.needs_binding):
        for seed in range(200):
            scene, names = template.scene(np.random.default_rng([seed, index]), 40)
            # One object a scene: places within a scene depend on each other.
            movers = seed % 2 == 0
            track = next(track for track in scene.tracks if (track.name == names[0]) == movers)
            still = [np.log(track.radius_T[shown].mean()), track.x_T[shown].mean(), track.y_T[shown].mean()]
            seen[movers].append(still)
    for mine, theirs in zip(np.transpose(seen[True]), np.transpose(seen[False]), strict=True):
        assert scipy.stats.ks_2samp(mine, theirs).pvalue > 0.01


@pytest.mark.parametrize(
    "template", [t for t in TEMPLATES if t.needs_appearance and t.needs_order], ids=lambda t: t.label
)
def test_appearance_classes_show_one_kind_only(template):
    for seed in range(20):
        scene, _ = template.scene(np.random.default_rng(seed), 40)
        assert {track.shape in FAMILIES[template.family] for track in scene.tracks} == {True}


def test_the_number_of_objects_does_not_give_the_class_away():
    counts = {
        template: {len(template.scene(np.random.default_rng(seed), 40)[0].tracks) for seed in range(30)}
        for template in TEMPLATES
    }
    assert all(seen == {2, 3} for seen in counts.values())


@pytest.mark.parametrize("frames", range(30, 45))
def test_fast_movements_stand_almost_still_in_eight_stills_but_not_in_the_video(frames):
    shown = ((np.arange(STROBE_SEGMENTS) + 0.5) / STROBE_SEGMENTS * frames).astype(int)
    waves = np.stack([strobe(np.random.default_rng(seed), frames) for seed in range(40)])
    assert waves[:, shown].std(axis=1).mean() < 0.2
    assert waves.std(axis=1).mean() > 0.6


def test_objects_of_a_scene_differ_in_shape_and_colour():
    for seed in range(30):
        scene, _ = TEMPLATES[seed % 16].scene(np.random.default_rng(seed), 32)
        assert len({t.shape for t in scene.tracks}) == len({t.colour for t in scene.tracks}) == len(scene.tracks)
    assert set(ROUND) | set(CORNERED) >= {t.shape for t in scene.tracks}

"""The procedures of toy-assembly: what their segments are, and that the scene shows them."""

from itertools import pairwise

import numpy as np
import pytest

from pipeline.toyworld.procedures import CLASSES, HELD_OUT, PARTS, Step, label, procedure, scene
from pipeline.toyworld.scene import render
from pipeline.toyworld.shapes import CORNERED, ROUND
from pipeline.toyworld.vocabulary import COLOUR_WORDS, OBJECT_WORDS, VERBS

STEPS, FRAMES = (8, 14), (18, 36)
RED_STAR = PARTS[0]


def procedures(count: int = 200) -> list[list[Step]]:
    return [procedure(np.random.default_rng([3, index]), STEPS, FRAMES) for index in range(count)]


def shown(step: Step, seed: int):
    """The track of the part in hand in a scene of this step alone: the last one, which is in front."""
    return scene(np.random.default_rng(seed), [step]).tracks[-1]


def test_classes_are_the_background_and_every_verb_with_every_part():
    assert len(CLASSES) == len(set(CLASSES)) == 1 + len(VERBS) * len(PARTS)
    assert len(VERBS) >= 4 and len(PARTS) >= 5
    assert "push left red star" in CLASSES


def test_a_part_has_a_colour_and_a_shape_of_its_own_and_the_words_are_those_of_the_vocabulary():
    colours, shapes = zip(*PARTS, strict=True)
    assert len(set(colours)) == len(set(shapes)) == len(PARTS)
    assert set(colours) <= set(COLOUR_WORDS) and set(shapes) <= set(OBJECT_WORDS)
    assert len(set(shapes) & set(ROUND)) == len(set(shapes) & set(CORNERED))


def test_every_verb_and_every_part_of_a_held_out_class_is_in_classes_that_are_not():
    seen = set(CLASSES) - set(HELD_OUT)
    assert len(HELD_OUT) == len(set(HELD_OUT)) == len(VERBS) and set(HELD_OUT) < set(CLASSES)
    for verb in VERBS:
        assert sum(label(verb, part) in seen for part in PARTS) >= 4
    for part in PARTS:
        assert sum(label(verb, part) in seen for verb in VERBS) >= 4


def test_segments_are_as_many_and_as_long_as_asked_and_neighbours_differ():
    for steps in procedures():
        labels = [step.label for step in steps]
        assert STEPS[0] <= len(steps) <= STEPS[1]
        assert all(FRAMES[0] <= step.frames <= FRAMES[1] for step in steps)
        assert all(one != other for one, other in pairwise(labels))


def test_most_videos_do_a_class_again_and_most_have_a_pause():
    made = procedures()
    actions = [[step.label for step in steps if step.verb] for steps in made]
    assert np.mean([len(set(labels)) < len(labels) for labels in actions]) > 0.6
    assert np.mean([any(step.verb is None for step in steps) for steps in made]) > 0.6
    assert {step.label for steps in made for step in steps} == set(CLASSES)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("verb", "way"), [("lift", (0, -1)), ("lower", (0, 1)), ("push left", (-1, 0)), ("push right", (1, 0))]
)
def test_a_part_travels_the_way_that_its_verb_says(verb, way, seed):
    track = shown(Step(30, verb, RED_STAR), seed)
    moved = np.array([track.x_T[-1] - track.x_T[0], track.y_T[-1] - track.y_T[0]])
    assert moved @ way > 0.2 and abs(moved @ way) > 2 * abs(moved @ way[::-1])
    assert np.ptp(track.angle_T) == 0


@pytest.mark.parametrize("seed", range(5))
def test_what_is_turned_or_shaken_stays_where_it_is(seed):
    turned, shaken = (shown(Step(30, verb, RED_STAR), seed) for verb in ("turn", "shake"))
    assert np.ptp(turned.angle_T) > 1 and np.ptp(turned.x_T) == np.ptp(turned.y_T) == 0
    assert np.ptp(shaken.angle_T) == 0 and np.hypot(np.ptp(shaken.x_T), np.ptp(shaken.y_T)) > 0.06
    beats = np.diff(np.sign(np.diff(shaken.x_T))) != 0
    assert beats.sum() > 6


def test_the_part_in_hand_is_in_view_in_its_segment_and_in_no_other():
    steps = [Step(20, "lift", RED_STAR), Step(20), Step(20, "turn", PARTS[1])]
    for seed in range(5):
        staged = scene(np.random.default_rng(seed), steps)
        _, owner = render(staged, 64)
        first, second = len(staged.tracks) - 2, len(staged.tracks) - 1
        assert (staged.tracks[first].shape, staged.tracks[second].shape) == ("star", "ring")
        for index, inside in ((first, slice(0, 20)), (second, slice(40, 60))):
            seen = (owner == index).any(axis=(1, 2))
            assert seen[inside].all() and seen.sum() == 20


def test_an_unknown_verb_is_an_error_that_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown verb 'paint': known are lift, lower"):
        scene(np.random.default_rng(0), [Step(20, "paint", RED_STAR)])

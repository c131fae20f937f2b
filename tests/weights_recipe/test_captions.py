"""Captioned pictures: drawn from a seed alone, and every caption is true of its picture."""

import numpy as np
import pytest

from pipeline.toyworld.shapes import SHAPES
from pipeline.toyworld.vocabulary import VERBS
from tests.later import Later

recipe = Later("weights.recipe.captions")

pytestmark = pytest.mark.weights


def drawn(seed, **wanted):
    rng = np.random.default_rng(seed)
    seen = recipe.view(rng, 64, 4, **wanted)
    return seen, recipe.captions(rng, seen)


def test_a_seed_gives_one_picture_and_one_set_of_captions():
    for seed in range(8):
        (one, said), (two, said_again) = drawn(seed), drawn(seed)
        np.testing.assert_array_equal(one.pixels, two.pixels)
        assert (one.sights, said) == (two.sights, said_again)
    assert len({said[0].text for _, said in map(drawn, range(20))}) > 10


def test_every_caption_holds_of_its_picture():
    for seed in range(150):
        seen, said = drawn(seed)
        assert all(caption.holds(seen) for caption in said), (seen.sights, said)


def test_a_caption_holds_only_of_one_object_that_has_it_all():
    seen, _ = drawn(0, shape="star", colour="red", verb="lift", background="snow", company=0.0)
    assert seen.sights == (recipe.Sight("star", "red", "lift"),)
    assert recipe.Caption("a red star on snow", shape="star", colour="red", background="snow").holds(seen)
    assert recipe.Caption("lift something with corners", kind="with corners", verb="lift").holds(seen)
    for wrong in (
        recipe.Caption("a blue star", shape="star", colour="blue"),
        recipe.Caption("a star on grass", shape="star", background="grass"),
        recipe.Caption("lower the star", shape="star", verb="lower"),
        recipe.Caption("nothing moves", idle=True),
    ):
        assert not wrong.holds(seen), wrong.text
    pair = type(seen)(**{**vars(seen), "sights": (recipe.Sight("star", "red"), recipe.Sight("ring", "blue"))})
    assert not recipe.Caption("a blue star", shape="star", colour="blue").holds(pair)


def test_what_is_wanted_is_shown():
    seen, _ = drawn(3, shape=None, background="tiles")
    assert (seen.sights, seen.background, seen.verb) == ((), "tiles", None)
    assert not seen.cover.any() and not seen.mask.any() and (seen.shape == -100).all()
    seen, _ = drawn(3, shape="ring", verb=None)
    assert seen.sights[0] == recipe.Sight("ring", seen.sights[0].colour) and (seen.shape == SHAPES.index("ring")).any()
    assert seen.mask.shape == (4, 4, recipe.FINE**2)
    np.testing.assert_allclose(seen.mask.mean(axis=2), seen.cover, atol=1e-6)


def test_each_patch_knows_what_is_done_to_its_object():
    rng = np.random.default_rng(3)
    seen = recipe.view(rng, 128, 8, 1.0, shape="star", verb="lift")
    assert [sight.verb for sight in seen.sights] == ["lift", None]
    star, other = seen.shape == SHAPES.index("star"), (seen.shape >= 0) & (seen.shape != SHAPES.index("star"))
    assert star.any() and (seen.act[star] == VERBS.index("lift")).all()
    assert other.any() and (seen.act[other] == len(VERBS)).all()
    assert (seen.act[seen.shape < 0] == -100).all()


def test_an_objects_portrait_does_not_depend_on_its_place_and_size():
    portraits = []
    for seed in range(40):
        seen, _ = drawn(seed, shape="ring", verb=None, company=0.0)
        portraits.append(seen.portrait[seen.shape >= 0])
    portraits = np.concatenate(portraits)
    assert portraits.shape == (len(portraits), recipe.PORTRAIT**2) and (portraits == portraits[0]).mean() > 0.99
    # A hole in the middle.
    assert portraits[0].reshape(recipe.PORTRAIT, recipe.PORTRAIT)[3:5, 3:5].sum() == 0


@pytest.mark.parametrize(
    ("verb", "axis", "sign"),
    [("lift", "y_T", -1), ("lower", "y_T", 1), ("push left", "x_T", -1), ("push right", "x_T", 1)],
)
def test_directions_go_where_they_say(verb, axis, sign):
    track = recipe.action(np.random.default_rng(0), verb, "star", "red", recipe.MOMENTS)
    assert (sign * np.diff(getattr(track, axis)) > 0.03).all()


def test_an_unknown_verb_is_refused_by_name():
    with pytest.raises(ValueError, match=r"'jump'.*lift"):
        recipe.action(np.random.default_rng(0), "jump", "star", "red")


def test_verbs_leave_their_trails_on_their_sides():
    frames = np.zeros((4, 5, 5, 3), np.uint8)
    owner = np.full((4, 5, 5), -1, np.int8)
    for t in range(4):
        frames[t, 2, t], owner[t, 2, t] = 200, 0
    trailed = recipe.with_trail(frames, owner, opacities=(0.5, 0.25))
    np.testing.assert_array_equal(trailed[3, 2, :, 0], [0, 50, 100, 200, 0])
    np.testing.assert_array_equal(trailed[0], frames[0])
    wider = recipe.with_trail(frames, owner, gap=2, opacities=(0.5,))
    np.testing.assert_array_equal(wider[3, 2, :, 0], [0, 100, 0, 200, 0])


def test_a_trail_never_covers_an_object():
    frames = np.full((2, 1, 2, 3), 10, np.uint8)
    owner = np.array([[[0, 0]], [[1, -1]]], np.int8)
    frames[0], frames[1, 0, 0] = 200, 90
    assert recipe.with_trail(frames, owner, opacities=(1.0,))[1, 0, :, 0].tolist() == [90, 200]


def test_every_verb_can_be_told_from_its_still():
    for verb in VERBS:
        seen, _ = drawn(1, shape="circle", verb=verb, company=0.0)
        assert seen.verb == verb

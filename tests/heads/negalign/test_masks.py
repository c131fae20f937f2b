"""From activation maps to P_align, against loops over patches and words."""

import pytest
import torch

from pipeline.heads.negalign import masks as masks_module
from pipeline.heads.negalign import words as words_module
from pipeline.heads.negalign.masks import background_embedding, foreground, p_align

from . import literal
from .literal import vectors

# --- foreground -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [(1, 1), (3, 4), (7, 7), (14, 14)])
@pytest.mark.parametrize("percentile", [0, 33.3, 80, 90, 100])
@pytest.mark.parametrize("dilate", [0, 1, 2])
@pytest.mark.parametrize("tied", [False, True])
def test_the_foreground_is_that_of_a_loop(grid, percentile, dilate, tied):
    maps = torch.randn(3, grid[0] * grid[1], dtype=torch.float64)
    if tied:
        maps = maps.round()
    found = foreground(maps, percentile, dilate, grid)
    assert found.dtype == torch.bool
    for row, mask in zip(maps.tolist(), found, strict=True):
        assert set(mask.nonzero().flatten().tolist()) == literal.foreground(row, percentile, dilate, grid)


@pytest.mark.parametrize("patches", [(7, 7), (8, 8), (14, 14)])
def test_the_mask_holds_its_share_even_where_hardly_a_patch_is_positive(patches):
    maps = -torch.rand(4, patches[0] * patches[1])
    maps[:, 3] = 1.0
    # A threshold on the map after ReLU is 0 here, and `map >= 0` takes every patch.
    assert (maps.relu() >= maps.relu().quantile(0.8, dim=1, keepdim=True)).all()
    assert (foreground(maps, 80, 0, patches).sum(dim=1) == -(-maps.shape[1] // 5)).all()


def test_only_the_order_of_the_map_matters():
    maps = torch.randn(5, 49, dtype=torch.float64)
    mask = foreground(maps, 80, 1, (7, 7))
    assert torch.equal(foreground(maps.exp() * 3 - 7, 80, 1, (7, 7)), mask)


def test_settings_grow_the_mask_and_never_shrink_it():
    maps = torch.randn(5, 49)
    wide, narrow = foreground(maps, 70, 0, (7, 7)), foreground(maps, 90, 0, (7, 7))
    assert (wide | narrow).equal(wide) and wide.sum() > narrow.sum()
    grown = foreground(maps, 90, 1, (7, 7))
    assert (grown | narrow).equal(grown) and grown.sum() > narrow.sum()
    assert foreground(maps, 90, 12, (7, 7)).all()  # to the farthest corner


def test_a_map_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="maps of 12 patches on a grid of 3 x 3; give the backbone's grid"):
        foreground(torch.zeros(1, 12), 80, 0, (3, 3))
    with pytest.raises(ValueError, match="map of image 1 of the batch is not finite"):
        foreground(torch.tensor([[0.0], [torch.nan]]), 80, 0, (1, 1))
    for percentile, dilate in ((-1, 0), (101, 0), (80, -1)):
        with pytest.raises(ValueError, match=f"percentile {percentile} and dilate {dilate}, expected 0 to 100"):
            foreground(torch.zeros(1, 4), percentile, dilate, (2, 2))


# --- background -------------------------------------------------------------------------------------------------------


def test_the_background_is_that_of_a_loop_and_one_without_is_zero_and_invalid(monkeypatch):
    monkeypatch.setattr(masks_module, "CHUNK", 0)  # one image a chunk
    patches = torch.randn(4, 9, 5, dtype=torch.float64) * 30
    mask = torch.rand(4, 9) < 0.5
    mask[2] = True
    found, valid = background_embedding(patches, mask)
    assert valid.tolist() == [True, True, False, True] and valid.dtype == torch.bool
    for image in range(4):
        inside = set(mask[image].nonzero().flatten().tolist())
        expected = literal.background_embedding(patches[image].tolist(), inside) or [0.0] * 5
        assert torch.allclose(found[image], torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


def test_many_settings_at_once_are_each_setting_alone():
    patches = torch.randn(6, 12, 5, dtype=torch.float64)
    masks = torch.rand(6, 3, 12) < 0.4
    masks[1, 2] = True
    found, valid = background_embedding(patches, masks)
    assert found.shape == (6, 3, 5) and valid.shape == (6, 3)
    for setting in range(3):
        alone, there = background_embedding(patches, masks[:, setting])
        assert torch.allclose(found[:, setting], alone, rtol=0, atol=1e-12)
        assert torch.equal(valid[:, setting], there)


def test_halves_are_added_up_in_single_precision():
    patches = torch.full((1, 4000, 2), 20.0, dtype=torch.float16)  # the sum is beyond float16
    found, _ = background_embedding(patches, torch.zeros(1, 4000, dtype=torch.bool))
    assert found.dtype == torch.float32 and torch.allclose(found, torch.full((1, 2), 0.5**0.5))


def test_what_is_in_the_foreground_does_not_matter():
    patches = torch.randn(2, 6, 3, dtype=torch.float64)
    mask = torch.tensor([[True, True, False, False, False, True]] * 2)
    before, _ = background_embedding(patches, mask)
    patches[mask] = 100.0
    assert torch.equal(background_embedding(patches, mask)[0], before)


def test_patches_that_are_not_finite_or_do_not_fit_are_refused():
    patches, mask = torch.ones(2, 4, 3), torch.zeros(2, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"patches of shape \(2, 4, 3\) and foreground of \(2, 5\), expected"):
        background_embedding(patches, torch.zeros(2, 5, dtype=torch.bool))
    patches[1, 0, 0] = torch.inf
    with pytest.raises(ValueError, match="patches of image 1 of the batch is not finite; extract"):
        background_embedding(patches, mask)


# --- P_align ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k_neg", [1, 3, 11])
def test_p_align_is_that_of_a_loop_and_zero_without_a_background(k_neg, monkeypatch):
    monkeypatch.setattr(words_module, "CHUNK", 25)  # two images a chunk
    background, classes, words = vectors(3, 7, 4, 11)
    valid = torch.tensor([True, True, False, True, True, True, False])
    background[~valid] = 0
    predicted = torch.randint(0, 4, (7,))
    found = p_align(background, classes, predicted, words, k_neg, valid)
    expected = [
        literal.p_align(background[i] if valid[i] else None, classes[predicted[i]], words, k_neg) for i in range(7)
    ]
    assert torch.allclose(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)
    assert found[~valid].tolist() == [0, 0]


def test_p_align_falls_where_a_background_word_fits_better_and_ignores_far_words():
    background, classes, words = vectors(3, 3, 2, 8)
    valid, predicted = torch.ones(3, dtype=torch.bool), torch.zeros(3, dtype=torch.int64)
    before = p_align(background, classes, predicted, words, 2, valid)
    more = p_align(background, classes, predicted, torch.cat([words, background]), 2, valid)
    assert (more < before).all()
    far = p_align(background[:1], classes, predicted[:1], torch.cat([words, -background[:1]]), 2, valid[:1])
    assert torch.allclose(far, before[:1], rtol=0, atol=1e-12)


def test_all_pictures_without_a_background_have_a_p_align_of_zero():
    _, classes, words = vectors(3, 1, 2, 8)
    nothing = torch.zeros(2, 6), torch.zeros(2, dtype=torch.bool)
    assert p_align(nothing[0], classes, torch.tensor([0, 1]), words, 5, nothing[1]).tolist() == [0, 0]


def test_p_align_refuses_what_does_not_fit_with_the_remedy():
    background, classes, words = vectors(3, 2, 2, 4)
    predicted, valid = torch.zeros(2, dtype=torch.int64), torch.ones(2, dtype=torch.bool)
    with pytest.raises(ValueError, match="k_neg is 5 of 4 background words, expected 1 to 4; lower it"):
        p_align(background, classes, predicted, words, 5, valid)
    with pytest.raises(ValueError, match="there are no background words; lower tau"):
        p_align(background, classes, predicted, words[:0], 5, valid)
    with pytest.raises(ValueError, match="2 backgrounds, 1 predicted classes and 2 flags"):
        p_align(background, classes, predicted[:1], words, 1, valid)
    with pytest.raises(ValueError, match="predicted classes 2 to 2 of 2"):
        p_align(background, classes, predicted + 2, words, 1, valid)
    background[1] = torch.nan
    with pytest.raises(ValueError, match="row 1 of backgrounds has norm nan"):
        p_align(background, classes, predicted, words, 1, valid)
    assert p_align(background, classes, predicted, words, 1, torch.tensor([True, False])).isfinite().all()

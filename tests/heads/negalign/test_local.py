"""The local score against loops over images, patches and words in plain numbers."""

import pytest
import torch

from pipeline.heads.negalign.local import evidence, local_evidence
from pipeline.heads.negalign.scores import groups, neglabel
from pipeline.heads.negalign.words import CHUNK
from tests.heads.negalign import literal

B, N, C, M = 5, 9, 3, 11


@pytest.fixture(scope="module")
def case():
    """Patches of any length, unit images, classes and words, float64."""
    images, classes, negatives = literal.vectors(0, B, C, M)
    patches = torch.randn(B, N, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return patches, images, classes, negatives


def test_evidence_is_its_definition(case):
    _, images, classes, negatives = case
    wanted = [literal.evidence(image, classes, negatives) for image in images]
    assert evidence(images, classes, negatives).tolist() == pytest.approx(wanted, rel=1e-11)


def test_the_local_evidence_is_that_of_the_best_patch(case, monkeypatch):
    patches, _, classes, negatives = case
    wanted = [literal.local_evidence(image, classes, negatives) for image in patches]
    for size in (CHUNK, 2 * N * (C + M)):  # at once, and two images at a time
        monkeypatch.setattr("pipeline.heads.negalign.words.CHUNK", size)
        best, place = local_evidence(patches, classes, negatives)
        assert best.tolist() == pytest.approx([of for of, _ in wanted], rel=1e-11)
        assert place.tolist() == [of for _, of in wanted]


def test_half_precision_is_computed_in_single_and_of_equal_patches_the_first_counts(case):
    patches, _, classes, negatives = case
    doubled = patches.half().repeat(1, 2, 1)
    best, place = local_evidence(doubled, classes.float(), negatives.float())
    assert best.dtype == torch.float32 and (place < N).all()
    exact, _ = local_evidence(patches, classes, negatives)
    assert (best - exact).abs().max() < 0.2, "logits of up to 100: fp16 keeps 11 bits"


def test_s_neglabel_of_one_group_is_the_sigmoid_of_the_evidence(case):
    _, images, classes, negatives = case
    found = neglabel(images, classes, negatives, groups(M, 1, 0))
    torch.testing.assert_close(found, evidence(images, classes, negatives).sigmoid(), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf")])
def test_a_patch_without_a_direction_is_refused_with_its_image(case, bad):
    patches, _, classes, negatives = case
    patches = patches.clone()
    patches[3, 2] = bad
    with pytest.raises(ValueError, match="a patch of image 3 of the batch is zero or not finite; extract the image"):
        local_evidence(patches, classes, negatives)


@pytest.mark.parametrize("shape", [(B, 6), (B, 0, 6), (B, N, 5)])
def test_patches_of_another_shape_are_refused(case, shape):
    with pytest.raises(ValueError, match=r"expected \(images, patches, 6\) with one patch at least"):
        local_evidence(torch.ones(shape), *case[2:])

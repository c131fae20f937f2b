"""The local score against loops over images, patches and words in plain numbers."""

import pytest
import torch

from pipeline.heads.negalign import local
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


@pytest.mark.parametrize("step", [1, 4, 16])
@pytest.mark.parametrize("words", [M, 240])
def test_with_many_words_most_patches_are_left_out_and_the_best_is_the_same(monkeypatch, words, step):
    classes, negatives = literal.vectors(3, C, words)
    patches = torch.randn(B, 30, 6, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    patches[2, :] = patches[2, :1]
    wanted = [literal.local_evidence(image, classes, negatives) for image in patches]
    asked = []
    whole = local._evidence
    monkeypatch.setattr(local, "_evidence", lambda x, *of: asked.append(x.shape[:-1].numel()) or whole(x, *of))
    monkeypatch.setattr(local, "FEW", 10), monkeypatch.setattr(local, "STEP", step)
    best, place = local_evidence(patches, classes, negatives)
    assert best.tolist() == pytest.approx([of for of, _ in wanted], rel=1e-11)
    for image in (0, 1, 3, 4):  # those of image 2 are equal
        assert place[image] == wanted[image][1]
    if words == 240 and step < 16:
        assert sum(asked[1:]) < B * 30 / 2 + 30, "the first are the bounds, and of image 2 all patches are equal"


def test_half_precision_is_computed_in_single(case):
    patches, _, classes, negatives = case
    best, _ = local_evidence(patches.half(), classes.float(), negatives.float())
    assert best.dtype == torch.float32
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

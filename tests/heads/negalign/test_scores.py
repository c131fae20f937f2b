"""S_NegLabel and each of its switches."""

import pytest
import torch

from pipeline.heads.negalign import scores as scores_module
from pipeline.heads.negalign import words as words_module
from pipeline.heads.negalign.scores import Standard, Variant, combine, groups, neglabel, neglabels, predict

from . import literal
from .literal import vectors


def close(found, expected, within=1e-12):
    return torch.allclose(found.double(), torch.as_tensor(expected, dtype=torch.float64), rtol=0, atol=within)


# --- groups -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "n_groups"), [(12, 4), (14, 4), (7, 7), (5, 1)])
def test_groups_hold_each_word_once_without_the_last_that_do_not_fit(count, n_groups):
    found = groups(count, n_groups, seed=3)
    size = count // n_groups
    assert found.shape == (n_groups, size) and found.dtype == torch.int64 and found.device.type == "cpu"
    assert sorted(found.flatten().tolist()) == list(range(n_groups * size))


def test_groups_follow_from_the_seed_alone():
    first = groups(50, 5, seed=1)
    torch.manual_seed(99)
    torch.rand(5)
    assert torch.equal(groups(50, 5, seed=1), first) and not torch.equal(groups(50, 5, seed=2), first)


def test_the_permutation_is_the_one_that_results_were_made_with():
    assert groups(8, 2, seed=0).tolist() == [[4, 0, 7, 3], [2, 5, 1, 6]]


def test_groups_of_some_words_hold_positions_in_the_whole_list():
    positions = [3, 5, 8, 13, 21, 34, 55]
    found = groups(positions, 3, seed=0)
    assert sorted(found.flatten().tolist()) == positions[:6]
    assert torch.equal(torch.tensor(positions)[groups(7, 3, seed=0)], found)


def test_more_groups_than_words_and_no_words_are_refused_with_the_remedy():
    with pytest.raises(ValueError, match="9 groups of 8 negative words, expected 1 to 8; lower the number of groups"):
        groups(8, 9, seed=0)
    for nothing in (0, []):
        with pytest.raises(ValueError, match="no negative words to group; mine more"):
            groups(nothing, 1, seed=0)


# --- S_NegLabel -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1.0, 10.0, 100.0])
@pytest.mark.parametrize("topk", [None, 1, 3, 7])
def test_scores_are_those_of_a_literal_loop(scale, topk, monkeypatch):
    monkeypatch.setattr(words_module, "CHUNK", 60)  # two images a chunk, and the last one shorter
    assert words_module.chunks(5, 28)[-1] == slice(4, 5)
    images, classes, negatives = vectors(7, 5, 4, 31)
    drawn = groups(31, 4, seed=0)
    found = neglabel(images, classes, negatives, drawn, scale, topk)
    assert found.dtype == torch.float64
    assert close(found, literal.neglabel(images, classes, negatives, drawn, scale, topk))


def test_single_precision_and_half_stores_stay_near_the_loop():
    images, classes, negatives = vectors(7, 6, 4, 40, width=32)
    drawn = groups(40, 4, seed=0)
    expected = literal.neglabel(images, classes, negatives, drawn)
    found = neglabel(images.float(), classes.float(), negatives.float(), drawn)
    assert found.dtype == torch.float32 and close(found, expected, 1e-5)
    stored = [x.half() for x in (images, classes, negatives)]
    found = neglabel(*stored, drawn)
    assert found.dtype == torch.float32
    assert close(found, neglabel(*(x.double() for x in stored), drawn), 1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("topk", [None, 1])
def test_scores_are_finite_where_exponentials_are_not(dtype, topk):
    axes = torch.eye(3, dtype=dtype)
    drawn = torch.tensor([[0, 1]])
    one = neglabel(axes, axes[:1], -axes[:2] + 2 * axes[:2] * torch.tensor([[0.0], [1.0]]), drawn, 1e4, topk)
    assert one.tolist()[0] == 1 and one.tolist()[1] == 0
    assert one[2] == pytest.approx(1 / 3)  # all cosines equal: one class against two words, or twice one word


def test_peak_memory_does_not_grow_with_the_number_of_images(monkeypatch):
    seen = []
    monkeypatch.setattr(
        scores_module, "chunks", lambda rows, width: seen.extend(words_module.chunks(rows, width)) or seen
    )
    images, classes, negatives = vectors(0, 3000, 2, 4000)
    neglabel(images, classes, negatives, groups(4000, 10, 0))
    assert max(part.stop - part.start for part in seen) == (1 << 21) // 4000


# --- each switch by itself --------------------------------------------------------------------------------------------


def test_m1_with_all_of_a_group_is_plain_and_fewer_change_the_score_alone():
    images, classes, negatives = vectors(1, 20, 4, 60)
    drawn = groups(60, 6, seed=0)
    plain = neglabel(images, classes, negatives, drawn, 10.0)
    assert torch.equal(neglabel(images, classes, negatives, drawn, 10.0, topk=10), plain)
    less = neglabel(images, classes, negatives, drawn, 10.0, topk=3)
    # The mean of the k largest is above the mean of all, so the rescaled sum is too.
    assert (less < plain).all()
    more = neglabel(images, classes, negatives, drawn, 10.0, topk=6)
    assert (less < more).all() and (more < plain).all()


def test_m1_ignores_words_below_the_k_largest():
    images, classes, negatives = vectors(1, 1, 2, 6)
    drawn = groups(6, 1, seed=0)
    order = (negatives @ images[0]).argsort(descending=True)
    changed = negatives.clone()
    changed[order[3:]] = -images[0]
    before, after = (neglabel(images, classes, words, drawn, 10.0, topk=3) for words in (negatives, changed))
    assert torch.allclose(before, after, rtol=0, atol=1e-12)
    assert neglabel(images, classes, changed, drawn, 10.0) > neglabel(images, classes, negatives, drawn, 10.0)


def test_m2_sees_no_word_of_another_role():
    images, classes, negatives = vectors(2, 8, 3, 30)
    objects = list(range(0, 30, 2))
    drawn = groups(objects, 3, seed=0)
    found = neglabel(images, classes, negatives, drawn, 10.0)
    assert close(found, literal.neglabel(images, classes, negatives[objects], groups(15, 3, seed=0), 10.0))
    changed = negatives.clone()
    changed[1::2] = images[0]
    assert torch.equal(neglabel(images, classes, changed, drawn, 10.0), found)
    assert not torch.allclose(*(neglabel(images, classes, w, groups(30, 3, 0), 10.0) for w in (negatives, changed)))


def test_m3_shifts_and_stretches_and_keeps_every_order():
    reference, scored = torch.rand(50, dtype=torch.float64), torch.rand(20, dtype=torch.float64)
    standard = Standard.fit(reference)
    mean = sum(reference.tolist()) / 50
    std = (sum((x - mean) ** 2 for x in reference.tolist()) / 49) ** 0.5
    found = standard.apply(scored)
    assert close(found, [(x - mean) / std for x in scored.tolist()])
    assert torch.equal(found.argsort(), scored.argsort())
    assert standard.apply(reference).mean().abs() < 1e-12


def test_m3_scores_a_batch_of_one_as_it_scores_it_among_others():
    images, classes, negatives = vectors(4, 40, 3, 24)
    drawn = groups(24, 3, seed=0)
    standard = Standard.fit(neglabel(images[:30], classes, negatives, drawn, 10.0))
    together = standard.apply(neglabel(images[30:], classes, negatives, drawn, 10.0))
    alone = [standard.apply(neglabel(images[i : i + 1], classes, negatives, drawn, 10.0)) for i in range(30, 40)]
    assert torch.cat(alone).isfinite().all()
    assert torch.allclose(torch.cat(alone), together, rtol=0, atol=1e-12)


def test_m3_needs_reference_scores_that_differ():
    with pytest.raises(ValueError, match="1 reference scores, expected 2 at least: take ID validation images"):
        Standard.fit(torch.tensor([0.3]))
    # The mean of many equal numbers need not be that number.
    with pytest.raises(ValueError, match=r"all 1000 reference scores are 0\.1.*turn the z-score off"):
        Standard.fit(torch.full((1000,), 0.1))
    with pytest.raises(ValueError, match="reference score is not finite"):
        Standard.fit(torch.tensor([0.3, torch.nan]))


@pytest.mark.parametrize("topk", [None, 2])
def test_variants_together_are_what_each_is_alone(topk):
    images, classes, negatives = vectors(5, 9, 3, 40)
    variants = [
        Variant(groups(40, 4, 0)),
        Variant(groups(range(5, 30), 4, 1), topk),
        Variant(groups([3, 1], 1, 0), 1),
    ]
    found = neglabels(images, classes, negatives, variants, 10.0)
    for row, variant in zip(found, variants, strict=True):
        assert torch.allclose(row, neglabel(images, classes, negatives, *variant[:1], 10.0, variant.topk), atol=1e-12)


@pytest.mark.parametrize("order", ["images", "classes", "within groups", "of groups"])
def test_no_order_but_the_images_own_matters(order):
    images, classes, negatives = vectors(6, 10, 4, 30)
    drawn = groups(30, 5, seed=0)
    before = neglabel(images, classes, negatives, drawn, 10.0, topk=2)
    turn = torch.arange(9, -1, -1)
    after = {
        "images": lambda: neglabel(images[turn], classes, negatives, drawn, 10.0, topk=2)[turn],
        "classes": lambda: neglabel(images, classes.flip(0), negatives, drawn, 10.0, topk=2),
        "within groups": lambda: neglabel(images, classes, negatives, drawn.flip(1), 10.0, topk=2),
        "of groups": lambda: neglabel(images, classes, negatives, drawn.flip(0), 10.0, topk=2),
    }[order]()
    assert torch.allclose(before, after, rtol=0, atol=1e-12)


def test_inputs_are_left_as_they_are():
    given = [*vectors(6, 10, 4, 30), groups(30, 5, seed=0)]
    copies = [x.clone() for x in given]
    neglabel(*given, topk=2)
    predict(*given[:2])
    assert all(torch.equal(x, y) for x, y in zip(given, copies, strict=True))


def test_what_does_not_fit_is_refused_with_the_remedy():
    images, classes, negatives = vectors(0, 2, 3, 10)
    with pytest.raises(ValueError, match="topk is 6 of groups of 5 words, expected 1 to 5; lower it"):
        neglabel(images, classes, negatives, groups(10, 2, 0), topk=6)
    with pytest.raises(ValueError, match="topk is 0 of groups"):
        neglabel(images, classes, negatives, groups(10, 2, 0), topk=0)
    with pytest.raises(ValueError, match="groups hold positions 0 to 11 of 10 negative words"):
        neglabel(images, classes, negatives, groups(12, 2, 0))
    with pytest.raises(ValueError, match=r"groups are of shape \(10,\), expected"):
        neglabel(images, classes, negatives, torch.arange(10))
    images[1, 0] = torch.nan
    with pytest.raises(ValueError, match="row 1 of images has norm nan"):
        neglabel(images, classes, negatives, groups(10, 2, 0))
    with pytest.raises(ValueError, match="row 1 of images has norm nan"):
        predict(images, classes)


# --- prediction and sum -----------------------------------------------------------------------------------------------


def test_prediction_is_the_first_class_of_highest_cosine():
    images, classes = vectors(8, 30, 5)
    classes = torch.cat([classes, classes[2:3]])  # the sixth is the third again
    expected = []
    for image in images:
        values = [literal.dot(image, name) for name in classes]
        expected.append(max(range(5), key=lambda i: values[i]))
    found = predict(images, classes)
    assert found.tolist() == expected and 2 in expected and found.dtype == torch.int64


def test_a_lambda_of_zero_is_s_star_itself():
    star, aligned = torch.rand(5), torch.rand(5)
    assert torch.equal(combine(star, aligned, 0.0), star)
    assert torch.equal(combine(star, aligned, 0.5), star + 0.5 * aligned)

"""Mining and splitting negative words."""

import random

import pytest
import torch

from pipeline.heads.negalign import words as words_module
from pipeline.heads.negalign.words import by_role, candidate_scores, mine, role_scores, roles, unit_rows, without

from . import literal
from .literal import vectors

# --- names of classes -------------------------------------------------------------------------------------------------


def test_a_class_name_is_dropped_however_it_is_written_and_the_others_keep_their_order():
    words = ["oak", "sea lion", "Gull", "sea weed", "lion"]
    assert without(words, ["gull", "Sea_Lion", " OAK"]) == ["sea weed", "lion"]
    assert without(words, []) == words


def test_an_empty_word_list_is_refused():
    with pytest.raises(
        ValueError, match="0 candidate words and none is left without the names of 1 ID classes; give a word list"
    ):
        without([], ["oak"])
    with pytest.raises(ValueError, match="2 candidate words and none is left without the names of 1 ID classes"):
        without(["oak", "Oak"], ["oak"])


# --- mining -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("q", [0.0, 0.3, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("classes", [1, 2, 7])
def test_candidate_scores_are_those_of_a_loop(q, classes, monkeypatch):
    monkeypatch.setattr(words_module, "CHUNK", 1)
    words, named = vectors(classes, 9, classes)
    expected = torch.tensor(literal.candidate_scores(words, named, q), dtype=torch.float64)
    assert torch.allclose(candidate_scores(words, named, q), expected, rtol=0, atol=1e-12)


def test_each_kind_keeps_its_own_lowest_share_nouns_first_and_equals_in_order():
    generator = random.Random(1)
    scores = [generator.randrange(6) / 8 for _ in range(40)]
    kinds = [generator.choice(["noun", "adjective"]) for _ in scores]
    expected = []
    for kind in ("noun", "adjective"):
        own = [(score, i) for i, (score, of) in enumerate(zip(scores, kinds, strict=True)) if of == kind]
        expected += [i for _, i in sorted(own)[: len(own) * 30 // 100]]
    assert mine(torch.tensor(scores), kinds, 0.30) == expected


def test_of_the_wordnet_lists_counts_the_reference_number_is_kept():
    kept = mine(torch.rand(70_000), ["noun"] * 58_546 + ["adjective"] * 11_454, 0.15)
    assert len(kept) == 10_499 and max(kept[:8781]) < 58_546 <= min(kept[8781:])


def test_mining_takes_all_of_all_and_refuses_what_does_not_fit():
    assert sorted(mine(torch.rand(5), ["noun"] * 5, 1)) == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match=r"top_p 0\.15 of 4 nouns, 2 adjectives keeps no word; raise top_p"):
        mine(torch.rand(6), ["noun"] * 4 + ["adjective"] * 2, 0.15)
    with pytest.raises(ValueError, match="2 scores of 3 words"):
        mine(torch.rand(2), ["noun"] * 3, 0.5)
    with pytest.raises(ValueError, match="score of a word is nan in row 1, expected a finite number"):
        mine(torch.tensor([0.0, torch.nan]), ["noun"] * 2, 0.5)
    with pytest.raises(ValueError, match=r"words of kind \['verb'\]"):
        mine(torch.rand(1), ["verb"], 0.5)
    with pytest.raises(ValueError, match="top_p is 15, expected a share"):
        mine(torch.rand(1), ["noun"], 15)
    with pytest.raises(ValueError, match="quantile is 95, expected one in"):
        candidate_scores(*vectors(0, 3, 3), 95)


# --- roles ------------------------------------------------------------------------------------------------------------


def test_role_scores_are_those_of_a_loop():
    three = vectors(3, 8, 8, 8)
    expected = torch.tensor(literal.role_scores(*three), dtype=torch.float64)
    assert torch.allclose(role_scores(*three), expected, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match=r"shapes \(8, 6\) \(plain\), \(7, 6\) \(object\) and \(8, 6\)"):
        role_scores(three[0], three[1][:7], three[2])


def test_tau_is_strict_on_either_side():
    assert roles(torch.tensor([0.5, 0.25, 0.0, -0.25, -0.5]), "tau", 0.25) == [
        "object",
        *["ambiguous"] * 3,
        "background",
    ]
    assert roles(torch.zeros(2), "tau", 0) == ["ambiguous"] * 2


@pytest.mark.parametrize("value", [0, 10, 33.3, 45, 50])
def test_percentile_cuts_equal_shares_off_both_ends_and_no_word_has_two_roles(value):
    r = torch.randint(0, 4, (41,)).double()  # many equals
    found = roles(r, "percentile", value)
    count = int(41 * value / 100)
    assert found.count("object") == found.count("background") == count
    ranked = sorted(range(41), key=lambda i: (float(r[i]), i))
    assert {i for i, role in enumerate(found) if role == "background"} == set(ranked[:count])
    assert {i for i, role in enumerate(found) if role == "object"} == set(ranked[41 - count :])


def test_the_published_cut_is_45_10_45():
    found = roles(torch.randn(1000), "percentile", 45)
    assert [found.count(role) for role in ("object", "ambiguous", "background")] == [450, 100, 450]


@pytest.mark.parametrize(("mode", "value"), [("tau", -0.1), ("percentile", 51), ("share", 0.1)])
def test_a_mode_or_value_that_there_is_not_is_refused(mode, value):
    with pytest.raises(ValueError, match=f"mode '{mode}' with {value}, expected 'tau' with a value >= 0 or"):
        roles(torch.zeros(2), mode, value)


def test_a_list_of_negatives_that_cannot_serve_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match="list of negative words is empty; mine one"):
        by_role([], [], ["gull"])
    with pytest.raises(ValueError, match=r"1 of 2 negative words are ID classes, the first 'Land_bird': .*; remove"):
        by_role(["cup", "Land_bird"], ["object", "object"], ["land bird"])
    with pytest.raises(ValueError, match="1 of 2 negative words have no known role, the first 'sand' with None; give"):
        by_role(["cup", "sand"], ["object", None], ["gull"])
    with pytest.raises(ValueError, match="2 negative words and 1 roles"):
        by_role(["cup", "sand"], ["object"], ["gull"])


# --- vectors ----------------------------------------------------------------------------------------------------------


def test_vectors_that_are_not_finite_unit_or_of_one_width_are_refused():
    (good,) = vectors(0, 4)
    bad = good.clone()
    bad[2, 1] = torch.nan
    with pytest.raises(ValueError, match="row 2 of words has norm nan, expected 1"):
        unit_rows(images=good, words=bad)
    with pytest.raises(ValueError, match=r"row 0 of images has norm 3\.\d+, expected 1; divide each vector"):
        unit_rows(images=3 * good)
    with pytest.raises(ValueError, match="images are 6 wide and words 5; take both from one CLIP"):
        unit_rows(images=good, words=torch.eye(5))
    with pytest.raises(ValueError, match=r"words are of shape \(0, 6\), expected"):
        unit_rows(images=good, words=good[:0])
    assert unit_rows(images=good.half())[0].dtype == torch.float32

"""Figures of videos against maps: by hand, by literal loops, by random orders, by scikit-learn and scipy."""

import itertools

import numpy as np
import pytest
import scipy

from pipeline.evaluation.retrieval import (
    accuracy_interval,
    agreement,
    belonging,
    classification,
    places,
    retrieval,
    strangers,
)
from tests.later import Later

sklearn = Later("sklearn")


def unit(random, *shape):
    values = random.normal(size=shape)
    return (values / np.linalg.norm(values, axis=-1, keepdims=True)).astype(np.float32)


def none(n, m):
    return np.zeros((n, m), dtype=bool)


# --- retrieval --------------------------------------------------------------------------------------------------------


def test_retrieval_worked_by_hand():
    # Cosines with the gallery 0, 60, 90 and 180 degrees.
    angles = np.radians([0, 60, 90, 180])
    gallery = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    query = np.array([[1.0, 0.0]] * 4)
    positives = np.array([[1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]], dtype=bool)
    excluded = none(4, 4)
    excluded[2, :2] = True  # of the third query only 90 and 180 degrees are left
    found = places(query, gallery, positives, excluded)
    np.testing.assert_array_equal(found.rank, [1, 3, 2, np.nan])
    assert retrieval(query, gallery, positives, excluded) == {
        "r1": pytest.approx(100 / 3),
        "r5": 100.0,
        "median_rank": 2.0,
        "chance_r1": pytest.approx(100 * (1 / 4 + 1 / 4 + 1 / 2) / 3),
        "chance_r5": 100.0,
        "ci95": None,
        "queries": 3,
        "gallery": 4,
    }


@pytest.mark.parametrize("seed", range(5))
def test_retrieval_is_that_of_a_literal_loop(seed):
    random = np.random.default_rng(seed)
    query, gallery = unit(random, 30, 6), unit(random, 20, 6)
    excluded = random.random((30, 20)) < 0.2
    positives = (random.random((30, 20)) < 0.1) & ~excluded
    ranks, chances = [], []
    for n in range(30):
        there = [m for m in range(20) if not excluded[n, m]]
        there.sort(key=lambda m: -float(query[n].astype(float) @ gallery[m].astype(float)))
        if positives[n].any():
            ranks.append(next(place for place, m in enumerate(there, 1) if positives[n, m]))
            chances.append(sum(positives[n]) / len(there))
    found = retrieval(query, gallery, positives, excluded)
    assert found["queries"] == len(ranks) and found["gallery"] == 20
    assert found["r1"] == pytest.approx(100 * np.mean([rank <= 1 for rank in ranks]))
    assert found["r5"] == pytest.approx(100 * np.mean([rank <= 5 for rank in ranks]))
    assert found["median_rank"] == np.median(ranks)
    assert found["chance_r1"] == pytest.approx(100 * np.mean(chances))


def test_intervals_of_retrieval_are_those_of_a_loop_over_resampled_patients():
    random = np.random.default_rng(3)
    query, gallery = unit(random, 30, 6), unit(random, 20, 6)
    positives = random.random((30, 20)) < 0.05
    patients = [f"p{n // 3}" for n in range(30)]
    found = retrieval(query, gallery, positives, none(30, 20), patients, 200, 7)
    rank = places(query, gallery, positives, none(30, 20)).rank
    asked = [n for n in range(30) if positives[n].any()]
    groups = sorted({patients[n] for n in asked}, key=lambda name: int(name[1:]))
    draws = []
    for counts in np.random.default_rng(7).multinomial(len(groups), [1 / len(groups)] * len(groups), size=200):
        ranks = []
        for name, k in zip(groups, counts, strict=True):
            ranks += [rank[n] for n in asked if patients[n] == name] * int(k)
        draws.append((100 * np.mean([r <= 1 for r in ranks]), 100 * np.mean([r <= 5 for r in ranks]), np.median(ranks)))
    for name, values in zip(("r1", "r5", "median_rank"), np.array(draws).T, strict=True):
        np.testing.assert_allclose(found["ci95"][name], np.percentile(values, [2.5, 97.5]))
    # 5 drawn of 20, p of which are right.
    wanted = [1 - np.prod([(20 - p - i) / (20 - i) for i in range(5)]) for p in positives.sum(1) if p]
    assert found["chance_r5"] == pytest.approx(100 * np.mean(wanted))


def test_equals_count_as_the_mean_over_all_their_orders():
    # Of one query: two better negatives, then two positives and three negatives that are equal, then a worse positive.
    cosines = np.array([0.9, 0.8, 0.5, 0.5, 0.5, 0.5, 0.5, 0.1])
    positives = np.array([0, 0, 1, 1, 0, 0, 0, 1], dtype=bool)
    gallery = np.stack([cosines, np.sqrt(1 - cosines**2)], axis=1)
    found = places(np.array([[1.0, 0.0]]), gallery, positives[None], none(1, 8))
    firsts = [2 + min(order.index(0), order.index(1)) + 1 for order in itertools.permutations(range(5))]
    assert found.rank[0] == pytest.approx(np.mean(firsts))
    for k in range(1, 9):
        assert found.within(k)[0] == pytest.approx(np.mean([first <= k for first in firsts])), k


@pytest.mark.parametrize("noise", [0.0, 1e-8])
def test_a_collapsed_model_is_at_chance_in_both_directions_and_not_at_100_percent(noise):
    random = np.random.default_rng(0)
    same = np.full((40, 4), 0.5) + noise * random.normal(size=(40, 4))
    positives = np.arange(40)[:, None] % 10 == np.arange(10)
    for sides in ((same, same[:10], positives), (same[:10], same, positives.T)):
        found = retrieval(*sides, none(*sides[2].shape))
        assert found["r1"] == pytest.approx(found["chance_r1"]) == pytest.approx(10)


def test_random_embeddings_are_at_chance():
    random = np.random.default_rng(0)
    found = [
        retrieval(unit(random, 50, 8), unit(random, 50, 8), np.eye(50, dtype=bool), none(50, 50)) for _ in range(40)
    ]
    assert np.mean([of["r1"] for of in found]) == pytest.approx(2, abs=1)
    assert np.mean([of["median_rank"] for of in found]) == pytest.approx(25.5, abs=2)


def test_an_excluded_item_is_neither_found_nor_in_the_way():
    query, gallery = np.array([[1.0, 0.0]]), np.array([[1.0, 0.0], [0.8, 0.6]])
    positives, excluded = np.array([[False, True]]), np.array([[True, False]])
    assert retrieval(query, gallery, positives, none(1, 2))["r1"] == 0
    assert retrieval(query, gallery, positives, excluded)["r1"] == 100
    assert retrieval(query, gallery, ~positives, excluded)["queries"] == 0


@pytest.mark.parametrize("shape", [(3, 0), (0, 3), (0, 0), (3, 3)])
def test_without_a_query_there_is_nothing_to_say(shape):
    found = retrieval(np.ones((shape[0], 2)), np.ones((shape[1], 2)), none(*shape), none(*shape))
    figures = ("r1", "r5", "median_rank", "chance_r1", "chance_r5", "ci95")
    assert found == {**dict.fromkeys(figures), "queries": 0, "gallery": shape[1]}


@pytest.mark.parametrize("side", [0, 1])
def test_an_embedding_that_is_not_finite_is_refused_and_does_not_rank_first(side):
    sides = [np.eye(3), np.eye(3)]
    sides[side][1, 0] = np.nan
    with pytest.raises(ValueError, match=f"{('query', 'gallery')[side]} 1 .*not finite"):
        retrieval(*sides, np.eye(3, dtype=bool), none(3, 3))


def test_maps_and_videos_belong_together_as_a_literal_loop_says():
    random = np.random.default_rng(0)
    maps, patients = ([f"{kind}{random.integers(8)}" for _ in range(25)] for kind in "mp")
    first, positives, excluded = belonging(maps, patients)
    assert [maps[row] for row in first] == list(dict.fromkeys(maps))
    for n, m in np.ndindex(positives.shape):
        distinct = maps[first[m]]
        own = maps[n] == distinct
        assert positives[n, m] == own
        others = any(maps[i] == distinct and patients[i] == patients[n] for i in range(25))
        assert excluded[n, m] == (others and not own)


def test_everybody_gets_a_map_of_another_patient_and_each_map_is_used_as_often_as_before():
    random = np.random.default_rng(0)
    patients = [f"p{random.integers(10)}" for _ in range(30)]
    maps = [f"m{random.integers(20)}" for _ in range(30)]
    chosen = strangers(maps, patients, 0)
    assert sorted(chosen) == list(range(30))
    for row, other in enumerate(chosen):
        assert patients[row] != patients[other] and maps[row] != maps[other]
    np.testing.assert_array_equal(strangers(maps, patients, 0), chosen)
    assert (strangers(maps, patients, 1) != chosen).any()


@pytest.mark.parametrize(
    "maps, patients", [("abc", "111"), ("aaa", "123"), ("abcd", "1112"), ("a", "1")], ids=lambda of: of
)
def test_where_nobody_can_be_swapped_there_is_no_swap(maps, patients):
    assert strangers(maps, patients, 0) is None


# --- agreement --------------------------------------------------------------------------------------------------------


@pytest.fixture
def case():
    """(similarity, correct, patients) of 60 videos of 20 patients, in which correct ones are a little more similar."""
    random = np.random.default_rng(4)
    correct = random.random(60) < 0.6
    return random.normal(size=60) * 0.2 + 0.1 * correct, correct, [f"p{row // 3}" for row in range(60)]


def test_the_gap_and_the_correlation_are_those_of_the_definition_and_of_scipy(case):
    similarity, correct, patients = case
    found = agreement(similarity, correct, patients, 50, 0)
    right = [value for value, hit in zip(similarity, correct, strict=True) if hit]
    wrong = [value for value, hit in zip(similarity, correct, strict=True) if not hit]
    assert found["correct"] == pytest.approx(sum(right) / len(right))
    assert found["incorrect"] == pytest.approx(sum(wrong) / len(wrong))
    assert found["gap"] == pytest.approx(found["correct"] - found["incorrect"])
    assert found["point_biserial"] == pytest.approx(scipy.stats.pearsonr(correct, similarity).statistic)


def test_intervals_draw_patients_with_all_their_videos_as_a_literal_loop_does(case):
    similarity, correct, patients = case
    names, draws = list(dict.fromkeys(patients)), 400
    weights = np.random.default_rng(7).multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
    gaps, correlations, accuracies = [], [], []
    for weight in weights:
        rows = [row for name, n in zip(names, weight, strict=True) for _ in range(n) for row in range(60)
                if patients[row] == name]  # fmt: skip
        hit, value = correct[rows], similarity[rows]
        gaps.append(value[hit].mean() - value[~hit].mean())
        correlations.append(scipy.stats.pointbiserialr(hit, value).statistic)
        accuracies.append(100 * hit.mean())
    found = agreement(similarity, correct, patients, draws, 7)["ci95"]
    assert found["gap"] == pytest.approx(np.quantile(gaps, [0.025, 0.975]).tolist())
    assert found["point_biserial"] == pytest.approx(np.quantile(correlations, [0.025, 0.975]).tolist())
    expected = np.quantile(accuracies, [0.025, 0.975]).tolist()
    assert accuracy_interval(correct, patients, draws, 7) == pytest.approx(expected)


def test_videos_of_one_patient_are_one_observation():
    correct = np.repeat([True, False] * 100, 6)
    low, high = accuracy_interval(correct, np.repeat(np.arange(200), 6), 4000, 0)
    alone, other = accuracy_interval(correct, range(1200), 4000, 0)
    assert (high - low) / (other - alone) == pytest.approx(np.sqrt(6), rel=0.1)


def test_a_side_that_is_empty_and_similarities_that_are_equal_have_no_correlation():
    nothing = {"gap": None, "point_biserial": None, "ci95": {"gap": None, "point_biserial": None}}
    empty = agreement(np.zeros(0), np.zeros(0, dtype=bool), [], 20, 0)
    assert empty == {"correct": None, "incorrect": None, **nothing}
    all_right = agreement(np.array([0.1, 0.3]), np.array([True, True]), "ab", 20, 0)
    assert all_right == {"correct": pytest.approx(0.2), "incorrect": None, **nothing}
    flat = agreement(np.full(6, 0.3, np.float32), np.arange(6) < 3, range(6), 20, 0)
    assert flat["gap"] == pytest.approx(0) and flat["point_biserial"] is None
    assert flat["ci95"]["gap"] == pytest.approx([0, 0]) and flat["ci95"]["point_biserial"] is None


# --- classification ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_accuracy_f1_and_auroc_are_scikit_learn_s_in_percent(classes):
    random = np.random.default_rng(classes)
    labels = np.concatenate([np.arange(classes), random.integers(0, classes, 80)])
    probabilities = random.dirichlet(np.ones(classes), len(labels)) + 0.5 * np.eye(classes)[labels]
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    found = classification(labels, probabilities, [f"c{i}" for i in range(classes)])
    predictions = probabilities.argmax(axis=1)
    assert found["accuracy"] == pytest.approx(100 * (predictions == labels).mean())
    assert found["macro_f1"] == pytest.approx(100 * sklearn.metrics.f1_score(labels, predictions, average="macro"))
    given = probabilities[:, 1] if classes == 2 else probabilities
    assert found["auroc"] == pytest.approx(
        100 * sklearn.metrics.roc_auc_score(labels, given, multi_class="ovr", average="macro")
    )
    for c, row in enumerate(found["per_class"]):
        assert (row["class"], row["n"]) == (f"c{c}", (labels == c).sum())
        assert row["recall"] == pytest.approx(100 * (predictions[labels == c] == c).mean())


def test_a_class_that_does_not_occur_has_no_part_in_f1_and_leaves_no_auroc():
    probabilities = np.array([[0.7, 0.2, 0.1], [0.3, 0.5, 0.2], [0.1, 0.2, 0.7]])
    found = classification(np.array([0, 1, 1]), probabilities, ["a", "b", "c"])
    assert found["auroc"] is None and found["per_class"][2]["f1"] is None
    assert found["accuracy"] == pytest.approx(200 / 3)
    assert found["macro_f1"] == pytest.approx(100 * (1 + 2 / 3) / 2)

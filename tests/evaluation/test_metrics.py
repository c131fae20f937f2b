"""Figures against independent references: scikit-learn, netcal, scipy, hand and literal loops."""

import numpy as np
import pytest
import scipy
import torch

from pipeline.evaluation.metrics import (
    bootstrap_interval,
    calibration,
    calibration_interval,
    confusion,
    per_class,
    ranked,
    share_interval,
    top_k_accuracy,
)
from tests.later import Later

torchmetrics = Later("torchmetrics.classification")
sklearn = Later("sklearn")
netcal = Later("netcal.metrics")


@pytest.fixture(params=[0, 1, 2])
def case(request):
    """(labels, probabilities) of 300 samples in 7 classes; class 6 never occurs."""
    random = np.random.default_rng(request.param)
    labels = random.integers(0, 6, 300)
    logits = random.normal(size=(300, 7)) + 2 * np.eye(7)[labels] * random.random((300, 1))
    probabilities = np.exp(3 * logits)
    return labels, probabilities / probabilities.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("k", [1, 2, 5, 7])
def test_top_k_is_scikit_learn_s(case, k):
    labels, probabilities = case
    expected = sklearn.metrics.top_k_accuracy_score(labels, probabilities, k=k, labels=np.arange(7))
    assert top_k_accuracy(ranked(probabilities, 7), labels, k) == pytest.approx(expected, abs=1e-15)


def test_top_5_of_fewer_classes_is_the_whole():
    probabilities = np.array([[0.1, 0.6, 0.3], [0.2, 0.2, 0.6]])
    assert top_k_accuracy(ranked(probabilities, 5), np.array([0, 1]), 5) == 1


def test_equal_probabilities_are_ranked_in_the_order_of_the_classes():
    assert ranked(np.array([[0.25, 0.25, 0.25, 0.25]]), 3).tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_calibration_error_is_netcal_s(case, bins):
    labels, probabilities = case
    correct = probabilities.argmax(axis=1) == labels
    expected = netcal.ECE(bins).measure(probabilities, labels)
    assert calibration(probabilities.max(axis=1), correct, bins)[0] == pytest.approx(expected, abs=1e-12)


def test_calibration_error_of_full_confidence_is_netcal_s_too():
    # Three labels at least: with two of them netcal reads the second column as the probability of a yes.
    probabilities = np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.05, 0.95, 0.0], [0.3, 0.08, 0.62]])
    labels = np.array([0, 1, 1, 2])
    correct = probabilities.argmax(axis=1) == labels
    expected = netcal.ECE(15).measure(probabilities, labels)
    assert calibration(probabilities.max(axis=1), correct, 15)[0] == pytest.approx(expected, abs=1e-12)


def test_calibration_error_worked_by_hand():
    # Ten bins. [0.5, 0.6): 0.5 right, 0.55 wrong: |1/2 - 0.525| = 0.025, two samples. [0.9, 1]: 0.9 right, 1.0 right,
    # 1.0 wrong: |2/3 - 2.9/3| = 0.3, three samples. Error = (2 * 0.025 + 3 * 0.3) / 5 = 0.19.
    confidence = np.array([0.5, 0.55, 0.9, 1.0, 1.0])
    correct = np.array([True, False, True, True, False])
    error, bins = calibration(confidence, correct, 10)
    assert error == pytest.approx(0.19)
    assert [row["n"] for row in bins] == [0, 0, 0, 0, 0, 2, 0, 0, 0, 3]
    assert bins[9]["upper"] == 1.0 and bins[9]["accuracy"] == pytest.approx(2 / 3)
    assert bins[0]["confidence"] is None and bins[0]["accuracy"] is None


def test_calibration_bins_are_those_of_a_literal_loop(case):
    labels, probabilities = case
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    error = 0.0
    for i, row in enumerate(calibration(confidence, correct, 15)[1]):
        inside = [n for n, c in enumerate(confidence) if i / 15 <= c < (i + 1) / 15 or (i == 14 and c == 1)]
        assert row["n"] == len(inside)
        if inside:
            assert row["accuracy"] == pytest.approx(np.mean(correct[inside]))
            assert row["confidence"] == pytest.approx(np.mean(confidence[inside]))
            error += len(inside) / len(labels) * abs(np.mean(correct[inside]) - np.mean(confidence[inside]))
    assert calibration(confidence, correct, 15)[0] == pytest.approx(error)


def test_confusion_is_that_of_torchmetrics(case):
    labels, probabilities = case
    predictions = probabilities.argmax(axis=1)
    expected = torchmetrics.MulticlassConfusionMatrix(7)(torch.tensor(predictions), torch.tensor(labels)).numpy()
    np.testing.assert_array_equal(confusion(labels, predictions, 7), expected)


def test_the_table_of_classes_is_that_of_a_literal_loop(case):
    labels, probabilities = case
    predictions = probabilities.argmax(axis=1)
    for i, row in enumerate(per_class(labels, predictions, list("abcdefg"))):
        hits = sum(label == i and guess == i for label, guess in zip(labels, predictions, strict=True))
        own, guessed = sum(labels == i), sum(predictions == i)
        assert (row["class"], row["n"]) == ("abcdefg"[i], own)
        assert row["precision"] == (pytest.approx(hits / guessed) if guessed else None)
        assert row["recall"] == row["accuracy"] == (pytest.approx(hits / own) if own else None)
        assert row["f1"] == (pytest.approx(2 * hits / (own + guessed)) if own else None)


def test_a_class_that_does_not_occur_gives_null_and_never_nan():
    rows = per_class(np.array([0, 0]), np.array([0, 1]), ["here", "guessed", "nowhere"])
    assert rows[0] == {
        "class": "here",
        "n": 2,
        "accuracy": 0.5,
        "precision": 1.0,
        "recall": 0.5,
        "f1": pytest.approx(2 / 3),
    }
    assert rows[1] == {"class": "guessed", "n": 0, "accuracy": None, "precision": 0.0, "recall": None, "f1": None}
    assert rows[2] == {"class": "nowhere", "n": 0, "accuracy": None, "precision": None, "recall": None, "f1": None}


@pytest.mark.parametrize("share, n", [(0.5, 100), (0.87, 156), (0.99, 400)])
def test_the_interval_is_scipy_s_percentile_bootstrap(share, n):
    correct = np.arange(n) < round(share * n)
    theirs = scipy.stats.bootstrap(
        (correct.astype(float),), np.mean, n_resamples=20_000, method="percentile", vectorized=True, rng=1
    ).confidence_interval
    # Both are quantiles of 20,000 draws from the same distribution: they differ by a few of its steps of 1 / n at most.
    assert bootstrap_interval(correct, 20_000, seed=0) == pytest.approx(tuple(theirs), abs=1.5 / n)


def test_the_interval_of_the_calibration_error_is_scipy_s_percentile_bootstrap():
    random = np.random.default_rng(3)
    confidence = random.uniform(0.2, 1, 80)
    correct = random.random(80) < confidence**2
    theirs = scipy.stats.bootstrap(
        (confidence, correct),
        lambda sure, right: calibration(sure, right, 5)[0],
        paired=True,
        vectorized=False,
        method="percentile",
        n_resamples=3000,
        rng=random,
    ).confidence_interval
    ours = calibration_interval(confidence, correct, 5, draws=3000, seed=0)
    assert ours == pytest.approx(tuple(theirs), abs=0.01)
    assert ours == calibration_interval(confidence, correct, 5, draws=3000, seed=0)


def test_a_share_of_nothing_has_no_interval_and_one_of_few_is_wide():
    assert share_interval(0, 0) is None
    assert share_interval(2, 2)[0] < 0.4 and share_interval(200, 200)[0] > 0.97
    _, bins = calibration(np.array([0.1, 0.9]), np.array([False, True]), 4)
    assert [row["accuracy_ci95"] is None for row in bins] == [False, True, True, False]


def test_the_interval_repeats_and_follows_the_seed():
    correct = np.arange(137) < 90
    assert bootstrap_interval(correct, 50, 1) == bootstrap_interval(correct, 50, 1)
    assert bootstrap_interval(correct, 50, 1) != bootstrap_interval(correct, 50, 2)
    assert bootstrap_interval(np.ones(5, dtype=bool), 50, 1) == (1.0, 1.0)

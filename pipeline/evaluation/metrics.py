"""Figures of a classification, as pure functions of labels and probabilities. Knows no file, no head and no store.

Tables of results read `COLUMNS`, so SciPy and scikit-learn are imported where they are needed.
Shape suffixes: N samples, C classes, K ranks.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.evaluation.draws import Draws
from pipeline.tasks import Column

CONFIDENCE = 0.95
TOP = 5
COLUMNS = (
    Column("top1", 3),
    Column("top5", 3),
    Column("ece", 3, "low"),
    # Of the steps in other orders.
    Column("top1_tokens_reversed", 3, None, optional=True),
    Column("top1_tokens_shuffled", 3, None, optional=True),
    # Of the videos of `elsewhere: {reversed_video: …}`: how many are what they show backwards.
    Column("top1_reversed_video", 3, optional=True),
)


def summary(labels: np.ndarray, probabilities_NC: np.ndarray, classes: list[str], config: Any) -> dict[str, Any]:
    """Every figure that follows from labels and probabilities. Top-5 of five classes or fewer says nothing: None.

    Args:
        labels: (N,) class indices.
        probabilities_NC: float64, rows sum to 1.
        classes: their names.
        config: `bootstrap`, `calibration_bins` and `seed` of the head's params.
    """
    order = ranked(probabilities_NC, TOP)
    correct = order[:, 0] == labels
    sure = probabilities_NC.max(axis=1)
    ece, bins = calibration(sure, correct, config.calibration_bins)
    return {
        "top1": top_k_accuracy(order, labels, 1),
        "top5": top_k_accuracy(order, labels, TOP) if len(classes) > TOP else None,
        "ece": ece,
        "ece_ci95": calibration_interval(sure, correct, config.calibration_bins, config.bootstrap, config.seed),
        "ci95": list(bootstrap_interval(correct, config.bootstrap, config.seed)),
        "per_class": [
            row | {"recall_ci95": share_interval(round(row["n"] * (row["recall"] or 0)), row["n"])}
            for row in per_class(labels, order[:, 0], classes)
        ],
        "confusion": {"classes": classes, "matrix": confusion(labels, order[:, 0], len(classes)).tolist()},
        "calibration": bins,
    }


def summary_draws(draws: Draws, labels: np.ndarray, probabilities_NC: np.ndarray) -> None:
    """Adds top1 and top5 of `summary`."""
    hits_NK = ranked(probabilities_NC, TOP) == labels[:, None]
    draws.share("top1", hits_NK[:, 0])
    if probabilities_NC.shape[1] > TOP:
        draws.share("top5", hits_NK.any(axis=1))


def ranked(probabilities_NC: np.ndarray, k: int) -> np.ndarray:
    """The k most probable classes, best first; equals keep the order of the classes.

    Returns:
        (N, min(k, C)) int64.

    >>> ranked(np.array([[0.2, 0.5, 0.3]]), 2).tolist()
    [[1, 2]]
    """
    return np.argsort(-probabilities_NC, axis=1, kind="stable")[:, :k]


def top_k_accuracy(ranked_NK: np.ndarray, labels_N: np.ndarray, k: int) -> float:
    """Share of samples whose label is among the first k.

    >>> top_k_accuracy(np.array([[1, 2], [0, 1]]), np.array([2, 0]), 1)
    0.5
    """
    return float((ranked_NK[:, :k] == labels_N[:, None]).any(axis=1).mean())


def calibration(confidence_N: np.ndarray, correct_N: np.ndarray, bins: int) -> tuple[float, list[dict[str, Any]]]:
    """Expected calibration error over bins of equal width, and the bins.

    A bin holds its lower edge; the last one holds 1.0 too.

    Args:
        confidence_N: probability of the predicted class, in [0, 1].
        correct_N: whether it was right.
        bins: how many.

    Returns:
        The error: mean over samples of |accuracy - confidence| of their bin; and for each bin lower, upper, n, the
        mean confidence and accuracy, and the accuracy's 95 % interval (`share_interval`), None where it is empty.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, eq. 3.

    >>> calibration(np.array([0.8, 1.0]), np.array([True, True]), 2)[0]
    0.09999999999999998
    """
    edges, bin_N = _binned(confidence_N, bins)
    n = np.bincount(bin_N, minlength=bins)
    confidence = np.bincount(bin_N, weights=confidence_N, minlength=bins)
    accuracy = np.bincount(bin_N, weights=correct_N, minlength=bins)
    table = [
        {
            "lower": float(edges[i]),
            "upper": float(edges[i + 1]),
            "n": int(n[i]),
            "confidence": float(confidence[i] / n[i]) if n[i] else None,
            "accuracy": float(accuracy[i] / n[i]) if n[i] else None,
            "accuracy_ci95": share_interval(round(accuracy[i]), int(n[i])),
        }
        for i in range(bins)
    ]
    return float(np.abs(accuracy - confidence).sum() / len(confidence_N)), table


def calibration_interval(
    confidence_N: np.ndarray, correct_N: np.ndarray, bins: int, draws: int, seed: int
) -> list[float]:
    """95 % percentile interval of the expected calibration error, samples drawn with replacement.

    Of few samples a bin the error is above zero even where the model is calibrated, and a resample's is above that.

    Args:
        confidence_N, correct_N, bins: as for `calibration`.
        draws: how many resamples.
        seed: of the draws.
    """
    _, bin_N = _binned(confidence_N, bins)
    gap_NB = np.zeros((len(confidence_N), bins))
    gap_NB[np.arange(len(bin_N)), bin_N] = correct_N - confidence_N
    n, random = len(bin_N), np.random.default_rng(seed % 2**64)
    # A draw at a time: draws x samples would not fit into memory.
    even = np.full(n, 1 / n)
    errors = [np.abs(random.multinomial(n, even) @ gap_NB).sum() / n for _ in range(draws)]
    return middle(np.array(errors))


def share_interval(hits: int, n: int) -> list[float] | None:
    """Wilson's 95 % interval of a share of independent samples; None of no samples.

    Source: Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 1927.

    >>> [round(edge, 3) for edge in share_interval(9, 10)]
    [0.596, 0.982]
    """
    from scipy.stats import binomtest

    if not n:
        return None
    found = binomtest(hits, n).proportion_ci(CONFIDENCE, method="wilson")
    return [float(found.low), float(found.high)]


def _binned(confidence_N: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray]:
    edges = np.linspace(0, 1, bins + 1)
    return edges, np.clip(np.searchsorted(edges, confidence_N, side="right") - 1, 0, bins - 1)


def middle(values: np.ndarray) -> list[float]:
    """[low, high] of the middle 95 % of values, none of them NaN."""
    tail = (1 - CONFIDENCE) / 2
    return [float(edge) for edge in np.quantile(values, [tail, 1 - tail])]


def confusion(labels_N: np.ndarray, predictions_N: np.ndarray, n_classes: int) -> np.ndarray:
    """(C, C) counts: row = true class, column = predicted class."""
    from sklearn.metrics import confusion_matrix

    return confusion_matrix(labels_N, predictions_N, labels=np.arange(n_classes))


def per_class(labels_N: np.ndarray, predictions_N: np.ndarray, classes: Sequence[str]) -> list[dict[str, Any]]:
    """A row a class: n, accuracy, precision, recall, f1; None where nothing was counted.

    Accuracy is the share of the class's own samples that were recognised: its recall. The field uses both names.
    """
    from sklearn.metrics import precision_recall_fscore_support

    index = np.arange(len(classes))
    scores = precision_recall_fscore_support(labels_N, predictions_N, labels=index, zero_division=0)
    predicted = np.bincount(predictions_N, minlength=len(classes))
    rows = []
    for i, (precision, recall, f1, n) in enumerate(zip(*scores, strict=True)):
        own = float(recall) if n else None
        rows.append(
            {
                "class": classes[i],
                "n": int(n),
                "accuracy": own,
                "precision": float(precision) if predicted[i] else None,
                "recall": own,
                "f1": float(f1) if n else None,
            }
        )
    return rows


def bootstrap_interval(correct_N: np.ndarray, draws: int, seed: int) -> tuple[float, float]:
    """95 % percentile interval of an accuracy, samples drawn with replacement.

    The number of hits among N draws from N samples is binomial with the observed share of hits, so a resample is one
    number and no array of N x draws is made.

    Args:
        correct_N: whether each sample was right.
        draws: how many resamples.
        seed: of the draws.

    Source: Efron & Tibshirani, "An Introduction to the Bootstrap", 1993, ch. 13.
    """
    n = len(correct_N)
    accuracies = np.random.default_rng(seed % 2**64).binomial(n, np.mean(correct_N), size=draws) / n
    low, high = middle(accuracies)
    return low, high

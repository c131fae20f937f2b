"""What a probe is judged by while it learns and afterwards: top-1, average precision, R². Pure functions of arrays.

Shape suffixes: N samples, C classes or numbers.
"""

import numpy as np
from sklearn.metrics import average_precision_score


def figure(learns: str, scores_NC: np.ndarray, targets: np.ndarray) -> float:
    """Top-1 of one label (N,); the mean average precision of several (N, C); R² of numbers (N, C). 1 is perfect."""
    if learns == "label":
        return float((scores_NC.argmax(axis=1) == targets).mean())
    found = average_precisions(scores_NC, targets) if learns == "labels" else r2(scores_NC, targets)
    known = found[np.isfinite(found)]
    return float(known.mean()) if len(known) else 0.0


def average_precisions(scores_NC: np.ndarray, targets_NC: np.ndarray) -> np.ndarray:
    """(C,) average precision of each class; NaN of one that no sample has."""
    each = zip(targets_NC.T, scores_NC.T, strict=True)
    return np.array([average_precision_score(y, score) if y.any() else np.nan for y, score in each])


def r2(predicted_NC: np.ndarray, targets_NC: np.ndarray) -> np.ndarray:
    """(C,) coefficient of determination; NaN where all targets are the same."""
    missed = ((targets_NC - predicted_NC) ** 2).sum(axis=0)
    spread = ((targets_NC - targets_NC.mean(axis=0)) ** 2).sum(axis=0)
    # By their range: the mean of equal numbers may differ from them by a rounding.
    return 1 - np.divide(missed, spread, out=np.full(len(spread), np.nan), where=np.ptp(targets_NC, axis=0) > 0)

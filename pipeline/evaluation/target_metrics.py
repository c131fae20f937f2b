"""Figures of several labels a sample, and of numbers, as pure functions of arrays. Knows no file, no head and no store.

Tables of results read the columns, so what loads SciPy or scikit-learn is imported where it is needed.
Shape suffixes: N samples, C classes or numbers, D draws.
"""

import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np

from pipeline.evaluation.draws import Draws
from pipeline.evaluation.metrics import middle, share_interval
from pipeline.tasks import Column

HALF = 0.5  # the probability from which on a class is told to be there
LABEL_COLUMNS = (Column("map", 3, title="mAP"), Column("f1", 3, title="micro F1"))
NUMBER_COLUMNS = (Column("r2", 3, title="R²"), Column("mae", 3, "low", "MAE"), Column("spearman", 3, title="Spearman"))


def label_summary(
    targets_NC: np.ndarray, probabilities_NC: np.ndarray, classes: list[str], draws: int, seed: int
) -> dict[str, Any]:
    """Every figure of several labels a sample. A class that no evaluated sample has is in no mean.

    Args:
        targets_NC: 0 or 1.
        probabilities_NC: float64, of each class by itself.
        classes: their names.
        draws, seed: of the bootstrap.
    """
    from pipeline.heads.probe.figures import average_precisions, figure

    found_C = average_precisions(probabilities_NC, targets_NC)
    told_NC = probabilities_NC >= HALF
    right_C, told_C, true_C = ((of).sum(axis=0) for of in (told_NC * targets_NC, told_NC, targets_NC))
    random, even = np.random.default_rng(seed % 2**64), np.full(len(targets_NC), 1 / len(targets_NC))
    weights = (random.multinomial(len(even), even) for _ in range(draws))
    drawn_DC = resampled_precisions(probabilities_NC, targets_NC, weights)
    means_D = np.nanmean(drawn_DC, axis=1)
    return {
        "map": figure("labels", probabilities_NC, targets_NC),
        "ci95": middle(means_D),
        "f1": _share(2 * right_C.sum(), told_C.sum() + true_C.sum()) or 0.0,
        "per_class": [
            {
                "class": name,
                "n": int(true_C[c]),
                "average_precision": None if np.isnan(found_C[c]) else float(found_C[c]),
                "average_precision_ci95": None if np.isnan(found_C[c]) else middle(_known(drawn_DC[:, c])),
                "prevalence": float(true_C[c] / len(targets_NC)),
                "precision": _share(right_C[c], told_C[c]),
                "recall": _share(right_C[c], true_C[c]),
                "recall_ci95": share_interval(round(right_C[c]), round(true_C[c])),
                "f1": _share(2 * right_C[c], told_C[c] + true_C[c]),
            }
            for c, name in enumerate(classes)
        ],
        "evaluated_classes": int(np.isfinite(found_C).sum()),
    }


def label_draws(draws: Draws, targets_NC: np.ndarray, probabilities_NC: np.ndarray) -> None:
    """Adds map of `label_summary`."""
    drawn_DC = resampled_precisions(probabilities_NC, targets_NC, draws.weights)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a draw without any label has no mean
        draws.figures["map"] = np.nanmean(drawn_DC, axis=1)


def resampled_precisions(scores_NC: np.ndarray, targets_NC: np.ndarray, weights: Iterable[np.ndarray]) -> np.ndarray:
    """(D, C) average precision of each class over resamples of the samples; NaN where a resample has none of it.

    A resample is a weight a sample, (N,); sorted once, each is two running sums.
    """
    order_NC = np.argsort(-scores_NC, axis=0, kind="stable")
    sorted_NC = np.take_along_axis(targets_NC, order_NC, axis=0)
    # Equal scores are one threshold: what counts is the last of them.
    ordered_NC = np.take_along_axis(scores_NC, order_NC, axis=0)
    last_NC = np.vstack([ordered_NC[1:] != ordered_NC[:-1], np.ones((1, scores_NC.shape[1]), bool)])
    ends_NC = np.where(last_NC, np.arange(len(scores_NC))[:, None], len(scores_NC))
    ends_NC = np.minimum.accumulate(ends_NC[::-1], axis=0)[::-1]
    found = []
    for weight_N in weights:
        weight_NC = weight_N[order_NC].astype(np.float64)
        hits_NC = weight_NC * sorted_NC
        cumulated_NC, all_NC = hits_NC.cumsum(axis=0), weight_NC.cumsum(axis=0)
        precision_NC = np.take_along_axis(cumulated_NC / np.maximum(all_NC, 1), ends_NC, axis=0)
        total_C = cumulated_NC[-1]
        summed_C = (precision_NC * hits_NC).sum(axis=0)
        found.append(np.divide(summed_C, total_C, out=np.full(len(total_C), np.nan), where=total_C > 0))
    return np.array(found)


def _share(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None


def _known(values: np.ndarray) -> np.ndarray:
    known = values[np.isfinite(values)]
    return known if len(known) else np.zeros(1)


def number_summary(
    targets_NC: np.ndarray, found_NC: np.ndarray, names: list[str], draws: int, seed: int
) -> dict[str, Any]:
    """R², mean absolute error and Spearman's rank correlation, of each number and in the mean, with intervals.

    Args:
        targets_NC, found_NC: float64, in their own units; one target at least is not the same in all samples.
        names: of the numbers.
        draws, seed: of the bootstrap.
    """
    random, n = np.random.default_rng(seed % 2**64), len(targets_NC)
    whole = number_figures(targets_NC, found_NC)
    drawn = [number_figures(targets_NC[rows], found_NC[rows]) for rows in random.integers(n, size=(draws, n))]
    intervals = {key: np.stack([of[key] for of in drawn]) for key in whole}
    return {
        **{key: _mean(of) for key, of in whole.items()},
        "ci95": _middle_of(intervals["r2"]),
        **{
            f"{key}_ci95": _middle_of(intervals[key]) if np.isfinite(whole[key]).any() else None
            for key in ("mae", "spearman")
        },
        "per_target": [
            {"target": name, "n": n, "mean": float(targets_NC[:, c].mean()), "sd": float(targets_NC[:, c].std())}
            | {key: float(of[c]) if np.isfinite(of[c]) else None for key, of in whole.items()}
            | {
                f"{key}_ci95": middle(_known(of[:, c])) if np.isfinite(whole[key][c]) else None
                for key, of in intervals.items()
            }
            for c, name in enumerate(names)
        ],
    }


def number_draws(draws: Draws, targets_NC: np.ndarray, found_NC: np.ndarray) -> None:
    """Adds r2 and mae of `number_summary`."""
    n_D1 = draws.weights.sum(axis=1, keepdims=True)
    centred_NC = targets_NC - targets_NC.mean(axis=0)  # or the squares would lose digits
    with np.errstate(divide="ignore", invalid="ignore"):
        spread_DC = draws.weights @ centred_NC**2 - (draws.weights @ centred_NC) ** 2 / n_D1
        r2_DC = 1 - draws.weights @ (found_NC - targets_NC) ** 2 / spread_DC
        mae_DC = draws.weights @ np.abs(found_NC - targets_NC) / n_D1
    varied = np.ptp(targets_NC, axis=0) > 0
    draws.figures |= {"r2": r2_DC[:, varied].mean(axis=1), "mae": mae_DC.mean(axis=1)}


def number_figures(targets_NC: np.ndarray, found_NC: np.ndarray) -> dict[str, np.ndarray]:
    """(C,) of each figure; NaN where one is not defined."""
    from scipy.stats import rankdata

    from pipeline.heads.probe.figures import r2

    ranks, found_ranks = (rankdata(of, axis=0) for of in (targets_NC, found_NC))
    ranks, found_ranks = (of - of.mean(axis=0) for of in (ranks, found_ranks))
    both = (ranks * found_ranks).sum(axis=0)
    size = np.sqrt((ranks**2).sum(axis=0) * (found_ranks**2).sum(axis=0))
    return {
        "r2": r2(found_NC, targets_NC),
        "mae": np.abs(found_NC - targets_NC).mean(axis=0),
        "spearman": np.divide(both, size, out=np.full(len(size), np.nan), where=size > 0),
    }


def _mean(values_C: np.ndarray) -> float | None:
    known = values_C[np.isfinite(values_C)]
    return float(known.mean()) if len(known) else None


def _middle_of(values_DC: np.ndarray) -> list[float]:
    return middle(
        _known(np.array([of[np.isfinite(of)].mean() if np.isfinite(of).any() else np.nan for of in values_DC]))
    )

"""Figures of action segmentation, as pure functions of frame labels. Knows no file, no head and no store.

Every figure is in percent. A frame whose truth is negative has no label: it is cut out of its video, prediction and
all. Background classes leave the lists of segments (Edit, F1), unless a data set counts their segments too, and no
frame: Acc is given with and without them. A video without any frame or segment scores: nothing to find and nothing
claimed is 100.

Shape suffixes: V videos, T frames, P predicted segments, Y true segments, C classes.
"""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from pipeline.evaluation.draws import Draws
from pipeline.evaluation.metrics import confusion, middle, per_class
from pipeline.tasks import Column

THRESHOLDS = (0.1, 0.25, 0.5)
UNLABELLED = -1
COLUMNS = (
    *(Column(name, 1) for name in ("acc", "edit", "f1@10", "f1@25", "f1@50")),
    # Where whole videos are decoded, each frame by itself as well: published figures are of these.
    *(Column(f"undecoded.{name}", 1, title=f"{name}, undecoded", optional=True) for name in ("acc", "edit", "f1@50")),
)


class Segments(NamedTuple):
    """Runs of equal labels, in order: label, first frame, frame after the last; each (S,) int64."""

    label: np.ndarray
    start: np.ndarray
    stop: np.ndarray


def segments(labels_T: np.ndarray, background: Collection[int] = ()) -> Segments:
    """A video's runs of equal labels without those of background; a segment ends where it ends.

    MS-TCN's eval.py as it is public now agrees. Earlier versions of it, and code that was copied from them, end a
    video's last segment one frame early: one of a single frame then has length 0 and cannot be hit.

    >>> segments(np.array([7, 7, 0, 7, 2]), background={0})
    Segments(label=array([7, 7, 2]), start=array([0, 3, 4]), stop=array([2, 4, 5]))
    """
    labels = np.asarray(labels_T, dtype=np.int64)
    start = np.flatnonzero(np.diff(labels, prepend=labels[:1] - 1))
    stop = np.append(start, len(labels))[1:]
    kept = ~np.isin(labels[start], list(background))
    return Segments(labels[start][kept], start[kept], stop[kept])


def levenshtein(one_P: np.ndarray, other_Y: np.ndarray) -> int:
    """Fewest insertions, deletions and substitutions that turn one sequence into the other.

    A row of the table at a time: with j subtracted, the run of insertions along a row is a running minimum.

    >>> levenshtein(np.array([1, 2, 3]), np.array([2, 3, 3, 4]))
    3
    """
    steps = np.arange(len(other_Y) + 1)
    row = steps
    for label in one_P:
        kept = np.append(row[0] + 1, np.minimum(row[1:] + 1, row[:-1] + (other_Y != label)))
        row = np.minimum.accumulate(kept - steps) + steps
    return int(row[-1])


def edit_score(predicted_P: np.ndarray, true_Y: np.ndarray) -> float:
    """100 · (1 − Levenshtein / longer length) of two lists of segment labels; 100 where both are empty.

    Source: Lea et al., "Segmental Spatiotemporal CNNs", ECCV 2016; `edit_score` of MS-TCN's eval.py.

    >>> edit_score(np.array([1, 2, 3]), np.array([1, 3]))
    66.66666666666667
    """
    longer = max(len(predicted_P), len(true_Y))
    return 100 * (longer - levenshtein(predicted_P, true_Y)) / longer if longer else 100.0


def overlaps(predicted: Segments, true: Segments) -> np.ndarray:
    """(P, Y) temporal IoU of each predicted with each true segment; 0 where labels differ."""
    shared = np.minimum(predicted.stop[:, None], true.stop) - np.maximum(predicted.start[:, None], true.start)
    hull = np.maximum(predicted.stop[:, None], true.stop) - np.minimum(predicted.start[:, None], true.start)
    # Where two segments overlap their union is their hull; where they do not, the IoU is 0 whatever it is.
    return np.where(predicted.label[:, None] == true.label, np.maximum(shared, 0) / hull, 0.0)


def found(overlap_PY: np.ndarray, threshold: float) -> np.ndarray:
    """Which true segments are hit, ascending (N,) int64: as many as there are true positives.

    In predicted order, each segment takes the same-label truth of highest IoU (the first of equals), and hits it if
    that IoU is at least the threshold and no earlier one did. Since the choice does not depend on what is taken, the
    truths hit are the distinct choices that pass.

    Source: `f_score` of MS-TCN's eval.py (Abu Farha & Gall, CVPR 2019), after Lea et al., CVPR 2017.
    """
    if not overlap_PY.size:
        return np.zeros(0, dtype=np.int64)
    return np.unique(overlap_PY.argmax(axis=1)[overlap_PY.max(axis=1) >= threshold])


def segment_counts(
    predictions: Sequence[np.ndarray],
    truths: Sequence[np.ndarray],
    background: Collection[int] = (),
    thresholds: Sequence[float] = THRESHOLDS,
    *,
    with_background: bool = False,
) -> pd.DataFrame:
    """What every figure is made of, a row a video: counts add up over videos, and `figures` reads sums as well.

    Args:
        predictions, truths: for each video its (T,) class indices.
        background: class indices.
        thresholds: of the IoU, above 0.
        with_background: whether segments of background count as any others (Breakfast, 50Salads) or not (GTEA).

    Returns:
        videos (1), frames, frames_right, foreground (frames whose truth is no background), foreground_right, edit,
        true and predicted (segments), and for each threshold tp@<percent>.

    Raises:
        ValueError: lists or videos of different lengths, or a threshold outside (0, 1].
    """
    if wrong := [k for k in thresholds if not 0 < k <= 1]:
        raise ValueError(f"thresholds are IoUs above 0 and at most 1, got {wrong}")
    rows = []
    for prediction, truth in labelled(predictions, truths):
        right, foreground = prediction == truth, ~np.isin(truth, list(background))
        guess, true = (segments(labels, () if with_background else background) for labels in (prediction, truth))
        overlap_PY = overlaps(guess, true)
        rows.append(
            {
                "videos": 1,
                "frames": len(truth),
                "frames_right": right.sum(),
                "foreground": foreground.sum(),
                "foreground_right": (right & foreground).sum(),
                "edit": edit_score(guess.label, true.label),
                "true": len(true.label),
                "predicted": len(guess.label),
                **{f"tp@{_percent(k)}": len(found(overlap_PY, k)) for k in thresholds},
            }
        )
    return pd.DataFrame(rows)


def figures(counts: pd.DataFrame) -> pd.DataFrame:
    """acc, acc_without_background, edit and f1@<percent> for each row of counts; NaN for an accuracy of no frame."""
    segments_ = counts["true"] + counts["predicted"]
    return pd.DataFrame(
        {
            "acc": 100 * counts["frames_right"] / counts["frames"],
            "acc_without_background": 100 * counts["foreground_right"] / counts["foreground"],
            "edit": counts["edit"] / counts["videos"],
            # 2 TP / (2 TP + FP + FN); of no segment at all, 100.
            **{f"f1@{k}": (200 * counts[f"tp@{k}"] / segments_).fillna(100.0) for k in _thresholds(counts)},
        }
    )


def segment_metrics(
    predictions: Sequence[np.ndarray],
    truths: Sequence[np.ndarray],
    background: Collection[int] = (),
    thresholds: Sequence[float] = THRESHOLDS,
    *,
    with_background: bool = False,
) -> dict[str, Any]:
    """Acc and F1 pooled over the set, Edit as the mean over videos, and the counts behind them.

    Args and errors: as `segment_counts`.

    Returns:
        acc, acc_without_background (None where there is no such frame), edit, f1@10, f1@25, f1@50, and counts: videos,
        frames, foreground, true and predicted segments, and tp, fp, fn by threshold.

    >>> result = segment_metrics([np.array([0, 1, 1, 2])], [np.array([0, 1, 2, 2])], background={0})
    >>> result["acc"], result["edit"], result["f1@50"], result["counts"]["tp@50"]
    (75.0, 100.0, 100.0, 2)
    """
    return pooled(segment_counts(predictions, truths, background, thresholds, with_background=with_background))


def pooled(counts: pd.DataFrame) -> dict[str, Any]:
    """The figures of a whole set from its videos' counts, as `segment_metrics` returns them."""
    total = counts.sum()
    numbers = {name: int(total[name]) for name in ("videos", "frames", "foreground", "true", "predicted")}
    for k in _thresholds(counts):
        hits = int(total[f"tp@{k}"])
        numbers |= {f"tp@{k}": hits, f"fp@{k}": numbers["predicted"] - hits, f"fn@{k}": numbers["true"] - hits}
    row = figures(total.to_frame().T).iloc[0]
    return {**{name: known(value) for name, value in row.items()}, "counts": numbers}


def bootstrap_intervals(counts: pd.DataFrame, draws: int, seed: int) -> dict[str, list[float] | None]:
    """95 % percentile interval of each figure, videos drawn with replacement: frames of a video are not independent.

    Args:
        counts: of `segment_counts`.
        draws: how many resamples.
        seed: of the draws.

    Returns:
        figure -> [low, high]; None where no resample has a frame to judge.

    Source: Efron & Tibshirani, "An Introduction to the Bootstrap", 1993, ch. 13.
    """
    weights = resamples(len(counts), draws, seed)
    drawn = figures(pd.DataFrame(weights @ counts.to_numpy(dtype=np.float64), columns=counts.columns))
    return {name: interval(drawn[name].to_numpy()) for name in drawn}


def segment_draws(draws: Draws, counts: pd.DataFrame, prefix: str = "") -> None:
    """Adds each figure of `figures`, its name behind a prefix."""
    drawn = figures(pd.DataFrame(draws.weights @ counts.to_numpy(dtype=np.float64), columns=counts.columns))
    draws.figures |= {f"{prefix}{name}": drawn[name].to_numpy() for name in drawn}


def ratio_intervals(hits_GC: np.ndarray, counts_GC: np.ndarray, draws: int, seed: int) -> list[list[float] | None]:
    """95 % percentile interval of each class's share, in percent, groups drawn with replacement.

    Args:
        hits_GC, counts_GC: of each group (a video's frames, a patient's videos) and class.
        draws: how many resamples.
        seed: of the draws.

    Returns:
        [low, high] of each class; None of one that never counts.
    """
    weights = resamples(len(hits_GC), draws, seed).astype(np.float64)
    with np.errstate(invalid="ignore"):  # a resample without the class says nothing of it
        shares = 100 * (weights @ hits_GC) / (weights @ counts_GC)
    return [interval(of) for of in shares.T]


def resamples(n: int, draws: int, seed: int) -> np.ndarray:
    """(draws, n): how often each of n videos is drawn."""
    return np.random.default_rng(seed % 2**64).multinomial(n, np.full(n, 1 / n), size=draws)


def interval(values: np.ndarray) -> list[float] | None:
    """[low, high] of the middle 95 % of what is not NaN; None if nothing is left."""
    values = values[~np.isnan(values)]
    return middle(values) if values.size else None


def class_table(
    predictions: Sequence[np.ndarray],
    truths: Sequence[np.ndarray],
    classes: Sequence[str],
    background: Collection[int] = (),
    thresholds: Sequence[float] = THRESHOLDS,
    *,
    with_background: bool = False,
) -> list[dict[str, Any]]:
    """A row a class over all frames and segments; None where nothing was counted.

    Args and errors: as `segment_counts`; classes are the names by index.

    Returns:
        class, n (frames), accuracy, precision, recall and f1 of frames as shares in percent, segments (true ones), and
        f1@<percent> of segments; background has none, unless they count.
    """
    pairs = labelled(predictions, truths)
    prediction, truth = _concatenated(pairs)
    n, width = len(classes), len(thresholds)
    true, predicted, hit = np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros((width, n), np.int64)
    for guess_T, truth_T in pairs:
        guess, own = (segments(labels, () if with_background else background) for labels in (guess_T, truth_T))
        overlap_PY = overlaps(guess, own)
        true += np.bincount(own.label, minlength=n)
        predicted += np.bincount(guess.label, minlength=n)
        for i, threshold in enumerate(thresholds):
            hit[i] += np.bincount(own.label[found(overlap_PY, threshold)], minlength=n)
    rows = per_class(truth, prediction, classes) if len(truth) else [_nothing(name) for name in classes]
    for c, row in enumerate(rows):
        for name in ("accuracy", "precision", "recall", "f1"):
            row[name] = None if row[name] is None else 100 * row[name]
        row["segments"] = int(true[c])
        for i, threshold in enumerate(thresholds):
            counted = true[c] + predicted[c]
            row[f"f1@{_percent(threshold)}"] = float(200 * hit[i, c] / counted) if counted else None
    return rows


def class_intervals(
    predictions: Sequence[np.ndarray], truths: Sequence[np.ndarray], n_classes: int, draws: int, seed: int
) -> list[list[float] | None]:
    """95 % intervals of the frame recalls of `class_table`, in percent, videos drawn with replacement."""
    pairs = labelled(predictions, truths)
    counts_VC = np.stack([np.bincount(truth, minlength=n_classes) for _, truth in pairs])
    hits_VC = np.stack([np.bincount(truth[guess == truth], minlength=n_classes) for guess, truth in pairs])
    return ratio_intervals(hits_VC, counts_VC, draws, seed)


def class_confusion(predictions: Sequence[np.ndarray], truths: Sequence[np.ndarray], n_classes: int) -> np.ndarray:
    """(C, C) counts of frames: row = true class, column = predicted class."""
    prediction, truth = _concatenated(labelled(predictions, truths))
    return confusion(truth, prediction, n_classes) if len(truth) else np.zeros((n_classes, n_classes), np.int64)


def labelled(predictions: Sequence[np.ndarray], truths: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """(prediction, truth) of each video, int64, without the frames that have no label.

    Raises:
        ValueError: different numbers of videos or frames, or none at all.
    """
    if len(predictions) != len(truths) or not len(truths):
        raise ValueError(
            f"predictions of {len(predictions)} videos and truths of {len(truths)}; give one of each a video"
        )
    pairs = []
    for number, (prediction, truth) in enumerate(zip(predictions, truths, strict=True)):
        if np.shape(prediction) != np.shape(truth) or np.ndim(truth) != 1:
            raise ValueError(
                f"video {number}: predictions of shape {np.shape(prediction)}, truth of shape {np.shape(truth)}; "
                "both are one class index a frame, expanded to the frames of the labels"
            )
        judged = np.asarray(truth) > UNLABELLED
        pairs.append((np.asarray(prediction, np.int64)[judged], np.asarray(truth, np.int64)[judged]))
    return pairs


def known(value: float) -> float | None:
    """A figure as JSON holds it: None for NaN."""
    return None if np.isnan(value) else float(value)


def _concatenated(pairs: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    prediction, truth = zip(*pairs, strict=True)
    return np.concatenate(prediction), np.concatenate(truth)


def _nothing(name: str) -> dict[str, Any]:
    return {"class": name, "n": 0, "accuracy": None, "precision": None, "recall": None, "f1": None}


def _percent(threshold: float) -> int:
    return round(100 * threshold)


def _thresholds(counts: pd.DataFrame) -> list[str]:
    return [name.removeprefix("tp@") for name in counts if name.startswith("tp@")]

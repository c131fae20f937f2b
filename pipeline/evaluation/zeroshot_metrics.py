"""Figures of classes never seen in training, from scores over seen and unseen ones. Knows no file, no head, no store.

Calibrated stacking takes γ from the scores of seen classes: a frame goes to its best unseen class as soon as γ exceeds
the frame's margin, its best seen less its best unseen score. Everything over γ therefore follows from one sort of the
margins, exactly; no grid of γ is searched. Figures are in percent; accuracies are means over classes of the share of a
class's frames that are right, over the classes that occur. Frames with a negative truth have no label and do not count.

Shape suffixes: V videos, T frames of a video, N frames of all videos, C classes, D draws, G values of γ.
Sources: Chao et al., "An Empirical Study and Analysis of Generalized Zero-Shot Learning", ECCV 2016 (stacking, AUSUC);
Xian et al., "Zero-Shot Learning: A Comprehensive Evaluation", TPAMI 2019 (S, U, H).
"""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np

from pipeline.evaluation.draws import Draws
from pipeline.evaluation.segment_metrics import COLUMNS as SEGMENT_COLUMNS
from pipeline.evaluation.segment_metrics import (
    THRESHOLDS,
    UNLABELLED,
    interval,
    known,
    labelled,
    resamples,
    segment_metrics,
)
from pipeline.tasks import Column

CURVE = 201  # points of a curve that is kept
COLUMNS = (
    *(Column(name, 1) for name in ("seen", "unseen", "harmonic", "ausuc", "seen_restricted", "unseen_restricted")),
    Column("fraction_unseen", 1, None),
    Column("undecoded.harmonic", 1, title="harmonic, undecoded", optional=True),
    # Of the thresholds of F1 the strictest alone.
    *(column for column in SEGMENT_COLUMNS if column.name not in ("f1@10", "f1@25")),
)


class Sweep(NamedTuple):
    """S and U for every γ there is.

    Attributes:
        margin_N: ascending; γ puts the frames of smaller margin on unseen classes.
        seen, unseen: (N + 1,) percent, with the first i frames of that order on unseen classes; NaN where no frame of
            such a class occurs.
    """

    margin_N: np.ndarray
    seen: np.ndarray
    unseen: np.ndarray

    def at(self, gamma: np.ndarray | float) -> dict[str, np.ndarray]:
        """seen, unseen, harmonic and fraction_unseen (of frames put on unseen classes) at each γ, in percent."""
        index = np.searchsorted(self.margin_N, gamma, side="left")
        seen, unseen = self.seen[index], self.unseen[index]
        fraction = 100 * index / max(len(self.margin_N), 1)
        return {"seen": seen, "unseen": unseen, "harmonic": harmonic(seen, unseen), "fraction_unseen": fraction}

    @property
    def ends(self) -> np.ndarray:
        """How many frames can be on unseen classes at once: none, then up to the last of each equal margin."""
        return np.append(0, np.flatnonzero(np.diff(self.margin_N, append=np.inf)) + 1)

    @property
    def ausuc(self) -> float:
        """Area under S over U, of the whole square in percent, by trapezoids between neighbouring points."""
        return float(np.trapezoid(self.seen[self.ends], self.unseen[self.ends])) / 100


def harmonic(seen: np.ndarray, unseen: np.ndarray) -> np.ndarray:
    """H = 2SU / (S + U); 0 where both are 0.

    >>> float(harmonic(np.array(60.0), np.array(30.0)))
    40.0
    """
    total = seen + unseen
    return 2 * seen * unseen / np.where(total == 0, 1, total)


def stacked(scores_TC: np.ndarray, seen_C: np.ndarray, gamma: float) -> np.ndarray:
    """(T,) class of the highest score once γ is taken from the seen ones; equals go to the seen class.

    >>> stacked(np.array([[0.5, 0.3], [0.9, 0.3]]), np.array([True, False]), gamma=0.4).tolist()
    [1, 0]
    """
    best_seen, best_unseen, margin = _best(scores_TC, seen_C)
    return np.where(gamma > margin, best_unseen, best_seen)


def sweep(scores: Sequence[np.ndarray], truths: Sequence[np.ndarray], seen_C: np.ndarray) -> Sweep:
    """S and U over all γ.

    Args:
        scores: for each video (T, C), higher is likelier, on one scale for all classes.
        truths: for each video (T,) class indices; negative where there is no label.
        seen_C: bool, the classes that training saw; at least one is not.

    Raises:
        ValueError: shapes or classes disagree, a score is not finite, or all classes or none are seen.
    """
    ordered = _ordered(scores, truths, seen_C)
    return _swept(ordered, seen_C, np.ones(len(ordered.truth)))


class _Ordered(NamedTuple):
    """Labelled frames by ascending margin; each (N,). `order` is where they were."""

    margin: np.ndarray
    truth: np.ndarray
    best_seen: np.ndarray
    best_unseen: np.ndarray
    order: np.ndarray


def _ordered(scores: Sequence[np.ndarray], truths: Sequence[np.ndarray], seen_C: np.ndarray) -> _Ordered:
    score_NC, truth = _frames(scores, truths, seen_C)
    best_seen, best_unseen, margin = _best(score_NC, seen_C)
    order = np.argsort(margin, kind="stable")
    return _Ordered(margin[order], truth[order], best_seen[order], best_unseen[order], order)


def _swept(of: _Ordered, seen_C: np.ndarray, counted_N: np.ndarray) -> Sweep:
    """S and U where each frame, in the order of the videos, counts so often."""
    counted_N = counted_N[of.order]
    frames_C = np.bincount(of.truth, counted_N, minlength=len(seen_C))
    weight_N = 100 / np.maximum(frames_C[of.truth], 1) * counted_N  # what a frame adds to its class's accuracy
    there_seen, there_unseen = np.count_nonzero(frames_C[seen_C]), np.count_nonzero(frames_C[~seen_C])
    kept = weight_N * (of.best_seen == of.truth) / max(there_seen, 1)
    won = weight_N * (of.best_unseen == of.truth) / max(there_unseen, 1)
    # The first i frames are on unseen classes, the others still on seen ones.
    seen, unseen = np.append(np.cumsum(kept[::-1])[::-1], 0.0), np.append(0.0, np.cumsum(won))
    return Sweep(of.margin, seen if there_seen else seen * np.nan, unseen if there_unseen else unseen * np.nan)


def zeroshot_metrics(
    scores: Sequence[np.ndarray],
    truths: Sequence[np.ndarray],
    seen_C: np.ndarray,
    gamma: float,
    background: Collection[int] = (),
    gammas: np.ndarray | None = None,
    thresholds: Sequence[float] = THRESHOLDS,
    *,
    with_background: bool = False,
    predictions: Sequence[np.ndarray] | None = None,
) -> dict[str, Any]:
    """Everything that is reported of classes never seen.

    Args:
        scores, truths, seen_C: as for `sweep`. Background is a class among the others, seen if seen_C says so.
        gamma: taken from seen scores, on the scores' own scale.
        background: class indices.
        gammas: where to give the curve; by default up to 201 values that move equally many frames each.
        thresholds: of F1's IoU.
        with_background: whether segments of background count in Edit and F1.
        predictions: for each video (T,) the classes that it got with γ, if its frames were not decided one by one.

    Returns:
        gamma; seen, unseen, harmonic and fraction_unseen of the predictions; at_zero, the same without γ, each frame by
        itself, as all that follows but the figures over all videos; fraction_unseen_true;
        unseen_restricted and seen_restricted (each choosing among its own classes only, as γ → ±∞); chance (over the
        union); ausuc; best (gamma and harmonic of the γ that is best on these very frames: an upper bound, not a
        result); acc, acc_without_background, edit, f1@... and counts over all videos, hallucinated unseen segments
        included; curve: gamma, seen, unseen, harmonic, fraction_unseen as lists. None where no frame of such a class
        occurs.

    Raises:
        ValueError: as for `sweep`.
    """
    seen_C = np.asarray(seen_C, dtype=bool)
    curve = sweep(scores, truths, seen_C)
    at_zero = {name: known(value) for name, value in curve.at(0.0).items()}
    if gammas is None:
        gammas = _spread(curve)
    if predictions is None:
        predictions = [stacked(score, seen_C, gamma) for score in scores]
    truth = np.concatenate([np.asarray(truth) for truth in truths])
    truth = truth[truth > UNLABELLED]
    best = _best_gamma(curve)
    return {
        "gamma": float(gamma),
        **decided(predictions, truths, seen_C),
        "at_zero": at_zero,
        "fraction_unseen_true": known(100 * np.mean(~seen_C[truth])) if len(truth) else None,
        "unseen_restricted": known(curve.unseen[-1]),
        "seen_restricted": known(curve.seen[0]),
        "chance": 100 / len(seen_C),
        "ausuc": known(curve.ausuc),
        "best": {"gamma": best, "harmonic": known(curve.at(best)["harmonic"])},
        **segment_metrics(predictions, truths, background, thresholds, with_background=with_background),
        "curve": {
            "gamma": [float(value) for value in gammas],
            **{name: [known(value) for value in values] for name, values in curve.at(gammas).items()},
        },
    }


def decided(
    predictions: Sequence[np.ndarray], truths: Sequence[np.ndarray], seen_C: np.ndarray
) -> dict[str, float | None]:
    """seen, unseen, harmonic and fraction_unseen of what was predicted, in percent; None without such a frame."""
    found = seen_unseen(*class_counts(predictions, truths, len(seen_C)), seen_C, np.ones((1, len(truths))))
    there = np.concatenate([guess for guess, _ in labelled(predictions, truths)])
    found["fraction_unseen"] = np.array([100 * np.mean(~seen_C[there]) if len(there) else 0.0])
    return {name: known(value[0]) for name, value in found.items()}


def among(
    scores: Sequence[np.ndarray], truths: Sequence[np.ndarray], kept_C: np.ndarray
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The columns of some classes, and truths that count among these; a frame of another class has no label.

    >>> scores, truths = among([np.eye(3)], [np.array([0, 1, 2])], np.array([True, False, True]))
    >>> scores[0].shape, truths[0].tolist()
    ((3, 2), [0, -1, 1])
    """
    index_C = np.where(kept_C, np.cumsum(kept_C) - 1, UNLABELLED)
    renamed = [np.where(np.asarray(of) > UNLABELLED, index_C[of], UNLABELLED) for of in truths]
    return [np.asarray(score)[:, kept_C] for score in scores], renamed


def choose_gamma(
    scores: Sequence[np.ndarray], truths: Sequence[np.ndarray], seen_C: np.ndarray, held_out_C: np.ndarray
) -> float:
    """The γ of highest H when some seen classes play the unseen ones: no unseen class takes part.

    The middle of the interval of best γ: H is constant between neighbouring margins. 0 where every γ gives H = 0.

    Args:
        scores, truths: of validation videos. The scores of `held_out_C` come from a model that did not train on them.
        seen_C: bool, the classes that may be used here; the columns and frames of others are left out.
        held_out_C: bool, those of them that play the unseen ones.

    Raises:
        ValueError: a held-out class is not seen, or the stand-ins or the others do not occur in the truths.
    """
    seen_C, held_out_C = np.asarray(seen_C, dtype=bool), np.asarray(held_out_C, dtype=bool)
    if (held_out_C & ~seen_C).any():
        raise ValueError(
            f"classes {np.flatnonzero(held_out_C & ~seen_C).tolist()} stand in for unseen ones and are unseen "
            "themselves; γ is chosen on seen classes only"
        )
    curve = sweep(*among(scores, truths, seen_C), ~held_out_C[seen_C])
    if np.isnan(curve.seen[0]) or np.isnan(curve.unseen[-1]):
        raise ValueError("no frame of the held-out classes, or none of the others, to choose γ on; hold out others")
    return _best_gamma(curve)


def zeroshot_intervals(
    predictions: Sequence[np.ndarray], truths: Sequence[np.ndarray], seen_C: np.ndarray, draws: int, seed: int
) -> dict[str, list[float] | None]:
    """95 % percentile intervals of seen, unseen and harmonic at one γ, videos drawn with replacement.

    Args:
        predictions, truths: for each video (T,) class indices, γ already applied.
        seen_C: bool.
        draws, seed: of the resamples.
    """
    counts = class_counts(predictions, truths, len(seen_C))
    drawn = seen_unseen(*counts, seen_C, resamples(len(counts[0]), draws, seed))
    return {name: interval(values) for name, values in drawn.items()}


def zeroshot_draws(
    draws: Draws,
    scores: Sequence[np.ndarray],
    truths: Sequence[np.ndarray],
    seen_C: np.ndarray,
    gamma: float,
    predictions: Sequence[np.ndarray] | None = None,
) -> None:
    """Adds seen, unseen and harmonic of the predictions, of each frame by itself where that is something else, and of
    those without γ; seen and unseen each restricted to its own classes; ausuc and chance.

    Args:
        draws: of the videos.
        scores, truths, seen_C, gamma, predictions: as for `zeroshot_metrics`.
    """
    alone, at_zero = ([stacked(score, seen_C, of) for score in scores] for of in (gamma, 0.0))
    told = {"": alone} if predictions is None else {"": predictions, "undecoded.": alone}
    for prefix, of in (told | {"at_zero.": at_zero}).items():
        counts = class_counts(of, truths, len(seen_C))
        drawn = seen_unseen(*counts, seen_C, draws.weights)
        draws.figures |= {f"{prefix}{name}": values for name, values in drawn.items()}
    for name, of in (("seen", -np.inf), ("unseen", np.inf)):
        counts = class_counts([stacked(score, seen_C, of) for score in scores], truths, len(seen_C))
        draws.figures[f"{name}_restricted"] = seen_unseen(*counts, seen_C, draws.weights)[name]
    weights_DN = np.repeat(draws.weights, [np.count_nonzero(np.asarray(of) > UNLABELLED) for of in truths], axis=1)
    ordered = _ordered(scores, truths, seen_C)
    draws.figures["ausuc"] = np.array([_swept(ordered, seen_C, weight_N).ausuc for weight_N in weights_DN])
    draws.constant("chance", 100 / len(seen_C))


def class_counts(
    predictions: Sequence[np.ndarray], truths: Sequence[np.ndarray], classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Frames, and frames that are right, of each class in each video, (V, C) int64; labels below 0 do not count."""
    pairs = labelled(predictions, truths)
    frames_VC = np.stack([np.bincount(truth, minlength=classes) for _, truth in pairs])
    right_VC = np.stack([np.bincount(truth[guess == truth], minlength=classes) for guess, truth in pairs])
    return frames_VC, right_VC


def seen_unseen(
    frames_VC: np.ndarray, right_VC: np.ndarray, seen_C: np.ndarray, weights_DV: np.ndarray
) -> dict[str, np.ndarray]:
    """seen, unseen and harmonic, (D,) in percent, of draws in which each video counts so often; NaN without a frame."""
    frames_DC, right_DC = weights_DV @ frames_VC, weights_DV @ right_VC
    accuracy_DC = 100 * right_DC / np.where(frames_DC > 0, frames_DC, 1)
    seen, unseen = (_mean_over(accuracy_DC[:, of], frames_DC[:, of] > 0) for of in (seen_C, ~seen_C))
    return {"seen": seen, "unseen": unseen, "harmonic": harmonic(seen, unseen)}


def _mean_over(values_DC: np.ndarray, there_DC: np.ndarray) -> np.ndarray:
    n_D = there_DC.sum(axis=1)
    return np.where(n_D > 0, (values_DC * there_DC).sum(axis=1) / np.maximum(n_D, 1), np.nan)


def _best(scores_TC: np.ndarray, seen_C: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Best seen class, best unseen class and the margin between their scores, each (T,)."""
    halves = []
    for of in (seen_C, ~seen_C):
        part = np.asarray(scores_TC)[:, of].astype(np.float64)
        column = part.argmax(axis=1)
        halves.append((np.flatnonzero(of)[column], np.take_along_axis(part, column[:, None], axis=1)[:, 0]))
    (best_seen, high), (best_unseen, low) = halves
    return best_seen, best_unseen, high - low


def _frames(
    scores: Sequence[np.ndarray], truths: Sequence[np.ndarray], seen_C: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The labelled frames of all videos: scores (N, C) and truth (N,)."""
    if seen_C.all() or not seen_C.any():
        raise ValueError(
            f"{int(seen_C.sum())} of {len(seen_C)} classes are seen; zero-shot figures need seen and unseen ones"
        )
    if len(scores) != len(truths) or not len(truths):
        raise ValueError(f"scores of {len(scores)} videos and truths of {len(truths)}; give one of each a video")
    kept = []
    for number, (score, truth) in enumerate(zip(scores, truths, strict=True)):
        truth = np.asarray(truth, dtype=np.int64)
        if np.shape(score) != (len(truth), len(seen_C)):
            raise ValueError(
                f"video {number}: scores of shape {np.shape(score)}, expected {(len(truth), len(seen_C))}: "
                "a row a frame of the truth, a column a class"
            )
        if not np.isfinite(score).all():
            raise ValueError(f"video {number}: some scores are not finite; γ cannot be weighed against them")
        if len(truth) and truth.max() >= len(seen_C):
            raise ValueError(f"video {number}: truth holds class {truth.max()}, but there are {len(seen_C)} classes")
        judged = truth > UNLABELLED
        kept.append((np.asarray(score)[judged], truth[judged]))
    score_NC, truth_N = (np.concatenate(part) for part in zip(*kept, strict=True))
    return score_NC, truth_N


def _best_gamma(curve: Sweep) -> float:
    """The middle of the γ whose H is highest, the lowest such interval; 0 where H is 0 or unknown everywhere."""
    ends = curve.ends
    values = harmonic(curve.seen, curve.unseen)[ends]
    if not len(curve.margin_N) or np.isnan(values).all() or np.nanmax(values) == 0:
        return 0.0
    best = int(np.nanargmax(values))
    # H > 0 needs frames on either side, so the interval has two ends: neither the first nor the last one.
    low, high = curve.margin_N[ends[best] - 1], curve.margin_N[ends[best]]
    return float(max((low + high) / 2, np.nextafter(low, np.inf)))


def _spread(curve: Sweep) -> np.ndarray:
    """γ from below the first margin to above the last, with equally many frames between neighbours."""
    if not len(curve.margin_N):
        return np.zeros(1)
    rows = np.unique(np.linspace(0, len(curve.margin_N) - 1, CURVE - 1).round().astype(int))
    return np.append(curve.margin_N[0], np.nextafter(np.unique(curve.margin_N[rows]), np.inf))

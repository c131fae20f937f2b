"""Figures of videos against attention maps, as pure functions of embeddings and probabilities. Knows no file, no head.

Shares are in percent, similarities are cosines. Shape suffixes: N queries or videos, M gallery, E width of an
embedding, C classes, G patients, K sums.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from pipeline.evaluation.metrics import per_class, ranked
from pipeline.evaluation.segment_metrics import interval, resamples

SHARES = ("r1", "r5", "chance_r1", "chance_r5")
TIE = 1e-6  # cosines of unit vectors in single precision that are nearer than this are equal


# --- retrieval --------------------------------------------------------------------------------------------------------


class Places(NamedTuple):
    """Where the best positive of each query stands among what it may find; each (N,).

    Attributes:
        better: negatives nearer than it.
        tied, matches: negatives and positives as near as it; without a positive matches is 0.
    """

    better: np.ndarray
    tied: np.ndarray
    matches: np.ndarray

    @property
    def rank(self) -> np.ndarray:
        """(N,) the expected rank, from 1; NaN without a positive.

        Equals are in random order: the pessimistic order would put a collapsed model, whose embeddings are all equal,
        below chance, and the optimistic one at 100 %. The first of `matches` among t items stands, on average, at
        (t + 1) / (matches + 1).
        """
        rank = self.better + (self.tied + self.matches + 1) / (self.matches + 1)
        return np.where(self.matches > 0, rank, np.nan)

    def within(self, k: int) -> np.ndarray:
        """(N,) the chance, over the order of equals, that a positive is among the first k."""
        from scipy.special import comb

        total = self.tied + self.matches
        left = np.clip(k - self.better, 0, total)
        return 1 - comb(self.tied, left) / comb(total, left)


def places(query_NE: np.ndarray, gallery_ME: np.ndarray, positives_NM: np.ndarray, excluded_NM: np.ndarray) -> Places:
    """Arguments and errors: as `retrieval`."""
    for name, side in (("query", query_NE), ("gallery", gallery_ME)):
        if not np.isfinite(side).all():
            row = int(np.flatnonzero(~np.isfinite(side).all(axis=1))[0])
            raise ValueError(f"{name} {row} has an embedding that is not finite; train the head again, at a lower rate")
    similarity_NM = query_NE.astype(np.float64) @ gallery_ME.astype(np.float64).T
    positives_NM = positives_NM & ~excluded_NM
    negatives_NM = ~positives_NM & ~excluded_NM
    best_N1 = np.where(positives_NM, similarity_NM, -np.inf).max(axis=1, initial=-np.inf, keepdims=True)
    equal_NM = np.abs(similarity_NM - best_N1) <= TIE
    return Places(
        better=(negatives_NM & (similarity_NM > best_N1 + TIE)).sum(axis=1),
        tied=(negatives_NM & equal_NM).sum(axis=1),
        matches=(positives_NM & equal_NM).sum(axis=1),
    )


def retrieval(
    query_NE: np.ndarray,
    gallery_ME: np.ndarray,
    positives_NM: np.ndarray,
    excluded_NM: np.ndarray,
    patients: Sequence[Hashable] | None = None,
    draws: int = 0,
    seed: int = 0,
) -> dict[str, Any]:
    """How well queries find what belongs to them.

    Args:
        query_NE, gallery_ME: unit vectors.
        positives_NM: bool, what is to be found; queries without any are not counted.
        excluded_NM: bool, what is taken out of the gallery of a query.
        patients: of the queries; they are drawn with replacement, with all their queries. None: no intervals.
        draws, seed: of the resamples.

    Returns:
        r1 and r5, percent of queries with a positive among the first 1 and 5; median_rank of the best positive, from 1;
        chance_r1 and chance_r5, those of a random order; ci95, [low, high] of the first three; queries and gallery, how
        many. Equals are in random order, see `Places.rank`. All but the last two are None without a query.

    Raises:
        ValueError: an embedding is not finite.

    >>> perfect = retrieval(np.eye(4), np.eye(4), np.eye(4, dtype=bool), np.zeros((4, 4), bool))
    >>> perfect["r1"], perfect["median_rank"], perfect["chance_r1"]
    (100.0, 1.0, 25.0)
    >>> collapsed = retrieval(np.ones((4, 1)), np.ones((4, 1)), np.eye(4, dtype=bool), np.zeros((4, 4), bool))
    >>> collapsed["r1"], collapsed["median_rank"]
    (25.0, 2.5)
    """
    each = queries(query_NE, gallery_ME, positives_NM, excluded_NM)
    asked = ~np.isnan(each["rank"])
    figures: dict[str, Any] = dict.fromkeys(("r1", "r5", "median_rank", "chance_r1", "chance_r5", "ci95"))
    if asked.any():
        values = {name: of[asked] for name, of in each.items()}
        figures = {
            **{name: 100 * float(values[name].mean()) for name in SHARES},
            "median_rank": float(np.median(values["rank"])),
            "ci95": None if patients is None else _intervals(values, _numbered(patients)[asked].tolist(), draws, seed),
        }
    return {**figures, "queries": int(asked.sum()), "gallery": len(gallery_ME)}


def queries(
    query_NE: np.ndarray, gallery_ME: np.ndarray, positives_NM: np.ndarray, excluded_NM: np.ndarray
) -> dict[str, np.ndarray]:
    """SHARES of `retrieval` for each query, (N,) in [0, 1], and its rank; NaN where there is nothing to find.

    Arguments and errors: as `retrieval`.
    """
    found, there_NM = places(query_NE, gallery_ME, positives_NM, excluded_NM), ~excluded_NM
    own, all_ = (positives_NM & there_NM).sum(axis=1), there_NM.sum(axis=1)
    any_order = Places(np.zeros_like(own), all_ - own, own)
    values = (found.within(1), found.within(5), any_order.within(1), any_order.within(5))
    each = {name: np.where(found.matches > 0, of, np.nan) for name, of in zip(SHARES, values, strict=True)}
    return {**each, "rank": found.rank}


def _intervals(
    values: Mapping[str, np.ndarray], patients: Sequence[Hashable], draws: int, seed: int
) -> dict[str, list[float] | None]:
    """ci95 of `retrieval`, over resamples of the patients."""
    patient_N = _numbered(patients)
    drawn_DG = resamples(patient_N.max() + 1, draws, seed)
    medians = np.array([np.median(np.repeat(values["rank"], drawn_G[patient_N])) for drawn_G in drawn_DG])
    shares = {name: accuracy_interval(values[name], patients, draws, seed) for name in ("r1", "r5")}
    return {**shares, "median_rank": interval(medians)}


def belonging(maps: Sequence[Hashable], patients: Sequence[Hashable]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The gallery of distinct maps, and which videos belong to each.

    Args:
        maps: of N videos, the same for the same map.
        patients: of the same videos.

    Returns:
        first (M,), a video of each distinct map; positives (N, M), the video's own map; excluded (N, M), the map of
        another clip of the same patient, which is neither a match nor a fair mismatch.

    >>> first, positives, excluded = belonging(["a", "b", "a"], ["ann", "ann", "bob"])
    >>> first.tolist(), positives.astype(int).tolist(), excluded.astype(int).tolist()
    ([0, 1], [[1, 0], [0, 1], [1, 0]], [[0, 1], [1, 0], [0, 0]])
    """
    map_N, patient_N = _numbered(maps), _numbered(patients)
    distinct = np.unique(map_N)
    positives_NM = map_N[:, None] == distinct
    seen_GM = np.zeros((len(set(patient_N.tolist())), len(distinct)), dtype=bool)
    seen_GM[patient_N, map_N] = True
    first_M = np.array([np.flatnonzero(map_N == number)[0] for number in distinct], dtype=np.int64)
    return first_M, positives_NM, seen_GM[patient_N] & ~positives_NM


def strangers(maps: Sequence[Hashable], patients: Sequence[Hashable], seed: int) -> np.ndarray | None:
    """For each of N videos another one, of another patient and with another map; each is chosen once.

    Args:
        maps, patients: as for `belonging`.
        seed: of the choice.

    Returns:
        (N,) rows, a permutation; None where there is none, as when most maps are one patient's.
    """
    from scipy.optimize import linear_sum_assignment

    map_N, patient_N = _numbered(maps), _numbered(patients)
    near_NN = (map_N[:, None] == map_N) | (patient_N[:, None] == patient_N)
    # An assignment at random costs: a near pair costs more than all others together.
    cost_NN = np.random.default_rng(seed % 2**64).random(near_NN.shape) + (len(map_N) + 1) * near_NN
    _, chosen_N = linear_sum_assignment(cost_NN)
    return None if near_NN[np.arange(len(map_N)), chosen_N].any() else chosen_N


# --- agreement --------------------------------------------------------------------------------------------------------


def agreement(
    similarity_N: np.ndarray, correct_N: np.ndarray, patients: Sequence[Hashable], draws: int, seed: int
) -> dict[str, Any]:
    """Whether videos that look like their map are recognised more often.

    Args:
        similarity_N: cosine of video and map.
        correct_N: bool, whether the diagnosis was right.
        patients: patients are drawn with replacement, with all their videos.
        draws, seed: of the resamples.

    Returns:
        correct and incorrect, the mean similarity of each; gap, their difference; point_biserial, the correlation; and
        ci95, [low, high] of gap and of point_biserial, over the resamples that have one. None where one side is empty,
        and the correlation where all similarities are equal.

    Source: Tate, "Correlation Between a Discrete and a Continuous Variable", 1954.
    """
    found: dict[str, Any] = {
        "correct": float(similarity_N[correct_N].mean()) if correct_N.any() else None,
        "incorrect": float(similarity_N[~correct_N].mean()) if not correct_N.all() else None,
        "gap": None,
        "point_biserial": None,
        "ci95": {"gap": None, "point_biserial": None},
    }
    if found["correct"] is None or found["incorrect"] is None:
        return found
    found["gap"] = found["correct"] - found["incorrect"]
    # Sums of each patient are enough; about the mean, or their differences would lose digits.
    centred_N = similarity_N.astype(np.float64) - similarity_N.mean(dtype=np.float64)
    right_N = correct_N.astype(np.float64)
    columns = (right_N, right_N * centred_N, 1 - right_N, (1 - right_N) * centred_N, centred_N**2)
    right, of_right, wrong, of_wrong, squares = _resampled(np.stack(columns, axis=1), patients, draws, seed).T
    with np.errstate(divide="ignore", invalid="ignore"):
        n = right + wrong
        gap = of_right / right - of_wrong / wrong
        deviation = np.sqrt(np.maximum(squares / n - ((of_right + of_wrong) / n) ** 2, 0))
        correlation = np.where(deviation > TIE, gap * np.sqrt(right * wrong) / n / deviation, np.nan)
    found["ci95"]["gap"] = interval(gap)
    if centred_N.std() > TIE:
        from scipy.stats import pointbiserialr

        found["point_biserial"] = float(pointbiserialr(correct_N, similarity_N.astype(np.float64)).statistic)
        found["ci95"]["point_biserial"] = interval(correlation)
    return found


def accuracy_interval(correct_N: np.ndarray, patients: Sequence[Hashable], draws: int, seed: int) -> list[float] | None:
    """95 % percentile interval of an accuracy, in percent; patients are drawn, as by `agreement`."""
    both = np.stack((correct_N, np.ones(len(correct_N))), axis=1)
    hits, n = _resampled(both, patients, draws, seed).T
    return interval(100 * hits / n)


def _resampled(values_NK: np.ndarray, patients: Sequence[Hashable], draws: int, seed: int) -> np.ndarray:
    """(draws, K): sums over the videos of the patients that were drawn."""
    patient_N = _numbered(patients)
    sums_GK = np.zeros((patient_N.max() + 1, values_NK.shape[1]))
    np.add.at(sums_GK, patient_N, values_NK)
    return resamples(len(sums_GK), draws, seed) @ sums_GK


# --- classification ---------------------------------------------------------------------------------------------------


def classification(labels_N: np.ndarray, probabilities_NC: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """Figures of a diagnosis, in percent.

    Args:
        labels_N: class indices, one at least.
        probabilities_NC: rows sum to 1.
        classes: names by index.

    Returns:
        accuracy; macro_f1, over the classes that occur; auroc, the mean over classes of one against the rest, None
        where a class does not occur or is the only one; per_class, rows of `metrics.per_class`.
    """
    predictions_N = ranked(probabilities_NC, 1)[:, 0]
    rows = [
        {name: 100 * of if isinstance(of, float) else of for name, of in row.items()}
        for row in per_class(labels_N, predictions_N, classes)
    ]
    own_NC = labels_N[:, None] == np.arange(len(classes))
    auroc = None
    if len(classes) > 1 and own_NC.any(axis=0).all():
        from sklearn.metrics import roc_auc_score

        each = [roc_auc_score(own, given) for own, given in zip(own_NC.T, probabilities_NC.T, strict=True)]
        auroc = 100 * float(np.mean(each))
    return {
        "accuracy": 100 * float((predictions_N == labels_N).mean()),
        "macro_f1": float(np.mean([row["f1"] for row in rows if row["n"]])),
        "auroc": auroc,
        "per_class": rows,
    }


def _numbered(names: Sequence[Hashable]) -> np.ndarray:
    """(N,) a number a name."""
    return pd.factorize(pd.Series(list(names), dtype=object))[0]

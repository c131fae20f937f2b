"""Figures of out-of-distribution detection, as pure functions of scores. Knows no file, no head and no store.

ID is the positive class, and higher scores say ID. Figures are in percent.
Tables of results read `COLUMNS`, so scikit-learn is imported where it is needed.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from pipeline.evaluation.segment_metrics import interval
from pipeline.tasks import Column

RECALL = 0.95
FIGURES = ("auroc", "aupr_in", "aupr_out", "fpr95")
COLUMNS = (  # means over the OOD sets
    Column("auroc", 2),
    Column("fpr95", 2, "low"),
    Column("aupr_in", 2),
    Column("aupr_out", 2),
    Column("lambda", 2, None),
    Column("auroc_neglabel", 2, None),
    Column("fpr95_neglabel", 2, None),
)


def ood_metrics(id_scores: np.ndarray, ood_scores: np.ndarray) -> dict[str, float]:
    """AUROC, both AUPRs and FPR95, in percent; equal scores are one threshold.

    Args:
        id_scores, ood_scores: of any shape, finite, one of each at least.

    Returns:
        auroc; aupr_in and aupr_out, average precision with ID and with OOD as the positive class; fpr95, the share of
        OOD taken for ID at the highest threshold that takes at least 95 % of ID for ID.

    Raises:
        ValueError: one side is empty, or a score is not finite.

    Source: Hendrycks & Gimpel, ICLR 2017 (AUROC, AUPR); Liang et al., ICLR 2018 (FPR at 95 % TPR).

    >>> ood_metrics(np.array([0.9, 0.8, 0.4]), np.array([0.5, 0.1]))["auroc"]
    83.33333333333333
    """
    from sklearn.metrics import roc_curve

    scores, n_id, n_ood = _joined(id_scores, ood_scores)
    truth = np.arange(n_id + n_ood) < n_id
    fpr, tpr, _ = roc_curve(truth, scores, drop_intermediate=False)
    return _figures(np.rint(tpr * n_id), np.rint(fpr * n_ood))


def ood_intervals(
    id_scores: np.ndarray, ood_scores: np.ndarray, draws: int, seed: int
) -> dict[str, list[float] | None]:
    """95 % percentile intervals of each figure, ID and OOD images drawn anew with replacement, each side its number.

    Args:
        id_scores, ood_scores: as for `ood_metrics`.
        draws, seed: of the resamples.
    """
    random, sizes = np.random.default_rng(seed % 2**64), (np.size(id_scores), np.size(ood_scores))

    def taken(n: int) -> np.ndarray:
        return np.bincount(random.integers(0, n, n), minlength=n)

    found = ood_draws(id_scores, ood_scores, (tuple(map(taken, sizes)) for _ in range(draws)))
    return {name: interval(values) for name, values in found.items()}


def ood_draws(
    id_scores: np.ndarray, ood_scores: np.ndarray, weights: Iterable[tuple[np.ndarray, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Each figure of `ood_metrics`, (D,), where images count so often in each draw; NaN where a side is empty.

    Args:
        id_scores, ood_scores: as for `ood_metrics`; N and M of them.
        weights: of each draw, how often each image counts, (N,) and (M,).
    """
    scores, n_id, _ = _joined(id_scores, ood_scores)
    # Sorted once: a draw only counts anew, in a hundredth of the time that a library takes to look at its arguments.
    levels, place = np.unique(-scores, return_inverse=True)
    drawn = []
    for weight_N, weight_M in weights:
        if not weight_N.any() or not weight_M.any():
            drawn.append(dict.fromkeys(FIGURES, np.nan))
            continue
        sides = ((place[:n_id], weight_N), (place[n_id:], weight_M))
        counts = (np.bincount(places, weight, minlength=len(levels)).cumsum() for places, weight in sides)
        drawn.append(_figures(*(np.concatenate([[0], of]) for of in counts)))
    return {name: np.array([of[name] for of in drawn]) for name in FIGURES}


def _figures(hits: np.ndarray, false: np.ndarray) -> dict[str, float]:
    """From the counts of ID and OOD taken for ID at each threshold, from none to all."""
    (n_id, n_ood), tpr, fpr = (hits[-1], false[-1]), hits / hits[-1], false / false[-1]
    return {
        "auroc": 100 * float(np.trapezoid(tpr, fpr)),
        "aupr_in": 100 * _average_precision(hits, false),
        # Read from the other end, what is taken for OOD.
        "aupr_out": 100 * _average_precision((n_ood - false)[::-1], (n_id - hits)[::-1]),
        "fpr95": 100 * float(fpr[np.argmax(tpr >= RECALL)]),
    }


def lambda_sweep(
    star_id: np.ndarray, p_id: np.ndarray, star_ood: np.ndarray, p_ood: np.ndarray, lambdas: Sequence[float]
) -> dict[float, dict[str, float]]:
    """`ood_metrics` of S* + λ P_align for each λ, in their order.

    Args:
        star_id, p_id: S* and P_align of the ID images, (N,).
        star_ood, p_ood: of the OOD images.
        lambdas: one at least.

    Raises:
        ValueError: S* and P_align are not of the same images, there is no λ, or as for `ood_metrics`.
    """
    sides = [_side(name, *pair) for name, *pair in (("ID", star_id, p_id), ("OOD", star_ood, p_ood))]
    if not len(lambdas):
        raise ValueError("no λ to try; give one at least")
    return {float(lam): ood_metrics(*(star + lam * p for star, p in sides)) for lam in lambdas}


def best_lambda(sweep: Mapping[float, Mapping[str, float]]) -> float:
    """The λ of highest AUROC; of equals the one of lowest FPR95, then the one nearest to 0.

    >>> best_lambda({0.0: {"auroc": 90, "fpr95": 9}, 1.0: {"auroc": 95, "fpr95": 9}, 2.0: {"auroc": 95, "fpr95": 8}})
    2.0
    """
    return min(sweep, key=lambda lam: (-sweep[lam]["auroc"], sweep[lam]["fpr95"], abs(lam), lam))


def choose_lambda(
    inside: tuple[np.ndarray, np.ndarray],
    outside: Sequence[tuple[np.ndarray, np.ndarray]],
    lambdas: Sequence[float],
    guard: float | None = None,
) -> float:
    """`best_lambda` of a validation split, all OOD images together: what the test split is then scored with.

    Args:
        inside: both terms of the score of the ID images, as for `lambda_sweep`; no image of the test split.
        outside: the same of each OOD set.
        lambdas: one at least.
        guard: the points of AUROC that λ may cost on any one of the sets, against λ = 0; None: any.

    Returns:
        One of `lambdas`, or 0 where each of them costs more than `guard`.

    Raises:
        ValueError: as for `lambda_sweep`.

    >>> weak = np.array([2.0, 1.0]), np.array([0.0, 0.0])
    >>> choose_lambda(weak, [(np.array([1.5, 0.0]), np.array([1.0, 0.0]))], [0.0, 1.0], guard=0.05)
    0.0
    """
    allowed = list(lambdas)
    if guard is not None:
        for terms in outside:
            (base,) = lambda_sweep(*inside, *terms, [0.0]).values()
            sweep = lambda_sweep(*inside, *terms, allowed) if allowed else {}
            # A hair of rounding: AUROC is a sum of shares.
            allowed = [lam for lam in allowed if base["auroc"] - sweep[lam]["auroc"] <= guard + 1e-9]
    together = map(np.concatenate, zip(*outside, strict=True))
    return best_lambda(lambda_sweep(*inside, *together, allowed)) if allowed or not len(lambdas) else 0.0


def fit_lambda(star_id: np.ndarray, p_id: np.ndarray, star_ood: np.ndarray, p_ood: np.ndarray) -> float:
    """`adaptive`: λ by logistic regression of ID against OOD on S* and P_align of a validation split.

    The ratio of the two weights, both sides of equal weight whatever their numbers. No grid; the scale of either score
    does not matter. Never below 0: P_align is there to take a match away that the background explains.

    Raises:
        ValueError: as for `lambda_sweep`, or S* has no positive weight beside P_align.
    """
    from sklearn.linear_model import LogisticRegression

    sides = [_side(name, *pair) for name, *pair in (("ID", star_id, p_id), ("OOD", star_ood, p_ood))]
    x_N2 = np.concatenate([np.stack(side, axis=1) for side in sides])
    truth = np.repeat([1, 0], [len(star) for star, _ in sides])
    _joined(*(star for star, _ in sides))
    _joined(*(p for _, p in sides))
    deviation_2 = x_N2.std(axis=0)
    scale_2 = np.where(deviation_2 > 0, deviation_2, 1)  # what never varies gets no weight
    fitted = LogisticRegression(class_weight="balanced").fit((x_N2 - x_N2.mean(axis=0)) / scale_2, truth)
    weight = fitted.coef_[0] / scale_2
    if weight[0] <= 0:
        raise ValueError(
            f"S* has weight {weight[0]:.3g} beside P_align with {weight[1]:.3g} on the validation split, expected a "
            "positive one; S* does not tell ID from OOD there: give λ as a number, or another validation split"
        )
    return max(0.0, float(weight[1] / weight[0]))


def _average_precision(hits: np.ndarray, false: np.ndarray) -> float:
    """Mean of precision over the steps of recall; counts from no sample to all, as the threshold falls."""
    taken = np.maximum(hits[1:] + false[1:], 1)  # of a draw, thresholds before its first sample take none
    return float(np.sum(np.diff(hits) * hits[1:] / taken) / hits[-1])


def _side(name: str, star: np.ndarray, p_align: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    star, p_align = np.asarray(star, dtype=np.float64), np.asarray(p_align, dtype=np.float64)
    if star.shape != p_align.shape or star.ndim != 1:
        raise ValueError(
            f"{name}: S* of shape {star.shape} and P_align of {p_align.shape}, expected one of each an image"
        )
    return star, p_align


def _joined(id_scores: np.ndarray, ood_scores: np.ndarray) -> tuple[np.ndarray, int, int]:
    """ID then OOD in one float64 array, and how many of each."""
    sides = [np.asarray(side, dtype=np.float64).ravel() for side in (id_scores, ood_scores)]
    for name, side in zip(("ID", "OOD"), sides, strict=True):
        if not len(side):
            raise ValueError(f"no {name} score; detection needs images of both sides: look at the splits")
        if not np.isfinite(side).all():
            index = int(np.flatnonzero(~np.isfinite(side))[0])
            raise ValueError(f"{name} score {index} is {side[index]}, expected a finite number; extract its image anew")
    return np.concatenate(sides), *map(len, sides)

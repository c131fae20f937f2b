"""From a probe and its caches to a result: of one label a sample, of several, of numbers. Knows no video.

Beside each stand what guessing gives (`chance`), and what the commonest class, the frequency of each class, or the mean
of what was learned from gives (`majority`): the same figure of answers that look at nothing.

Shape suffixes: N samples, C classes or numbers.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import rankdata
from torch import nn

from pipeline.config import Params
from pipeline.evaluation.classification import predictions_of, softmax, summary
from pipeline.evaluation.metrics import middle, share_interval
from pipeline.evaluation.provenance import Evaluated, inference, trained
from pipeline.training.data import OrderedBatches
from pipeline.training.probed import Probed, ProbedSamples
from pipeline.training.probes import average_precisions, figure, r2
from pipeline.training.registry import predict

HALF = 0.5  # the probability from which on a class is told to be there


def evaluate(params: Params, head: str, samples: ProbedSamples, run: Path, device: torch.device) -> Evaluated:
    """`evaluation.evaluate` of a probe, by what it learns."""
    scores_NC, wall = scores(params, head, samples, run, device)
    by_target = {"label": _labelled, "labels": _several, "target": _numbers}
    figures, predictions, said = by_target[samples.learns](samples, scores_NC, params.head(head))
    return Evaluated(figures, predictions, said, {"predict_s": wall})


def scores(
    params: Params, head: str, samples: ProbedSamples, run: Path, device: torch.device
) -> tuple[np.ndarray, float]:
    """Logits, or numbers, (N, C) float32 of the evaluated samples, and the seconds that took."""
    began = time.monotonic()
    model = trained(params, head, samples, run, device)
    return scored(model, params, head, samples, device), time.monotonic() - began


def scored(model: nn.Module, params: Params, head: str, samples: ProbedSamples, device: torch.device) -> np.ndarray:
    """(N, C) float32 of the evaluated samples, by a probe that is ready."""
    config, compute, parts = params.head(head), params.compute, []
    rows = Probed(samples, samples.parts["evaluated"], compute.cache_memory_gb * 1e9)
    loader = rows.loader(OrderedBatches(range(len(rows)), config.batch_size), compute.decode_workers)
    with inference(config.precision, device):
        for batch in loader:
            there = {key: tensor.to(device) for key, tensor in batch.items()}
            parts.append(predict(model, there, tuple(samples.streams)).float().cpu().numpy())
    return np.concatenate(parts)


def _labelled(samples: ProbedSamples, logits_NC: np.ndarray, config: Any) -> tuple[dict[str, Any], pd.DataFrame, str]:
    labels, probabilities = samples.targets_of("evaluated"), softmax(logits_NC)
    figures = summary(labels, probabilities, samples.classes, config)
    commonest = np.bincount(samples.targets_of("train"), minlength=len(samples.classes)).argmax()
    figures |= {"chance": 1 / len(samples.classes), "majority": float((labels == commonest).mean())}
    low, high = figures["ci95"]
    said = (
        f"top-1 {figures['top1']:.4f} (95 % {low:.4f} to {high:.4f}), chance {figures['chance']:.4f}, "
        f"majority {figures['majority']:.4f}"
    )
    return figures, predictions_of(samples, labels, {"as_is": probabilities}), said


# --- several labels ---------------------------------------------------------------------------------------------------


def _several(samples: ProbedSamples, logits_NC: np.ndarray, config: Any) -> tuple[dict[str, Any], pd.DataFrame, str]:
    targets_NC = samples.targets_of("evaluated")
    probabilities_NC = torch.from_numpy(logits_NC).double().sigmoid().numpy()
    prior_NC = np.broadcast_to(samples.targets_of("train").mean(axis=0), targets_NC.shape)
    figures = label_summary(targets_NC, probabilities_NC, samples.classes, config.bootstrap, config.seed)
    figures |= {"chance": figure("labels", np.zeros_like(prior_NC), targets_NC)}
    figures |= {"majority": figure("labels", prior_NC, targets_NC)}
    names = np.array(samples.classes, dtype=object)
    predictions = pd.DataFrame(
        {
            "sample": samples.parts["evaluated"],
            "label": [names[of > 0].tolist() for of in targets_NC],
            "prediction": [names[of >= HALF].tolist() for of in probabilities_NC],
            "probabilities": probabilities_NC.tolist(),
        }
    )
    low, high = figures["ci95"]
    return figures, predictions, f"mAP {figures['map']:.4f} (95 % {low:.4f} to {high:.4f}), f1 {figures['f1']:.4f}"


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
    found_C = average_precisions(probabilities_NC, targets_NC)
    told_NC = probabilities_NC >= HALF
    right_C, told_C, true_C = ((of).sum(axis=0) for of in (told_NC * targets_NC, told_NC, targets_NC))
    drawn_DC = resampled_precisions(probabilities_NC, targets_NC, draws, seed)
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


def resampled_precisions(scores_NC: np.ndarray, targets_NC: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """(D, C) average precision of each class over resamples of the samples; NaN where a resample has none of it.

    A resample is a weight a sample; sorted once, each is two running sums.
    """
    order_NC = np.argsort(-scores_NC, axis=0, kind="stable")
    sorted_NC = np.take_along_axis(targets_NC, order_NC, axis=0)
    # Equal scores are one threshold: what counts is the last of them.
    ordered_NC = np.take_along_axis(scores_NC, order_NC, axis=0)
    last_NC = np.vstack([ordered_NC[1:] != ordered_NC[:-1], np.ones((1, scores_NC.shape[1]), bool)])
    ends_NC = np.where(last_NC, np.arange(len(scores_NC))[:, None], len(scores_NC))
    ends_NC = np.minimum.accumulate(ends_NC[::-1], axis=0)[::-1]
    random, n, found = np.random.default_rng(seed % 2**64), len(scores_NC), []
    even = np.full(n, 1 / n)
    for _ in range(draws):
        weight_NC = random.multinomial(n, even)[order_NC].astype(np.float64)
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


# --- numbers ----------------------------------------------------------------------------------------------------------


def _numbers(samples: ProbedSamples, found_NC: np.ndarray, config: Any) -> tuple[dict[str, Any], pd.DataFrame, str]:
    targets_NC, found_NC = samples.targets_of("evaluated"), found_NC.astype(np.float64)
    mean_NC = np.broadcast_to(samples.targets_of("train").mean(axis=0), targets_NC.shape)
    figures = number_summary(targets_NC, found_NC, samples.classes, config.bootstrap, config.seed)
    # The mean of the evaluated samples themselves explains nothing of them, by R²'s definition.
    figures |= {"chance": 0.0, "majority": figure("target", mean_NC, targets_NC)}
    predictions = pd.DataFrame(
        {
            "sample": samples.parts["evaluated"],
            "label": targets_NC.tolist(),
            "prediction": found_NC.tolist(),
        }
    )
    low, high = figures["ci95"]
    said = f"R² {figures['r2']:.4f} (95 % {low:.4f} to {high:.4f}), MAE {figures['mae']:.4g}"
    return figures, predictions, said


def number_summary(
    targets_NC: np.ndarray, found_NC: np.ndarray, names: list[str], draws: int, seed: int
) -> dict[str, Any]:
    """R², mean absolute error and Spearman's rank correlation, of each number and in the mean, with intervals.

    Args:
        targets_NC, found_NC: float64, in their own units.
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
        **{f"{key}_ci95": _middle_of(intervals[key]) for key in ("mae", "spearman")},
        "per_target": [
            {"target": name, "n": n, "mean": float(targets_NC[:, c].mean()), "sd": float(targets_NC[:, c].std())}
            | {key: float(of[c]) if np.isfinite(of[c]) else None for key, of in whole.items()}
            | {f"{key}_ci95": middle(_known(of[:, c])) for key, of in intervals.items()}
            for c, name in enumerate(names)
        ],
    }


def number_figures(targets_NC: np.ndarray, found_NC: np.ndarray) -> dict[str, np.ndarray]:
    """(C,) of each figure; NaN where one is not defined."""
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

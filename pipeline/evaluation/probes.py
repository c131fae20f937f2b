"""From a probe and its caches to a result: of one label a sample, of several, of numbers. Knows no video.

Beside each stand what guessing gives (`chance`), and what the commonest class, the frequency of each class, or the mean
of the split that is learned from gives (`majority`): the same figure of answers that look at nothing.

Shape suffixes: N samples, C classes or numbers.
"""

import time
from typing import Any

import numpy as np
import pandas as pd
import torch

from pipeline.evaluation.classification import predictions_of, softmax
from pipeline.evaluation.draws import Draws, units
from pipeline.evaluation.metrics import summary, summary_draws
from pipeline.evaluation.provenance import Evaluated, batches, inference
from pipeline.evaluation.target_metrics import HALF, label_draws, label_summary, number_draws, number_summary
from pipeline.runs import Run
from pipeline.training.probed import ProbedSamples
from pipeline.training.registry import predict
from pipeline.transfers import returned

LEARNED = ("train", "holdout")  # the whole split that is learned from


def evaluate(run: Run) -> Evaluated:
    """`evaluation.evaluate` of a probe, by what it learns."""
    scores_NC, wall = scores(run)
    by_target = {"label": _labelled, "labels": _several, "target": _numbers}
    draws = Draws(units(run.dataset, run.samples.parts["evaluated"]), run.config.bootstrap)
    figures, predictions, said = by_target[run.samples.learns](run.samples, scores_NC, run.config, draws)
    return Evaluated(figures, predictions, said, {"predict_s": wall}, draws=draws)


def scores(run: Run) -> tuple[np.ndarray, float]:
    """Logits, or numbers, (N, C) float32 of the evaluated samples, and the seconds that took."""
    began, model, roles = time.monotonic(), run.model, tuple(run.samples.streams)
    table = run.table(run.samples.parts["evaluated"])
    with inference(run):
        found = list(returned({"scores": predict(model, batch, roles)} for batch in batches(run, table)))
    return np.concatenate([of["scores"] for of in found]), time.monotonic() - began


Said = tuple[dict[str, Any], pd.DataFrame, str]  # figures, predictions, a line


def _labelled(samples: ProbedSamples, logits_NC: np.ndarray, config: Any, draws: Draws) -> Said:
    labels, probabilities = samples.targets_of("evaluated"), softmax(logits_NC)
    figures = summary(labels, probabilities, samples.classes, config)
    commonest = np.bincount(samples.targets_of(*LEARNED), minlength=len(samples.classes)).argmax()
    figures |= {"chance": 1 / len(samples.classes), "majority": float((labels == commonest).mean())}
    summary_draws(draws, labels, probabilities)
    draws.share("majority", labels == commonest)
    draws.constant("chance", figures["chance"])
    low, high = figures["ci95"]
    said = (
        f"top-1 {figures['top1']:.4f} (95 % {low:.4f} to {high:.4f}), chance {figures['chance']:.4f}, "
        f"majority {figures['majority']:.4f}"
    )
    return figures, predictions_of(samples, labels, {"as_is": probabilities}), said


# --- several labels ---------------------------------------------------------------------------------------------------


def _several(samples: ProbedSamples, logits_NC: np.ndarray, config: Any, draws: Draws) -> Said:
    from pipeline.heads.probe.figures import figure

    targets_NC = samples.targets_of("evaluated")
    probabilities_NC = torch.from_numpy(logits_NC).double().sigmoid().numpy()
    prior_NC = np.broadcast_to(samples.targets_of(*LEARNED).mean(axis=0), targets_NC.shape)
    figures = label_summary(targets_NC, probabilities_NC, samples.classes, config.bootstrap, config.seed)
    figures |= {"chance": figure("labels", np.zeros_like(prior_NC), targets_NC)}
    figures |= {"majority": figure("labels", prior_NC, targets_NC)}
    label_draws(draws, targets_NC, probabilities_NC)
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


# --- numbers ----------------------------------------------------------------------------------------------------------


def _numbers(samples: ProbedSamples, found_NC: np.ndarray, config: Any, draws: Draws) -> Said:
    from pipeline.heads.probe.figures import figure

    targets_NC, found_NC = samples.targets_of("evaluated"), found_NC.astype(np.float64)
    mean_NC = np.broadcast_to(samples.targets_of(*LEARNED).mean(axis=0), targets_NC.shape)
    figures = number_summary(targets_NC, found_NC, samples.classes, config.bootstrap, config.seed)
    # The mean of the evaluated samples themselves explains nothing of them, by R²'s definition.
    figures |= {"chance": 0.0, "majority": figure("target", mean_NC, targets_NC)}
    number_draws(draws, targets_NC, found_NC)
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

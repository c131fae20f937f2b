"""From a trained head and its caches to a result JSON and a table of predictions. Knows no video and no backbone.

Shape suffixes: B videos, T steps, N samples, C classes.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pipeline.config import Params
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
from pipeline.evaluation.provenance import Evaluated, inference, trained
from pipeline.training.data import OrderedBatches
from pipeline.training.dataset import Samples
from pipeline.training.registry import predict
from pipeline.training.table import Batch
from pipeline.training.tokens import Tokens

FRAME_ORDERS = ("as_is", "reversed", "shuffled")
TOP = 5


def evaluate(params: Params, head: str, samples: Samples, run: Path, device: torch.device) -> Evaluated:
    """`evaluation.evaluate` of a classifier: as it is, and with the steps of its tokens in other orders."""
    steps = {stream.steps for stream in samples.streams.values()}
    orders = FRAME_ORDERS if min(steps) > 1 else FRAME_ORDERS[:1]  # one step has one order
    by_order, wall = logits(params, head, samples, run, device, orders)
    labels = np.array([samples.labels[sample] for sample in samples.parts["evaluated"]])
    probabilities = {order: softmax(values) for order, values in by_order.items()}
    scores = summary(labels, probabilities["as_is"], samples.classes, params.head(head))
    for order in orders[1:]:
        scores[f"top1_{order}"] = top_k_accuracy(ranked(probabilities[order], 1), labels, 1)
    low, high = scores["ci95"]
    top5 = "" if scores["top5"] is None else f"top-5 {scores['top5']:.4f}, "
    said = f"top-1 {scores['top1']:.4f} (95 % {low:.4f} to {high:.4f}), {top5}ece {scores['ece']:.4f}" + "".join(
        f", tokens {order} {scores[f'top1_{order}']:.4f}" for order in orders[1:]
    )
    return Evaluated(scores, predictions_of(samples, labels, probabilities), said, {"predict_s": wall})


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


def reorder(batch: Batch, roles: tuple[str, ...], order: str, seed: int) -> Batch:
    """The same tokens with their steps in another order; the times stay, so a step claims to be at another moment.

    Args:
        batch: streams (B, T, N, D), all of the same T.
        roles: the keys of the streams.
        order: as_is, reversed or shuffled; a shuffle is a sample's own, the same in every stream, never the identity.
        seed: of the shuffles, with the sample's row.
    """
    if order == "as_is":
        return batch
    steps = batch[roles[0]].shape[1]
    backwards = torch.arange(steps).flip(0).expand(len(batch["row"]), -1)
    index_BT = backwards if order == "reversed" else _shuffles(batch["row"], steps, seed)
    index_BT = index_BT.to(batch[roles[0]].device)
    first_B1 = torch.arange(len(index_BT), device=index_BT.device).unsqueeze(1)
    return {**batch, **{role: batch[role][first_B1, index_BT] for role in roles}}


def _shuffles(rows_B: Tensor, steps: int, seed: int) -> Tensor:
    identity, orders = np.arange(steps), []
    for row in rows_B.tolist():
        draw = np.random.default_rng([seed % 2**64, row])
        order = draw.permutation(steps)
        while steps > 1 and np.array_equal(order, identity):
            order = draw.permutation(steps)
        orders.append(order)
    return torch.from_numpy(np.stack(orders))


def logits(
    params: Params,
    head: str,
    samples: Samples,
    run: Path,
    device: torch.device,
    orders: Sequence[str] = FRAME_ORDERS,
) -> tuple[dict[str, np.ndarray], float]:
    """Logits (N, C) float32 of the evaluated samples for each order of the frames, and the seconds that took."""
    config, compute = params.head(head), params.compute
    began = time.monotonic()
    model = trained(params, head, samples, run, device)
    tokens = Tokens(samples, samples.parts["evaluated"], compute.cache_memory_gb * 1e9)
    loader = tokens.loader(OrderedBatches(range(len(tokens)), config.batch_size), compute.decode_workers)
    parts: dict[str, list[np.ndarray]] = {order: [] for order in orders}
    roles = tuple(samples.streams)
    with inference(config.precision, device):
        for batch in loader:
            there = {key: tensor.to(device) for key, tensor in batch.items()}
            for order in orders:
                logits_BC = predict(model, reorder(there, roles, order, config.seed), roles)
                parts[order].append(logits_BC.float().cpu().numpy())
    return {order: np.concatenate(of) for order, of in parts.items()}, time.monotonic() - began


def softmax(logits_NC: np.ndarray) -> np.ndarray:
    """(N, C) float64 probabilities."""
    return torch.from_numpy(logits_NC).double().softmax(dim=1).numpy()


def predictions_of(samples: Samples, labels: np.ndarray, probabilities: dict[str, np.ndarray]) -> pd.DataFrame:
    """A row a sample: its label, the prediction, the best five with their probabilities, and what other orders gave."""
    names = np.array(samples.classes, dtype=object)
    best = ranked(probabilities["as_is"], TOP)
    return pd.DataFrame(
        {
            "sample": samples.parts["evaluated"],
            "label": names[labels],
            "prediction": names[best[:, 0]],
            **{f"prediction_{order}": names[probabilities[order].argmax(axis=1)] for order in list(probabilities)[1:]},
            "top": names[best].tolist(),
            "probabilities": np.take_along_axis(probabilities["as_is"], best, axis=1).tolist(),
        }
    )

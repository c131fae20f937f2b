"""From a trained head and its caches to a result JSON and a table of predictions. Knows no video and no backbone.

Shape suffixes: B videos, T steps, N samples, C classes.
"""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pipeline.config.heads import TOKEN_ORDERS
from pipeline.evaluation.draws import Draws, units
from pipeline.evaluation.elsewhere import elsewhere, worst
from pipeline.evaluation.metrics import TOP, ranked, summary, summary_draws, top_k_accuracy
from pipeline.evaluation.provenance import Evaluated, batches, counted, inference
from pipeline.runs import Run
from pipeline.training.dataset import Samples
from pipeline.training.registry import predict
from pipeline.training.table import Batch
from pipeline.transfers import returned, sent

ORDERS = ("as_is", *TOKEN_ORDERS)


def evaluate(run: Run) -> Evaluated:
    """`evaluation.evaluate` of a classifier: as it is, with the steps of its tokens in other orders, and elsewhere."""
    samples = run.samples
    steps = {stream.steps for stream in samples.streams.values()}
    orders = ORDERS if min(steps) > 1 else ORDERS[:1]  # one step has one order
    by_order, wall = logits(run, orders)
    probabilities = {order: softmax(values) for order, values in by_order.items()}
    labels, scores, draws = _scored(run, samples, run.dataset, probabilities["as_is"])
    for order in orders[1:]:
        scores[f"top1_{order}"] = top_k_accuracy(ranked(probabilities[order], 1), labels, 1)
    low, high = scores["ci95"]
    top5 = "" if scores["top5"] is None else f"top-5 {scores['top5']:.4f}, "
    said = f"top-1 {scores['top1']:.4f} (95 % {low:.4f} to {high:.4f}), {top5}ece {scores['ece']:.4f}" + "".join(
        f", {order.replace('_', ' ')} {scores[f'top1_{order}']:.4f}" for order in orders[1:]
    )
    for order in orders[1:]:
        draws.share(f"top1_{order}", ranked(probabilities[order], 1)[:, 0] == labels)
    for name in sorted(run.config.elsewhere):
        of, hits_D = _elsewhere(run, name)
        scores[f"top1_{name}"] = of["top1"]
        scores.setdefault("elsewhere", {})[name] = of
        draws.figures[f"top1_{name}"] = hits_D
        said += f", {name} {of['top1']:.4f} (worst class {of['worst']['recall']:.4f}: {of['worst']['class']})"
    return Evaluated(scores, predictions_of(samples, labels, probabilities), said, {"predict_s": wall}, draws=draws)


def _elsewhere(run: Run, name: str) -> tuple[dict[str, Any], np.ndarray]:
    """What a classifier comes to on another data set, and its top-1 over resamples (D,)."""
    other, dataset = elsewhere(run, name), run.config.elsewhere[name]
    samples, (by_order, _) = other.samples, logits(other, ORDERS[:1])
    _, scores, draws = _scored(run, samples, dataset, softmax(by_order["as_is"]))
    told = {"dataset": dataset, "split": run.config.eval_split, "samples": counted(samples), "digest": samples.digest}
    return {**told, **scores, "worst": worst(scores["per_class"])}, draws.figures["top1"]


def _scored(
    run: Run, samples: Samples, dataset: str, probabilities_NC: np.ndarray
) -> tuple[np.ndarray, dict[str, Any], Draws]:
    """The labels (N,) of the evaluated samples of a data set, what the answers come to, and that over resamples."""
    ids = samples.parts["evaluated"]
    labels = np.array([samples.labels[sample] for sample in ids])
    draws = Draws(units(dataset, ids), run.config.bootstrap)
    summary_draws(draws, labels, probabilities_NC)
    return labels, summary(labels, probabilities_NC, samples.classes, run.config), draws


def reorder(batch: Batch, roles: tuple[str, ...], order: str, seed: int) -> Batch:
    """The same tokens with their steps in another order; the times stay, so a step claims to be at another moment.

    Args:
        batch: streams (B, T, N, D), all of the same T.
        roles: the keys of the streams.
        order: as_is, tokens_reversed or tokens_shuffled; a shuffle is a sample's own, the same in every stream, never
            the identity.
        seed: of the shuffles, with the sample's row.
    """
    if order == "as_is":
        return batch
    steps = batch[roles[0]].shape[1]
    backwards = torch.arange(steps).flip(0).expand(len(batch["row"]), -1)
    index_BT = backwards if order == "tokens_reversed" else _shuffles(batch["row"], steps, seed)
    index_BT = sent(index_BT, batch[roles[0]].device)
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


def logits(run: Run, orders: Sequence[str] = ORDERS) -> tuple[dict[str, np.ndarray], float]:
    """Logits (N, C) float32 of the evaluated samples for each order of the tokens, and the seconds that took."""
    began = time.monotonic()
    model, roles, table = run.model, tuple(run.samples.streams), run.table(run.samples.parts["evaluated"])
    with inference(run):
        found = list(
            returned(
                {order: predict(model, reorder(batch, roles, order, run.config.seed), roles) for order in orders}
                for batch in batches(run, table)
            )
        )
    return {order: np.concatenate([of[order] for of in found]) for order in orders}, time.monotonic() - began


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

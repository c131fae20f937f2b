"""From a trained segmentation head and its caches to a result JSON and a table of predictions. Knows no video.

Shape suffixes: T rows of a video, L its labels, C classes.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from pipeline.evaluation.draws import Draws, units
from pipeline.evaluation.provenance import Evaluated, batches, inference
from pipeline.evaluation.segment_metrics import (
    bootstrap_intervals,
    class_confusion,
    class_intervals,
    class_table,
    figures,
    pooled,
    segment_counts,
    segment_draws,
)
from pipeline.evaluation.zeroshot_metrics import (
    choose_gamma,
    stacked,
    zeroshot_draws,
    zeroshot_intervals,
    zeroshot_metrics,
)
from pipeline.heads.fact.clip import score
from pipeline.heads.fact.prediction import predict
from pipeline.runs import Run
from pipeline.training.answers import answer
from pipeline.training.frames import IGNORE, Videos
from pipeline.training.table import Batch
from pipeline.transfers import returned, sent


class Scored(NamedTuple):
    """Videos with the scores of their labelled frames; the largest of a frame is the answer."""

    ids: list[str]
    scores: list[np.ndarray]  # (L, C) float64 each
    truths: list[np.ndarray]  # (L,) int64 each


def evaluate(run: Run) -> Evaluated:
    """`evaluation.evaluate` of a segmentation head, zero-shot or not."""
    config, samples = run.config, run.samples
    background = {"background": samples.background, "with_background": config.with_background}
    found = scored(run, samples.parts["evaluated"])
    if hasattr(config, "vocabulary"):
        gamma = _gamma(run)
        predictions = [stacked(of, samples.seen, gamma) for of in found.scores]
        headline = zeroshot_metrics(found.scores, found.truths, samples.seen, gamma, **background)
    else:
        predictions, headline = [of.argmax(axis=1) for of in found.scores], {}
    counts = segment_counts(predictions, found.truths, **background)
    intervals = bootstrap_intervals(counts, config.bootstrap, config.seed)
    if headline:
        intervals |= zeroshot_intervals(predictions, found.truths, samples.seen, config.bootstrap, config.seed)
    scores = {
        **headline,
        **pooled(counts),
        "ci95": intervals,
        "classes": samples.classes,
        "background": list(samples.background),
        "unseen_classes": np.flatnonzero(~samples.seen).tolist(),
        "per_class": [
            row | {"recall_ci95": edges}
            for row, edges in zip(
                class_table(predictions, found.truths, samples.classes, **background),
                class_intervals(predictions, found.truths, len(samples.classes), config.bootstrap, config.seed),
                strict=True,
            )
        ],
        "confusion": class_confusion(predictions, found.truths, len(samples.classes)).tolist(),
    }
    draws = Draws(units(run.dataset, found.ids), config.bootstrap)
    segment_draws(draws, counts)
    if headline:
        zeroshot_draws(draws, found.scores, found.truths, samples.seen, gamma)
    return Evaluated(scores, _predictions(found, predictions, counts), ", ".join(_said(scores)), {}, draws=draws)


def _said(result: Mapping[str, Any]) -> Iterator[str]:
    names = ("acc", "edit", "f1@10", "f1@25", "f1@50", "seen", "unseen", "harmonic", "ausuc")
    for name in names:
        if result.get(name) is not None:
            yield f"{name} {result[name]:.3f}"


def _gamma(run: Run) -> float:
    """γ from the training without stand-ins, which play the unseen classes: none of it was learned from.

    Stand-ins count wherever they occur in the train split, other classes only in the videos that were held out.
    """
    taught, seen = run.stand_ins, run.samples.seen
    taught.refuse_other_samples()
    playing = seen & ~taught.samples.seen
    found = [scored(taught, run.samples.parts[part]) for part in ("holdout", "train")]
    truths = [*found[0].truths, *(np.where(playing[of], of, IGNORE) for of in found[1].truths)]
    return choose_gamma([*found[0].scores, *found[1].scores], truths, seen, playing)


def scored(run: Run, ids: list[str]) -> Scored:
    """The scores of these videos by the run's weights, γ not taken yet."""
    model, samples = run.model, run.samples
    with inference(run):
        scores = list(row_scores(model, run.config, samples, batches(run, run.table(ids))))
    spread = [of[samples.row_of_label[sample]] for sample, of in zip(ids, scores, strict=True)]
    return Scored(ids, spread, [samples.truth[sample] for sample in ids])


def row_scores(model: nn.Module, config: Any, samples: Videos, batches: Iterable[Batch]) -> Iterator[np.ndarray]:
    """(T, C) float64 of each video of batches on the model's device, in order, γ not taken yet."""
    there = next(model.parameters()).device
    text = None if samples.text is None else sent(torch.from_numpy(samples.text), there)
    seen, chosen = sent(torch.from_numpy(samples.seen), there), getattr(config, "alignment", None)

    def scores(batch: Batch) -> dict[str, Tensor]:
        outputs, embeddings = answer(model, batch)
        if embeddings is None:
            scores_BTC = predict(outputs[-1], batch["mask"], config.mwt)
        else:
            scores_BTC = score(
                outputs[-1], embeddings, text, batch["mask"], config.mwt, 0.0, seen, chosen.scoring, chosen.target
            )
        return {"scores": scores_BTC, "lengths": batch["mask"].sum(dim=1)}

    for found in returned(map(scores, batches)):
        for scores_TC, length in zip(found["scores"], found["lengths"], strict=True):
            yield scores_TC[:length].astype(np.float64)


def _predictions(found: Scored, predictions: list[np.ndarray], counts: pd.DataFrame) -> pd.DataFrame:
    """A row a video: truth, prediction and confidence a labelled frame; acc, edit and f1@50."""
    measured = figures(counts)
    return pd.DataFrame(
        {
            "sample": found.ids,
            "truth": [of.tolist() for of in found.truths],
            "prediction": [of.tolist() for of in predictions],
            "confidence": [confidence(*of).tolist() for of in zip(found.scores, predictions, strict=True)],
            **{name: measured[name].to_numpy() for name in ("acc", "edit", "f1@50")},
        }
    )


def confidence(scores_LC: np.ndarray, prediction_L: np.ndarray) -> np.ndarray:
    """(L,) the score of what was predicted, in [0, 1]: a probability, or a cosine where texts were compared."""
    return np.take_along_axis(scores_LC, prediction_L[:, None], axis=1)[:, 0].clip(0, 1)

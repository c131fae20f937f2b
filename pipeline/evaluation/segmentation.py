"""From a trained segmentation head and its caches to a result JSON and a table of predictions. Knows no video.

Shape suffixes: T rows of a video, L its labels, C classes.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
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
    segment_metrics,
)
from pipeline.evaluation.zeroshot_metrics import (
    among,
    choose_gamma,
    decided,
    stacked,
    zeroshot_draws,
    zeroshot_intervals,
    zeroshot_metrics,
)
from pipeline.heads.fact.clip import score
from pipeline.heads.fact.config import HOLDOUT
from pipeline.heads.fact.decoding import decode
from pipeline.heads.fact.prediction import predict
from pipeline.runs import Run
from pipeline.training.answers import answer
from pipeline.training.frames import IGNORE, Videos
from pipeline.training.table import Batch
from pipeline.transfers import returned, sent

# What a change of class may cost, in frames of a sure score: 0 leaves each frame by itself.
SWITCHES = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
JUDGED = ("acc", "edit", "f1@50")  # what a cost is chosen by: the mean of these


class Scored(NamedTuple):
    """Videos with the scores of their labelled frames; the largest of a frame is the answer."""

    ids: list[str]
    scores: list[np.ndarray]  # (L, C) float64 each
    truths: list[np.ndarray]  # (L,) int64 each


class Decision(NamedTuple):
    """How the frames of a video get their classes from scores.

    Attributes:
        gamma: taken from the scores of seen classes; None where all are.
        switch: what a change of class costs (`heads.fact.decoding.decode`); None decides each frame by itself.
    """

    gamma: float | None = None
    switch: float | None = None

    @classmethod
    def of(cls, run: Run) -> "Decision":
        """That of an evaluated run."""
        if not hasattr(run.config, "vocabulary") and run.config.decode is None:
            return cls()  # whatever the result is
        return cls(run.result.get("gamma"), run.result.get("decode", {}).get("switch"))

    def classes(self, scores_LC: np.ndarray, seen_C: np.ndarray) -> np.ndarray:
        """(L,) int64, of each frame of one video."""
        if self.switch:
            return decode(scores_LC if self.gamma is None else scores_LC - self.gamma * seen_C, self.switch)
        return scores_LC.argmax(axis=1) if self.gamma is None else stacked(scores_LC, seen_C, self.gamma)


def evaluate(run: Run) -> Evaluated:
    """`evaluation.evaluate` of a segmentation head, zero-shot or not."""
    config, samples = run.config, run.samples
    background = {"background": samples.background, "with_background": config.with_background}
    decision, chosen = _decision(run)
    found = scored(run, samples.parts["evaluated"])
    predictions = [decision.classes(of, samples.seen) for of in found.scores]
    headline, zeroshot = {}, decision.gamma is not None
    if zeroshot:
        headline = zeroshot_metrics(
            found.scores, found.truths, samples.seen, decision.gamma, predictions=predictions, **background
        )
    counts = segment_counts(predictions, found.truths, **background)
    intervals = bootstrap_intervals(counts, config.bootstrap, config.seed)
    if zeroshot:
        intervals |= zeroshot_intervals(predictions, found.truths, samples.seen, config.bootstrap, config.seed)
    draws = Draws(units(run.dataset, found.ids), config.bootstrap)
    segment_draws(draws, counts)
    undecoded = {}
    if chosen:
        alone = [decision._replace(switch=None).classes(of, samples.seen) for of in found.scores]
        alone_counts = segment_counts(alone, found.truths, **background)
        segment_draws(draws, alone_counts, "undecoded.")
        undecoded = pooled(alone_counts) | (decided(alone, found.truths, samples.seen) if zeroshot else {})
    if zeroshot:
        zeroshot_draws(draws, found.scores, found.truths, samples.seen, decision.gamma, predictions if chosen else None)
    scores = {
        **headline,
        **pooled(counts),
        **({"decode": chosen, "undecoded": undecoded} if chosen else {}),
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
    return Evaluated(scores, _predictions(found, predictions, counts), ", ".join(_said(scores)), {}, draws=draws)


def _said(result: Mapping[str, Any]) -> Iterator[str]:
    names = ("acc", "edit", "f1@10", "f1@25", "f1@50", "seen", "unseen", "harmonic", "ausuc")
    for name in names:
        if result.get(name) is not None:
            yield f"{name} {result[name]:.3f}"


class _Held(NamedTuple):
    """Videos that were held out, by which a decision is chosen: `Scored`, the classes that count, and background."""

    scores: list[np.ndarray]
    truths: list[np.ndarray]
    seen: np.ndarray
    background: Collection[int]


def _decision(run: Run) -> tuple[Decision, dict[str, Any]]:
    """γ and the cost of a change of class, where they are asked for; and what is told of the cost."""
    wanted, samples, gamma, held = run.config.decode, run.samples, None, None
    if hasattr(run.config, "vocabulary"):
        gamma, held = _stood_in(run)
    if wanted is None:
        return Decision(gamma), {}
    if wanted.switch != HOLDOUT:
        return Decision(gamma, wanted.switch), {"switch": wanted.switch}
    if held is None:
        found = scored(run, samples.parts["holdout"])
        held = _Held(found.scores, found.truths, samples.seen, samples.background)
    tried = []
    for switch in SWITCHES:
        predictions = [Decision(gamma, switch).classes(of, held.seen) for of in held.scores]
        found = segment_metrics(predictions, held.truths, held.background, with_background=run.config.with_background)
        tried.append({"switch": switch, **{name: found[name] for name in JUDGED}})
    # The lowest of equals; where no frame has a label, nothing tells them apart.
    best = max(tried, key=lambda row: sum(row[name] or 0.0 for name in JUDGED))["switch"]
    return Decision(gamma, best), {"switch": best, "tried": tried}


def _stood_in(run: Run) -> tuple[float, _Held]:
    """γ, and videos by which to choose a cost, from the training without stand-ins, which play the unseen classes: none
    of it was learned from, and no unseen class takes part.

    For γ, stand-ins count wherever they occur in the train split, other classes only in the videos that were held out.
    Elsewhere most frames have no label, so that a cost is chosen on these videos alone.
    """
    taught, samples, seen = run.stand_ins, run.samples, run.samples.seen
    taught.refuse_other_samples()
    playing = seen & ~taught.samples.seen
    held, learned = (scored(taught, samples.parts[part]) for part in ("holdout", "train"))
    truths = [*held.truths, *(np.where(playing[of], of, IGNORE) for of in learned.truths)]
    gamma = choose_gamma([*held.scores, *learned.scores], truths, seen, playing)
    background = np.flatnonzero(np.isin(np.flatnonzero(seen), samples.background))
    return gamma, _Held(*among(held.scores, held.truths, seen), ~playing[seen], background.tolist())


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
                outputs[-1], embeddings, text, batch["mask"], config.mwt, 0.0, seen, chosen.scoring, chosen.temperature
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
    """(L,) the score of what was predicted, a probability."""
    return np.take_along_axis(scores_LC, prediction_L[:, None], axis=1)[:, 0].clip(0, 1)

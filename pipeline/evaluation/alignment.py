"""From a trained clip_align and its caches to a result JSON, a table of predictions and what was looked at.

Knows no video and no backbone. Shape suffixes: B videos of a batch, N evaluated videos, C classes, E width of an
embedding, K videos of a picture, T, H, W the token grid.
"""

import io
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pipeline.evaluation.alignment_metrics import (
    FORMS,
    Answers,
    Cohort,
    overlap,
    pairs,
    sides,
    similarity,
    summary,
    summary_draws,
)
from pipeline.evaluation.classification import softmax
from pipeline.evaluation.draws import Draws, units
from pipeline.evaluation.provenance import Evaluated, batches, inference
from pipeline.evaluation.retrieval import places, strangers
from pipeline.heads.clip_align.model import ClipAlign
from pipeline.runs import Run
from pipeline.training.clips import Clips, ClipTable
from pipeline.training.table import Batch
from pipeline.transfers import returned, sent, uploaded

ATTENTION = "attention.npz"
SHOWN = 3  # videos in it that were recognised, and as many that were not


def evaluate(run: Run) -> Evaluated:
    """`evaluation.evaluate` of clip_align; beside the result lies attention.npz, see `looked_at`."""
    began, model, who = time.monotonic(), run.model, cohort(run.samples, run.config.seed)
    table: ClipTable = run.table(who.ids)
    guides = np.arange(len(table))
    if who.swapped is not None:
        guides[who.drawn] = who.swapped
    with inference(run):
        answers = _answers(model, batches(run, table), table.maps[torch.from_numpy(guides)])
        rows = telling(answers.probabilities, who)
        shown = looked_at(model, table, rows)
    wall = time.monotonic() - began
    predictions = _predictions(answers, who)
    texts = {name: predictions[name].to_numpy(dtype=str)[rows] for name in ("sample", "label", "prediction")}
    content = io.BytesIO()
    np.savez(content, **texts, **shown)
    scores = summary(answers, who, run.config)
    files = {ATTENTION: content.getvalue()}
    draws = Draws(units(run.dataset, who.patients), run.config.bootstrap)
    summary_draws(draws, answers, who)
    return Evaluated(scores, predictions, ", ".join(_said(scores)), {"predict_s": wall}, files, draws=draws)


def cohort(samples: Clips, seed: int) -> Cohort:
    """The evaluated part of the samples; the seed decides who is swapped with whom."""
    ids = samples.parts["evaluated"]
    patients, maps = [samples.patients[sample] for sample in ids], [samples.maps[sample] for sample in ids]
    drawn = np.flatnonzero([digest is not None for digest in maps])
    swapped = strangers([maps[row] for row in drawn], [patients[row] for row in drawn], seed)
    return Cohort(
        ids,
        samples.classes,
        np.array([samples.labels[sample] for sample in ids]),
        patients,
        [samples.clinicians[sample] for sample in ids],
        maps,
        drawn,
        None if swapped is None else drawn[swapped],
    )


def _answers(model: ClipAlign, batches: Iterable[Batch], other_maps: Tensor) -> Answers:
    """The batches hold the rows in order; the maps of other patients are (N, C, T, H, W)."""

    def answer(there: Batch) -> dict[str, Tensor]:
        output = model(there["tokens"], there["maps"], there["has_map"])
        own = {}
        if output.log_map is not None:
            steps_B = (output.step_map.sum((2, 3)) > 0).sum(1).clamp_min(1)
            marked_BHW = output.step_map.sum(1) / steps_B[:, None, None]
            own = {"looked": (output.log_map / 2).exp().flatten(1), "marked": marked_BHW.sqrt().flatten(1)}
        others = sent(other_maps[there["row"]], there["maps"].device)
        return {
            "logits": output.logits,
            "without_map": model(there["tokens"]).logits,
            "attention": output.attn_embed,
            "published": output.video_embed,
            "unguided": model.video(output.video_tokens).embed,
            "shuffled": model.video(output.video_tokens, others).embed,
            **own,
        }

    found = list(returned(map(answer, batches)))
    of = {name: np.concatenate([each[name] for each in found]) for name in found[0]}
    video = {form: of[form] for form in FORMS}
    said = softmax(of["logits"]), softmax(of["without_map"])
    return Answers(*said, video, of["attention"], of.get("looked"), of.get("marked"))


def _said(scores: Mapping[str, Any]) -> Iterator[str]:
    low, high = scores["ci95"]
    yield f"accuracy {scores['accuracy']:.1f} % (95 % {low:.1f} to {high:.1f})"
    yield f"without a map {scores['accuracy_without_map']:.1f}"
    yield f"macro-F1 {scores['macro_f1']:.1f}"
    found = {form: of["video_to_map"] for form, of in scores["retrieval"].items()}
    if found["unguided"]["r1"] is not None:
        each = (f"{form} {of['r1']:.1f}" for form, of in found.items() if of["r1"] is not None)
        yield f"R@1 of its map: {', '.join(each)}, chance {found['unguided']['chance_r1']:.1f}"


# --- tables -----------------------------------------------------------------------------------------------------------


def _predictions(answers: Answers, who: Cohort) -> pd.DataFrame:
    """A row a video; what needs a map is null without one."""
    names = np.array(who.classes, dtype=object)
    first, positives, excluded = pairs(who)

    def spread(values: np.ndarray) -> np.ndarray:
        column = np.full(len(who.ids), np.nan)
        column[who.drawn] = values
        return column

    def rank(form: str) -> np.ndarray:
        video, maps = (side[who.drawn] for side in sides(answers, form))
        return spread(places(video, maps[first], positives, excluded).rank)

    predicted = {}
    if answers.looked is not None:
        predicted = {"map_overlap": spread(overlap(answers)[who.drawn]), "rank_predicted_map": rank("predicted")}
    return pd.DataFrame(
        {
            "sample": who.ids,
            "patient": who.patients,
            "clinician": who.clinicians,
            "label": names[who.labels],
            "prediction": names[answers.probabilities.argmax(axis=1)],
            "probabilities": answers.probabilities.tolist(),
            "prediction_without_map": names[answers.without_map.argmax(axis=1)],
            "similarity": spread(similarity(answers, "published")[who.drawn]),
            "similarity_unguided": spread(similarity(answers, "unguided")[who.drawn]),
            "rank_video_to_map": rank("published"),
            "rank_video_to_map_unguided": rank("unguided"),
            **predicted,
        }
    )


def telling(probabilities_NC: np.ndarray, who: Cohort) -> np.ndarray:
    """Rows of the most confident right answers, then of the most confident wrong ones; with a map, if any has one."""
    rows = who.drawn if len(who.drawn) else np.arange(len(who.ids))
    rows = rows[np.argsort(-probabilities_NC[rows].max(axis=1), kind="stable")]
    right = probabilities_NC[rows].argmax(axis=1) == who.labels[rows]
    return np.concatenate([rows[right][:SHOWN], rows[~right][:SHOWN]])


def looked_at(model: ClipAlign, table: ClipTable, rows_K: np.ndarray) -> dict[str, np.ndarray]:
    """What attention.npz holds beside sample, label and prediction.

    Returns:
        token_map (K, T, H, W), the map on the tokens' grid; energy (K, T, H, W), the norms of the tokens
        before any gate; gate (K, T, H, W), only if the guidance has one for each cell; predicted (K, T, H, W), only if
        it predicts a map: the same in every step.
    """
    (there,) = uploaded([table[rows_K.tolist()]], next(model.parameters()).device)
    output = model(there["tokens"], there["maps"], there["has_map"])
    looked = {"token_map": output.token_map, "energy": output.video_tokens.float().norm(dim=-1)}
    if output.gate is not None and output.gate.ndim == output.token_map.ndim:
        looked["gate"] = output.gate
    if output.log_map is not None:
        looked["predicted"] = output.log_map.exp().unsqueeze(1).expand_as(output.token_map)
    (found,) = returned([looked])
    return found

"""From a trained clip_align and its caches to a result JSON, a table of predictions and what was looked at.

Knows no video and no backbone. Shape suffixes: B videos of a batch, N evaluated videos, C classes, E width of an
embedding, K videos of a picture, T, H, W the token grid.
"""

import io
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pipeline.evaluation.classification import softmax
from pipeline.evaluation.metrics import confusion
from pipeline.evaluation.provenance import Evaluated, batches, inference
from pipeline.evaluation.retrieval import (
    accuracy_interval,
    agreement,
    belonging,
    classification,
    places,
    retrieval,
    strangers,
)
from pipeline.heads.clip_align.model import ClipAlign
from pipeline.runs import Run
from pipeline.training.clips import Clips, ClipTable
from pipeline.training.table import Batch

# Under which map the video was embedded: its own, which it must then find; a uniform one; another patient's.
FORMS = ("published", "unguided", "shuffled")
ATTENTION = "attention.npz"
SHOWN = 3  # videos in it that were recognised, and as many that were not


class Answers(NamedTuple):
    """What the model says of N videos.

    Attributes:
        probabilities, without_map: (N, C) float64, under the video's own map, and without any.
        video: form -> (N, E).
        attention: (N, E), of the video's own map; without meaning where there is none.
    """

    probabilities: np.ndarray
    without_map: np.ndarray
    video: dict[str, np.ndarray]
    attention: np.ndarray


class Cohort(NamedTuple):
    """Who the N evaluated videos are.

    Attributes:
        labels: (N,) class indices.
        patients, clinicians, maps: of each; the last two may be None.
        drawn: rows of those that have a map.
        swapped: for each of `drawn`, a row of another patient's map; None where there are not enough.
    """

    ids: list[str]
    classes: list[str]
    labels: np.ndarray
    patients: list[str]
    clinicians: list[str | None]
    maps: list[str | None]
    drawn: np.ndarray
    swapped: np.ndarray | None


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
    return Evaluated(scores, predictions, ", ".join(_said(scores)), {"predict_s": wall}, files)


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
    parts: dict[str, list[np.ndarray]] = {}
    for there in batches:
        output = model(there["tokens"], there["maps"], there["has_map"])
        found = {
            "logits": output.logits,
            "without_map": model(there["tokens"]).logits,
            "attention": output.attn_embed,
            "published": output.video_embed,
            "unguided": model.video(output.video_tokens).embed,
            "shuffled": model.video(output.video_tokens, other_maps[there["row"].cpu()].to(there["row"].device)).embed,
        }
        for name, value in found.items():
            parts.setdefault(name, []).append(value.float().cpu().numpy())
    of = {name: np.concatenate(values) for name, values in parts.items()}
    return Answers(
        softmax(of["logits"]), softmax(of["without_map"]), {form: of[form] for form in FORMS}, of["attention"]
    )


# --- figures ----------------------------------------------------------------------------------------------------------


def summary(answers: Answers, who: Cohort, config: Any) -> dict[str, Any]:
    """Every figure of the result; shares are in percent.

    Args:
        answers, who: of the same N videos.
        config: `bootstrap` and `seed` of the head's params.

    Right and wrong are the diagnoses under a video's own map everywhere but in what is called without_map; so the two
    agreements differ by the embedding alone.
    """
    labels, classes = who.labels, who.classes
    own, without = (classification(labels, of, classes) for of in (answers.probabilities, answers.without_map))
    predicted = answers.probabilities.argmax(axis=1)
    right = predicted == labels
    return {
        **own,
        "ci95": accuracy_interval(right, who.patients, config.bootstrap, config.seed),
        "per_class": [
            row | {"recall_ci95": _recall_interval(right, labels == c, who.patients, config)}
            for c, row in enumerate(own["per_class"])
        ],
        "confusion": {"classes": classes, "matrix": confusion(labels, predicted, len(classes)).tolist()},
        **{f"{name}_without_map": without[name] for name in ("accuracy", "macro_f1", "auroc")},
        "patient": _of_patients(answers, who),
        "retrieval": _retrieval(answers, who),
        "agreement": {
            form: agreement(
                similarity(answers, form)[who.drawn],
                right[who.drawn],
                [who.patients[row] for row in who.drawn],
                config.bootstrap,
                config.seed,
            )
            for form in ("published", "unguided")
        },
        "by_clinician": _by_clinician(right, who.clinicians),
        "without_map": len(labels) - len(who.drawn),
    }


def _recall_interval(
    right_N: np.ndarray, own_N: np.ndarray, patients: Sequence[str], config: Any
) -> list[float] | None:
    """Of the videos of one diagnosis; None where there is none."""
    if not own_N.any():
        return None
    whose = [patients[row] for row in np.flatnonzero(own_N)]
    return accuracy_interval(right_N[own_N], whose, config.bootstrap, config.seed)


def similarity(answers: Answers, form: str) -> np.ndarray:
    """(N,) cosine of each video with its own map."""
    return np.einsum("ne,ne->n", answers.video[form].astype(np.float64), answers.attention.astype(np.float64))


def by_patient(
    labels_N: np.ndarray, probabilities_NC: np.ndarray, patients: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Labels and mean probabilities of the patients; one with two diagnoses counts as two.

    >>> by_patient(np.array([0, 1, 0]), np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]]), ["ann", "bob", "ann"])
    (array([0, 1]), array([[0.7, 0.3],
           [0.2, 0.8]]))
    """
    means = pd.DataFrame(probabilities_NC).groupby([np.asarray(patients, dtype=object), labels_N]).mean()
    return means.index.get_level_values(1).to_numpy(), means.to_numpy()


def _of_patients(answers: Answers, who: Cohort) -> dict[str, Any]:
    labels, means = by_patient(who.labels, answers.probabilities, who.patients)
    own = classification(labels, means, who.classes)
    without = classification(*by_patient(who.labels, answers.without_map, who.patients), who.classes)
    figures = {name: own[name] for name in ("accuracy", "macro_f1", "auroc")}
    return {**figures, "accuracy_without_map": without["accuracy"], "patients": len(labels)}


def _retrieval(answers: Answers, who: Cohort) -> dict[str, dict[str, Any]]:
    """Each form in both directions; a form that cannot be made has no queries."""
    first, positives, excluded = _pairs(who)
    found = {}
    for form in FORMS:
        wanted = positives & (form != "shuffled" or who.swapped is not None)
        video, maps = answers.video[form][who.drawn], answers.attention[who.drawn][first]
        found[form] = {
            "video_to_map": retrieval(video, maps, wanted, excluded),
            "map_to_video": retrieval(maps, video, wanted.T, excluded.T),
        }
    return found


def _pairs(who: Cohort) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return belonging([who.maps[row] for row in who.drawn], [who.patients[row] for row in who.drawn])


def _by_clinician(right_N: np.ndarray, clinicians: Sequence[str | None]) -> dict[str, dict[str, Any]]:
    """Of each who is named."""
    of = {name: right_N[[other == name for other in clinicians]] for name in set(clinicians) - {None}}
    return {name: {"videos": len(of[name]), "accuracy": 100 * float(of[name].mean())} for name in sorted(of)}


def _said(scores: Mapping[str, Any]) -> Iterator[str]:
    low, high = scores["ci95"]
    yield f"accuracy {scores['accuracy']:.1f} % (95 % {low:.1f} to {high:.1f})"
    yield f"without a map {scores['accuracy_without_map']:.1f}"
    yield f"macro-F1 {scores['macro_f1']:.1f}"
    found = {form: scores["retrieval"][form]["video_to_map"] for form in FORMS}
    if found["unguided"]["r1"] is not None:
        each = (f"{form} {of['r1']:.1f}" for form, of in found.items() if of["r1"] is not None)
        yield f"R@1 of its map: {', '.join(each)}, chance {found['unguided']['chance_r1']:.1f}"


# --- tables -----------------------------------------------------------------------------------------------------------


def _predictions(answers: Answers, who: Cohort) -> pd.DataFrame:
    """A row a video; what needs a map is null without one."""
    names = np.array(who.classes, dtype=object)
    first, positives, excluded = _pairs(who)

    def spread(values: np.ndarray) -> np.ndarray:
        column = np.full(len(who.ids), np.nan)
        column[who.drawn] = values
        return column

    def rank(form: str) -> np.ndarray:
        maps = answers.attention[who.drawn][first]
        return spread(places(answers.video[form][who.drawn], maps, positives, excluded).rank)

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
        before any gate; gate (K, T, H, W), only if the guidance has one for each cell.
    """
    device = next(model.parameters()).device
    there = {key: tensor.to(device) for key, tensor in table[rows_K.tolist()].items()}
    output = model(there["tokens"], there["maps"], there["has_map"])
    found = {"token_map": output.token_map, "energy": output.video_tokens.float().norm(dim=-1)}
    if output.gate is not None and output.gate.ndim == output.token_map.ndim:
        found["gate"] = output.gate
    return {name: value.float().cpu().numpy() for name, value in found.items()}

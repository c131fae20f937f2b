"""All figures of a diagnosis aligned with attention, as pure functions of what a model said. Knows no file, no head.

Shape suffixes: N evaluated videos, C classes, E width of an embedding.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from pipeline.evaluation.draws import Draws
from pipeline.evaluation.metrics import confusion
from pipeline.evaluation.retrieval import (
    SHARES,
    accuracy_interval,
    agreement,
    belonging,
    classification,
    queries,
    retrieval,
)
from pipeline.tasks import Column

# Under which map the video was embedded: its own, which it must then find; a uniform one; another patient's.
FORMS = ("published", "unguided", "shuffled")
COLUMNS = (
    *(Column(name, 1) for name in ("accuracy", "macro_f1", "auroc")),
    Column("accuracy_without_map", 1, title="without a map"),
    Column("patient.accuracy", 1, title="of patients"),
    *(
        Column(f"retrieval.{form}.{way}.r{k}", 1, "high" if form == "unguided" else None, f"R@{k} {arrow}, {form}")
        for form in FORMS
        for way, arrow in (("video_to_map", "v→m"), ("map_to_video", "m→v"))
        for k in (1, 5)
    ),
    *(
        Column(f"agreement.{form}.{figure}", 2, None, f"{figure}, {form}")
        for form in ("published", "unguided")
        for figure in ("gap", "point_biserial")
    ),
    Column("retrieval.predicted.video_to_map.r5", 1, "high", "R@5 v→m, by the predicted map", optional=True),
    Column("retrieval.predicted.video_to_map.median_rank", 1, "low", "median rank v→m, by the predicted map", True),
    Column("predicted_map.overlap", 1, "high", "overlap of the predicted map", optional=True),
)


class Answers(NamedTuple):
    """What the model says of N videos.

    Attributes:
        probabilities, without_map: (N, C) float64, under the video's own map, and without any.
        video: form -> (N, E).
        attention: (N, E), of the video's own map; without meaning where there is none.
        looked, marked: (N, H * W), of a head that predicts maps, else None: the roots of the predicted map and of the
            mean over steps of the video's own, of which each sums to 1; the second is 0 where nothing is marked.
    """

    probabilities: np.ndarray
    without_map: np.ndarray
    video: dict[str, np.ndarray]
    attention: np.ndarray
    looked: np.ndarray | None = None
    marked: np.ndarray | None = None


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
        "ci95_without_map": accuracy_interval(
            answers.without_map.argmax(axis=1) == labels, who.patients, config.bootstrap, config.seed
        ),
        "patient": _of_patients(answers, who),
        "retrieval": _retrieval(answers, who, config),
        **_predicted_map(answers, who, config),
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


def summary_draws(draws: Draws, answers: Answers, who: Cohort) -> None:
    """Adds accuracy, with a map and without, of `summary`, and what is found by retrieval.

    Args:
        draws: of the patients of the N videos.
        answers, who: as for `summary`.
    """
    for name, of in (("accuracy", answers.probabilities), ("accuracy_without_map", answers.without_map)):
        draws.share(name, of.argmax(axis=1) == who.labels, 100)
    weights_DN = draws.weights[:, who.drawn]
    for form, search in _searches(answers, who):
        each = queries(*search)
        for name in SHARES:
            draws.share(f"retrieval.{form}.video_to_map.{name}", each[name], 100, weights_DN)
    if answers.looked is not None:
        draws.share("predicted_map.overlap", overlap(answers)[who.drawn], 100, weights_DN)


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


def overlap(answers: Answers, rows_N: np.ndarray | None = None) -> np.ndarray:
    """(N,) sum of sqrt(a m) of each video's predicted map a and its own m, or that of `rows_N`: 1 where both agree.

    Source: Bhattacharyya, "On a measure of divergence between two multinomial populations", 1946.
    """
    marked = answers.marked if rows_N is None else answers.marked[rows_N]
    return np.einsum("np,np->n", answers.looked.astype(np.float64), marked.astype(np.float64))


def _predicted_map(answers: Answers, who: Cohort, config: Any) -> dict[str, Any]:
    """How well the predicted map is the clinician's, in percent; nothing of a head that predicts none.

    `of_others` is the overlap with another patient's map: what knowing nothing of this video is worth.
    """
    if answers.looked is None or not len(who.drawn):
        return {}
    own, whose = overlap(answers)[who.drawn], [who.patients[row] for row in who.drawn]
    others = None
    if who.swapped is not None:
        guides = np.arange(len(who.ids))
        guides[who.drawn] = who.swapped
        others = 100 * float(overlap(answers, guides)[who.drawn].mean())
    interval = accuracy_interval(own, whose, config.bootstrap, config.seed)
    return {"predicted_map": {"overlap": 100 * float(own.mean()), "ci95": interval, "of_others": others}}


def sides(answers: Answers, form: str) -> tuple[np.ndarray, np.ndarray]:
    """(N, E) of videos and of their maps; of "predicted" maps themselves, whose cosine is `overlap`."""
    if form == "predicted":
        return answers.looked, answers.marked
    return answers.video[form], answers.attention


def _searches(answers: Answers, who: Cohort) -> Iterator[tuple[str, tuple[np.ndarray, ...]]]:
    """Each form, and the arguments of `retrieval` from video to map; a form that cannot be made has no positives."""
    first, positives, excluded = pairs(who)
    for form in (*FORMS, *(["predicted"] if answers.looked is not None else [])):
        video, maps = (side[who.drawn] for side in sides(answers, form))
        yield form, (video, maps[first], positives & (form != "shuffled" or who.swapped is not None), excluded)


def _retrieval(answers: Answers, who: Cohort, config: Any) -> dict[str, dict[str, Any]]:
    """Each form in both directions."""
    first, *_ = pairs(who)
    whose, drawn = [who.patients[row] for row in who.drawn], (config.bootstrap, config.seed)
    return {
        form: {
            "video_to_map": retrieval(video, maps, wanted, excluded, whose, *drawn),
            "map_to_video": retrieval(maps, video, wanted.T, excluded.T, [whose[row] for row in first], *drawn),
        }
        for form, (video, maps, wanted, excluded) in _searches(answers, who)
    }


def pairs(who: Cohort) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return belonging([who.maps[row] for row in who.drawn], [who.patients[row] for row in who.drawn])


def _by_clinician(right_N: np.ndarray, clinicians: Sequence[str | None]) -> dict[str, dict[str, Any]]:
    """Of each who is named."""
    of = {name: right_N[[other == name for other in clinicians]] for name in set(clinicians) - {None}}
    return {name: {"videos": len(of[name]), "accuracy": 100 * float(of[name].mean())} for name in sorted(of)}

"""Whether a result's headline follows from the predictions beside it: computed a second time, another way.

Digests tell that files are as they were written; this tells that what was written belongs together.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.digests import Damaged
from pipeline.tasks import TASKS

NEAR = 1e-6  # between two orders of the same sums


def refuse_other_figures(result: Mapping[str, Any], predictions: pd.DataFrame, path: Path, remedy: str) -> None:
    """Raises Damaged where the headline of a result, or its confusion matrix, is not that of its predictions.

    Args:
        result: of an evaluation: its task decides what is compared.
        predictions: of the same evaluation.
        path: of the result.
        remedy: what to do then, an imperative.
    """
    name, found = TASKS[result["task"]].code("follows")(predictions, result)
    told = result.get(name)
    told = math.nan if told is None else told  # of no frame with a label there is no accuracy
    if not math.isclose(told, found, rel_tol=NEAR, abs_tol=NEAR) and not math.isnan(told) & math.isnan(found):
        raise Damaged(f"{path} says {name} {told:.6g}, and its predictions give {found:.6g}; {remedy}")
    # Of frames and of OOD sets a prediction is no class of a sample, and their matrices no mapping.
    if isinstance(confusion := result.get("confusion"), Mapping) and not _counted(confusion, predictions):
        raise Damaged(f"{path} has a confusion matrix that is not that of its predictions; {remedy}")


def top1(predictions: pd.DataFrame, result: Mapping[str, Any]) -> tuple[str, float]:
    """Of a classifier: the share that is right."""
    return "top1", float((predictions["label"] == predictions["prediction"]).mean())


def mean_average_precision(predictions: pd.DataFrame, result: Mapping[str, Any]) -> tuple[str, float]:
    """Of several labels: over the classes that occur, the mean over their samples of the precision down to each."""
    found = []
    for number, name in enumerate(row["class"] for row in result["per_class"]):
        theirs = np.array([name in label for label in predictions["label"]])
        score = np.array([of[number] for of in predictions["probabilities"]])
        if theirs.any():
            found.append(np.mean([theirs[score >= edge].mean() for edge in score[theirs]]))
    return "map", float(np.mean(found)) if found else 0.0


def r2(predictions: pd.DataFrame, result: Mapping[str, Any]) -> tuple[str, float]:
    """Of numbers: the mean of one less the share of their variance that is missed."""
    truth, guess = (np.array(predictions[name].tolist()) for name in ("label", "prediction"))
    varied = truth.std(axis=0) > 0
    return "r2", float(np.mean(1 - ((truth - guess) ** 2).mean(axis=0)[varied] / truth.var(axis=0)[varied]))


def accuracy(predictions: pd.DataFrame, result: Mapping[str, Any]) -> tuple[str, float]:
    """The same in percent."""
    return "accuracy", 100 * top1(predictions, result)[1]


def _counted(confusion: Mapping[str, Any], predictions: pd.DataFrame) -> bool:
    """Whether a matrix, a row a true class and a column a predicted one, counts these samples."""
    classes = confusion["classes"]
    counts = pd.crosstab(predictions["label"], predictions["prediction"])
    if not {*counts.index, *counts.columns} <= set(classes):
        return False
    return counts.reindex(index=classes, columns=classes, fill_value=0).to_numpy().tolist() == confusion["matrix"]


def frame_accuracy(predictions: pd.DataFrame, result: Mapping[str, Any]) -> tuple[str, float]:
    """Percent of the labelled frames of all videos together."""
    truth, guess = (np.concatenate(predictions[column].tolist()) for column in ("truth", "prediction"))
    judged = truth >= 0
    return "acc", 100 * float((truth == guess)[judged].mean()) if judged.any() else math.nan


def auroc(predictions: pd.DataFrame, result: Mapping[str, Any]) -> tuple[str, float]:
    """Percent, the mean over OOD sets: how often a picture of ID has the higher score, equals half (Mann & Whitney)."""
    evaluated = predictions[predictions["part"] == "evaluated"]
    scores = {name: rows["negalign"] for name, rows in evaluated.groupby("set")}
    inside, found = scores["id"], []
    for name in result["sets"]:
        ranks = pd.concat([inside, scores[name]]).rank().to_numpy()[: len(inside)]
        found.append((ranks.mean() - (len(inside) + 1) / 2) / len(scores[name]))
    return "auroc", 100 * float(np.mean(found))

"""A classification result and its pictures, from a run's files alone. Reads no store."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pipeline.digests import write_json
from pipeline.reports.drawing import pyplot
from pipeline.reports.figures import best_epoch
from pipeline.reports.files import beside, read_result, save_figure
from pipeline.reports.names import told_apart

if TYPE_CHECKING:
    import matplotlib.pyplot as plt

LONGEST = 60  # letters of a class's name
LABELLED_CLASSES = 40  # beyond this many, the names of classes would only be a grey smear


def publish_classification(evaluation: Path, out: Path, more: Mapping[str, Any] | None = None) -> None:
    """Copies an evaluation's result.json to `out`; its report has confusion.png and reliability.png.

    Args:
        evaluation: folder with result.json.
        out: results/<name>.json, written last.
        more: what `out` says beside that.
    """
    result = read_result(evaluation, out)
    low, high = result["ci95"]
    title = f"top-1 {result['top1']:.3f} (95 % interval {low:.3f} to {high:.3f}), n = {result['samples']['evaluated']}"
    save_figure(confusion_figure(result["confusion"], title), beside(out, "confusion.png"))
    save_figure(reliability_figure(result), beside(out, "reliability.png"))
    write_json(out, {**result, **(more or {})}, ordered=True)


def confusion_figure(confusion: Mapping[str, Any], title: str) -> plt.Figure:
    """The confusion matrix, rows normalised to shares of the true class; per-class counts stay in the JSON.

    Args:
        confusion: classes, names by index, and matrix, counts with a row a true class.
        title: of the picture.
    """
    classes, counts = confusion["classes"], np.asarray(confusion["matrix"], dtype=float)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    few = len(classes) <= LABELLED_CLASSES
    side = min(4.5 + 0.32 * len(classes), 16)
    figure, axes = pyplot().subplots(figsize=(side + 1, side), layout="constrained")
    image = axes.imshow(shares, vmin=0, vmax=1, cmap="Blues", interpolation="nearest")
    if few:
        names = told_apart(classes, LONGEST)
        axes.set_xticks(range(len(classes)), names, rotation=60, ha="right", rotation_mode="anchor", fontsize=8)
        axes.set_yticks(range(len(classes)), names, fontsize=8)
        for (row, column), share in np.ndenumerate(shares):
            if counts[row, column]:
                colour = "white" if share > 0.5 else "black"
                axes.text(
                    column, row, f"{int(counts[row, column])}", ha="center", va="center", color=colour, fontsize=7
                )
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(title)
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the true class")
    return figure


def reliability_figure(result: Mapping[str, Any]) -> plt.Figure:
    """Accuracy over confidence by bin with its 95 % interval, a dot at a bin's mean confidence, by its samples.

    Args:
        result: its calibration, a row a bin, and the calibration error with its interval.
    """
    bins = [row for row in result["calibration"] if row["n"]]
    samples = sum(row["n"] for row in bins)
    accuracies = np.array([row["accuracy"] for row in bins])
    reach = np.abs(np.array([row["accuracy_ci95"] for row in bins]).T - accuracies)
    figure, axes = pyplot().subplots(figsize=(5.4, 5), layout="constrained")
    widths = [0.96 * (row["upper"] - row["lower"]) for row in bins]
    middles = [(row["lower"] + row["upper"]) / 2 for row in bins]
    axes.bar(middles, accuracies, widths, yerr=reach, color="#b8cfe6", ecolor="grey", capsize=3, label="accuracy")
    sizes = [30 + 400 * row["n"] / samples for row in bins]
    means = [row["confidence"] for row in bins]
    axes.scatter(means, accuracies, sizes, color="tab:blue", label="at its mean confidence, by size", zorder=3)
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", label="calibrated")
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.05))
    low, high = result["ece_ci95"]
    axes.set_title(f"calibration error {result['ece']:.3f} (95 % interval {low:.3f} to {high:.3f})", fontsize=10)
    axes.legend(fontsize=8, loc="upper left", markerscale=0.5, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def training_figure(history: pd.DataFrame, judged: str = "accuracy") -> plt.Figure:
    """Loss of training and holdout, and what the holdout is judged by, by epoch."""

    from matplotlib.ticker import MaxNLocator

    figure, (loss, accuracy) = pyplot().subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for column, name in (("train_loss", "train"), ("holdout_loss", "holdout")):
        loss.plot(history["epoch"], history[column], label=name)
    loss.set(xlabel="epoch", title="loss")
    loss.legend()
    accuracy.plot(history["epoch"], history["holdout_accuracy"], color="tab:green")
    best = best_epoch(history)
    accuracy.axvline(best, color="grey", linestyle=":", label=f"best, epoch {best}")
    floor = min(0.0, float(history["holdout_accuracy"].min()))  # R² may be below
    accuracy.set(xlabel="epoch", ylim=(floor, 1.02), title=f"holdout {judged}")
    accuracy.legend(loc="lower right")
    for axes in (loss, accuracy):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure

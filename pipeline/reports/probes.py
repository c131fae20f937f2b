"""Results of several labels a sample, and of numbers, with their pictures, from a run's files alone. Reads no store."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pipeline.digests import write_json
from pipeline.reports.drawing import pyplot
from pipeline.reports.files import beside, read_predictions, read_result, save_figure
from pipeline.reports.names import told_apart

if TYPE_CHECKING:
    import matplotlib.pyplot as plt

LONGEST = 40  # letters of a class's name
MOST = 40  # classes with a bar: of more, the worst and the best
SIDES = 3  # panels in a row


def publish_labels(evaluation: Path, out: Path, more: Mapping[str, Any] | None = None) -> None:
    """Copies result.json to `out`, with `more` in it, and draws classes.png: the average precision of each class."""
    result = read_result(evaluation, out)
    save_figure(precision_figure(result), beside(out, "classes.png"))
    write_json(out, {**result, **(more or {})}, ordered=True)


def publish_numbers(evaluation: Path, out: Path, more: Mapping[str, Any] | None = None) -> None:
    """Copies result.json to `out`, with `more` in it, and draws scatter.png: what was found over what it is."""
    result = read_result(evaluation, out)
    table = read_predictions(evaluation, out, result, "label", "prediction")
    save_figure(scatter_figure(result, table), beside(out, "scatter.png"))
    write_json(out, {**result, **(more or {})}, ordered=True)


def precision_figure(result: Mapping[str, Any]) -> plt.Figure:
    """A bar a class, best on top, with its interval; a tick is the class's share of the samples, as guessing gives."""
    rows = [row for row in result["per_class"] if row["average_precision"] is not None]
    rows = sorted(rows, key=lambda row: row["average_precision"])
    if len(rows) > MOST:
        rows = [*rows[: MOST // 2], *rows[-MOST // 2 :]]
    values = np.array([row["average_precision"] for row in rows])
    edges = np.array([row["average_precision_ci95"] for row in rows])
    figure, axes = pyplot().subplots(figsize=(7, 1.6 + 0.28 * len(rows)), layout="constrained")
    reach = np.maximum(np.abs(edges - values[:, None]).T, 0)
    axes.barh(range(len(rows)), values, xerr=reach, color="tab:blue", ecolor="grey", height=0.7)
    axes.plot(
        [row["prevalence"] for row in rows], range(len(rows)), "|", color="black", markersize=12, label="guessing"
    )
    axes.set_yticks(range(len(rows)), told_apart([row["class"] for row in rows], LONGEST), fontsize=8)
    axes.set(xlim=(0, 1), xlabel="average precision")
    low, high = result["ci95"]
    axes.set_title(f"mAP {result['map']:.3f} (95 % interval {low:.3f} to {high:.3f})")
    figure.legend(loc="outside lower right", fontsize=8)  # no bar lies there
    return figure


def scatter_figure(result: Mapping[str, Any], predictions: pd.DataFrame) -> plt.Figure:
    """A panel a number: predicted over true; on the line both are the same."""
    truth, found = (np.array(predictions[name].tolist()) for name in ("label", "prediction"))
    names = told_apart([of["target"] for of in result["per_target"]], LONGEST)
    columns = min(len(names), SIDES)
    rows = -(-len(names) // columns)
    figure, grid = pyplot().subplots(
        rows, columns, figsize=(4.2 * columns, 4.2 * rows), squeeze=False, layout="constrained"
    )
    for axes in grid.flat[len(names) :]:
        axes.axis("off")
    for number, (axes, name, of) in enumerate(zip(grid.flat, names, result["per_target"], strict=False)):
        axes.plot(truth[:, number], found[:, number], "o", alpha=0.5, markersize=4)
        ends = [
            min(truth[:, number].min(), found[:, number].min()),
            max(truth[:, number].max(), found[:, number].max()),
        ]
        axes.plot(ends, ends, ":", color="grey")
        r2 = "unknown" if of["r2"] is None else f"{of['r2']:.3f}"
        axes.set(xlabel=f"true {name}", ylabel="predicted", title=f"{name}: R² {r2}, MAE {of['mae']:.3g}")
    return figure

"""A feature space on paper: three projections, a colour and a shape a class, errors ringed. Takes a document."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.reports.drawing import pyplot
from pipeline.reports.names import told_apart

if TYPE_CHECKING:
    import matplotlib.pyplot as plt

LONGEST = 44  # letters of a class's name
NAMES = {"pca": "PCA", "tsne": "t-SNE", "umap": "UMAP"}
# Okabe & Ito's, without black, which rings errors: told apart by colour-blind people, too.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7", "#b8a800")
SHAPES = "o^sDvP*X<>"
NAMED = len(COLOURS) * 6  # classes that a legend names; of more, colours follow the order of classes


def space_figure(document: Mapping[str, Any]) -> plt.Figure:
    """PCA, t-SNE and UMAP side by side.

    Args:
        document: what explanation.space.feature_space returns.
    """

    from matplotlib.lines import Line2D

    labels, predicted = (np.array(document[key]) for key in ("labels", "predicted"))
    present = np.unique(labels)
    few = len(present) <= NAMED
    columns = 1 + len(present) // 22
    figure, panels = pyplot().subplots(1, 3, figsize=(14 + (2.4 * columns if few else 1), 5.4), layout="constrained")
    wrong = labels != predicted
    size = float(np.clip(4000 / len(labels), 3, 26))
    for axes, (key, name) in zip(panels, NAMES.items(), strict=True):
        found = document["projections"][key]
        x, y = np.array(found["x"]), np.array(found["y"])
        if few:
            for number, label in enumerate(present):
                own = labels == label
                axes.scatter(x[own], y[own], s=size, alpha=0.75, linewidths=0, **_look(number))
        else:
            dots = axes.scatter(x, y, c=labels, s=size, alpha=0.6, linewidths=0, cmap="turbo")
        axes.scatter(x[wrong], y[wrong], s=size * 3, facecolors="none", edgecolors="black", linewidths=0.6)
        axes.set(xticks=[], yticks=[])
        axes.set_title(f"{name}\n{found['note']}", fontsize=9)
    if few:
        entries = [
            Line2D([], [], linestyle="", color=c["c"], marker=c["marker"]) for c in map(_look, range(len(present)))
        ]
        names = told_apart([document["classes"][label] for label in present], LONGEST)
        entries.append(Line2D([], [], linestyle="", color="black", marker="o", fillstyle="none"))
        names.append(f"ringed: not recognised ({int(wrong.sum())} of {len(wrong)})")
        figure.legend(entries, names, loc="outside right center", fontsize=7, ncols=columns, frameon=False)
    else:
        label = f"number of the class; ringed: not recognised ({int(wrong.sum())} of {len(wrong)})"
        figure.colorbar(dots, ax=panels, label=label, shrink=0.8, alpha=1)
    figure.suptitle("\n".join(textwrap.wrap(document["space"][:1].upper() + document["space"][1:], 170)), fontsize=9.5)
    return figure


def _look(number: int) -> dict[str, str]:
    return {"c": COLOURS[number % len(COLOURS)], "marker": SHAPES[number // len(COLOURS) % len(SHAPES)]}

"""What a head loses without each of its inputs, as bars. Takes a document."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.reports.drawing import pyplot

if TYPE_CHECKING:
    import matplotlib.pyplot as plt

KINDS = {
    "ablation": ("replaced by its mean", "#0072b2"),
    "permutation": ("that of another sample", "#e69f00"),
}
METRICS = {
    "top1": "top-1",
    "map": "mAP",
    "r2": "R²",
    "accuracy": "accuracy",
    "acc": "accuracy over frames",
    "harmonic": "harmonic mean of seen and unseen accuracy",
    "auroc": "AUROC",
}


def importance_figure(document: Mapping[str, Any]) -> plt.Figure:
    """Bars of both kinds for each stream, with one standard deviation.

    Args:
        document: what explanation.importance.importance returns.
    """
    streams, metric = document["streams"], METRICS[document["metric"]]
    figure, axes = pyplot().subplots(figsize=(8.6, 1.7 + 0.95 * len(streams)), layout="constrained")
    places = np.arange(len(streams))[::-1].astype(float)
    for number, (kind, (said, colour)) in enumerate(KINDS.items()):
        drops, deviations = ([of[kind][key] for of in streams.values()] for key in ("drop", "deviation"))
        repeats = next(iter(streams.values()))[kind]["repeats"]
        over = f"{repeats} resamples of the samples" if kind == "ablation" else f"{repeats} permutations"
        at = places + 0.19 - 0.38 * number
        axes.barh(at, drops, 0.36, xerr=deviations, color=colour, capsize=3, label=f"{said} (± over {over})")
        for place, drop, deviation in zip(at, drops, deviations, strict=True):
            axes.annotate(
                f"{drop:.1f} ± {deviation:.1f}".replace("-", "−"),
                (max(drop, 0) + deviation, place),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )
    names = [f"{name}\n{textwrap.fill(of['feature'], 34)}" for name, of in streams.items()]
    axes.set_yticks(places, names, fontsize=8)
    low = min(0.0, *(of[kind]["drop"] - of[kind]["deviation"] for of in streams.values() for kind in KINDS))
    high = max(1.0, *(of[kind]["drop"] + of[kind]["deviation"] for of in streams.values() for kind in KINDS))
    axes.set_xlim(low * 1.1, high * 1.2)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel(f"drop of {metric}, percentage points")
    axes.set_title(f"{metric} {document['base']:.1f} % with everything, n = {document['samples']}", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return figure

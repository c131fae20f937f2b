"""Out-of-distribution scores as people read them: histograms, curves over λ, a table. Reads results only, no store."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pipeline.digests import write_json
from pipeline.files import write_text
from pipeline.markdown import escaped, table
from pipeline.reports.drawing import pyplot
from pipeline.reports.files import beside, read_predictions, read_result, save_figure

if TYPE_CHECKING:
    import matplotlib.pyplot as plt

BINS = 40
SCORES = {"neglabel": "S_NegLabel", "star": "S_NegLabel*", "negalign": "S"}
# By score.local: what S is. Older results name none, and were of P_align.
FINAL = {"max": "e + λ max e of a patch", "p_align": "S_NegLabel* + λ P_align", "none": "S_NegLabel* alone"}
FIGURES = {"auroc": "AUROC", "fpr95": "FPR95", "aupr_in": "AUPR in", "aupr_out": "AUPR out"}


def titles(result: Mapping[str, Any]) -> dict[str, str]:
    """Kind of score -> what it is called in this result.

    >>> titles({"local": "max"})["negalign"]
    'e + λ max e of a patch'
    """
    return SCORES | {"negalign": FINAL[result.get("local", "p_align")]}


def publish_ood(evaluation: Path, out: Path) -> None:
    """Copies an evaluation's result.json to `out` and makes scores.png, lambda.png and table.md of its report.

    Args:
        evaluation: folder with result.json and predictions.parquet, a row a picture: set, part, and its scores.
        out: results/x.json, written last.
    """
    result = read_result(evaluation, out)
    table = read_predictions(evaluation, out, result)
    evaluated = table[table["part"] == "evaluated"]
    save_figure(scores_figure(evaluated, result), beside(out, "scores.png"))
    save_figure(lambda_figure(result), beside(out, "lambda.png"))
    write_text(beside(out, "table.md"), ood_markdown(result))
    write_json(out, result, ordered=True)


def scores_figure(evaluated: pd.DataFrame, result: Mapping[str, Any]) -> plt.Figure:
    """Histograms of in- and out-of-distribution pictures, a row a kind of score, a column an OOD set.

    Dashed, the score that 95 % of ID reach.
    """
    sets, inside = list(result["sets"]), evaluated[evaluated["set"] == "id"]
    figure, panels = pyplot().subplots(
        len(SCORES), len(sets), figsize=(3.6 * len(sets) + 0.6, 2.5 * len(SCORES)), layout="constrained", squeeze=False
    )
    for row, (kind, title) in enumerate(titles(result).items()):
        edges, reached = np.histogram_bin_edges(evaluated[kind], BINS), threshold(inside[kind].to_numpy())
        for axes, name in zip(panels[row], sets, strict=True):
            outside = evaluated[evaluated["set"] == name]
            for rows, label, colour in ((inside, "ID", "tab:blue"), (outside, "OOD", "tab:red")):
                weights = np.full(len(rows), 100 / max(len(rows), 1))
                axes.hist(rows[kind], edges, weights=weights, alpha=0.55, color=colour, label=f"{label}, {len(rows)}")
            axes.axvline(reached, color="grey", linestyle="--", linewidth=1, label="95 % of ID above")
            found = result["sets"][name][kind]
            axes.set_title(f"AUROC {found['auroc']:.1f}, FPR95 {found['fpr95']:.1f}", fontsize=9)
            axes.set_xlabel(title, fontsize=8)
            axes.tick_params(labelsize=7)
            if row == 0:
                axes.annotate(name, (0.5, 1.22), xycoords="axes fraction", ha="center", fontsize=10, weight="bold")
                axes.legend(fontsize=7)
        panels[row][0].set_ylabel("percent of pictures", fontsize=8)
    return figure


def score_shares(evaluated: pd.DataFrame, kind: str) -> pd.DataFrame:
    """What the histograms of a kind of score show: percent of the pictures of each set, a row a bin by its middle."""
    edges = np.histogram_bin_edges(evaluated[kind], BINS)
    shares = {
        name: 100 * np.histogram(rows[kind], edges)[0] / len(rows)
        for name, rows in evaluated.groupby("set", sort=False)
    }
    return pd.DataFrame(shares, index=(edges[:-1] + edges[1:]) / 2)


def threshold(id_scores: np.ndarray) -> float:
    """The score that 95 % of ID reach: FPR95 is what of OOD reaches it.

    >>> threshold(np.arange(100.0))
    5.0
    """
    ordered = np.sort(np.ravel(id_scores))[::-1]
    return float(ordered[-(-19 * len(ordered) // 20) - 1])


def lambda_figure(result: Mapping[str, Any]) -> plt.Figure:
    """AUROC and FPR95 of the evaluated pictures over λ, a line a set; dashed, the λ that was chosen without them."""
    figure, panels = pyplot().subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    sweeps = {name: found["lambda_sweep"] for name, found in result["sets"].items()}
    for axes, key in zip(panels, ("auroc", "fpr95"), strict=True):
        for name, sweep in {**sweeps, "mean": result["lambda_sweep"]}.items():
            lambdas = sorted(sweep, key=float)
            style = {"color": "black", "linewidth": 2} if name == "mean" else {"linewidth": 1.2}
            values = [sweep[lam][key] for lam in lambdas]
            axes.plot([float(lam) for lam in lambdas], values, marker=".", label=name, **style)
        axes.axvline(result["lambda"], color="tab:green", linestyle="--", label=f"λ = {result['lambda']:.3g} (chosen)")
        axes.set(xlabel="λ", ylabel=f"{FIGURES[key]}, percent", title=FIGURES[key])
    panels[0].legend(fontsize=8)
    return figure


def ood_markdown(result: Mapping[str, Any]) -> str:
    """A row a set and kind of score, and their means, in percent."""
    rows = []
    for name, found in {**result["sets"], "mean": result["average"]}.items():
        for kind, title in titles(result).items():
            cells = [f"{found[kind][key]:.2f}" for key in FIGURES]
            if kind == "negalign" and "ci95" in found:
                cells = [
                    f"{cell} ({low:.1f} to {high:.1f})"
                    for cell, (low, high) in zip(cells, (found["ci95"][key] for key in FIGURES), strict=True)
                ]
            rows.append([escaped(name), title, *cells])
    words = ", ".join(f"{count} {role}" for role, count in result["words"].items())
    shown = table(["OOD set", "score", *FIGURES.values()], rows)
    return f"{shown}\n\nλ = {result['lambda']:.3g}; negative words: {words}.\n"

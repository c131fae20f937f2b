"""An alignment of videos and maps as people read it: confusion, retrieval, where was looked. Reads no store."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.digests import read_kept, write_json
from pipeline.reports.classification import confusion_figure
from pipeline.reports.drawing import pyplot
from pipeline.reports.files import beside, evaluate_again, read_result, save_figure
from pipeline.reports.names import shortened

if TYPE_CHECKING:
    import matplotlib.pyplot as plt

FORMS = {"published": "its own map\n(as published)", "unguided": "a uniform\nmap", "shuffled": "another patient's\nmap"}
# The first three say under which map the video is embedded; the last compares maps, and embeds nothing.
FORMS |= {"predicted": "none: maps\nare compared"}
DIRECTIONS = {"video_to_map": "video → map", "map_to_video": "map → video"}
KINDS = {"token_map": "map", "predicted": "predicted", "gate": "gate", "energy": "energy"}
RIGHT, WRONG = "#1b6e3c", "#b00020"
ATTENTION = "attention.npz"
LONGEST = 48  # letters of a sample's or a diagnosis' name


def publish_alignment(evaluation: Path, out: Path, more: Mapping[str, Any] | None = None) -> None:
    """Copies an evaluation's result.json to `out`; its report has confusion.png, retrieval.png and attention.png.

    Args:
        evaluation: folder with result.json and attention.npz, as an evaluation leaves them.
        out: results/x.json, written last.
        more: what `out` says beside that.
    """
    result = read_result(evaluation, out)
    low, high = result["ci95"]
    title = f"accuracy {result['accuracy']:.1f} % (95 % interval {low:.1f} to {high:.1f}), "
    title += f"n = {result['samples']['evaluated']}"
    save_figure(confusion_figure(result["confusion"], title), beside(out, "confusion.png"))
    save_figure(retrieval_figure(result["retrieval"]), beside(out, "retrieval.png"))
    shown = read_attention(evaluation, out, result)
    save_figure(attention_figure(shown), beside(out, "attention.png"))
    write_json(out, {**result, **(more or {})}, ordered=True)


def read_attention(evaluation: Path, out: Path, result: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """What the evaluation looked at. Raises Damaged: it is not what was written."""
    content = read_kept(
        evaluation / ATTENTION, result["provenance"]["files"][ATTENTION], evaluate_again(evaluation, out)
    )
    with np.load(io.BytesIO(content)) as arrays:
        return dict(arrays)


def retrieval_figure(retrieval: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> plt.Figure:
    """R@1 and R@5 of each form, a panel a direction; dashed, the R@1 of a random order."""
    figure, panels = pyplot().subplots(1, 2, figsize=(9.5, 4), layout="constrained", sharey=True)
    for axes, (direction, title) in zip(panels, DIRECTIONS.items(), strict=True):
        found = [of[direction] for of in retrieval.values()]
        for key, name, shift, colour in (("r1", "R@1", -0.19, "tab:blue"), ("r5", "R@5", 0.19, "#b8cfe6")):
            places = np.arange(len(found)) + shift
            axes.bar(places, [of[key] or 0 for of in found], 0.36, color=colour, label=name)
            for place, of in zip(places, found, strict=True):
                said = "–" if of[key] is None else f"{of[key]:.1f}"
                axes.text(place, (of[key] or 0) + 1, said, ha="center", va="bottom", fontsize=8)
        chance = next((of["chance_r1"] for of in found if of["chance_r1"] is not None), None)
        if chance is not None:
            axes.axhline(chance, color="black", linestyle="--", linewidth=1, label=f"R@1 by chance, {chance:.1f}")
        axes.set_xticks(range(len(found)), [FORMS[form] for form in retrieval], fontsize=8)
        axes.set_xlabel("the video is embedded under")
        axes.set_title(f"{title}: {found[0]['queries']} queries, gallery of {found[0]['gallery']}", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=8, loc="upper right", frameon=False)
    panels[0].set(ylabel="percent", ylim=(0, 112), yticks=range(0, 101, 20))
    return figure


def attention_figure(shown: Mapping[str, np.ndarray]) -> plt.Figure:
    """Map, gate and token energy of each video over the steps, on the tokens' grid; titles say truth and prediction.

    Videos that were recognised are in a column of their own. The map and the gate are drawn from 0 to 1, the energy
    and the predicted map from the video's least to its largest, which are said.

    Args:
        shown: sample, label and prediction (K,); token_map, energy and perhaps gate and predicted (K, T, H, W).
    """
    kinds = {key: name for key, name in KINDS.items() if key in shown}
    steps, rows, columns = shown["token_map"].shape[1:]
    right = shown["label"] == shown["prediction"]
    sides = [np.flatnonzero(side) for side in (right, ~right) if side.any()]
    height, width = max(map(len, sides)), 1.3 + 0.9 * steps * max(columns / rows, 0.6)
    figure, panels = pyplot().subplots(
        height * len(kinds),
        len(sides),
        figsize=(width * len(sides), height * (0.95 * len(kinds) + 0.4) + 0.4),
        layout="constrained",
        squeeze=False,
    )
    for axes in panels.flat:
        axes.set_axis_off()
    for videos, column in zip(sides, panels.T, strict=True):
        for video, block in zip(videos, column.reshape(height, len(kinds)), strict=False):
            for axes, (key, name) in zip(block, kinds.items(), strict=True):
                _steps(axes, shown[key][video], name, (0, 1) if key in ("token_map", "gate") else None)
            truth, guess = shown["label"][video], shown["prediction"][video]
            sample, *said = (shortened(name, LONGEST) for name in (shown["sample"][video], truth, guess))
            title = f"{sample}    truth: {said[0]}    prediction: {said[1]}"
            block[0].set_title(title, fontsize=9, color=RIGHT if truth == guess else WRONG)
            centres = np.arange(steps) * (columns + 1) + (columns - 1) / 2
            block[-1].set_xticks(centres, [f"step {step + 1}" for step in range(steps)], fontsize=7)
    return figure


def _steps(axes: plt.Axes, values_THW: np.ndarray, name: str, limits: tuple[float, float] | None) -> None:
    low, high = limits or (values_THW.min(), values_THW.max())
    axes.set_axis_on()
    axes.imshow(_strip(values_THW), vmin=low, vmax=high, cmap="magma", interpolation="nearest")
    axes.set_ylabel(f"{name}\n{low:.2g} to {high:.2g}", fontsize=7, rotation=0, ha="right", va="center")
    axes.set(xticks=[], yticks=[])
    axes.tick_params(axis="x", length=0)
    axes.spines[:].set_visible(False)


def _strip(values_THW: np.ndarray) -> np.ndarray:
    """(H, T * (W + 1) - 1): the steps side by side, a gap of NaN between two.

    >>> _strip(np.array([[[1.0, 2.0]], [[3.0, 4.0]]]))
    array([[ 1.,  2., nan,  3.,  4.]])
    """
    gapped = np.pad(values_THW, ((0, 0), (0, 0), (0, 1)), constant_values=np.nan)
    return np.concatenate(list(gapped), axis=1)[:, :-1]

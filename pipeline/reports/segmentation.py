"""Action segmentation as people read it: timelines, γ curves, tables, text files. Reads results only, no store.

Shape suffixes: T frames of a video, C classes.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pipeline.digests import write_json
from pipeline.files import whole_folder
from pipeline.reports.drawing import pyplot
from pipeline.reports.files import ReportError, beside, read_predictions, read_result, save_figure
from pipeline.reports.names import shortened, told_apart, words

if TYPE_CHECKING:
    import matplotlib.pyplot as plt

SHOWN = 4  # videos of a picture of the worst or the best
WIDTH = 12.0  # inches of a picture of timelines
LONGEST = 60  # letters of a class's name
PANEL = 11.2  # and of what is over time in it
MAPPING = "mapping.txt"
HEADER = "### Frame level recognition: ###"
BACKGROUND, UNLABELLED, WRONG = "#dcdcdc", "#ffffff", "#c00000"
Strips = Callable[[Sequence[str]], Mapping[str, "np.ndarray | str"]]
HUE, TONES = 0.618034, ((0.75, 0.88), (0.45, 0.97), (0.95, 0.58))  # golden angle; saturation and value by turns


@dataclass(frozen=True)
class Timeline:
    """What a video looks like.

    Attributes:
        name: of the sample.
        truth: (T,) class indices; a negative one has no label. None where it is not known.
        prediction: (T,) class indices.
        confidence: (T,) of the prediction, in [0, 1].
        figures: shown beside the name, in percent; None is a dash.
        strip: (K, H, W, 3) uint8 RGB, frames from the middles of K equal shares of the video; or why there are none.
    """

    name: str
    truth: np.ndarray | None
    prediction: np.ndarray
    confidence: np.ndarray
    figures: Mapping[str, float | None]
    strip: np.ndarray | str = ""


# --- files ------------------------------------------------------------------------------------------------------------


def write_predictions(predictions: Mapping[str, np.ndarray], classes: Sequence[str], folder: Path) -> None:
    """A text file a video, named like the video without extension, as MS-TCN writes and its eval.py reads them.

    Two lines: a header, and one label a frame between spaces. A space within a class's name becomes "_"; mapping.txt
    has each class's word and, after a tab, its name. The folder is renamed into place when all files are written and
    replaces the one before.

    Args:
        predictions: video -> (T,) class indices.
        classes: names by index.
        folder: does not need to exist.

    Raises:
        ReportError: a video's name leads out of the folder, or is that of the mapping.
    """
    said = words(classes)
    with whole_folder(folder) as scratch:
        for video, labels_T in predictions.items():
            path = scratch / video
            if not path.resolve().is_relative_to(scratch.resolve()) or path in (scratch, scratch / MAPPING):
                raise ReportError(f"video {video!r} is no name of a file below {folder}; correct the manifest")
            path.parent.mkdir(parents=True, exist_ok=True)
            labels = " ".join(said[label] for label in np.asarray(labels_T).tolist())
            path.write_text(f"{HEADER}\n{labels}\n", encoding="utf-8")
        mapping = "".join(f"{word}\t{name}\n" for word, name in zip(said, classes, strict=True))
        (scratch / MAPPING).write_text(mapping, encoding="utf-8")


# --- timelines --------------------------------------------------------------------------------------------------------


def class_colours(n_classes: int, background: Collection[int] = ()) -> list[str]:
    """A colour for each class that depends on its index only, so that all pictures agree; background is grey."""

    from matplotlib.colors import to_hex

    colours = []
    for index in range(n_classes):
        saturation, value = TONES[index % len(TONES)]
        colours.append(to_hex(colorsys.hsv_to_rgb(index * HUE % 1, saturation, value)))
    return [BACKGROUND if index in background else colour for index, colour in enumerate(colours)]


def worst_and_best(timelines: Sequence[Timeline], shown: int = SHOWN) -> tuple[list[Timeline], list[Timeline]]:
    """The `shown` videos of lowest F1@50 (then Acc), worst first, and those of the highest, best first.

    Videos without a labelled frame are in neither, and no video is in both: of few, the better half is called best.
    """
    judged = [timeline for timeline in timelines if timeline.figures["acc"] is not None]
    order = sorted(judged, key=lambda timeline: (timeline.figures["f1@50"], timeline.figures["acc"], timeline.name))
    half = len(order) // 2
    return order[: min(shown, len(order) - half)], order[::-1][: min(shown, half)]


def timelines_figure(
    timelines: Sequence[Timeline],
    classes: Sequence[str],
    background: Collection[int] = (),
    unseen: Collection[int] = (),
    title: str = "",
    fps: float | None = None,
) -> plt.Figure:
    """Truth, prediction and confidence over time, a panel a video; wrong frames are marked between the first two.

    Args:
        timelines: the videos, top to bottom; at least one. Above a panel are its video's frames, if it has any.
        classes: names by index. The legend lists those that occur, by the number written into their longer segments.
        background: classes drawn in grey.
        unseen: classes that training did not see, starred in the legend.
        title: of the whole.
        fps: labels a second, if that is known.
    """

    from matplotlib.patches import Patch

    colours = class_colours(len(classes), background)
    labels = [of for timeline in timelines for of in (timeline.truth, timeline.prediction) if of is not None]
    shown = np.unique(np.concatenate(labels)).astype(int)
    names = told_apart(classes, LONGEST)
    entries = [
        Patch(facecolor=colours[c], edgecolor="grey", linewidth=0.4, label=f"{c}  {names[c]}{' *' * (c in unseen)}")
        for c in shown[shown >= 0]
    ]
    if any(timeline.truth is not None for timeline in timelines):
        entries.append(Patch(facecolor=WRONG, label="wrong frames"))
    longest = max(len(entry.get_label()) for entry in entries)
    columns = max(1, int(WIDTH / (0.6 + 0.078 * longest)))
    legend_height = 0.17 * math.ceil(len(entries) / columns) + 0.35
    drawn: list[tuple[float, Callable[[plt.Axes], None]]] = []  # height in inches, what draws it, from the top
    for timeline in timelines:
        if isinstance(timeline.strip, np.ndarray):
            drawn.append((_strip_height(timeline.strip), partial(_strip, timeline=timeline)))
        height = 1.35 if timeline.truth is not None else 1.0
        drawn.append((height, partial(_timeline, timeline=timeline, colours=colours)))
    starred = any(c in unseen for c in shown)
    height = sum(inches for inches, _ in drawn) + legend_height + 0.5 * bool(title) + 0.25 * starred
    ratios = {"height_ratios": [inches for inches, _ in drawn]}
    figure, panels = pyplot().subplots(
        len(drawn), 1, figsize=(WIDTH, height), layout="constrained", squeeze=False, gridspec_kw=ratios
    )
    for axes, (_, draw) in zip(panels[:, 0], drawn, strict=True):
        draw(axes)
    panels[-1, 0].set_xlabel("frame" if fps is None else f"frame, {fps:g} a second")
    if title:
        figure.suptitle(title)
    legend = figure.legend(
        handles=entries, loc="outside lower center", ncols=columns, fontsize=7.5, frameon=False, handlelength=1.6
    )
    if starred:
        legend.set_title("* not seen in training", prop={"size": 7.5})
    return figure


def _strip_height(strip_KHWC: np.ndarray) -> float:
    """Inches that frames side by side need where they are as wide as the panel, and a title's."""
    count, height, width, _ = strip_KHWC.shape
    return PANEL * height / (count * width) + 0.3


def _strip(axes: plt.Axes, timeline: Timeline) -> None:
    """Each frame over the middle of its share of the time."""
    gap = max(1, timeline.strip.shape[2] // 40)
    framed = np.pad(timeline.strip, ((0, 0), (0, 0), (gap, gap), (0, 0)), constant_values=255)
    axes.imshow(np.concatenate(framed, axis=1), interpolation="antialiased")
    axes.set_anchor("S")
    axes.set_axis_off()
    _name(axes, timeline)


def _timeline(axes: plt.Axes, timeline: Timeline, colours: Sequence[str]) -> None:
    from matplotlib.colors import to_rgb
    from matplotlib.ticker import MaxNLocator

    frames, known = len(timeline.prediction), timeline.truth is not None
    bands = [*([(timeline.truth, 2.2)] if known else []), (timeline.prediction, 1.1)]
    for labels, base in bands:
        runs = _runs(labels)
        drawn = [colours[label] if label >= 0 else UNLABELLED for label, *_ in runs]
        spans = [(start, stop - start) for _, start, stop in runs]
        axes.broken_barh(spans, (base, 0.9), facecolors=drawn, edgecolor="white", linewidth=0.3)
        for (label, start, stop), colour in zip(runs, drawn, strict=True):
            if label >= 0 and stop - start > 0.018 * frames:
                dark = np.dot(to_rgb(colour), (0.299, 0.587, 0.114)) < 0.55
                ink = "white" if dark else "black"
                axes.text((start + stop) / 2, base + 0.43, label, ha="center", va="center", fontsize=6.5, color=ink)
    if known:
        wrong = (timeline.truth >= 0) & (timeline.truth != timeline.prediction)
        spans = [(start, stop - start) for label, start, stop in _runs(wrong.astype(int)) if label]
        axes.broken_barh(spans, (2.03, 0.14), facecolor=WRONG, linewidth=0)
    axes.stairs(0.95 * timeline.confidence, np.arange(frames + 1), fill=True, color="#7a9cc6", linewidth=0)
    axes.axhline(0.95, color="grey", linewidth=0.4, linestyle=":")
    axes.set(xlim=(0, max(frames, 1)), ylim=(0, 3.15 if known else 2.05))
    axes.set_yticks((0.475, 1.55, 2.65)[: 2 + known], ("confidence", "prediction", "truth")[: 2 + known], fontsize=8)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=7)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=12))
    if isinstance(timeline.strip, str):
        _name(axes, timeline)


def _name(axes: plt.Axes, timeline: Timeline) -> None:
    """The video's name, its figures, and why it has no frames, on top of what is drawn of it."""
    numbers = "   ".join(f"{k} {'–' if v is None else f'{v:.1f}'}" for k, v in timeline.figures.items())
    without = f"   (no frames: {timeline.strip})" if isinstance(timeline.strip, str) and timeline.strip else ""
    axes.set_title(f"{shortened(timeline.name, LONGEST)}    {numbers}{without}", loc="left", fontsize=8.5, pad=3)


def _runs(labels_T: np.ndarray) -> list[tuple[int, int, int]]:
    """(label, start, stop) of each run, those without a label too."""
    start = np.flatnonzero(np.diff(labels_T, prepend=labels_T[:1] - 1))
    return list(zip(labels_T[start].tolist(), start.tolist(), [*start[1:].tolist(), len(labels_T)], strict=False))


# --- γ ----------------------------------------------------------------------------------------------------------------


def gamma_figure(result: Mapping[str, Any]) -> plt.Figure:
    """S, U and H over γ, and S over U, from what `zeroshot_metrics` returns: of each frame by itself.

    Where unseen classes do not occur their lines are missing and the titles say so.
    """
    alone = result.get("undecoded", result)
    curve = {name: np.array(values, dtype=float) for name, values in result["curve"].items()}
    figure, (left, right) = pyplot().subplots(1, 2, figsize=(11, 4.4), layout="constrained", width_ratios=(1.4, 1))
    left.plot(curve["gamma"], curve["seen"], color="tab:blue", label="S, seen classes")
    left.plot(curve["gamma"], curve["unseen"], color="tab:orange", label="U, unseen classes")
    left.plot(curve["gamma"], curve["harmonic"], color="black", linewidth=2, label="H, harmonic mean")
    left.plot(curve["gamma"], curve["fraction_unseen"], color="grey", linestyle=":", label="frames put on unseen")
    left.axvline(result["gamma"], color="tab:green", linestyle="--", label=f"γ = {result['gamma']:.3g} (chosen)")
    left.set(xlabel="γ, taken from the scores of seen classes", ylabel="percent", ylim=(0, 101))
    headline = {"S": "seen", "U": "unseen", "H": "harmonic"}
    title = " · ".join(f"{name} {_short(alone[key])}" for name, key in headline.items())
    left.set_title(title if alone is result else f"{title}, before whole videos are decoded")
    left.legend(fontsize=8, loc="upper left", bbox_to_anchor=(0, -0.16), ncols=3, frameon=False)
    right.plot(curve["unseen"], curve["seen"], color="black")
    right.fill_between(curve["unseen"], curve["seen"], color="tab:blue", alpha=0.12, linewidth=0)
    if alone["unseen"] is not None and alone["seen"] is not None:
        right.plot(alone["unseen"], alone["seen"], "o", color="tab:green", label="chosen γ", zorder=3)
        right.legend(fontsize=8, loc="upper right")
    right.axvline(result["chance"], color="grey", linestyle=":", linewidth=0.8)
    right.set(xlabel="U, percent (dotted: chance)", ylabel="S, percent", xlim=(0, 101), ylim=(0, 101), aspect="equal")
    right.set_title(f"AUSUC {_short(result['ausuc'])}")
    return figure


def seen_unseen_figure(variants: Mapping[str, Sequence[Mapping[str, Any]]]) -> plt.Figure:
    """S over U of several variants, a line a seed, a dot at its chosen γ."""
    figure, axes = pyplot().subplots(figsize=(6.4, 6), layout="constrained")
    for number, (name, results) in enumerate(variants.items()):
        areas = [result["ausuc"] for result in results if result["ausuc"] is not None]
        spread = f" ± {np.std(areas, ddof=1):.1f}" if len(areas) > 1 else ""
        label = f"{name}: AUSUC {np.mean(areas):.1f}{spread}" if areas else f"{name}: AUSUC –"
        for result in results:
            curve = {key: np.array(result["curve"][key], dtype=float) for key in ("seen", "unseen")}
            axes.plot(curve["unseen"], curve["seen"], color=f"C{number}", linewidth=1.2, alpha=0.8, label=label)
            alone = result.get("undecoded", result)
            if alone["unseen"] is not None and alone["seen"] is not None:
                axes.plot(alone["unseen"], alone["seen"], "o", color=f"C{number}", markersize=5)
            label = None
    axes.set(xlabel="U, percent", ylabel="S, percent", xlim=(0, 101), ylim=(0, 101), aspect="equal")
    axes.set_title("seen against unseen accuracy over γ; dots: chosen γ", fontsize=10)
    axes.legend(fontsize=8)
    return figure


# --- a run ------------------------------------------------------------------------------------------------------------


def publish_segmentation(evaluation: Path, out: Path, strips: Strips | None = None) -> None:
    """Copies an evaluation's result.json to `out`; its report has timelines, the γ curve, if there is one, and texts.

    In results/x/report: worst.png, best.png, gamma.png, predictions/<video>.

    Args:
        evaluation: a folder with result.json, which holds classes (names by index), background (indices), and of a
            zero-shot run unseen_classes (indices) and what `zeroshot_metrics` returns; and with predictions.parquet, a
            row a video: sample; truth, prediction and confidence as lists; its acc, edit and f1@50, null where unknown.
        out: results/<name>.json, written last.
        strips: the names of the videos that are shown -> `Timeline.strip` of each.
    """
    result = read_result(evaluation, out)
    videos = timelines(read_predictions(evaluation, out, result))
    unseen = result.get("unseen_classes", [])
    groups = worst_and_best(videos)
    frames = strips([video.name for group in groups for video in group]) if strips else {}
    for name, chosen in zip(("worst", "best"), groups, strict=True):
        if chosen:
            title = f"{name} videos by F1@50, {len(chosen)} of {len(videos)}"
            chosen = [replace(video, strip=frames.get(video.name, "")) for video in chosen]
            figure = timelines_figure(chosen, result["classes"], result["background"], unseen, title)
            save_figure(figure, beside(out, f"{name}.png"))
    if "curve" in result:
        save_figure(gamma_figure(result), beside(out, "gamma.png"))
    predictions = {timeline.name: timeline.prediction for timeline in videos}
    write_predictions(predictions, result["classes"], beside(out, "predictions"))
    write_json(out, result, ordered=True)


def timelines(predictions: pd.DataFrame) -> list[Timeline]:
    """The videos of predictions.parquet, as `publish_segmentation` describes it."""
    return [
        Timeline(
            row["sample"],
            np.asarray(row["truth"], dtype=np.int64),
            np.asarray(row["prediction"], dtype=np.int64),
            np.asarray(row["confidence"], dtype=np.float64),
            {name: _known(row[name]) for name in ("acc", "edit", "f1@50")},
        )
        for row in predictions.to_dict("records")
    ]


def _known(value: float | None) -> float | None:
    return None if value is None or np.isnan(value) else float(value)


def _short(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"

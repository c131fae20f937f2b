"""GASM-CAST's attention over the frames of clips, and the mean of each class. Takes arrays, opens nothing.

Shape suffixes: C classes, T steps, H W pixels, R rows and L columns of tokens.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pipeline.heads.gasm_cast.attention import POOL, Look
from pipeline.reports.drawing import pyplot
from pipeline.reports.names import shortened

if TYPE_CHECKING:
    import matplotlib.pyplot as plt
    from matplotlib.axes import Axes

RIGHT, WRONG = "#1b6e3c", "#b00020"
HEAT = 0.6  # how much of the heat is seen over the frame
STEP = 0.7  # inches a frame
LONGEST = 48  # letters of a sample's or a class's name
CONSTANT = 1e-3  # a view that differs by less says nothing
NAMES = {
    ("graph", "semantic"): "patch graph",
    ("time", "semantic"): "patches over time",
    ("graph", "motion"): "motion graph, space",
    ("time", "motion"): "motion graph, time",
    ("cross", "motion"): "patches → motion",
    ("cross", "semantic"): "motion → patches",
    ("all", "semantic"): "all tokens → patches",
    ("all", "motion"): "all tokens → motion",
    ("pool", "semantic"): "classifier → patches",
    ("pool", "motion"): "classifier → motion",
}
CAPTION = (
    "Heat: how much of the attention a patch or motion cell is given, the mean over heads and over the tokens that "
    "look (a → b: a looks at b), as a multiple of the mean. In graphs tokens look along edges only, so a node with "
    "more edges is given more."
)


class WatchedClip(NamedTuple):
    """One clip and what was looked at in it.

    Attributes:
        times: seconds of the T steps.
        frames_THWC: uint8 RGB, as the tokens saw them; None where they cannot be shown, and `why`.
        looks: attention -> (T, R, L), the share of attention as a multiple of the mean.
    """

    sample: str
    label: str
    prediction: str
    probability: float
    times: Sequence[float]
    frames_THWC: np.ndarray | None
    why: str
    looks: Mapping[Look, np.ndarray]


class ClassLooks(NamedTuple):
    """The mean looks of classes.

    Attributes:
        names, counts: of the C classes that are shown, and how many clips each mean is of.
        total: how many classes have clips.
        looks: attention -> (C, T, R, L).
    """

    names: Sequence[str]
    counts: Sequence[int]
    total: int
    looks: Mapping[Look, np.ndarray]


def title_of(at: Look) -> str:
    """What a look is called: "layer 1, patch graph"."""
    name = NAMES[at.kind, at.stream]
    return name if at.layer == POOL else f"layer {at.layer + 1}, {name}"


def attention_figure(clips: Sequence[WatchedClip], absent: Sequence[str] = ()) -> plt.Figure:
    """A column of rows a clip: its frames, then each attention over them; recognised clips left, the others right.

    Args:
        clips: one at least, of one head.
        absent: what the head has no attention of.
    """
    sides = [side for side in ([c for c in clips if c.label == c.prediction], _wrong(clips)) if side]
    height, rows = max(map(len, sides)), 1 + len(clips[0].looks)
    width = 1.7 + STEP * len(clips[0].times)
    figure = pyplot().figure(
        figsize=(len(sides) * width, height * (1.09 * STEP * rows + 0.7) + 0.6), layout="constrained"
    )
    _head(figure, CAPTION, absent, round(15 * width * len(sides)))
    for column, side in zip(figure.subfigures(1, len(sides), squeeze=False)[0], sides, strict=True):
        cells = column.subfigures(height, 1, squeeze=False)[:, 0]
        for cell, clip in zip(cells, side, strict=False):
            _clip(cell, clip, rows)
    return figure


def _wrong(clips: Sequence[WatchedClip]) -> list[WatchedClip]:
    return [clip for clip in clips if clip.label != clip.prediction]


def _head(figure: plt.Figure, caption: str, absent: Sequence[str], width: int) -> None:
    lines = textwrap.wrap(caption, width) + [f"Not in this head: {said}." for said in absent]
    figure.suptitle("\n".join(lines), fontsize=8.5, ha="left", x=0.01)


def _clip(cell: plt.Figure, clip: WatchedClip, rows: int) -> None:
    right = clip.label == clip.prediction
    names = [shortened(name, LONGEST) for name in (clip.sample, clip.label, clip.prediction)]
    said = f"{names[0]}, p = {clip.probability:.2f}\n{names[1]}"
    said += "" if right else f"\ntaken for: {names[2]}"
    said += f"\n{textwrap.shorten(clip.why, 90)}" if clip.why else ""
    cell.suptitle(said, fontsize=8.5, color=RIGHT if right else WRONG)
    names, panels = cell.subplots(rows, 2, width_ratios=[1.6, STEP * len(clip.times)]).T
    strip = None if clip.frames_THWC is None else np.concatenate(_gapped(clip.frames_THWC), axis=1)
    for beside, axes, at in zip(names, panels, [None, *clip.looks], strict=True):
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        _heat(axes, strip, None if at is None else clip.looks[at], len(clip.times))
        name = "frames" if at is None else f"{title_of(at)}\nup to {clip.looks[at].max():.1f} ×"
        beside.text(1, 0.5, name, fontsize=7, ha="right", va="center")
        beside.set_axis_off()
    width = panels[0].get_xlim()[1] / len(clip.times)
    centres = [(step + 0.5) * width for step in range(len(clip.times))]
    panels[-1].set_xticks(centres, [f"{time:.2f} s" for time in clip.times], fontsize=7)
    panels[-1].tick_params(axis="x", length=0)


def _gapped(frames_THWC: np.ndarray) -> list[np.ndarray]:
    gap = max(frames_THWC.shape[2] // 24, 1)
    return list(np.pad(frames_THWC, ((0, 0), (0, 0), (0, gap), (0, 0)), constant_values=255))


def _heat(axes: Axes, strip_HWC: np.ndarray | None, look_TRL: np.ndarray | None, steps: int) -> None:
    """Frames side by side, and the heat of each step over its own frame; on white where there are no frames."""
    height, width = (24, 25 * steps) if strip_HWC is None else strip_HWC.shape[:2]
    step = width / steps
    inner = step - max(round(step) // 25, 1)
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="equal")
    if strip_HWC is not None:
        grey = strip_HWC if look_TRL is None else strip_HWC.mean(axis=2, keepdims=True).repeat(3, axis=2) / 255
        axes.imshow(grey, extent=(0, width, height, 0))
    if look_TRL is not None:
        for number, look_RL in enumerate(look_TRL):
            left = number * step
            axes.imshow(
                look_RL,
                cmap="inferno",
                alpha=HEAT if strip_HWC is not None else 1.0,
                vmin=0,
                vmax=look_TRL.max(),
                interpolation="nearest",
                extent=(left, left + inner, height, 0),
            )
    axes.set(xlim=(0, width), ylim=(height, 0))


def class_attention_figure(classes: ClassLooks, absent: Sequence[str] = ()) -> plt.Figure:
    """A row a class; of each attention, the mean over layers, where (the mean over steps) and when (over places).

    What is the same everywhere by definition, as where tokens look that attend over time only, has no column.

    Args:
        classes: the means.
        absent: what the head has no attention of.
    """
    columns = {}
    for (kind, stream), mean_CTRL in over_layers(classes.looks).items():
        views = {"where": mean_CTRL.mean(axis=1), "when": mean_CTRL.mean(axis=(2, 3))}
        columns |= {(NAMES[kind, stream], view): of for view, of in views.items() if np.ptp(of) > CONSTANT}
    count = len(classes.names)
    width = 1.9 + 0.95 * len(columns)
    figure = pyplot().figure(figsize=(width, 0.62 * count + 1.9), layout="constrained")
    more = f" {count} commonest of {classes.total} classes." if count < classes.total else ""
    caption = (
        "The mean over the evaluated clips of each class and over layers: where (mean over steps; light is much) and "
        f"when (mean over places; the line is the mean). One scale a column.{more} {CAPTION}"
    )
    _head(figure, caption, absent, round(15 * width))
    names, *panels = figure.subplots(
        count, 1 + len(columns), squeeze=False, width_ratios=[1.9, *[0.95] * len(columns)]
    ).T
    for column, ((name, view), of) in zip(panels, columns.items(), strict=True):
        column[0].set_title(f"{textwrap.fill(name, 15)}\n{view}\n{of.min():.2f} to {of.max():.2f}", fontsize=7)
        for axes, values in zip(column, of, strict=True):
            axes.set(xticks=[], yticks=[])
            if view == "where":
                axes.imshow(values, cmap="viridis", vmin=of.min(), vmax=of.max())
            else:
                axes.bar(range(len(values)), values, 1.0, color="#31688e", edgecolor="white", linewidth=0.4)
                axes.axhline(1, color="black", linewidth=0.6)
                axes.set(ylim=(0, 1.05 * of.max()), xlim=(-0.5, len(values) - 0.5))
    for axes, name, clips in zip(names, classes.names, classes.counts, strict=True):
        said = "\n".join(textwrap.wrap(name, 28)[:3]) + f"\n{clips} clip{'s' * (clips != 1)}"
        axes.text(1, 0.5, said, fontsize=7, ha="right", va="center")
        axes.set_axis_off()
    return figure


def over_layers(looks: Mapping[Look, np.ndarray]) -> dict[tuple[str, str], np.ndarray]:
    """(kind, stream) -> the mean over the layers that have it, in the order of the first layer."""
    kinds = list(dict.fromkeys((at.kind, at.stream) for at in looks))
    return {key: np.mean([of for at, of in looks.items() if (at.kind, at.stream) == key], axis=0) for key in kinds}

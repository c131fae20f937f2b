"""Predicted attention maps beside a clinician's, over the frames of videos. Takes arrays, opens nothing.

Shape suffixes: T steps, H W pixels, R rows and L columns of tokens.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pipeline.reports.alignment import LONGEST
from pipeline.reports.drawing import pyplot
from pipeline.reports.names import shortened

if TYPE_CHECKING:
    import matplotlib.pyplot as plt
    from matplotlib.axes import Axes

HEAT = 0.7  # how much of a map is seen over the frame where it is largest; where it is 0, the frame alone
STEP = 0.85  # inches a frame


class Marked(NamedTuple):
    """A video, where a model predicts that one would look, and where somebody did.

    Attributes:
        said: the second line of its title.
        times: seconds of the T steps.
        frames_THWC: uint8 RGB, as the tokens saw them; None where they cannot be shown, and `why`.
        predicted_RL: sums to 1.
        drawn_TRL: in any unit; None where nobody drew.
    """

    sample: str
    said: str
    times: Sequence[float]
    frames_THWC: np.ndarray | None
    why: str
    predicted_RL: np.ndarray
    drawn_TRL: np.ndarray | None = None


def maps_figure(groups: Mapping[str, Sequence[Marked]]) -> plt.Figure:
    """A block a video: its frames, the drawn map over them where there is one, and the predicted one.

    Each map is drawn from 0 to its largest value. The predicted one is the same in every step.

    Args:
        groups: what videos share, "" for no title -> the videos; one at least.
    """
    videos = [(group if not number else "", of) for group, shown in groups.items() for number, of in enumerate(shown)]
    steps = max(len(of.times) for _, of in videos)
    heights = [STEP * (2 + (of.drawn_TRL is not None)) + 0.75 for _, of in videos]
    figure = pyplot().figure(figsize=(STEP * steps + 1.2, sum(heights)), layout="constrained")
    cells = figure.subfigures(len(videos), 1, squeeze=False, height_ratios=heights)[:, 0]
    for cell, (group, of) in zip(cells, videos, strict=True):
        _video(cell, group, of)
    return figure


def _video(cell: plt.Figure, group: str, of: Marked) -> None:
    lines = [*([group] if group else []), shortened(of.sample, LONGEST), of.said]
    lines += [textwrap.shorten(of.why, 90)] if of.why else []
    cell.suptitle("\n".join(lines), fontsize=8.5)
    predicted_TRL = np.broadcast_to(of.predicted_RL, (len(of.times), *of.predicted_RL.shape))
    rows = {"frames": None, "clinician": of.drawn_TRL, "predicted": predicted_TRL}
    rows = {name: map_TRL for name, map_TRL in rows.items() if name == "frames" or map_TRL is not None}
    for line, (name, map_TRL) in zip(cell.subplots(len(rows), len(of.times), squeeze=False), rows.items(), strict=True):
        for step, axes in enumerate(line):
            _step(axes, of, step, map_TRL)
        line[0].set_ylabel(name, fontsize=7, rotation=0, ha="right", va="center")
    for axes, time in zip(line, of.times, strict=True):
        axes.set_xlabel(f"{time:.2f} s", fontsize=7)


def _step(axes: Axes, of: Marked, step: int, map_TRL: np.ndarray | None) -> None:
    rows, columns = of.predicted_RL.shape
    height, width = (rows, columns) if of.frames_THWC is None else of.frames_THWC.shape[1:3]
    axes.set(xticks=[], yticks=[], xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), aspect="equal")
    axes.spines[:].set_visible(False)
    if of.frames_THWC is not None:
        axes.imshow(of.frames_THWC[step])
    if map_TRL is not None:
        most = max(float(map_TRL.max()), np.finfo(np.float32).tiny)
        alpha = HEAT * np.sqrt(map_TRL[step] / most) if of.frames_THWC is not None else 1.0
        extent = (-0.5, width - 0.5, height - 0.5, -0.5)
        axes.imshow(map_TRL[step], cmap="inferno", alpha=alpha, vmin=0, vmax=most, extent=extent)

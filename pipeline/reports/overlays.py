"""Pictures with what NegAlign saw in them: activation maps and background masks. Takes arrays, opens nothing.

Shape suffixes: H W pixels, R C rows and columns of patches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pipeline.reports.drawing import pyplot
from pipeline.reports.ood import FINAL

if TYPE_CHECKING:
    import matplotlib.pyplot as plt
    from matplotlib.axes import Axes

HEAT = 0.5  # how much of the map is seen over the picture


class Overlay(NamedTuple):
    """One scored picture.

    Attributes:
        name: what it is called.
        picture_HWC: uint8 RGB, as CLIP saw it, so that the patches lie where they were.
        map_RC: signed, before ReLU.
        background_RC: bool.
        final, plain, p_align: S, S_NegLabel and P_align.
        predicted: the ID class it is most like.
        cam_valid: whether there is a background.
        local: the largest evidence of a patch, and `patch` its row and column; None where the score has no such term.
    """

    name: str
    picture_HWC: np.ndarray
    map_RC: np.ndarray
    background_RC: np.ndarray
    final: float
    plain: float
    p_align: float
    predicted: str
    cam_valid: bool
    local: float | None = None
    patch: tuple[int, int] | None = None


def overlays_figure(
    groups: Mapping[str, Sequence[Overlay]], lam: float, threshold: float, final: str = FINAL["p_align"]
) -> plt.Figure:
    """A row a group; of each picture itself, its map over it, and its background, foreground left out.

    A frame in the picture is the patch of most evidence, where the score has that term.

    Args:
        groups: what the pictures of a row share -> the pictures, from the left.
        lam: λ of the final score.
        threshold: the score that 95 % of the ID pictures reach.
        final: what the final score is the sum of.
    """
    most = max(len(shown) for shown in groups.values())
    framed = any(overlay.patch is not None for shown in groups.values() for overlay in shown)
    figure = pyplot().figure(figsize=(4.1 * most + 0.5, 1.62 * len(groups) + 0.5), layout="constrained")
    figure.suptitle(
        f"S = {final.replace('λ', f'{lam:.3g}')}; 95 % of the ID pictures reach {_signed(threshold)}.   Each: picture"
        f"{', the best patch framed' * framed}, positive activation, background (foreground black)",
        fontsize=10,
    )
    for band, (label, shown) in zip(
        figure.subfigures(len(groups), 1, squeeze=False)[:, 0], groups.items(), strict=True
    ):
        edge, *cells = band.subfigures(1, 1 + most, width_ratios=[0.5, *[4.1] * most])
        edge.text(0.5, 0.5, label, rotation=90, ha="center", va="center", fontsize=10, weight="bold")
        for cell, overlay in zip(cells, shown, strict=False):
            cell.suptitle(_title(overlay), fontsize=7.5)
            for axes, draw in zip(cell.subplots(1, 3), (_picture, _activation, _background), strict=True):
                draw(axes, overlay)
                axes.set_axis_off()
    return figure


def _signed(value: float) -> str:
    """With a true minus, and digits that small scores still differ in."""
    return f"{value:.3f}".replace("-", "−")


def _title(overlay: Overlay) -> str:
    found = f"S {_signed(overlay.final)}, plain {_signed(overlay.plain)}, "
    found += f"P_align {_signed(overlay.p_align)}" if overlay.local is None else f"patch {_signed(overlay.local)}"
    return f"{overlay.name}\n{found}, predicted {overlay.predicted}" + ("" if overlay.cam_valid else ", no background")


def _picture(axes: Axes, overlay: Overlay) -> None:
    axes.imshow(overlay.picture_HWC)
    if overlay.patch is None:
        return
    height, width = overlay.picture_HWC.shape[:2]
    rows, columns = overlay.map_RC.shape
    (row, column), (tall, wide) = overlay.patch, (height / rows, width / columns)
    corner = column * wide - 0.5, row * tall - 0.5
    axes.add_patch(pyplot().Rectangle(corner, wide, tall, fill=False, color="white", linewidth=1.5))


def _activation(axes: Axes, overlay: Overlay) -> None:
    height, width = overlay.picture_HWC.shape[:2]
    positive_RC = np.maximum(overlay.map_RC, 0)
    axes.imshow(overlay.picture_HWC)
    axes.imshow(
        positive_RC,
        cmap="inferno",
        alpha=HEAT,
        vmin=0,
        vmax=max(float(positive_RC.max()), np.finfo(np.float32).tiny),
        interpolation="bilinear",
        extent=(-0.5, width - 0.5, height - 0.5, -0.5),
    )


def _background(axes: Axes, overlay: Overlay) -> None:
    height, width = overlay.picture_HWC.shape[:2]
    rows, columns = overlay.background_RC.shape
    seen_HW = overlay.background_RC[np.arange(height)[:, None] * rows // height, np.arange(width) * columns // width]
    axes.imshow(overlay.picture_HWC * seen_HW[..., None])  # black elsewhere

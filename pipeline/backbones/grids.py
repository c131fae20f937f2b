"""Where the tokens of a vision model lie: which of them are no patches, and the grid of the others. Knows no library.

Shape suffixes: B pictures or clips, L tokens as a model gives them, P steps, N patches of a step, D width.
"""

from dataclasses import dataclass
from math import ceil
from typing import Literal

from torch import Tensor

from pipeline.backbones.base import BackboneError, Grid


@dataclass(frozen=True)
class Layout:
    """How the states of one layer lie.

    Attributes:
        form: "tokens" (B, L, D), or a map with its channels "first" (B, D, h, w) or "last" (B, h, w, D).
        grid: steps, rows and columns of patches.
        prefix: tokens before the patches: CLS, distillation and register tokens.
        time_last: whether a patch's steps follow each other, in place of a step's patches.
    """

    form: Literal["tokens", "first", "last"]
    grid: Grid
    prefix: int = 0
    time_last: bool = False

    def patches(self, states: Tensor) -> Tensor:
        """(B, P * N, D): the patches alone, step after step, each in rows from the top left."""
        if self.form == "first":
            return states.flatten(2).mT
        if self.form == "last":
            return states.flatten(1, 2)
        tokens_BLD = states[:, self.prefix :]
        if self.time_last:
            tokens_BLD = tokens_BLD.unflatten(1, (-1, self.grid[0])).transpose(1, 2).flatten(1, 2)
        return tokens_BLD


def layout(
    shape: tuple[int, ...],
    size: tuple[int, int],
    *,
    steps: int = 1,
    prefix: int = 0,
    patch: tuple[int, int] | None = None,
    time_last: bool = False,
) -> Layout:
    """Finds the grid in the shape of a layer's states.

    Args:
        shape: of the states of B inputs.
        size: height and width of the pixels.
        steps: of time, in one input.
        prefix: as of `Layout`.
        patch: height and width of a patch, where the model has one; later layers may have merged them by halves.
        time_last: as of `Layout`.

    Raises:
        BackboneError: tokens that are no grid of so many steps over these pixels.

    >>> layout((1, 201, 768), (224, 224), prefix=5, patch=(16, 16)).grid
    (1, 14, 14)
    >>> layout((1, 2048, 5, 7), (160, 224)).form
    'first'
    """
    if len(shape) == 4 and steps == 1:
        if _even(shape[2:], size):
            return Layout("first", (1, *shape[2:]))
        if _even(shape[1:3], size):
            return Layout("last", (1, *shape[1:3]))
    elif len(shape) == 3:
        cells, rest = divmod(shape[1] - prefix, steps)
        found = None if rest or cells < 1 else _tiling(cells, size, patch)
        if found is not None:
            return Layout("tokens", (steps, *found), prefix, time_last)
    of = f"{steps} steps of " if steps > 1 else ""
    before = f", {prefix} of them before the patches" if prefix else ""
    raise BackboneError(
        f"its states {tuple(shape)}{before} are no grid of {of}{size[0]} x {size[1]} pixels; take output cls, pooler "
        "or projected, where it has them, or preprocess with a size that its patches tile"
    )


def _tiling(cells: int, size: tuple[int, int], patch: tuple[int, int] | None) -> tuple[int, int] | None:
    """Rows and columns of so many cells: the patches, or those merged by halves once or more; None where neither."""
    height, width = patch or (1, 1)
    while height <= size[0] or width <= size[1]:
        for grid in ((size[0] // height, size[1] // width), (ceil(size[0] / height), ceil(size[1] / width))):
            if grid[0] * grid[1] == cells:
                return grid
        height, width = 2 * height, 2 * width
    return None


def _even(cells: tuple[int, ...], size: tuple[int, int]) -> bool:
    """Whether rows and columns are in one measure, as nearly as rounding leaves it, and no more than pixels."""
    (rows, columns), (height, width) = cells, size
    return rows <= height and columns <= width and abs(rows * width - columns * height) < max(height, width)

"""From an activation map to P_align: does the background explain an image's class away? Knows no backbone and no file.

Shape suffixes: B images, S mask settings, N patches, E embedding width, C ID classes, M background words.
"""

import math
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor

from .words import CHUNK, chunks, unit_rows


def foreground(map_BN: Tensor, percentile: float, dilate: int, grid: tuple[int, int]) -> Tensor:
    """The patches that show the object: those of highest rank, grown by some steps.

    By rank and not by value: where fewer patches than asked for are positive, a threshold on the map after ReLU would
    be 0 and take them all.

    Args:
        map_BN: before ReLU, patches row by row.
        percentile: 80 takes the highest 20 %: ceil(20 % of N) patches, of equals those that come first.
        dilate: steps; each adds the neighbours above, below, left and right.
        grid: (rows, columns).

    Returns:
        (B, N) bool.

    Raises:
        ValueError: the grid does not hold N patches, the map is not finite, or a setting is out of range.

    >>> foreground(torch.tensor([[0.1, 0.9, 0.5, 0.2, 0.0, 0.0]]), 90, 1, (2, 3)).int().view(2, 3)
    tensor([[1, 1, 1],
            [0, 1, 0]], dtype=torch.int32)
    """
    rows, columns = grid
    patches = map_BN.shape[1]
    if rows * columns != patches:
        raise ValueError(f"maps of {patches} patches on a grid of {rows} x {columns}; give the backbone's grid")
    if not 0 <= percentile <= 100 or dilate < 0:
        raise ValueError(f"percentile {percentile} and dilate {dilate}, expected 0 to 100 and 0 or more")
    _refuse_nan("map", map_BN)
    count = math.ceil(patches * (1 - Fraction(str(percentile)) / 100))
    order = map_BN.argsort(dim=1, descending=True, stable=True)
    mask = torch.zeros_like(map_BN, dtype=torch.bool).scatter_(1, order[:, :count], True).unflatten(1, grid)
    for _ in range(dilate):
        grown = mask.clone()
        grown[:, 1:] |= mask[:, :-1]
        grown[:, :-1] |= mask[:, 1:]
        grown[:, :, 1:] |= mask[:, :, :-1]
        grown[:, :, :-1] |= mask[:, :, 1:]
        mask = grown
    return mask.flatten(1)


@torch.no_grad()
def background_embedding(patches_BNE: Tensor, foreground_BN: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of the background's patch projections, as a unit vector.

    Args:
        patches_BNE: projections, not normalised; half precision is added up in single.
        foreground_BN: bool, or (B, S, N) for S settings at once: 16 cost about what 2 cost one by one.

    Returns:
        (B, E) or (B, S, E) unit vectors, zeros where there is no background; and bool (B,) or (B, S), whether there is.

    Raises:
        ValueError: shapes disagree, or a patch is not finite.

    >>> patches = torch.tensor([[[3.0, 4.0], [9.0, 0.0]]]).expand(2, 2, 2)
    >>> background_embedding(patches, torch.tensor([[False, True], [True, True]]))
    (tensor([[0.6000, 0.8000],
            [0.0000, 0.0000]]), tensor([ True, False]))
    """
    if patches_BNE.shape[:2] != (foreground_BN.shape[0], foreground_BN.shape[-1]) or patches_BNE.ndim != 3:
        raise ValueError(
            f"patches of shape {tuple(patches_BNE.shape)} and foreground of {tuple(foreground_BN.shape)}, expected "
            "(images, patches, width) and (images, patches) or (images, settings, patches)"
        )
    dtype = torch.promote_types(torch.float32, patches_BNE.dtype)
    background_BSN = ~(foreground_BN.unsqueeze(1) if foreground_BN.ndim == 2 else foreground_BN)
    images, patches, width = patches_BNE.shape
    sum_BSE = torch.empty(images, background_BSN.shape[1], width, dtype=dtype, device=patches_BNE.device)
    # Few images at a time: what is converted is read again before it leaves the cache.
    for rows in chunks(images, patches * width, CHUNK // 4):
        torch.bmm(background_BSN[rows].to(dtype), patches_BNE[rows].to(dtype), out=sum_BSE[rows])
    _refuse_nan("sum of the background's patches", sum_BSE.flatten(1))
    shape = foreground_BN.shape[:-1]
    return F.normalize(sum_BSE, dim=-1).view(*shape, width), background_BSN.any(dim=-1).view(shape)


@torch.no_grad()
def p_align(
    background_BE: Tensor,
    classes_CE: Tensor,
    predicted_B: Tensor,
    negatives_ME: Tensor,
    k_neg: int,
    valid_B: Tensor,
) -> Tensor:
    """How much nearer the background is to the predicted class than to the background words that fit it best.

    Args:
        background_BE: of `background_embedding`.
        classes_CE, negatives_ME: unit text vectors of the ID classes and of the background words.
        predicted_B: int64, of `predict`.
        k_neg: how many of the largest cosines with background words are averaged.
        valid_B: bool, whether there is a background.

    Returns:
        (B,) cosines, in [-2, 2]; 0 where there is no background.

    Raises:
        ValueError: no background words, fewer than k_neg, an unknown class, shapes that disagree, or a vector that is
            no unit vector or not finite.

    >>> one = torch.tensor([[1.0, 0.0]])
    >>> p_align(one, torch.eye(2), torch.tensor([0]), torch.tensor([[0.6, 0.8]]), 1, torch.tensor([True]))
    tensor([0.4000])
    """
    words = len(negatives_ME)
    if not words:
        raise ValueError("there are no background words; lower tau, raise the percentile, or give a list of them")
    if not 1 <= k_neg <= words:
        raise ValueError(f"k_neg is {k_neg} of {words} background words, expected 1 to {words}; lower it or mine more")
    if not len(background_BE) == len(predicted_B) == len(valid_B):
        raise ValueError(
            f"{len(background_BE)} backgrounds, {len(predicted_B)} predicted classes and {len(valid_B)} flags; "
            "give one of each an image"
        )
    if len(predicted_B) and not 0 <= int(predicted_B.min()) <= int(predicted_B.max()) < len(classes_CE):
        raise ValueError(
            f"predicted classes {int(predicted_B.min())} to {int(predicted_B.max())} of {len(classes_CE)}; predict "
            "with the same class vectors"
        )
    filled_BE = torch.where(valid_B.unsqueeze(1), background_BE, classes_CE[:1].to(background_BE.dtype))
    filled_BE, classes_CE, negatives_ME = unit_rows(backgrounds=filled_BE, classes=classes_CE, negatives=negatives_ME)
    found_B = filled_BE.new_empty(len(filled_BE))
    buffer = filled_BE.new_empty(0)
    for rows in chunks(len(filled_BE), words):
        part_bE = filled_BE[rows]
        cosine_bM = torch.mm(part_bE, negatives_ME.T, out=buffer.resize_(len(part_bE), words))
        own_b = (part_bE * classes_CE[predicted_B[rows]]).sum(dim=1)
        found_B[rows] = own_b - cosine_bM.topk(k_neg, dim=1, sorted=False).values.mean(dim=1)
    return found_B.masked_fill_(~valid_B, 0)


def _refuse_nan(what: str, x_BD: Tensor) -> None:
    wrong = ~x_BD.isfinite().all(dim=1)
    if wrong.any():
        image = int(wrong.nonzero()[0])
        raise ValueError(f"{what} of image {image} of the batch is not finite; extract the image anew")

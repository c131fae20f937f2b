"""The local score: does any single patch show an ID class? Knows no backbone and no file.

Shape suffixes: B images, N patches, E embedding width, C ID classes, M negative words, U classes and words together.

P_align reads the background, while the evidence for a class is in the object: so ask every patch, and take the best.
Both terms are logits. Added to the sigmoids that S_NegLabel averages, which saturate, a patch would reorder the images
of highest score.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .words import chunks, unit_rows

# One word in SOME gives the bound; with fewer than FEW such words all patches are compared with all words. STEP patches
# at a time; SLACK logits is more than rounding can take from a bound.
SOME, FEW, STEP, SLACK = 6, 50, 16, 1e-2


@torch.no_grad()
def evidence(x_BE: Tensor, classes_CE: Tensor, negatives_ME: Tensor, scale: float = 100.0) -> Tensor:
    """(B,) logits: e(x) = logsumexp_c(scale x . t_c) - logsumexp_j(scale x . n_j), over all words.

    With one group of all words, S_NegLabel is the sigmoid of it.

    Args:
        x_BE, classes_CE, negatives_ME: unit vectors.
        scale: of the logits; CLIP's is 100.

    Raises:
        ValueError: a vector is no unit vector or not finite, or widths disagree.

    >>> evidence(torch.tensor([[0.6, 0.8]]), torch.eye(2)[:1], torch.eye(2)[1:], scale=10.0)
    tensor([-2.])
    """
    x_BE, classes_CE, negatives_ME = unit_rows(images=x_BE, classes=classes_CE, negatives=negatives_ME)
    texts_UE = scale * torch.cat([classes_CE, negatives_ME])
    rows = chunks(len(x_BE), len(texts_UE))
    return torch.cat([_evidence(x_BE[of], texts_UE, len(classes_CE)) for of in rows])


@torch.no_grad()
def local_evidence(
    patches_BNE: Tensor, classes_CE: Tensor, negatives_ME: Tensor, scale: float = 100.0
) -> tuple[Tensor, Tensor]:
    """The largest evidence of any patch, and which patch has it.

    Args:
        patches_BNE: projections of the patches, of any length; half precision is computed in single.
        classes_CE, negatives_ME, scale: as of `evidence`.

    Returns:
        (B,) logits; (B,) int64 places among the N patches, one of those that are equal to rounding.

    Raises:
        ValueError: a patch is not finite or has length 0, a text is no unit vector, or widths disagree.

    >>> patches = torch.tensor([[[0.0, 2.0], [3.0, 0.0]]])
    >>> local_evidence(patches, torch.eye(2)[:1], torch.eye(2)[1:], scale=10.0)
    (tensor([10.]), tensor([1]))
    """
    if patches_BNE.ndim != 3 or not patches_BNE.shape[1] or patches_BNE.shape[2] != classes_CE.shape[1]:
        raise ValueError(
            f"patches are of shape {tuple(patches_BNE.shape)}, expected (images, patches, {classes_CE.shape[1]}) with "
            "one patch at least; take them from the CLIP of the texts"
        )
    classes_CE, negatives_ME = unit_rows(classes=classes_CE, negatives=negatives_ME)
    texts_UE = scale * torch.cat([classes_CE, negatives_ME])
    images, patches, _ = patches_BNE.shape
    dtype = torch.promote_types(texts_UE.dtype, patches_BNE.dtype)
    texts_UE = texts_UE.to(dtype)
    best_B = patches_BNE.new_empty(images, dtype=dtype)
    place_B = torch.empty(images, dtype=torch.int64, device=patches_BNE.device)
    for rows in chunks(images, patches * len(texts_UE)):
        some_bNE = patches_BNE[rows].to(dtype)
        length_bN = some_bNE.norm(dim=2)
        wrong = ~((length_bN > 0) & length_bN.isfinite()).all(dim=1)
        if wrong.any():
            image = rows.start + int(wrong.nonzero()[0])
            raise ValueError(f"a patch of image {image} of the batch is zero or not finite; extract the image anew")
        some_bNE = F.normalize(some_bNE, dim=2)
        if len(negatives_ME) < FEW * SOME:
            best_B[rows], place_B[rows] = _evidence(some_bNE, texts_UE, len(classes_CE)).max(dim=1)
        else:
            best_B[rows], place_B[rows] = _searched(some_bNE, texts_UE, len(classes_CE))
    return best_B, place_B


def _searched(patches_bNE: Tensor, texts_UE: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """The largest evidence and its place, exact, for a part of the price of all patches against all words.

    Words left out only raise e, so e over one word in SOME is a bound. Patches are taken by falling bounds, STEP at a
    time, until no bound of an image is above its best.
    """
    images, patches, _ = patches_bNE.shape
    bound_bN = _evidence(patches_bNE, torch.cat([texts_UE[:classes], texts_UE[classes::SOME]]), classes)
    bound_bN, order_bN = bound_bN.sort(dim=1, descending=True, stable=True)
    best_b = patches_bNE.new_full((images,), -torch.inf)
    place_b = order_bN[:, 0].clone()
    for start in range(0, patches, STEP):
        (open_a,) = (bound_bN[:, start] + SLACK >= best_b).nonzero(as_tuple=True)
        if not len(open_a):
            break
        at_ak = order_bN[open_a, start : start + STEP]
        found_ak = _evidence(patches_bNE[open_a[:, None], at_ak], texts_UE, classes)
        found_a, k_a = found_ak.max(dim=1)
        better_a = found_a > best_b[open_a]
        place_b[open_a] = torch.where(better_a, at_ak.gather(1, k_a[:, None])[:, 0], place_b[open_a])
        best_b[open_a] = torch.where(better_a, found_a, best_b[open_a])
    return best_b, place_b


def _evidence(x_DE: Tensor, texts_UE: Tensor, classes: int) -> Tensor:
    """e of vectors in any number of dimensions."""
    logits = x_DE @ texts_UE.T
    return logits[..., :classes].logsumexp(dim=-1) - logits[..., classes:].logsumexp(dim=-1)

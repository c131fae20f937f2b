"""S_NegLabel and its variants: how much better an image fits the ID classes than negative words. Knows no image.

Higher is more ID. Each variant is a switch of its own: M1 keeps the largest negatives of a group (`topk`), M2 groups
words of some roles only (positions for `groups`), M3 standardises with a reference set (`Standard`).

Shape suffixes: B images, E embedding width, C ID classes, M negative words, G groups, K words of a group, V variants.
Source: Jiang et al., "Negative Label Guided OOD Detection with Pretrained Vision-Language Models", ICLR 2024, eq. 5, 8.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .words import chunks, unit_rows


class Variant(NamedTuple):
    """One way of weighing negatives.

    Attributes:
        groups_GK: int64, positions among the negatives.
        topk: the negatives of a group that count (M1); None counts all.
    """

    groups_GK: Tensor
    topk: int | None = None


class Standard(NamedTuple):
    """M3: scores in standard deviations from the mean of a reference set of ID images, never of the batch."""

    mean: float
    std: float

    @classmethod
    def fit(cls, scores_B: Tensor) -> "Standard":
        """Mean and standard deviation (of a sample: n - 1) of the reference set's scores, in double precision.

        Raises:
            ValueError: fewer than two scores, one that is not finite, or all equal.

        >>> Standard.fit(torch.tensor([1.0, 2.0, 3.0]))
        Standard(mean=2.0, std=1.0)
        """
        scores = scores_B.double()
        if scores.numel() < 2:
            raise ValueError(
                f"{scores.numel()} reference scores, expected 2 at least: take ID validation images, not what is scored"
            )
        if not scores.isfinite().all():
            raise ValueError("a reference score is not finite; extract its image anew")
        if bool(scores.min() == scores.max()):
            raise ValueError(
                f"all {scores.numel()} reference scores are {float(scores[0])}: they have no deviation to divide by; "
                "take other reference images or turn the z-score off"
            )
        return cls(float(scores.mean()), float(scores.std()))

    def apply(self, scores_B: Tensor) -> Tensor:
        """(B,) of the same dtype.

        >>> Standard(2.0, 0.5).apply(torch.tensor([3.0]))
        tensor([2.])
        """
        return (scores_B - self.mean) / self.std


def groups(words: int | Sequence[int], n_groups: int, seed: int) -> Tensor:
    """Draws groups of equal size: drops the last M mod G words, permutes the others, cuts.

    Args:
        words: how many there are, or the positions of those that may be drawn (M2), in the list's order.
        n_groups: G.
        seed: of a generator on the CPU: a device's generator draws otherwise.

    Returns:
        (G, K) int64 on the CPU, positions among the negatives. Worth keeping: torch may change its permutations.

    Raises:
        ValueError: fewer words than groups, or none.

    >>> groups(7, 3, seed=0).flatten().sort().values.tolist(), groups([4, 8], 1, seed=0).sum().item()
    ([0, 1, 2, 3, 4, 5], 12)
    """
    positions = torch.arange(words) if isinstance(words, int) else torch.as_tensor(words, dtype=torch.int64)
    if not len(positions):
        raise ValueError("no negative words to group; mine more of them, or let words of other roles in")
    if not 1 <= n_groups <= len(positions):
        raise ValueError(
            f"{n_groups} groups of {len(positions)} negative words, expected 1 to {len(positions)}; "
            "lower the number of groups or mine more words"
        )
    size = len(positions) // n_groups
    drawn = torch.randperm(n_groups * size, generator=torch.Generator().manual_seed(seed))
    return positions[drawn].view(n_groups, size)


def neglabel(
    images_BE: Tensor,
    classes_CE: Tensor,
    negatives_ME: Tensor,
    groups_GK: Tensor,
    scale: float = 100.0,
    topk: int | None = None,
) -> Tensor:
    """S = mean over groups of P / (P + Q_g), P and Q_g the sums of exp(scale * cosine) over classes and over a group.

    Args:
        images_BE, classes_CE, negatives_ME: unit vectors.
        groups_GK: of `groups`, over all words or over some roles' (M2).
        scale: CLIP's logit scale.
        topk: sums the k largest negatives of a group, times K / k, so that k = K changes nothing (M1).

    Returns:
        (B,) in [0, 1], of the inputs' dtype, single precision at least.

    Raises:
        ValueError: a vector is no unit vector or not finite, widths disagree, a group names a word that there is not,
            or topk is not in 1..K.

    >>> neglabel(torch.eye(2), torch.eye(2)[:1], torch.eye(2)[1:], torch.tensor([[0]]), scale=1.0)
    tensor([0.7311, 0.2689])
    """
    return neglabels(images_BE, classes_CE, negatives_ME, [Variant(groups_GK, topk)], scale)[0]


@torch.no_grad()
def neglabels(
    images_BE: Tensor, classes_CE: Tensor, negatives_ME: Tensor, variants: Sequence[Variant], scale: float = 100.0
) -> Tensor:
    """(V, B): `neglabel` for each variant, for hardly more than the price of one: the cosines are nine tenths of it.

    Images go in chunks: it makes a copy of the words that are used and some times 8 MiB, however many images there are.

    Raises:
        ValueError: as for `neglabel`.
    """
    images_BE, classes_CE, negatives_ME = unit_rows(images=images_BE, classes=classes_CE, negatives=negatives_ME)
    for variant in variants:
        _refuse(variant, len(negatives_ME))
    # Only words that some group holds are multiplied; `at` says where each of them went.
    named = torch.cat([variant.groups_GK.flatten() for variant in variants]).to(negatives_ME.device)
    used, at = named.unique(return_inverse=True)
    places = at.split([variant.groups_GK.numel() for variant in variants])
    words_UE = negatives_ME.index_select(0, used)

    scores_VB = images_BE.new_empty(len(variants), len(images_BE))
    buffer = images_BE.new_empty(0)  # one for all chunks: fresh pages cost as much as the arithmetic on them
    for rows in chunks(len(images_BE), len(words_UE)):
        logits_bE = scale * images_BE[rows]
        fit_b1 = (logits_bE @ classes_CE.T).logsumexp(dim=1, keepdim=True)
        # exp(negative) / P. Where this overflows, S is 0 to the last digit, and where it underflows, 1.
        buffer = buffer.resize_(len(logits_bE), len(words_UE))
        ratio_bU = torch.mm(logits_bE, words_UE.T, out=buffer).sub_(fit_b1).exp_()
        for variant, place, score_B in zip(variants, places, scores_VB, strict=True):
            ratio_bGK = ratio_bU.index_select(1, place).unflatten(1, variant.groups_GK.shape)
            score_B[rows] = (1 + _group_sums(ratio_bGK, variant.topk)).reciprocal().mean(dim=1)
    return scores_VB


@torch.no_grad()
def predict(images_BE: Tensor, classes_CE: Tensor) -> Tensor:
    """(B,) int64: the class of highest cosine, the first of equals.

    Raises:
        ValueError: a vector is no unit vector or not finite, or widths disagree.

    >>> predict(torch.tensor([[0.6, 0.8]]), torch.eye(2))
    tensor([1])
    """
    images_BE, classes_CE = unit_rows(images=images_BE, classes=classes_CE)
    return torch.cat(
        [(images_BE[rows] @ classes_CE.T).argmax(dim=1) for rows in chunks(len(images_BE), len(classes_CE))]
    )


def combine(star_B: Tensor, p_align_B: Tensor, lam: float) -> Tensor:
    """S = S* + lam * P_align.

    >>> combine(torch.tensor([0.5]), torch.tensor([0.25]), 2.0)
    tensor([1.])
    """
    return star_B + lam * p_align_B


def _group_sums(ratio_bGK: Tensor, topk: int | None) -> Tensor:
    """(b, G): the sum over each group, or that of its k largest times K / k. Reorders its input."""
    size = ratio_bGK.shape[2]
    if topk is None or topk == size:
        return ratio_bGK.sum(dim=2)
    if ratio_bGK.device.type == "cpu":
        # In place. 0.02 ms an image of 100 groups of 100, torch's topk takes 0.4.
        ratio_bGK.numpy().partition(size - topk, axis=2)
        largest = ratio_bGK[..., size - topk :]
    else:
        largest = ratio_bGK.topk(topk, dim=2, sorted=False).values
    return largest.sum(dim=2) * (size / topk)


def _refuse(variant: Variant, words: int) -> None:
    groups_GK, topk = variant
    if groups_GK.ndim != 2 or not groups_GK.numel():
        raise ValueError(f"groups are of shape {tuple(groups_GK.shape)}, expected (groups, words of a group)")
    low, high = int(groups_GK.min()), int(groups_GK.max())
    if low < 0 or high >= words:
        raise ValueError(
            f"groups hold positions {low} to {high} of {words} negative words; draw them from this list of words"
        )
    size = groups_GK.shape[1]
    if topk is not None and not (1 <= topk <= size and math.floor(topk) == topk):
        raise ValueError(f"topk is {topk} of groups of {size} words, expected 1 to {size}; lower it or the groups")

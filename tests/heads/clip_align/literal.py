"""Guidance and losses written as the loops that their definitions say, on plain numbers of one sample at a time."""

import math
from itertools import product

import torch
from torch import Tensor

from pipeline.heads.clip_align.model import ClipAlign

GRID = (3, 2, 4)
SMALL = {
    "width_in": 6,
    "grid": GRID,
    "classes": 3,
    "channels": 2,
    "scale": 2,
    "encoder": "3dcnn",
    "guidance": "spatiotemporal",
    "gate": "linear",
    "width": 8,
    "feature_dim": 12,
    "embed_dim": 10,
    "map_width": 8,
    "dropout": 0.1,
    "classifier_source": "video",
    "map_dropout": 0.0,
    "map_teach": 0.5,
}


def small(**changes) -> ClipAlign:
    """A float64 model in eval mode, the same for the same seed."""
    torch.manual_seed(1)
    return ClipAlign(**SMALL | changes).double().eval()


def batch(videos: int = 5, **changes) -> tuple[Tensor, Tensor]:
    """Tokens and maps that fit `small` of the same changes."""
    sizes = SMALL | changes
    (steps, rows, columns), scale = sizes["grid"], sizes["scale"]
    tokens = torch.randn(videos, steps, rows * columns, sizes["width_in"], dtype=torch.float64)
    maps = torch.rand(videos, sizes["channels"], steps, rows * scale, columns * scale, dtype=torch.float64)
    return tokens, maps


def cells(grid) -> list[tuple[int, int, int]]:
    return list(product(*map(range, grid)))


def sums(map_CTHW: Tensor, scale: int) -> dict:
    """Cell of a token -> the sum of what the map has there, over channels too."""
    channels, steps, rows, columns = map_CTHW.shape
    found = {}
    for t, h, w in cells((steps, rows // scale, columns // scale)):
        found[t, h, w] = 0.0
        for c, i, j in product(range(channels), range(scale), range(scale)):
            found[t, h, w] += float(map_CTHW[c, t, h * scale + i, w * scale + j])
    return found


def token_map(map_CTHW: Tensor, scale: int) -> dict:
    """Cell -> m."""
    count = len(map_CTHW) * scale * scale
    raw = {cell: total / count for cell, total in sums(map_CTHW, scale).items()}
    low, high = min(raw.values()), max(raw.values())
    return {cell: (value - low) / (high - low) if high > low else 0.0 for cell, value in raw.items()}


def step_map(map_CTHW: Tensor, scale: int) -> dict:
    """Cell -> share of its step; 0 in a step where nothing is marked, and everywhere of a constant map."""
    raw, steps = sums(map_CTHW, scale), map_CTHW.shape[1]
    if max(raw.values()) == min(raw.values()):
        return dict.fromkeys(raw, 0.0)
    of_step = [sum(value for cell, value in raw.items() if cell[0] == t) for t in range(steps)]
    return {cell: value / of_step[cell[0]] if of_step[cell[0]] else 0.0 for cell, value in raw.items()}


def predicted(head, tokens_THWD: Tensor) -> dict:
    """(h, w) -> a = softmax_HW(mean_T MLP([x_thw; mean_T x_hw]))."""
    steps, rows, columns, _ = tokens_THWD.shape
    first, bias, last = head.hidden.weight.tolist(), head.hidden.bias.tolist(), head.score.weight[0].tolist()
    scores = {}
    for h, w in product(range(rows), range(columns)):
        average = mean([tokens_THWD[t, h, w] for t in range(steps)]).tolist()
        total = 0.0
        for t in range(steps):
            given = [*tokens_THWD[t, h, w].tolist(), *average]
            for row, offset, weight in zip(first, bias, last, strict=True):
                x = offset + sum(a * b for a, b in zip(row, given, strict=True))
                total += weight * x * (1 + math.erf(x / math.sqrt(2))) / 2
        scores[h, w] = total / steps
    norm = sum(math.exp(score) for score in scores.values())
    return {cell: math.exp(score) / norm for cell, score in scores.items()}


def divergence(m: dict, a: dict) -> float | None:
    """mean_t KL(m_t || a) over the steps in which something is marked; None where there is none."""
    terms = []
    for t in sorted({cell[0] for cell in m}):
        step = {cell[1:]: share for cell, share in m.items() if cell[0] == t}
        if any(step.values()):
            terms.append(sum(share * math.log(share / a[cell]) for cell, share in step.items() if share))
    return sum(terms) / len(terms) if terms else None


def mean(vectors: list[Tensor]) -> Tensor:
    return sum(vectors) / len(vectors)


def weighted(vectors: dict, weights: dict) -> Tensor:
    """Weighted mean of cells' vectors; the plain one if no cell has a weight."""
    total = sum(float(weights[cell]) for cell in vectors)
    if total == 0:
        return mean(list(vectors.values()))
    return sum(vectors[cell] * float(weights[cell]) for cell in vectors) / total


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def softened(m: dict, kernel: Tensor, bias: float) -> dict:
    """sigmoid(conv(m)), 3 x 3 x 3, zero outside of the grid."""
    gate = {}
    for t, h, w in m:
        total = bias
        for i, j, k in product((-1, 0, 1), repeat=3):
            total += float(kernel[i + 1, j + 1, k + 1]) * m.get((t + i, h + j, w + k), 0.0)
        gate[t, h, w] = sigmoid(total)
    return gate


def pearson(one: list[float], other: list[float]) -> float | None:
    """None if either is constant."""
    if max(one) == min(one) or max(other) == min(other):
        return None
    a, b = sum(one) / len(one), sum(other) / len(other)
    covariance = sum((x - a) * (y - b) for x, y in zip(one, other, strict=True))
    return covariance / math.sqrt(sum((x - a) ** 2 for x in one) * sum((y - b) ** 2 for y in other))


def clip(video, attn, scale: float, positive, valid, excluded) -> float:
    """Symmetric InfoNCE with several positives, less its floor, pair by pair."""
    rows = [i for i in range(len(video)) if valid[i]]

    def one_way(anchor, other, positive, excluded):
        losses = []
        for i in rows:
            near = {j: math.exp(scale * float(anchor[i] @ other[j])) for j in rows if not excluded[i][j]}
            own = [j for j in near if positive[i][j]]
            losses.append(mean([-math.log(near[j] / sum(near.values())) for j in own]) - math.log(len(own)))
        return mean(losses) if losses else 0.0

    return (one_way(video, attn, positive, excluded) + one_way(attn, video, positive.T, excluded.T)) / 2


def classification(logits, labels, smoothing: float, weights) -> float:
    """Each target is (1 - smoothing) at the label and smoothing / K everywhere, each class times its weight."""
    total = norm = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        log_sum = math.log(sum(math.exp(x) for x in row))
        for k, x in enumerate(row):
            target = smoothing / len(row) + (1 - smoothing) * (k == label)
            total -= target * float(weights[k]) * (x - log_sum)
        norm += float(weights[label])
    return total / norm

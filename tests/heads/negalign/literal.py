"""NegAlign as its definition reads: loops over images, words and patches, in plain Python numbers."""

import math
from itertools import pairwise

import torch
from torch import Tensor


def vectors(seed: int, *counts: int, width: int = 6) -> list[Tensor]:
    """Random unit vectors, float64."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.nn.functional.normalize(torch.randn(n, width, generator=generator, dtype=torch.float64), dim=1)
        for n in counts
    ]


def dot(a, b) -> float:
    return math.fsum(float(x) * float(y) for x, y in zip(a, b, strict=True))


def cosine(a, b) -> float:
    return dot(a, b) / math.sqrt(dot(a, a) * dot(b, b))


def quantile(values, q):
    """Between ranks by straight lines."""
    values = sorted(values)
    place = q * (len(values) - 1)
    low = math.floor(place)
    high = min(low + 1, len(values) - 1)
    return values[low] + (place - low) * (values[high] - values[low])


def candidate_scores(words, classes, q):
    return [quantile([cosine(word, name) for name in classes], q) for word in words]


def role_scores(plain, thing, place):
    return [cosine(p, t) - cosine(p, b) for p, t, b in zip(plain, thing, place, strict=True)]


def neglabel(images, classes, negatives, groups, scale=100.0, topk=None):
    scores = []
    for image in images:
        fit = math.fsum(math.exp(scale * cosine(image, name)) for name in classes)
        parts = []
        for group in groups.tolist():
            weights = sorted((math.exp(scale * cosine(image, negatives[j])) for j in group), reverse=True)
            k = len(weights) if topk is None else topk
            parts.append(fit / (fit + math.fsum(weights[:k]) * len(weights) / k))
        scores.append(math.fsum(parts) / len(parts))
    return scores


def evidence(x, classes, negatives, scale=100.0):
    """e of one vector of any length."""
    for_it, against = (math.fsum(math.exp(scale * cosine(x, text)) for text in texts) for texts in (classes, negatives))
    return math.log(for_it) - math.log(against)


def local_evidence(patches, classes, negatives, scale=100.0):
    """Of one image's patches: the largest e, and which patch has it."""
    best, place = -math.inf, None
    for i, patch in enumerate(patches):
        found = evidence(patch, classes, negatives, scale)
        if found > best:
            best, place = found, i
    return best, place


def foreground(row, percentile, dilate, grid):
    """Indices of one image's foreground."""
    rows, columns = grid
    inside = set()
    while 100 * len(inside) < len(row) * (100 - percentile):  # up to the first count that holds the share
        best = None
        for i in range(len(row)):
            if i not in inside and (best is None or row[i] > row[best]):
                best = i
        inside.add(best)
    for _ in range(dilate):
        grown = set(inside)
        for i in inside:
            for down, right in ((0, 1), (0, -1), (1, 0), (-1, 0)):
                y, x = i // columns + down, i % columns + right
                if 0 <= y < rows and 0 <= x < columns:
                    grown.add(y * columns + x)
        inside = grown
    return inside


def background_embedding(patches, inside):
    """One image's background embedding, None where there is none."""
    outside = [i for i in range(len(patches)) if i not in inside]
    if not outside:
        return None
    mean = [math.fsum(float(patches[i][e]) for i in outside) / len(outside) for e in range(len(patches[0]))]
    norm = math.sqrt(dot(mean, mean))
    return [x / norm for x in mean]


def p_align(background, name, negatives, k_neg):
    if background is None:
        return 0.0
    best = sorted((cosine(background, word) for word in negatives), reverse=True)[:k_neg]
    return cosine(background, name) - math.fsum(best) / k_neg


def ood_metrics(id_scores, ood_scores):
    """Percent, by counting: pairs for AUROC, thresholds for the others."""
    pairs = [(a > b) + (a == b) / 2 for a in id_scores for b in ood_scores]
    thresholds = sorted({*id_scores, *ood_scores}, reverse=True)
    recall, false = [0.0], [0.0]
    precision_in = []
    for t in thresholds:
        hits, wrong = sum(s >= t for s in id_scores), sum(s >= t for s in ood_scores)
        recall.append(hits / len(id_scores))
        false.append(wrong / len(ood_scores))
        precision_in.append(hits / (hits + wrong))
    aupr_in = math.fsum((b - a) * p for (a, b), p in zip(pairwise(recall), precision_in, strict=True))
    recall_out, precision_out = [0.0], []
    for t in reversed(thresholds):
        hits, wrong = sum(s <= t for s in ood_scores), sum(s <= t for s in id_scores)
        recall_out.append(hits / len(ood_scores))
        precision_out.append(hits / (hits + wrong))
    aupr_out = math.fsum((b - a) * p for (a, b), p in zip(pairwise(recall_out), precision_out, strict=True))
    first = next(i for i, r in enumerate(recall) if r >= 0.95)
    return {
        "auroc": 100 * math.fsum(pairs) / len(pairs),
        "aupr_in": 100 * aupr_in,
        "aupr_out": 100 * aupr_out,
        "fpr95": 100 * false[first],
    }

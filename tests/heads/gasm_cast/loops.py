"""Small sizes, and attention written as the loops that its definition says."""

import math

import torch
from torch import Tensor, nn

SMALL = {
    "semantic_dim": 16,
    "motion_dim": 12,
    "steps": 3,
    "semantic_grid": (4, 6),
    "motion_grid": (2, 3),
    "n_classes": 5,
    "fusion": "cast",
    "layers": 2,
    "attention_heads": 2,
    "bottleneck": 8,
    "window": "cell",
    "graph": "full",
    "radii": (1, -1),
    "semantic_neighbours": 3,
    "motion_neighbours": 1,
    "dropout": 0.3,
    "token_dropout": 0.3,
    "width": 8,
}


def attention_by_loops(query: Tensor, keys: Tensor, values: Tensor, heads: int, bias=None, edges=None) -> Tensor:
    """What one token (W,) reads of keys (K, W) and values (K, V): slice by slice, key by key.

    `bias(head, j)` joins the logits; `edges` are the indices that may be read.
    """
    read = []
    for head in range(heads):
        wide, deep = len(query) // heads, values.shape[1] // heads
        own = slice(head * wide, (head + 1) * wide)
        weights = {}
        for j in range(len(keys)) if edges is None else edges:
            logit = float(query[own] @ keys[j, own]) / math.sqrt(wide) + (float(bias(head, j)) if bias else 0.0)
            weights[j] = math.exp(logit)
        total = sum(weights.values())
        read.append(sum(w / total * values[j, head * deep : (head + 1) * deep] for j, w in weights.items()))
    return torch.cat(read)


@torch.no_grad()
def stir(module: nn.Module, scale: float = 0.5) -> nn.Module:
    """Random values in every parameter, so that what starts at zero is tested too. Float64, in eval mode."""
    module.double().eval()
    for parameter in module.parameters():
        parameter.copy_(torch.randn_like(parameter) * scale)
    return module


def edges_by_loops(features, grid, radius, neighbours):
    nodes = len(features)
    cosine = [[float(torch.cosine_similarity(a, b, dim=0)) for b in features] for a in features]
    near = {
        i: sorted((j for j in range(nodes) if j != i), key=lambda j: -cosine[i][j])[:neighbours] for i in range(nodes)
    }
    edges = set()
    for i in range(nodes):
        for j in range(nodes):
            apart = max(abs(i // grid[1] - j // grid[1]), abs(i % grid[1] - j % grid[1]))
            if apart <= radius or j in near[i] or i in near[j]:
                edges.add((i, j))
    return edges, torch.tensor(cosine)

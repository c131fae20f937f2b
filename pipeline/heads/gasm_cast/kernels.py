"""Pure kernels of GASM-CAST: positions, edges, attention, regrouping. Knows no parameters and no modules.

Shape suffixes: B videos, T steps, N nodes of one graph, G graphs laid side by side in the batch, D any width of a
token, W attention width, H attention heads, Q reading tokens, K tokens that are read, L tokens of a group.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

UNBOUNDED = -1  # the radius that joins every node to every other


def sincos(position: Tensor, width: int, longest: float = 100.0) -> Tensor:
    """Sines and cosines of a position, at wavelengths from 2 pi to 2 pi * `longest`: unit scale, nothing learned.

    Args:
        position: (...) in units of steps, rows or columns.
        width: length of the code, even.
        longest: ratio of the longest wavelength to the shortest. Grids here have at most some tens of steps or rows;
            with the customary 10,000 three quarters of the code would hardly change over them.

    Returns:
        (..., width): all sines, then all cosines.

    >>> sincos(torch.tensor([0.0, math.pi / 4]), 2)
    tensor([[0.0000, 1.0000],
            [0.7071, 0.7071]])
    """
    exponent = torch.arange(width // 2, device=position.device, dtype=position.dtype) / (width // 2)
    angle = position.unsqueeze(-1) * longest**-exponent
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def sincos_grid(grid: tuple[int, int], width: int) -> Tensor:
    """(rows * columns, width) codes of a grid's nodes, row by row: half of the width says the row, half the column.

    >>> code = sincos_grid((2, 3), 8)
    >>> code.shape, bool((code[0, :4] == code[2, :4]).all()), bool((code[0, 4:] == code[3, 4:]).all())
    (torch.Size([6, 8]), True, True)
    """
    row, column = (axis.flatten().float() for axis in torch.meshgrid(*map(torch.arange, grid), indexing="ij"))
    return torch.cat([sincos(row, width // 2), sincos(column, width // 2)], dim=-1)


def relative_steps(times_BT: Tensor) -> Tensor:
    """Seconds turned into steps: 0 at a video's first token, T - 1 at its last, whatever the video's length.

    Raises:
        ValueError: the times of a video do not increase.

    >>> relative_steps(torch.tensor([[0.5, 1.5, 2.5], [10.0, 10.1, 10.4]], dtype=torch.float64))
    tensor([[0.0000, 1.0000, 2.0000],
            [0.0000, 0.5000, 2.0000]], dtype=torch.float64)
    """
    wrong = (times_BT.diff(dim=1) <= 0).any(dim=1)
    if not torch.compiler.is_exporting() and wrong.any():
        video = int(wrong.nonzero()[0])
        raise ValueError(
            f"times of video {video} of the batch must increase from step to step, got {times_BT[video].tolist()}; "
            "to shuffle or reverse a video, permute its tokens and leave its times as they are"
        )
    start, end = times_BT[:, :1], times_BT[:, -1:]
    return (times_BT - start) * (times_BT.shape[1] - 1) / (end - start).clamp_min(torch.finfo(times_BT.dtype).tiny)


def grid_offsets(grid: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """How the nodes of a grid of two axes or more lie to each other.

    Returns:
        index (N, N), of node i's row and column less node j's in a flattened (2 rows - 1, 2 columns - 1) table, and
        distance (N, N), Chebyshev: the largest of the differences.

    >>> index, distance = grid_offsets((1, 3))
    >>> index.tolist(), distance.tolist()
    ([[2, 1, 0], [3, 2, 1], [4, 3, 2]], [[0, 1, 2], [1, 0, 1], [2, 1, 0]])
    """
    place = torch.cartesian_prod(*map(torch.arange, grid))
    difference = place[:, None] - place[None, :]
    index = torch.zeros(difference.shape[:2], dtype=torch.long)
    for axis, size in enumerate(grid):
        index = index * (2 * size - 1) + difference[..., axis] + size - 1
    return index, difference.abs().amax(dim=-1)


def tracked_offsets(steps: int, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """How the nodes of all steps of a grid lie to each other, step by step.

    Returns:
        distance (T N, T N), Chebyshev within the grid, whatever the steps; and near (T N, T N) bool, whether two nodes
        are of one step, or of two that follow each other.

    >>> distance, near = tracked_offsets(3, (1, 2))
    >>> distance[0].tolist(), near[0].tolist()
    ([0, 1, 0, 1, 0, 1], [True, True, True, True, False, False])
    """
    step = torch.arange(steps).repeat_interleave(math.prod(grid))
    return grid_offsets(grid)[1].repeat(steps, steps), (step[:, None] - step[None, :]).abs() <= 1


def cosines(features_GND: Tensor) -> Tensor:
    """(G, N, N) cosine of each pair of nodes; 0 for a node whose feature is zero.

    >>> cosines(torch.tensor([[[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]]])).tolist()
    [[[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]]
    """
    unit_GND = F.normalize(features_GND, dim=-1)
    return unit_GND @ unit_GND.transpose(1, 2)


def nearest_edges(cosine_GNN: Tensor, neighbours: int) -> Tensor:
    """(G, N, N) bool, symmetric: i and j are joined where either is among the other's `neighbours` most similar nodes.

    A node is no neighbour of itself. More neighbours than there are other nodes join all.

    >>> nearest_edges(torch.tensor([[[1.0, 0.9, 0.1], [0.9, 1.0, 0.2], [0.1, 0.2, 1.0]]]), 1).int().tolist()
    [[[0, 1, 0], [1, 0, 1], [0, 1, 0]]]
    """
    nodes = cosine_GNN.shape[-1]
    others = cosine_GNN.masked_fill(torch.eye(nodes, dtype=torch.bool, device=cosine_GNN.device), -math.inf)
    nearest = others.topk(min(neighbours, nodes - 1), dim=-1, sorted=False).indices
    chosen = torch.zeros_like(cosine_GNN, dtype=torch.bool).scatter_(-1, nearest, True)
    return chosen | chosen.transpose(1, 2)


@torch.no_grad()
def learned_edges(query_GNW: Tensor, key_GNW: Tensor, heads: int, neighbours: int) -> Tensor:
    """(G, H, N, N): 0 where a node reads another in a head, -inf elsewhere: the `neighbours` with the largest q . k.

    Which are read has no gradient; what they are read with has, by attention itself. More neighbours than there are
    nodes join all.

    >>> q = torch.tensor([[[1.0], [-1.0]]])
    >>> learned_edges(q, q, 1, 1).tolist()
    [[[[0.0, -inf], [-inf, 0.0]]]]
    """
    query_GHNE, key_GHNE = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query_GNW, key_GNW))
    similar_GHNN = query_GHNE @ key_GHNE.transpose(-1, -2)
    chosen = similar_GHNN.topk(min(neighbours, similar_GHNN.shape[-1]), dim=-1, sorted=False).indices
    return torch.full_like(similar_GHNN, -math.inf).scatter_(-1, chosen, 0.0)


def attend(query_GQW: Tensor, key_GKW: Tensor, value_GKW: Tensor, heads: int, bias: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention in `heads` slices of the width; `bias` (broadcast to G, H, Q, K) joins the logits.

    Returns:
        (G, Q, width of the values).

    >>> attend(torch.zeros(1, 1, 2), torch.ones(1, 2, 2), torch.tensor([[[0.0, 4.0], [2.0, 0.0]]]), heads=2)
    tensor([[[1., 2.]]])
    """
    query, key, value = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query_GQW, key_GKW, value_GKW))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias).transpose(1, 2).flatten(2)


def attention_weights(query_GQW: Tensor, key_GKW: Tensor, heads: int, bias: Tensor | None = None) -> Tensor:
    """(G, H, Q, K) what `attend` weighs the values by, rows sum to 1. For whoever looks: `attend` never makes it.

    >>> attention_weights(torch.zeros(1, 1, 2), torch.ones(1, 2, 2), heads=2).tolist()
    [[[[0.5, 0.5]], [[0.5, 0.5]]]]
    """
    query, key = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query_GQW, key_GKW))
    logits = query @ key.transpose(2, 3) / math.sqrt(query.shape[-1])
    return (logits if bias is None else logits + bias).softmax(dim=-1)


def to_cells(x_BTND: Tensor, cells: tuple[int, int], ratio: int = 1) -> Tensor:
    """(B * cells, T * ratio², D): each cell's own tokens over all times, ratio x ratio of them a step.

    >>> to_cells(torch.arange(8).view(1, 1, 8, 1), cells=(1, 2), ratio=2).flatten(1).tolist()
    [[0, 1, 4, 5], [2, 3, 6, 7]]
    """
    videos, steps, _, width = x_BTND.shape
    rows, columns = cells
    split = x_BTND.reshape(videos, steps, rows, ratio, columns, ratio, width)
    return split.permute(0, 2, 4, 1, 3, 5, 6).reshape(videos * rows * columns, steps * ratio**2, width)


def from_cells(x_GLD: Tensor, cells: tuple[int, int], steps: int, ratio: int = 1) -> Tensor:
    """The inverse of `to_cells`: (B, T, N, D).

    >>> x = torch.arange(48).view(2, 3, 8, 1)
    >>> bool((from_cells(to_cells(x, (1, 2), 2), (1, 2), 3, 2) == x).all())
    True
    """
    rows, columns = cells
    split = x_GLD.reshape(-1, rows, columns, steps, ratio, ratio, x_GLD.shape[-1])
    return split.permute(0, 3, 1, 4, 2, 5, 6).reshape(-1, steps, rows * columns * ratio**2, x_GLD.shape[-1])


class Graph(NamedTuple):
    """What the layers share of one kind of graph: computed once a forward, from the frozen features, no gradient."""

    cosine_GNN: Tensor
    masks: dict[int, Tensor | None]  # radius -> (G or 1, 1, N, N): 0 on edges, -inf elsewhere; None joins all


@torch.no_grad()
def frozen_graph(
    features_GND: Tensor, distance_NN: Tensor, radii: Iterable[int], neighbours: int, near_NN: Tensor | None = None
) -> Graph:
    """Edges = {distance <= radius} or {`neighbours` most similar}, for each radius; of pairs that are near, if given.

    Full precision even under autocast: in bf16 most of the ranking would be ties.
    """
    with torch.autocast(features_GND.device.type, enabled=False):
        cosine_GNN = cosines(features_GND)
        ranked_GNN = cosine_GNN if near_NN is None else cosine_GNN.masked_fill(~near_NN, -math.inf)
        similar = (
            nearest_edges(ranked_GNN, neighbours)
            if neighbours
            else torch.zeros_like(distance_NN[None], dtype=torch.bool)
        )
        masks: dict[int, Tensor | None] = {}
        for radius in set(radii):
            if radius == UNBOUNDED and near_NN is None:
                masks[radius] = None
                continue
            edges = similar | (distance_NN <= radius) | (radius == UNBOUNDED)
            if near_NN is not None:
                edges = edges & near_NN  # where fewer are near than are ranked, others were ranked, too
            masks[radius] = torch.zeros_like(edges, dtype=cosine_GNN.dtype).masked_fill_(~edges, -math.inf).unsqueeze(1)
    return Graph(cosine_GNN, masks)

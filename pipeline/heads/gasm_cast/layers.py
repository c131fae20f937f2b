"""The layers of GASM-CAST: streams in, streams out. Knows no classifier and no choice between fusions.

Every residual branch starts at zero. Each kind of attention says on request what it looks at: `weights`, with the
arguments of its forward. Shape suffixes as in kernels; D semantic width, E motion width.
"""

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .kernels import (
    Graph,
    attend,
    attention_weights,
    from_cells,
    grid_offsets,
    learned_edges,
    sincos,
    sincos_grid,
    to_cells,
)

PROBE_BLOCKS = 4


def zeroed(linear: nn.Linear) -> nn.Linear:
    """The same layer, giving zero until it is trained."""
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


class Input(nn.Module):
    """LN(x) + a_t * sincos(time) + a_p * sincos(row, column); the scalars a start at 1.

    With learned positions at scale 0.02 on features that are not normalised, a task whose classes differ only in
    order stays at chance (24.9 % of 4 classes); with unit-scale positions in time and space it is solved.
    """

    def __init__(self, width: int, grid: tuple[int, int], token_dropout: float):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.time_scale = nn.Parameter(torch.ones(()))
        self.space_scale = nn.Parameter(torch.ones(()))
        self.token_dropout = token_dropout
        self.register_buffer("space_ND", sincos_grid(grid, width), persistent=False)

    def forward(self, x_BTND: Tensor, steps_BT: Tensor) -> Tensor:
        time_BT1D = sincos(steps_BT, x_BTND.shape[-1]).to(x_BTND.dtype).unsqueeze(2)
        position = self.time_scale * time_BT1D + self.space_scale * self.space_ND
        content = self.norm(x_BTND)
        if self.training and self.token_dropout:
            kept = torch.rand(x_BTND.shape[:3], device=x_BTND.device) >= self.token_dropout
            content = content * kept.unsqueeze(-1)  # a dropped token keeps its place and loses what it shows
        return content + position


class SelfAttention(nn.Module):
    """LN, attention among the tokens of each group at width W, output projection from zero. (G, N, D) -> (G, N, D)."""

    def __init__(self, dim: int, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.query_key_value = nn.Linear(dim, 3 * width)
        self.out = zeroed(nn.Linear(width, dim))

    def forward(self, x_GND: Tensor, bias: Tensor | None = None) -> Tensor:
        return self.out(attend(*self._query_key_value(x_GND), self.heads, bias))

    def weights(self, x_GND: Tensor, bias: Tensor | None = None) -> Tensor:
        """(G, H, N, N), of each token over those of its group."""
        return attention_weights(*self._query_key_value(x_GND)[:2], self.heads, bias)

    def _query_key_value(self, x_GND: Tensor) -> tuple[Tensor, ...]:
        return self.query_key_value(self.norm(x_GND)).chunk(3, dim=-1)


class LearnedAttention(SelfAttention):
    """Self-attention in which each head of a token reads the `neighbours` tokens with the largest q.k."""

    def __init__(self, dim: int, width: int, heads: int, neighbours: int):
        super().__init__(dim, width, heads)
        self.neighbours = neighbours

    def forward(self, x_GND: Tensor) -> Tensor:
        query, key, value = self._query_key_value(x_GND)
        return self.out(attend(query, key, value, self.heads, self._edges(query, key)))

    def weights(self, x_GND: Tensor) -> Tensor:
        """(G, H, N, N), of each token over those of its group: 0 of those that it does not read."""
        query, key, _ = self._query_key_value(x_GND)
        return attention_weights(query, key, self.heads, self._edges(query, key))

    def _edges(self, query: Tensor, key: Tensor) -> Tensor:
        return learned_edges(query, key, self.heads, self.neighbours)


class GraphAttention(SelfAttention):
    """Self-attention along edges: logit = q.k / sqrt(d) + table[h, drow, dcolumn] + gamma_h * cos(x_i, x_j).

    Steps are a grid of one column, and the places of all steps one of three axes, so one class serves space, time and
    both.
    """

    def __init__(self, dim: int, width: int, heads: int, grid: tuple[int, ...], radius: int):
        super().__init__(dim, width, heads)
        self.radius = radius
        self.table = nn.Parameter(torch.zeros(heads, *(2 * side - 1 for side in grid)))
        self.gamma = nn.Parameter(torch.zeros(heads))
        self.register_buffer("offsets_NN", grid_offsets(grid)[0], persistent=False)

    def forward(self, x_GND: Tensor, graph: Graph) -> Tensor:
        return super().forward(x_GND, self._bias(graph))

    def weights(self, x_GND: Tensor, graph: Graph) -> Tensor:
        """(G, H, N, N), of each node over the nodes of its graph: 0 where there is no edge."""
        return super().weights(x_GND, self._bias(graph))

    def _bias(self, graph: Graph) -> Tensor:
        bias_GHNN = self.table.flatten(1)[:, self.offsets_NN]
        mask = graph.masks[self.radius]
        if mask is not None:
            bias_GHNN = bias_GHNN + mask
        return bias_GHNN + self.gamma[:, None, None] * graph.cosine_GNN.unsqueeze(1)


class CrossAttention(nn.Module):
    """Tokens of one stream read tokens of the other. (G, Q, reader), (G, K, source) -> (G, Q, out)."""

    def __init__(self, reader: int, source: int, width: int, out: int, heads: int, bias: bool):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(reader, width, bias=bias)
        self.key_value = nn.Linear(source, 2 * width, bias=bias)
        self.out = nn.Linear(width, out)

    def forward(self, reader: Tensor, source: Tensor) -> Tensor:
        return self.out(attend(self.query(reader), *self.key_value(source).chunk(2, dim=-1), self.heads))

    def weights(self, reader: Tensor, source: Tensor) -> Tensor:
        """(G, H, Q, K), of each reading token over those that are read."""
        return attention_weights(self.query(reader), self.key_value(source).chunk(2, dim=-1)[0], self.heads)


class BCast(nn.Module):
    """Both streams read each other through a bottleneck, at the same time, aligned by cells.

    Window "cell": a patch reads the 8 times of its own motion cell, a cell reads the patches of its own frame.
    Window "full": every token reads the whole other stream.

    Source: Lee et al., "CAST: Cross-Attention in Space and Time for Video Action Recognition", NeurIPS 2023.
    """

    def __init__(
        self, dims: tuple[int, int], steps: int, grids: Sequence[tuple[int, int]], width: int, heads: int, window: str
    ):
        super().__init__()
        self.cells, self.ratio, self.window = grids[1], grids[0][0] // grids[1][0], window
        self.norm = nn.ModuleList(nn.LayerNorm(dim) for dim in dims)
        self.down = nn.ModuleList(nn.Linear(dim, width) for dim in dims)
        self.time = nn.ParameterList(torch.randn(steps, 1, width) * 0.02 for _ in dims)
        self.space = nn.ParameterList(torch.randn(math.prod(grid), width) * 0.02 for grid in grids)
        self.read = nn.ModuleList(CrossAttention(width, width, width, width, heads, bias=False) for _ in dims)
        self.up = nn.ModuleList(zeroed(nn.Linear(width, dim)) for dim in dims)

    def forward(self, semantic_BTND: Tensor, motion_BTNE: Tensor) -> tuple[Tensor, Tensor]:
        streams = semantic_BTND, motion_BTNE
        semantic, motion = (
            down(norm(x)) + (time + space)
            for x, norm, down, time, space in zip(streams, self.norm, self.down, self.time, self.space, strict=True)
        )
        if self.window == "cell":
            own_cell = self.read[0](to_cells(semantic, self.cells, self.ratio), to_cells(motion, self.cells))
            seen = from_cells(own_cell, self.cells, semantic.shape[1], self.ratio)
            felt = self.read[1](motion.flatten(0, 1), semantic.flatten(0, 1)).view_as(motion)
        else:
            seen = self.read[0](semantic.flatten(1, 2), motion.flatten(1, 2)).view_as(semantic)
            felt = self.read[1](motion.flatten(1, 2), semantic.flatten(1, 2)).view_as(motion)
        return semantic_BTND + self.up[0](F.gelu(seen)), motion_BTNE + self.up[1](F.gelu(felt))


class VanillaCross(nn.Module):
    """What B-CAST is compared with: every token reads the whole other stream, at the reader's full width."""

    def __init__(self, dims: tuple[int, int], heads: int):
        super().__init__()
        self.norm = nn.ModuleList(nn.LayerNorm(dim) for dim in dims)
        self.read = nn.ModuleList(
            CrossAttention(reader, source, reader, reader, heads, bias=True) for reader, source in (dims, dims[::-1])
        )
        for read in self.read:
            zeroed(read.out)

    def forward(self, semantic_BTND: Tensor, motion_BTNE: Tensor) -> tuple[Tensor, Tensor]:
        semantic, motion = self.norm[0](semantic_BTND).flatten(1, 2), self.norm[1](motion_BTNE).flatten(1, 2)
        seen, felt = self.read[0](semantic, motion), self.read[1](motion, semantic)
        return semantic_BTND + seen.view_as(semantic_BTND), motion_BTNE + felt.view_as(motion_BTNE)


def feed_forward(dim: int, hidden: int) -> nn.Sequential:
    """LN and a two-layer adapter that starts at zero."""
    return nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.GELU(), zeroed(nn.Linear(hidden, dim)))


def over_space(module: nn.Module, x_BTND: Tensor, *context: Graph) -> Tensor:
    """x + module(x), the tokens of each step a group."""
    return x_BTND + module(x_BTND.flatten(0, 1), *context).view_as(x_BTND)


def over_time(module: nn.Module, x_BTND: Tensor, *context: Graph) -> Tensor:
    """x + module(x), the steps of each place a group."""
    by_place = x_BTND.transpose(1, 2)
    return x_BTND + module(by_place.flatten(0, 1), *context).view(by_place.shape).transpose(1, 2)


def over_both(module: nn.Module, x_BTND: Tensor, *context: Graph) -> Tensor:
    """x + module(x), all tokens of a video a group."""
    return x_BTND + module(x_BTND.flatten(1, 2), *context).view_as(x_BTND)


class AttentivePool(nn.Module):
    """A learned query reads a stream's tokens: (B, L, D) -> (B, 2 W); keys have width W, values 2 W."""

    def __init__(self, dim: int, width: int, heads: int):
        super().__init__()
        self.heads, self.width = heads, width
        self.query_W = nn.Parameter(torch.randn(width) * 0.02)
        self.norm = nn.LayerNorm(dim)
        self.key_value = nn.Linear(dim, 3 * width)

    def forward(self, x_BLD: Tensor) -> Tensor:
        query, key, value = self._query_key_value(x_BLD)
        return attend(query, key, value, self.heads).squeeze(1)

    def weights(self, x_BLD: Tensor) -> Tensor:
        """(B, H, 1, L), of the query over the tokens."""
        return attention_weights(*self._query_key_value(x_BLD)[:2], self.heads)

    def _query_key_value(self, x_BLD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        key, value = self.key_value(self.norm(x_BLD)).split([self.width, 2 * self.width], dim=-1)
        return self.query_W.expand(key.shape[0], 1, -1).to(key.dtype), key, value


class Probe(nn.Module):
    """The yardstick: a plain transformer over all tokens of both streams, as wide as `budget` parameters allow."""

    def __init__(self, dims: tuple[int, int], pool_width: int, heads: int, budget: int):
        super().__init__()
        # Its parameters are 12 blocks w² + linear w + 4 pool_width: solved for w, to the nearest multiple of heads.
        quadratic, linear = 12 * PROBE_BLOCKS, sum(dims) + 13 * PROBE_BLOCKS + 3 * pool_width + 4
        width = (math.sqrt(linear**2 + 4 * quadratic * (budget - 4 * pool_width)) - linear) / (2 * quadratic)
        width = max(round(width / heads), 1) * heads
        self.project = nn.ModuleList(nn.Linear(dim, width) for dim in dims)
        self.blocks = nn.ModuleList(
            nn.ModuleList([SelfAttention(width, width, heads), feed_forward(width, 4 * width)])
            for _ in range(PROBE_BLOCKS)
        )
        self.pool = AttentivePool(width, pool_width, heads)

    def forward(self, semantic_BTND: Tensor, motion_BTNE: Tensor) -> Tensor:
        pairs = zip(self.project, (semantic_BTND, motion_BTNE), strict=True)
        x_BLW = torch.cat([project(x).flatten(1, 2) for project, x in pairs], dim=1)
        for attention, adapter in self.blocks:
            x_BLW = x_BLW + attention(x_BLW)
            x_BLW = x_BLW + adapter(x_BLW)
        return self.pool(x_BLW)


class Layer(nn.Module):
    """Graphs in each stream, an exchange between them, adapters; what a fusion does without is absent."""

    def __init__(
        self,
        dims: tuple[int, int],
        steps: int,
        grids: Sequence[tuple[int, int]],
        width: int,
        heads: int,
        radius: int,
        streams: Sequence[str],
        graph: str,
        neighbours: Mapping[str, int],
        exchange: nn.Module | None,
    ):
        super().__init__()
        self.tracks = graph == "time"
        (semantic, motion), (patches, cells) = dims, grids
        parts: dict[str, nn.Module] = {}

        def among(part: str, dim: int, grid: tuple[int, ...]) -> SelfAttention:
            if graph == "dense":
                return SelfAttention(dim, width, heads)
            if graph == "learned":
                return LearnedAttention(dim, width, heads, neighbours[part])
            return GraphAttention(dim, width, heads, grid, radius)

        if "semantic" in streams:
            if graph != "none":
                parts["spatial"] = among("spatial", semantic, (steps, *patches) if self.tracks else patches)
            parts["tube"] = SelfAttention(semantic, width, heads)
            parts["ffn_semantic"] = feed_forward(semantic, semantic)
        if "motion" in streams:
            if graph != "none":
                parts["motion_space"] = among("motion_space", motion, cells)
                parts["motion_time"] = among("motion_time", motion, (steps, 1))
            parts["ffn_motion"] = feed_forward(motion, motion)
        if exchange is not None:
            parts["exchange"] = exchange
        for name, part in parts.items():
            self.add_module(name, part)
        self.parts = frozenset(parts)

    def forward(self, x: dict[str, Tensor], graphs: dict[str, Graph]) -> dict[str, Tensor]:
        x = dict(x)
        edges = {name: (graph,) for name, graph in graphs.items()}  # none: all read all
        if "spatial" in self.parts:
            over = over_both if self.tracks else over_space
            x["semantic"] = over(self.spatial, x["semantic"], *edges.get("spatial", ()))
        if "tube" in self.parts:
            x["semantic"] = over_time(self.tube, x["semantic"])
        if "motion_space" in self.parts:
            x["motion"] = over_space(self.motion_space, x["motion"], *edges.get("motion_space", ()))
            x["motion"] = over_time(self.motion_time, x["motion"], *edges.get("motion_time", ()))
        if "exchange" in self.parts:
            x["semantic"], x["motion"] = self.exchange(x["semantic"], x["motion"])
        return {name: tokens + self.get_submodule(f"ffn_{name}")(tokens) for name, tokens in x.items()}

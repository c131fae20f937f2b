"""GASM-CAST: graph-aware semantic-motion cross-attention on cached tokens. Knows no store, no params and no trainer.

What things are (DINOv3 patches) and how they move (R3D-18 cells) are two token grids that share their timestamps and
their crop: one motion cell covers r x r patches, r >= 1. Every residual branch starts at zero, so that training
begins from "normalised features + positions -> attentive pool -> linear" and adds reasoning only where it helps.

Shape suffixes: B videos, T steps, N patches or cells of a step, D semantic width, E motion width, C classes.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .kernels import UNBOUNDED, Graph, frozen_graph, grid_offsets, relative_steps, tracked_offsets
from .layers import AttentivePool, BCast, Input, Layer, Probe, VanillaCross

FUSIONS = ("cast", "vanilla", "concat", "semantic", "motion", "probe")
GRAPHS = ("full", "spatial", "time", "learned", "dense", "none")
FROZEN_GRAPHS = GRAPHS[:3]  # whose edges are those of the frozen features and of places


class GasmCast(nn.Module):
    """Action logits from a video's cached semantic and motion tokens.

    Args:
        semantic_dim, motion_dim: widths D and E of the streams, multiples of 4.
        steps: T, the time steps of both streams.
        semantic_grid, motion_grid: (rows, columns) of tokens a step; the first is r times the second, r >= 1.
        n_classes: C.
        fusion: "cast" (B-CAST), "vanilla" (full-width, full-window cross-attention in its place), "concat" (the
            streams meet in the classifier only), "semantic" or "motion" (one stream), "probe" (a plain four-block
            transformer over both streams' tokens, as large as "cast" would be with the same other arguments).
        layers: how many.
        width: W, of the graphs, tubes and pools.
        attention_heads: H; divides the width, the bottleneck and, for "vanilla", both dims.
        bottleneck: width of B-CAST.
        window: of B-CAST: "cell" or "full".
        graph: "full"; "spatial" (edges by distance only, none by cosine); "time" (patches also have edges, by distance
            and by cosine, to those of the step before and the step after; attention is over all T N of a video, masked,
            so it costs T times as much); "learned" (each head of a node reads as many nodes as it has neighbours, those
            with the largest q . k; no bias); "dense" (the same layers, in which all read all: no edges, no bias by
            place or cosine); "none" (no such layers; tubes stay).
        radii: of the graphs, layer by layer, in patches, cells and steps; -1 joins all. Those past `layers` wait.
        semantic_neighbours, motion_neighbours: edges by cosine, or by q . k, of a node; the second holds for space and
            for time.
        dropout: before the classifier.
        token_dropout: in training, the share of tokens whose content is blanked (their positions stay).

    Raises:
        ValueError: arguments that do not fit each other, with both sides and the remedy.

    Source: the design is this project's; B-CAST after Lee et al., NeurIPS 2023.
    """

    def __init__(
        self,
        *,
        semantic_dim: int,
        motion_dim: int,
        steps: int,
        semantic_grid: tuple[int, int],
        motion_grid: tuple[int, int],
        n_classes: int,
        fusion: str,
        layers: int,
        width: int,
        attention_heads: int,
        bottleneck: int,
        window: str,
        graph: str,
        radii: Sequence[int],
        semantic_neighbours: int,
        motion_neighbours: int,
        dropout: float,
        token_dropout: float,
    ):
        arguments = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__()
        dims, heads = (semantic_dim, motion_dim), attention_heads
        grids = tuple(semantic_grid), tuple(motion_grid)
        self.shapes = {
            "semantic": (steps, math.prod(grids[0]), semantic_dim),
            "motion": (steps, math.prod(grids[1]), motion_dim),
        }
        self.streams = (fusion,) if fusion in self.shapes else tuple(self.shapes)
        self.radii = tuple(radii[:layers])
        self.graph = graph
        self.neighbours = {
            "spatial": semantic_neighbours,
            "motion_space": motion_neighbours,
            "motion_time": motion_neighbours,
        }
        _check(dims, grids, width, fusion, layers, heads, bottleneck, window, graph, radii, self.neighbours)

        inputs = {name: (dim, grid) for name, dim, grid in zip(self.shapes, dims, grids, strict=True)}
        self.inputs = nn.ModuleDict({name: Input(*inputs[name], token_dropout) for name in self.streams})
        pooled = 2 * width * (1 if fusion == "probe" else len(self.streams))
        self.head = nn.Sequential(nn.LayerNorm(pooled), nn.Dropout(dropout), nn.Linear(pooled, n_classes))
        if fusion == "probe":
            with torch.device("meta"):
                twin = GasmCast(**arguments | {"fusion": "cast"})
            budget = sum(p.numel() for p in twin.parameters()) - sum(p.numel() for p in self.parameters())
            self.probe = Probe(dims, width, heads, budget)
        else:

            def exchange() -> nn.Module | None:
                if fusion == "cast":
                    return BCast(dims, steps, grids, bottleneck, heads, window)
                return VanillaCross(dims, heads) if fusion == "vanilla" else None

            self.layers = nn.ModuleList(
                Layer(dims, steps, grids, width, heads, radius, self.streams, graph, self.neighbours, exchange())
                for radius in self.radii
            )
            self.pools = nn.ModuleDict(
                {name: AttentivePool(self.shapes[name][2], width, heads) for name in self.streams}
            )

        for name, grid in (("spatial", grids[0]), ("motion_space", grids[1]), ("motion_time", (steps, 1))):
            self.register_buffer(f"{name}_distance", grid_offsets(grid)[1], persistent=False)
        if graph == "time":
            distance, near = tracked_offsets(steps, grids[0])
            self.register_buffer("spatial_distance", distance, persistent=False)
            self.register_buffer("spatial_near", near, persistent=False)

    @classmethod
    def of(cls, config: Any, samples: Any) -> "GasmCast":
        """The head that a person's choices and the streams of samples make."""
        semantic, motion = samples.streams["semantic"], samples.streams["motion"]
        return cls(
            semantic_dim=semantic.width,
            motion_dim=motion.width,
            steps=semantic.grid[0],
            semantic_grid=semantic.grid[1:],
            motion_grid=motion.grid[1:],
            n_classes=len(samples.classes),
            **config.model.model_dump(),
        )

    def logits(self, batch: Mapping[str, Tensor]) -> Tensor:
        """(B, C) of a batch by role."""
        return self(batch["semantic"], batch["motion"], batch["times"])

    def forward(self, semantic_BTND: Tensor, motion_BTNE: Tensor, times_BT: Tensor) -> Tensor:
        """Logits (B, C).

        Args:
            semantic_BTND, motion_BTNE: frozen features of any float type (fp16 from a store is welcome).
            times_BT: seconds, increasing; to shuffle a video, permute its tokens and leave these.

        Raises:
            ValueError: a shape that is not what the model was built for, or times that do not increase.
        """
        frozen = {"semantic": semantic_BTND, "motion": motion_BTNE}
        videos = semantic_BTND.shape[0]
        for name, tokens in frozen.items():
            if tokens.shape != (videos, *self.shapes[name]):
                raise ValueError(
                    f"{name} tokens have shape {tuple(tokens.shape)}, expected {(videos, *self.shapes[name])} = "
                    "(videos, steps, tokens, width); build the model from the features' own grids, or extract again"
                )
        if times_BT.shape != semantic_BTND.shape[:2]:
            raise ValueError(
                f"times have shape {tuple(times_BT.shape)}, expected {tuple(semantic_BTND.shape[:2])} = (videos, steps)"
            )
        frozen = {name: frozen[name].to(self.head[0].weight.dtype) for name in self.streams}
        steps_BT = relative_steps(times_BT)
        x = {name: embed(frozen[name], steps_BT) for name, embed in self.inputs.items()}
        if hasattr(self, "probe"):
            return self.head(self.probe(x["semantic"], x["motion"]))
        graphs = self.frozen_graphs(frozen) if self.graph in FROZEN_GRAPHS else {}
        for layer in self.layers:
            x = layer(x, graphs)
        return self.head(torch.cat([self.pools[name](tokens.flatten(1, 2)) for name, tokens in x.items()], dim=-1))

    def frozen_graphs(self, frozen: dict[str, Tensor]) -> dict[str, Graph]:
        """The graphs over frames, over motion's frames and over the times of motion's cells."""
        groups = {}
        if "semantic" in frozen:
            groups["spatial"] = frozen["semantic"].flatten(*((1, 2) if self.graph == "time" else (0, 1)))
        if "motion" in frozen:
            groups["motion_space"] = frozen["motion"].flatten(0, 1)
            groups["motion_time"] = frozen["motion"].transpose(1, 2).flatten(0, 1)
        return {
            name: frozen_graph(
                features,
                self.get_buffer(f"{name}_distance"),
                self.radii,
                0 if self.graph == "spatial" else self.neighbours[name],
                self.spatial_near if name == "spatial" and self.graph == "time" else None,
            )
            for name, features in groups.items()
        }


def _check(dims, grids, width, fusion, layers, heads, bottleneck, window, graph, radii, neighbours) -> None:
    """Raises ValueError for arguments of GasmCast that do not fit each other."""
    for name, value, known in (
        ("fusion", fusion, FUSIONS),
        ("window", window, ("cell", "full")),
        ("graph", graph, GRAPHS),
    ):
        if value not in known:
            raise ValueError(f"{name} is {value!r}, expected one of {', '.join(known)}")
    for name, dim in zip(("semantic_dim", "motion_dim"), dims, strict=True):
        if dim % 4:
            raise ValueError(f"{name} is {dim}, expected a multiple of 4: sine and cosine of row and column need it")
    widths = {"width": width, "bottleneck": bottleneck}
    if fusion == "vanilla":
        widths |= {"semantic_dim": dims[0], "motion_dim": dims[1]}
    for name, value in widths.items():
        if value % heads:
            raise ValueError(
                f"{name} is {value}, which {heads} attention_heads do not divide; expected a multiple of {heads}"
            )
    if len(radii) < layers or min(radii) < UNBOUNDED:
        raise ValueError(
            f"radii are {list(radii)}, expected at least one for each of {layers} layers, each >= 0, or -1 for all"
        )
    if graph == "learned" and not min(neighbours.values()):
        raise ValueError(
            "semantic_neighbours and motion_neighbours must be above 0 with graph learned: nodes read so many"
        )
    (rows, columns), (cell_rows, cell_columns) = grids
    ratio = rows // cell_rows
    if ratio < 1 or (rows, columns) != (ratio * cell_rows, ratio * cell_columns):
        raise ValueError(
            f"semantic grid is {rows} x {columns} and motion grid {cell_rows} x {cell_columns}, expected the first to "
            "be a whole multiple of the second, the same in rows and columns; extract both from one crop, or pool one"
        )


# Names of the parts, as the table of parameters has them; keys are the modules' names.
PARTS = {
    "inputs": "input norms and scales",
    "spatial": "spatial graph",
    "tube": "tube",
    "motion_space": "motion space",
    "motion_time": "motion time",
    "exchange": "exchange",
    "ffn_semantic": "FFN semantic",
    "ffn_motion": "FFN motion",
    "probe": "probe",
    "pools": "pools",
    "head": "head",
}


def parameter_table(model: GasmCast) -> list[tuple[str, int]]:
    """(part, parameters) of each part that the model has, all layers together; the sum is the whole model."""
    counts = dict.fromkeys(PARTS, 0)
    for name, parameter in model.named_parameters():
        path = name.split(".")
        counts[path[2] if path[0] == "layers" else path[0]] += parameter.numel()
    return [(part, counts[key]) for key, part in PARTS.items() if counts[key]]

"""Where a GASM-CAST looks: the weights of every attention of a forward, rolled up to the tokens that are read.

The forward itself is the one that trains and predicts, so logits are the same to the bit. Knows no picture and no file.

Shape suffixes as in kernels: B videos, T steps, N tokens of a step, G groups, H heads, Q reading tokens, K tokens read.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from .layers import BCast
from .model import GasmCast

POOL = -1  # the layer of what the classifier reads


class Look(NamedTuple):
    """One attention, as seen from the tokens that are read.

    Attributes:
        layer: from 0; POOL of the pools, which follow all layers.
        kind: graph (along the edges of each step), time (of a place over the steps), cross (read by the other stream),
            all (a probe's, over both streams) or pool (read by the classifier).
        stream: "semantic" or "motion", whose tokens are read.
    """

    layer: int
    kind: str
    stream: str


def look(model: GasmCast, *inputs: Tensor) -> tuple[Tensor, dict[Look, Tensor]]:
    """A forward, and how much each token was looked at.

    Args:
        model: of any fusion; what a fusion does without is not among the looks.
        inputs: of its forward.

    Returns:
        Logits (B, C), and for each attention, in the order of the forward, (B, T, N) float32: see `received`.
    """
    looks: dict[Look, Tensor] = {}

    def keep(path: str, weights_GHQK: Tensor) -> None:
        looks.update(_rolled(model, path, received(weights_GHQK), len(inputs[0])))

    return _watched(model, inputs, keep), looks


def weights(model: GasmCast, *inputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """A forward, and by the names of the modules what each attention's `weights` are, (G, H, Q, K)."""
    found: dict[str, Tensor] = {}
    return _watched(model, inputs, found.__setitem__), found


def received(weights_GHQK: Tensor) -> Tensor:
    """(G, K) float32: the mean over heads and readers of what a token is given, 1 being the mean of its group.

    A reader without an edge to the token gives it 0, so a node with more edges is given more.

    >>> import torch
    >>> received(torch.tensor([[[[1.0, 0.0], [0.5, 0.5]]]])).tolist()
    [[1.5, 0.5]]
    """
    return weights_GHQK.float().mean(dim=(1, 2)) * weights_GHQK.shape[3]


def _watched(model: GasmCast, inputs: tuple[Tensor, ...], keep: Callable[[str, Tensor], None]) -> Tensor:
    def watch(path: str, module: nn.Module):
        return module.register_forward_hook(lambda _, given, __: keep(path, module.weights(*given)))

    watching = [watch(path, module) for path, module in model.named_modules() if hasattr(module, "weights")]
    try:
        return model(*inputs)
    finally:
        for handle in watching:
            handle.remove()


def _rolled(model: GasmCast, path: str, received_GK: Tensor, videos: int) -> Iterator[tuple[Look, Tensor]]:
    """The looks of the attention that has this name in the model, on the tokens' grids."""
    name = path.split(".")
    layer = POOL if "pool" in name[-1] or name[0] == "pools" else int(name[2 if name[0] == "probe" else 1])

    def by_step(stream: str) -> Tensor:
        return received_GK.reshape(videos, *model.shapes[stream][:2])

    def by_place(stream: str) -> Tensor:
        steps, places, _ = model.shapes[stream]
        return received_GK.reshape(videos, places, steps).transpose(1, 2)

    if name[0] == "probe":  # both streams' tokens in one sequence
        sizes = {stream: math.prod(model.shapes[stream][:2]) for stream in model.streams}
        kind = "pool" if layer == POOL else "all"
        for stream, part_BL in zip(sizes, received_GK.split(list(sizes.values()), dim=1), strict=True):
            yield Look(layer, kind, stream), part_BL.reshape(videos, *model.shapes[stream][:2])
    elif name[0] == "pools":
        yield Look(layer, "pool", name[1]), by_step(name[1])
    elif name[2] == "exchange":
        own_cells = isinstance(exchange := model.layers[layer].exchange, BCast) and exchange.window == "cell"
        stream = ("motion", "semantic")[int(name[4])]
        yield Look(layer, "cross", stream), by_place(stream) if own_cells and stream == "motion" else by_step(stream)
    else:
        stream = "motion" if name[2].startswith("motion") else "semantic"
        over_time = name[2] in ("tube", "motion_time")
        yield Look(layer, "time" if over_time else "graph", stream), (by_place if over_time else by_step)(stream)


def looks(model: GasmCast, batch: Mapping[str, Tensor]) -> dict[Look, Tensor]:
    """Of a batch by role, how much each token was looked at by each attention: (B, T, N) float32, see `look`."""
    return look(model, batch["semantic"], batch["motion"], batch["times"])[1]


def absent(chosen: Any, looks: Collection[Look]) -> list[str]:
    """What GASM-CAST may look with, and one with these choices does not, in words.

    Args:
        chosen: the model's part of params.
        looks: that it has.
    """
    kinds = {at.kind for at in looks}
    if chosen.fusion == "probe":
        return ["a probe has no graphs and no cross-attention: its tokens attend to all of both streams"]
    without = [f"fusion {chosen.fusion} has no cross-attention"] if "cross" not in kinds else []
    return without + ([f"graph {chosen.graph} has no graph attention"] if "graph" not in kinds else [])

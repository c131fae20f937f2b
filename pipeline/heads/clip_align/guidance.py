"""How an attention map guides the pooling of a video's tokens. Knows no encoder and no loss.

Every guidance takes any token grid. A constant map says nothing of where to look: under it each is plain pooling.

Shape suffixes: B videos, C channels of a map, T steps, H rows, W columns (of the token grid; a map has `scale` times as
many rows and columns), D width of a token, F width of a video's feature.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GUIDANCES = ("none", "channel", "weighted_pool", "spatiotemporal", "summary_gate")
GATES = ("linear", "sigmoid")
# A map whose range is at most this share of its largest value is constant: half precision rounds by half of it.
FLAT = 2.0**-10
HIDDEN = 64  # of the networks that read a map's mean


def token_map(map_BCTHW: Tensor, scale: int) -> Tensor:
    """What a map says of each token: its mean over channels, then over the token's cells, then min-max by sample.

    Args:
        map_BCTHW: finite, >= 0, with `scale` times the rows and columns of the token grid.

    Returns:
        (B, T, H, W): from 0 to 1; all 0 where the map is constant.

    >>> token_map(torch.tensor([[[[[0.0, 0.0, 4.0, 4.0, 1.0, 1.0], [0.0, 0.0, 4.0, 4.0, 1.0, 1.0]]]]]), 2).tolist()
    [[[[0.0, 1.0, 0.25]]]]
    >>> token_map(torch.full((1, 2, 1, 2, 4), 0.3), 2).tolist()
    [[[[0.0, 0.0]]]]
    """
    mean_BTHW = map_BCTHW.mean(1).unflatten(3, (-1, scale)).unflatten(2, (-1, scale)).mean((3, 5))
    low, high = mean_BTHW.amin((1, 2, 3), keepdim=True), mean_BTHW.amax((1, 2, 3), keepdim=True)
    flat = high - low <= FLAT * high
    return torch.where(flat, 0.0, (mean_BTHW - low) / torch.where(flat, 1.0, high - low))


def pool(tokens_BTHWD: Tensor, weight_BTHW: Tensor, over_time: bool) -> Tensor:
    """Weighted means of tokens, of a video (B, D) or of each step (B, T, D); plain ones where all weights are 0.

    Args:
        weight_BTHW: >= 0; only ratios matter.

    >>> pool(torch.tensor([[[[[1.0], [4.0]]], [[[2.0], [4.0]]]]]), torch.tensor([[[[1.0, 2.0]], [[0.0, 0.0]]]]), False)
    tensor([[[3.],
             [3.]]])
    """
    axes = (1, 2, 3) if over_time else (2, 3)
    total = weight_BTHW.sum(axes, keepdim=True)
    some = total > 0
    cells = math.prod(weight_BTHW.shape[axis] for axis in axes)
    share_BTHW = torch.where(some, weight_BTHW / torch.where(some, total, 1.0), 1 / cells)
    return torch.einsum("bthwd,bthw->bd" if over_time else "bthwd,bthw->btd", tokens_BTHWD, share_BTHW.to(tokens_BTHWD))


class Guided(NamedTuple):
    """Tokens as the map left them, and how to pool them.

    Attributes:
        tokens_BTHWD: gated.
        weight_BTHW: for `pool`.
        gate: (B, D) of channels, (B, T, H, W) of cells, or None: no gate before the pooling.
    """

    tokens_BTHWD: Tensor
    weight_BTHW: Tensor
    gate: Tensor | None


class Guidance(nn.Module):
    """One way to guide, with m the `token_map`.

    - "none": plain pooling.
    - "channel": tokens * sigmoid(MLP(mean m)), a gate for each channel; plain pooling.
    - "weighted_pool": pooled with weights m.
    - "spatiotemporal": tokens * (1 + alpha g), pooled with weights g; alpha = softplus of a learned scalar, 1 at first.
      The gate g is m itself ("linear") or sigmoid(conv(m)) ("sigmoid"), which starts as sigmoid(4 m - 2).
    - "summary_gate": plain pooling; then the feature * sigmoid(MLP(mean m)), by `scale`.

    Args:
        kind: one of GUIDANCES.
        gate: one of GATES, of "spatiotemporal".
        width: D.
        feature_dim: F.
    """

    def __init__(self, kind: str, gate: str, width: int, feature_dim: int):
        super().__init__()
        self.kind = kind
        if kind in ("channel", "summary_gate"):
            out = width if kind == "channel" else feature_dim
            self.mlp = nn.Sequential(nn.Linear(1, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, out))
        self.conv = None
        if kind == "spatiotemporal":
            self.strength = nn.Parameter(torch.tensor(math.log(math.e - 1)))
            if gate == "sigmoid":
                self.conv = nn.Conv3d(1, 1, 3, padding=1)
                nn.init.dirac_(self.conv.weight)
                with torch.no_grad():
                    self.conv.weight *= 4
                    self.conv.bias.fill_(-2)

    def forward(self, tokens_BTHWD: Tensor, m_BTHW: Tensor) -> Guided:
        """The tokens gated, and their weights."""
        plain_BTHW = torch.zeros_like(m_BTHW)
        if self.kind == "channel":
            gate_BD = self._of_mean(m_BTHW)
            return Guided(tokens_BTHWD * gate_BD[:, None, None, None], plain_BTHW, gate_BD)
        if self.kind == "weighted_pool":
            return Guided(tokens_BTHWD, m_BTHW, None)
        if self.kind == "spatiotemporal":
            gate_BTHW = m_BTHW
            if self.conv is not None:
                gate_BTHW = (
                    self.conv(m_BTHW.unsqueeze(1)).squeeze(1).sigmoid() * says_where(m_BTHW)[:, None, None, None]
                )
            alpha = F.softplus(self.strength)
            return Guided(tokens_BTHWD * (1 + alpha * gate_BTHW).unsqueeze(-1), gate_BTHW, gate_BTHW)
        return Guided(tokens_BTHWD, plain_BTHW, None)

    def scale(self, feature_BF: Tensor, m_BTHW: Tensor) -> tuple[Tensor, Tensor | None]:
        """The feature gated and its gate (B, F) with "summary_gate"; else as it is, and None."""
        if self.kind != "summary_gate":
            return feature_BF, None
        gate_BF = self._of_mean(m_BTHW)
        return feature_BF * gate_BF, gate_BF

    def _of_mean(self, m_BTHW: Tensor) -> Tensor:
        """sigmoid(MLP(mean m)); 1 where the map is constant."""
        gate = self.mlp(m_BTHW.mean((1, 2, 3)).unsqueeze(1)).sigmoid()
        return torch.where(says_where(m_BTHW).unsqueeze(1), gate, 1.0)


def says_where(m_BTHW: Tensor) -> Tensor:
    """(B,) bool: the `token_map` is of a map that is not constant."""
    return m_BTHW.amax((1, 2, 3)) > 0

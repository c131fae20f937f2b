"""How an attention map guides the pooling of a video's tokens. Knows no encoder and no loss.

Every guidance takes any token grid. A constant map says nothing of where to look: under it each is plain pooling, and
"predicted" pools as without a map.

Shape suffixes: B videos, C channels of a map, T steps, H rows, W columns (of the token grid; a map has `scale` times as
many rows and columns), D width of a token, F width of a video's feature.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GUIDANCES = ("none", "channel", "weighted_pool", "spatiotemporal", "summary_gate", "predicted")
GATES = ("linear", "sigmoid")
# A map whose range is at most this share of its largest value is constant: half precision rounds by half of it.
FLAT = 2.0**-10
HIDDEN = 64  # of the networks that read a map's mean
BOTH = 0.5  # weight of a clinician's map beside the predicted one, outside of training


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
    mean_BTHW = _of_tokens(map_BCTHW, scale)
    low, high = mean_BTHW.amin((1, 2, 3), keepdim=True), mean_BTHW.amax((1, 2, 3), keepdim=True)
    flat = high - low <= FLAT * high
    return torch.where(flat, 0.0, (mean_BTHW - low) / torch.where(flat, 1.0, high - low))


def step_map(map_BCTHW: Tensor, scale: int) -> Tensor:
    """What a map says of where to look in each step: as `token_map`, but each step sums to 1.

    Returns:
        (B, T, H, W); a step in which nothing is marked is all 0, and so is every step of a constant map.

    >>> step_map(torch.tensor([[[[[0.0, 3.0, 1.0]], [[0.0, 0.0, 0.0]]]]]), 1).tolist()
    [[[[0.0, 0.75, 0.25]], [[0.0, 0.0, 0.0]]]]
    """
    mean_BTHW = _of_tokens(map_BCTHW, scale)
    low, high = mean_BTHW.amin((1, 2, 3), keepdim=True), mean_BTHW.amax((1, 2, 3), keepdim=True)
    total_BT11 = mean_BTHW.sum((2, 3), keepdim=True)
    empty = (high - low <= FLAT * high) | (total_BT11 <= 0)
    return torch.where(empty, 0.0, mean_BTHW / torch.where(empty, 1.0, total_BT11))


def _of_tokens(map_BCTHW: Tensor, scale: int) -> Tensor:
    """(B, T, H, W): the mean over channels, then over each token's cells."""
    return map_BCTHW.mean(1).unflatten(3, (-1, scale)).unflatten(2, (-1, scale)).mean((3, 5))


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
        log_map_BHW: the logarithm of the predicted map, which sums to 1; None where none is predicted.
    """

    tokens_BTHWD: Tensor
    weight_BTHW: Tensor
    gate: Tensor | None
    log_map_BHW: Tensor | None = None


class MapHead(nn.Module):
    """Where a clinician would look, from tokens alone: a = softmax_HW(mean_T MLP([x_thw; mean_T x_hw])).

    The MLP is linear 2D -> D, GELU, linear D -> 1. A bias of the last layer would fall out of the softmax.
    """

    def __init__(self, width: int):
        super().__init__()
        self.hidden = nn.Linear(2 * width, width)
        self.score = nn.Linear(width, 1, bias=False)

    def forward(self, tokens_BTHWD: Tensor) -> Tensor:
        """(B, H, W): log a, in single precision at least."""
        # The halves of the first layer apart: no (B, T, H, W, 2D) is made, and what is of all steps is computed once.
        own_DD, mean_DD = self.hidden.weight.chunk(2, dim=1)
        of_mean = F.linear(tokens_BTHWD.mean(1, keepdim=True), mean_DD, self.hidden.bias)
        hidden_BTHWD = F.gelu(F.linear(tokens_BTHWD, own_DD) + of_mean)
        # The mean over steps commutes with the last layer, which is linear.
        score_BHW = self.score(hidden_BTHWD.mean(1)).squeeze(-1)
        score_BN = score_BHW.to(torch.promote_types(score_BHW.dtype, torch.float32)).flatten(1)
        return score_BN.log_softmax(1).view_as(score_BHW)


class Guidance(nn.Module):
    """One way to guide, with m the `token_map`.

    - "none": plain pooling.
    - "channel": tokens * sigmoid(MLP(mean m)), a gate for each channel; plain pooling.
    - "weighted_pool": pooled with weights m.
    - "spatiotemporal": tokens * (1 + alpha g), pooled with weights g; alpha = softplus of a learned scalar, 1 at first.
      The gate g is m itself ("linear") or sigmoid(conv(m)) ("sigmoid"), which starts as sigmoid(4 m - 2).
    - "summary_gate": plain pooling; then the feature * sigmoid(MLP(mean m)), by `scale`.
    - "predicted": pooled with weights a, the map that `MapHead` predicts; where there is a map, with those of
      `step_map`, or with a share of both. Nothing is gated.

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
        if kind == "predicted":
            self.head = MapHead(width)
        self.conv = None
        if kind == "spatiotemporal":
            self.strength = nn.Parameter(torch.tensor(math.log(math.e - 1)))
            if gate == "sigmoid":
                self.conv = nn.Conv3d(1, 1, 3, padding=1)
                nn.init.dirac_(self.conv.weight)
                with torch.no_grad():
                    self.conv.weight *= 4
                    self.conv.bias.fill_(-2)

    def read(self, map_BCTHW: Tensor, scale: int) -> Tensor:
        """(B, T, H, W): m, what this guidance takes of a map."""
        return (step_map if self.kind == "predicted" else token_map)(map_BCTHW, scale)

    def forward(self, tokens_BTHWD: Tensor, m_BTHW: Tensor, share_B: Tensor | None = None) -> Guided:
        """The tokens gated, and their weights.

        Args:
            m_BTHW: of `read`; all 0 is no map.
            share_B: of "predicted", the weight of m beside that of a, which has the rest; None: both have half.
        """
        plain_BTHW = torch.zeros_like(m_BTHW)
        if self.kind == "predicted":
            log_BHW = self.head(tokens_BTHWD)
            a_B1HW = log_BHW.exp().unsqueeze(1)
            share = BOTH if share_B is None else share_B.to(a_B1HW)[:, None, None, None]
            # A step in which nothing is marked is pooled as one without a map.
            marked = m_BTHW.sum((2, 3), keepdim=True) > 0
            weight_BTHW = torch.where(marked, share * m_BTHW + (1 - share) * a_B1HW, a_B1HW)
            return Guided(tokens_BTHWD, weight_BTHW, None, log_BHW)
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

"""Encoders of clip_align: tokens to a token grid, a grid to a feature, a map to a feature. Knows no guidance, no loss.

Shape suffixes as in guidance; V width of a cached token, E width of the embedding.
"""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from .guidance import pool

ENCODERS = ("3dcnn", "2dcnn", "cnn_lstm")
GROUPS = 8  # of every GroupNorm
LONGEST = 4  # axis of a map that is not halved


def convolution(
    inputs: int, outputs: int, kernel: tuple[int, int, int], stride: tuple[int, int, int] = (1, 1, 1)
) -> list[nn.Module]:
    """Conv, GroupNorm, GELU; rows, columns and steps are divided by the stride and rounded up."""
    padding = tuple(size // 2 for size in kernel)
    conv = nn.Conv3d(inputs, outputs, kernel, stride, padding)
    return [conv, nn.GroupNorm(GROUPS, outputs), nn.GELU()]


class TokenEncoder(nn.Module):
    """1x1x1 to width D, then twice conv, GroupNorm, GELU: 3x3x3 of "3dcnn", 1x3x3 of the others.

    (B, T, H, W, V) -> (B, T, H, W, D).
    """

    def __init__(self, kind: str, width_in: int, width: int):
        super().__init__()
        kernel = (3 if kind == "3dcnn" else 1, 3, 3)
        self.reduce = nn.Linear(width_in, width)
        self.convs = nn.Sequential(*convolution(width, width, kernel), *convolution(width, width, kernel))

    def forward(self, tokens_BTHWV: Tensor) -> Tensor:
        return self.convs(self.reduce(tokens_BTHWV).movedim(-1, 1)).movedim(1, -1)


class Readout(nn.Module):
    """From a guided grid to the video's feature.

    "3dcnn": pooled over the video. "2dcnn": pooled in each step, the mean over steps. "cnn_lstm": pooled in each step,
    the last state of an LSTM over steps. Then linear to F.
    """

    def __init__(self, kind: str, width: int, feature_dim: int):
        super().__init__()
        self.over_time = kind == "3dcnn"
        self.lstm = nn.LSTM(width, width, batch_first=True) if kind == "cnn_lstm" else None
        self.linear = nn.Linear(width, feature_dim)

    def forward(self, tokens_BTHWD: Tensor, weight_BTHW: Tensor) -> Tensor:
        pooled = pool(tokens_BTHWD, weight_BTHW, self.over_time)
        if self.lstm is not None:
            pooled = self.lstm(pooled)[1][0][-1]
        elif not self.over_time:
            pooled = pooled.mean(1)
        return self.linear(pooled)


class MapEncoder(nn.Module):
    """A small 3-D CNN over all channels of a map, (B, C, T, rows, columns) -> (B, F).

    Three convolutions, of which each halves the axes longer than 4; then all cells to one linear layer, since a global
    mean would forget where the clinician looked.
    """

    def __init__(self, shape: tuple[int, int, int, int], width: int, feature_dim: int):
        super().__init__()
        channels, *sizes = shape
        layers = []
        for layer in range(3):
            stride = tuple(2 if size > LONGEST else 1 for size in sizes)
            sizes = [-(-size // step) for size, step in zip(sizes, stride, strict=True)]
            layers += convolution(width if layer else channels, width, (3, 3, 3), stride)
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * math.prod(sizes), feature_dim))

    def forward(self, map_BCTHW: Tensor) -> Tensor:
        return self.layers(map_BCTHW)


class Projection(nn.Module):
    """Linear, GELU, dropout, linear, LayerNorm, then unit length: (B, F) -> (B, E)."""

    def __init__(self, feature_dim: int, embed_dim: int, dropout: float):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(feature_dim, embed_dim),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(embed_dim, embed_dim),
            nn.LayerNorm(embed_dim),
        )

    def forward(self, feature_BF: Tensor) -> Tensor:
        return F.normalize(self.layers(feature_BF), dim=-1)

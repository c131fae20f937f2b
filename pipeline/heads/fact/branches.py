"""The parts of FACT's blocks: convolutions over frames, attention among tokens, attention between branches, segments.

Each is exact under padding: a padded frame, segment or token changes no real one. Knows no classes and no block.

Shape suffixes: B videos, T frames, S segments, M tokens, Q rows that read, K rows that are read, D and E widths.
"""

import copy
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .kernels import Segments, dropout, segment_mean, taps
from .recurrence import bidirectional

Mask = Tensor | None  # None: nothing is padded


def zeroed(x_BTD: Tensor, mask_BT: Mask) -> Tensor:
    """x with zeros in its padded rows."""
    return x_BTD if mask_BT is None else x_BTD * mask_BT.unsqueeze(-1)


def masked(logits_BQK: Tensor, mask_BK: Mask) -> Tensor:
    """Attention logits with -inf where what is read is padding."""
    return logits_BQK if mask_BK is None else logits_BQK.masked_fill(~mask_BK.unsqueeze(1), -math.inf)


def placed(x_BND: Tensor, position: Tensor | None) -> Tensor:
    """x + position, in the type of x; None is no position."""
    return x_BND if position is None else x_BND + position.to(x_BND.dtype)


def products(a_BQD: Tensor, b_BKD: Tensor) -> Tensor:
    """(B, Q, K): a b'. One video's is a plain GEMM: in bfloat16 the batched one copies b', which takes as long."""
    return F.linear(a_BQD[0], b_BKD[0])[None] if len(a_BQD) == 1 else a_BQD @ b_BKD.transpose(1, 2)


class Dropout(nn.Dropout):
    """The library's, drawn faster on the CPU."""

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p, self.training)


class Taps(nn.Module):
    """A convolution along time in (B, T, D) layout, zeros beyond both ends. (B, T, D) -> (B, T, D)."""

    def __init__(self, width: int, dilation: int):
        super().__init__()
        self.dilation = dilation
        bound = 1 / math.sqrt(3 * width)
        self.weight_KDE = nn.Parameter(torch.empty(3, width, width).uniform_(-bound, bound))
        self.bias_E = nn.Parameter(torch.empty(width).uniform_(-bound, bound))

    @property
    def offsets(self) -> tuple[int, int, int]:
        return -self.dilation, 0, self.dilation

    def forward(self, x_BTD: Tensor) -> Tensor:
        return taps(x_BTD, self.weight_KDE, self.bias_E, self.offsets)


class Dilated(nn.Module):
    """A layer of MS-TCN: x + dropout(1x1(ReLU(dilated convolution))), then LayerNorm if asked.

    Source: Abu Farha & Gall, CVPR 2019; the LayerNorm is FACT's.
    """

    def __init__(self, width: int, dilation: int, dropout: float, norm: bool):
        super().__init__()
        self.taps = Taps(width, dilation)
        self.mix = nn.Linear(width, width)
        self.dropout = Dropout(dropout)
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()

    def forward(self, x_BTD: Tensor) -> Tensor:
        # In place where autograd keeps no copy: the arrays are large, the sums cheap.
        return self.norm(self.dropout(self.mix(self.taps(x_BTD).relu_())).add_(x_BTD))


class Plain(nn.Module):
    """A layer of the plain branch: x + dropout(ReLU(convolution)), then LayerNorm if asked."""

    def __init__(self, width: int, dropout: float, norm: bool):
        super().__init__()
        self.taps = Taps(width, 1)
        self.dropout = Dropout(dropout)
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.norm(x_BTD + self.dropout(self.taps(x_BTD).relu_()))


class DualDilated(nn.Module):
    """A layer of MS-TCN++: x + dropout(ReLU(1x1(two convolutions, one wide and one narrow, side by side))).

    Nothing non-linear stands between the convolutions and the 1x1, so they are one convolution of five taps: 5 T D²
    products instead of 8 T D², once the weights are multiplied out for 6 D³. Without gradients that is done once and
    kept until a parameter changes; with gradients, where it pays.

    Source: Li et al., "MS-TCN++", TPAMI 2020.
    """

    def __init__(self, width: int, dilations: tuple[int, int], dropout: float):
        super().__init__()
        self.first, self.second = (Taps(width, dilation) for dilation in dilations)
        self.mix = nn.Linear(2 * width, width)
        self.dropout = Dropout(dropout)
        self._kept: tuple[tuple, tuple[Tensor, Tensor]] | None = None

    def forward(self, x_BTD: Tensor) -> Tensor:
        videos, frames, width = x_BTD.shape
        if not torch.is_grad_enabled():
            mixed = taps(x_BTD, *self._fused_once(), self._offsets)
            return self.dropout(mixed.relu_()).add_(x_BTD)
        pays = videos * frames > 2 * width
        mixed = taps(x_BTD, *self.fused(), self._offsets) if pays else self.unfused(x_BTD)
        return x_BTD + self.dropout(mixed.relu_())

    def unfused(self, x_BTD: Tensor) -> Tensor:
        """The two convolutions and the 1x1, as they are defined."""
        return self.mix(torch.cat([self.first(x_BTD), self.second(x_BTD)], dim=-1))

    def fused(self) -> tuple[Tensor, Tensor]:
        """Weight (5, D, D) and bias (D,) of the one convolution; (3, D, D) if both dilations are the same."""
        first_DE, second_DE = self.mix.weight.t().chunk(2)
        first, second = self.first.weight_KDE @ first_DE, self.second.weight_KDE @ second_DE
        bias = self.first.bias_E @ first_DE + self.second.bias_E @ second_DE + self.mix.bias
        if self.first.dilation == self.second.dilation:
            return first + second, bias
        return torch.cat([(first[1] + second[1])[None], first[::2], second[::2]]), bias

    @property
    def _offsets(self) -> tuple[int, ...]:
        first, second = self.first.dilation, self.second.dilation
        return self.first.offsets if first == second else (0, -first, first, -second, second)

    def _fused_once(self) -> tuple[Tensor, Tensor]:
        state = tuple((p.data_ptr(), p.dtype, 0 if p.is_inference() else p._version) for p in self.parameters())
        if self._kept is None or self._kept[0] != state:
            exact = torch.autocast(self.mix.weight.device.type, enabled=False)
            with torch.inference_mode(False), torch.no_grad(), exact:
                self._kept = state, self.fused()
        return self._kept[1]

    def train(self, mode: bool = True) -> "DualDilated":
        self._kept = None
        return super().train(mode)


class FrameBranch(nn.Module):
    """Convolutions over frames: 1x1 to width E (of an input block), layers, 1x1 to the blocks' width H.

    Args:
        kind: "m" (`Dilated`, dilation doubling), "m2" (`DualDilated`, one doubling, one halving), "cnn" (`Plain`).
        feature_dim: width of the frozen features, for an input block; None of a frame that has width E already.

    Each layer sees zeros beyond a video's end, as it would if the video were alone.
    """

    def __init__(
        self, kind: str, feature_dim: int | None, width: int, out: int, layers: int, dropout: float, norm: bool
    ):
        super().__init__()
        self.enter = nn.Identity() if feature_dim is None else nn.Linear(feature_dim, width)
        make: dict[str, Callable[[int], nn.Module]] = {
            "m": lambda i: Dilated(width, 2**i, dropout, norm),
            "m2": lambda i: DualDilated(width, (2 ** (layers - 1 - i), 2**i), dropout if i < layers - 1 else 0.0),
            "cnn": lambda i: Plain(width, dropout, norm),
        }
        self.layers = nn.ModuleList(make[kind](i) for i in range(layers))
        self.leave = nn.Linear(width, out)

    def forward(self, x_BTD: Tensor, mask_BT: Mask) -> Tensor:
        x_BTE = zeroed(self.enter(x_BTD), mask_BT)
        for layer in self.layers:
            x_BTE = zeroed(layer(x_BTE), mask_BT)
        return self.leave(x_BTE)


class Attention(nn.Module):
    """Multi-head attention from rows of width D over rows of width E. (B, Q, D), (B, K, E) -> (B, Q, D).

    Where heads x Q is less than D, as few tokens over many frames, the projections are moved to the readers' side.

    Starts as `nn.MultiheadAttention`, which FACT is made of: of one width, query, key and value are one packed matrix
    there, and Xavier's bound is that of (3 D, D), narrower by the root of 2 than that of three.
    """

    def __init__(self, width: int, source: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.key, self.value = nn.Linear(source, width), nn.Linear(source, width)
        gain = math.sqrt(0.5) if source == width else 1.0
        for linear in (self.query, self.key, self.value):
            nn.init.xavier_uniform_(linear.weight, gain)
        for linear in (self.query, self.key, self.value, self.out):
            nn.init.zeros_(linear.bias)

    def forward(self, query_BQD: Tensor, key_BKE: Tensor, value_BKE: Tensor, mask_BK: Mask) -> Tensor:
        few_read_many = self.heads * query_BQD.shape[1] < min(key_BKE.shape[1], query_BQD.shape[2])
        read = self.reading_rows if few_read_many else self.reading_projections
        return self.out(read(query_BQD, key_BKE, value_BKE, mask_BK).transpose(1, 2).flatten(2))

    def reading_projections(self, query_BQD: Tensor, key_BKE: Tensor, value_BKE: Tensor, mask_BK: Mask) -> Tensor:
        """(B, heads, Q, D / heads): keys and values projected row by row, as it is defined."""
        return F.scaled_dot_product_attention(
            self._by_head(self.query(query_BQD)),
            self._by_head(self.key(key_BKE)),
            self._by_head(self.value(value_BKE)),
            attn_mask=None if mask_BK is None else mask_BK[:, None, None],
            dropout_p=self.dropout if self.training else 0.0,
        )

    def reading_rows(self, query_BQD: Tensor, key_BKE: Tensor, value_BKE: Tensor, mask_BK: Mask) -> Tensor:
        """The same sum in another order: heads x Q rows are projected to width E and back, and the K rows never."""
        query = self._by_head(self.query(query_BQD)) / math.sqrt(query_BQD.shape[-1] / self.heads)
        key_HDE, value_HDE = (linear.weight.unflatten(0, (self.heads, -1)) for linear in (self.key, self.value))
        logits_BNK = products((query @ key_HDE).flatten(1, 2), key_BKE)
        logits_BNK = logits_BNK + (query @ self.key.bias.unflatten(0, (self.heads, -1, 1))).flatten(1, 2)
        attention_BNK = dropout(masked(logits_BNK, mask_BK).softmax(dim=-1), self.dropout, self.training)
        read = (attention_BNK @ value_BKE).unflatten(1, query.shape[1:3]) @ value_HDE.transpose(1, 2)
        # Rows sum to 1 unless some of them were dropped.
        share = attention_BNK.sum(dim=-1, keepdim=True).unflatten(1, query.shape[1:3])
        return read + share * self.value.bias.unflatten(0, (self.heads, 1, -1))

    def _by_head(self, x_BND: Tensor) -> Tensor:
        """(B, heads, N, D / heads)."""
        return x_BND.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def mean_logits(self, query_BQD: Tensor, key_BKE: Tensor) -> Tensor:
        """(B, Q, K): attention logits, the mean over heads."""
        scale = 1 / math.sqrt(query_BQD.shape[-1] * self.heads)
        return products(self.query(query_BQD) * scale, self.key(key_BKE))


class TokenLayer(nn.Module):
    """Attention among the tokens, attention over the frames if there are any to read, feed-forward; LN after each.

    Positions join queries and keys, never values.

    Args:
        width: D of the tokens.
        memory: width of what the second attention reads; None leaves it out.
        hidden: width of the feed-forward network.
    """

    def __init__(self, width: int, memory: int | None, heads: int, hidden: int, dropout: float):
        super().__init__()
        self.own = Attention(width, width, heads, dropout)
        self.cross = None if memory is None else Attention(width, memory, heads, dropout)
        self.forth, self.back = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 if memory is None else 3))
        self.dropout = Dropout(dropout)

    def forward(
        self,
        x_BMD: Tensor,
        position: Tensor | None,
        mask_BM: Mask,
        key: Tensor | None,
        value: Tensor | None,
        read: Mask,
    ) -> tuple[Tensor, Tensor]:
        """The tokens after the layer, and what they ask the memory with."""
        asking = placed(x_BMD, position)
        x_BMD = self.norms[0](x_BMD + self.dropout(self.own(asking, asking, x_BMD, mask_BM)))
        asking = placed(x_BMD, position)
        if self.cross is not None:
            x_BMD = self.norms[1](x_BMD + self.dropout(self.cross(asking, key, value, read)))
        fed = self.back(self.dropout(F.relu(self.forth(x_BMD))))
        return self.norms[-1](x_BMD + self.dropout(fed)), asking


class TokenBranch(nn.Module):
    """Layers over the action tokens, then LN (if they read a memory) and a linear to the blocks' width.

    The layers start as copies of one, as published.

    Args: as `TokenLayer`'s; `out` is the blocks' width.
    """

    def __init__(self, layers: int, width: int, memory: int | None, out: int, heads: int, hidden: int, dropout: float):
        super().__init__()
        layer = TokenLayer(width, memory, heads, hidden, dropout)
        self.layers = nn.ModuleList([layer, *(copy.deepcopy(layer) for _ in range(layers - 1))])
        self.norm = nn.Identity() if memory is None else nn.LayerNorm(width)
        self.leave = nn.Linear(width, out)

    def forward(
        self,
        x_BMD: Tensor,
        position: Tensor | None,
        mask_BM: Mask,
        memory_BKE: Tensor | None = None,
        memory_position: Tensor | None = None,
        memory_mask_BK: Mask = None,
        logits: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Tokens (B, M, out), and the last layer's attention logits over the memory (B, M, K) if asked for."""
        key = None if memory_BKE is None else placed(memory_BKE, memory_position)
        asking = x_BMD
        for layer in self.layers:
            x_BMD, asking = layer(x_BMD, position, mask_BM, key, memory_BKE, memory_mask_BK)
        read = masked(self.layers[-1].cross.mean_logits(asking, key), memory_mask_BK) if logits else None
        return self.leave(self.norm(x_BMD)), read


class CrossAttention(nn.Module):
    """One head between the branches: W [dropout(y | softmax(Q K') V)], Q of y + position, K of x + position, V of x.

    No residual, no norm. The projections are moved to whichever side has fewer rows (tokens, not frames), which is
    the same sum in another order: (y Wq)(x Wk)' = (y Wq Wk') x', and A (x Wv) = (A x) Wv as rows of A sum to 1.

    Args:
        width: H of both branches.
        out: width of the result.
    """

    def __init__(self, width: int, out: int, dropout: float):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(2 * width, out)
        self.dropout = Dropout(dropout)

    def forward(
        self, y_BQH: Tensor, x_BKH: Tensor, y_position: Tensor | None, x_position: Tensor | None, mask_BK: Mask
    ) -> tuple[Tensor, Tensor]:
        """(B, Q, out), and the attention logits (B, Q, K)."""
        few_read_many = y_BQH.shape[1] <= x_BKH.shape[1]
        asking, asked = placed(y_BQH, y_position), placed(x_BKH, x_position)
        scale = 1 / math.sqrt(y_BQH.shape[-1])
        if few_read_many:
            query = self.query(asking) * scale
            logits = products(query @ self.key.weight, asked) + (query @ self.key.bias).unsqueeze(2)
        else:
            key = self.key(asked) * scale
            logits = products(asking, key @ self.query.weight) + (key @ self.query.bias).unsqueeze(1)
        logits = masked(logits, mask_BK)
        attention = logits.softmax(dim=-1)

        own_OH, read_OH = self.out.weight.chunk(2, dim=1)
        if few_read_many:
            read = F.linear(self.dropout(self.value(attention @ x_BKH)), read_OH)
        elif self.training and self.dropout.p:
            read = F.linear(self.dropout(attention @ self.value(x_BKH)), read_OH)
        else:
            read = attention @ F.linear(self.value(x_BKH), read_OH)
        return F.linear(self.dropout(y_BQH), own_OH, self.out.bias) + read, logits


class SegmentBranch(nn.Module):
    """Mean of each segment's frames -> GRU in both directions -> ReLU -> linear. (B, T, H) -> (B, S, H)."""

    def __init__(self, width: int, layers: int):
        super().__init__()
        self.gru = nn.GRU(width, width // 2, layers, bidirectional=True, batch_first=True)
        self.leave = nn.Linear(width, width)

    def forward(self, x_BTH: Tensor, segments: Segments) -> Tensor:
        read_BSH = bidirectional(self.gru, segment_mean(x_BTH, segments), segments.count_B)
        return self.leave(F.relu(read_BSH))
